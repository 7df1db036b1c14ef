"""RUN: its flags, each kind of mount with its options, and what the build says of networks and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Secret, Ulimit
from anyarch.errors import AnyarchError, BuildError, DockerfileError, ExecFailed

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder

TWO = ("linux/amd64", "linux/arm64")


# limits, hosts, network ---------------------------------------------------------------------------


def test_shared_memory_has_the_size_that_was_asked_for(build: Builder) -> None:
    text = "FROM busybox\nRUN df -k /dev/shm | tail -n 1 > /shm; ls -ld /dev/shm > /mode\n"
    assert build(text).read_text("/shm").split()[1] == str(64 << 10)
    image = build(text, shm_size=8 << 20, no_cache=True)
    assert image.read_text("/shm").split()[1] == str(8 << 10)
    assert image.read_text("/mode").startswith("drwxrwxrwt")


def test_limits_reach_the_process(build: Builder) -> None:
    text = "FROM busybox\nRUN ulimit -n > /soft; ulimit -Hn > /hard; ulimit -c > /core\n"
    image = build(text, ulimits=(Ulimit("nofile", 123, 456), Ulimit("core", 0, 0)))
    assert [image.read_text(f"/{name}").strip() for name in ("soft", "hard", "core")] == ["123", "456", "0"]


def test_hosts_are_added_for_steps_and_are_in_no_layer(build: Builder) -> None:
    text = "FROM busybox\nRUN cat /etc/hosts > /seen\nRUN grep -q 10.1.2.3 /etc/hosts\n"
    image = build(text, add_hosts=(("db.local", "10.1.2.3"), ("six", "fd00::1")))
    lines = [line.split() for line in image.read_text("/seen").splitlines()]
    assert ["10.1.2.3", "db.local"] in lines
    assert ["fd00::1", "six"] in lines
    assert not image.path("/etc/hosts").exists() or "db.local" not in image.read_text("/etc/hosts")


def test_the_network_of_all_steps_may_be_off(build: Builder) -> None:
    text = "FROM busybox\nRUN ls /sys/class/net > /net\n"
    assert build(text, network="none").read_text("/net").split() == ["lo"]
    assert build(text, network="host", no_cache=True).path("/net").exists()


def test_the_network_of_one_step_may_be_off(build: Builder) -> None:
    image = build("FROM busybox\nRUN --network=none ls /sys/class/net > /net\nRUN --network=default true\n")
    assert image.read_text("/net").split() == ["lo"]
    with pytest.raises(DockerfileError):
        build("FROM busybox\nRUN --network=bridge true\n")


@pytest.mark.parametrize(
    ("flag", "entitlement"),
    [("--network=host", "network.host"), ("--security=insecure", "security.insecure")],
)
def test_what_needs_an_entitlement_says_which(build: Builder, flag: str, entitlement: str) -> None:
    with pytest.raises(BuildError, match=f"{entitlement} is not allowed") as caught:
        build(f"FROM busybox\nRUN {flag} true\n")
    assert f"--allow {entitlement}" in str(caught.value.hint)
    assert build(f"FROM busybox\nRUN {flag} echo ok > /ok\n", allow=(entitlement,)).read_text("/ok") == "ok\n"


def test_the_sandboxs_name_can_be_chosen(build: Builder) -> None:
    text = "FROM busybox\nRUN hostname > /name\n"
    assert build(text).read_text("/name") == "buildkitsandbox\n"
    named = build(text, build_args={"BUILDKIT_SANDBOX_HOSTNAME": "mine"})
    assert named.read_text("/name") == "mine\n"


# cache --------------------------------------------------------------------------------------------


def test_named_stages_are_run_anew(build: Builder) -> None:
    text = """
        FROM busybox AS one
        RUN cat /proc/sys/kernel/random/uuid > /one
        FROM busybox AS Two
        RUN cat /proc/sys/kernel/random/uuid > /two
        FROM busybox
        COPY --from=one /one /
        COPY --from=Two /two /
    """
    first = build(text)
    again = build(text, no_cache_filter=("two",))
    assert again.read_text("/one") == first.read_text("/one")
    assert again.read_text("/two") != first.read_text("/two")
    third = build(text)
    assert third.executed == []
    assert third.read_text("/two") == again.read_text("/two")


def test_a_declared_argument_is_part_of_the_steps_after_it(build: Builder) -> None:
    text = "FROM busybox\nRUN echo before > /before\nARG A\nRUN echo after > /after\n"
    build(text, build_args={"A": "1"})
    changed = build(text, build_args={"A": "2"})
    assert [name.partition("] ")[2] for name in changed.executed] == ["RUN echo after > /after"]


def test_proxies_reach_steps_and_are_no_part_of_the_key(build: Builder) -> None:
    text = "FROM busybox\nRUN echo $http_proxy $HTTP_PROXY > /proxy\n"
    first = build(text, build_args={"http_proxy": "http://p:1"})
    assert first.read_text("/proxy") == "http://p:1 http://p:1\n"
    assert build(text, build_args={"HTTP_PROXY": "http://p:2"}).executed == []
    assert not any("p:1" in (entry.created_by or "") for entry in first.config().history or ())


def test_comments_inside_a_step_vanish_and_line_ends_join(build: Builder) -> None:
    """Trap 20."""
    image = build(
        "FROM busybox\nRUN echo one \\\n  # a comment\n    # another\n  two \\\n\n  three > /words\n"
    )
    assert image.read_text("/words") == "one two three\n"


# mounts -------------------------------------------------------------------------------------------


def test_a_bind_mount_shows_files_that_cannot_be_changed(build: Builder) -> None:
    files = {"d/x": "X", "y": "Y"}
    image = build(
        """
        FROM busybox AS src
        RUN mkdir /s && echo S > /s/f
        FROM busybox
        WORKDIR /w
        RUN --mount=target=ctx,source=d cat ctx/x > /out1 && ! touch ctx/new
        RUN --mount=type=bind,from=src,src=/s,dst=/m cat /m/f > /out2
        RUN --mount=type=bind,source=y,target=/file cat /file > /out3
        RUN --mount=from=src,target=/m,rw echo changed > /m/s/f && cat /m/s/f > /out4
        RUN --mount=from=src,target=/m cat /m/s/f > /out5
        """,
        files=files,
    )
    assert [image.read_text(f"/out{number}") for number in range(1, 6)] == [
        "X",
        "S\n",
        "Y",
        "changed\n",
        "S\n",
    ]
    assert not image.path("/w/ctx").exists()
    assert not image.path("/m").exists()


def test_a_bind_mount_counts_by_content(build: Builder) -> None:
    text = "FROM busybox\nRUN --mount=target=/c,source=used cat /c > /out\n"
    build(text, files={"used": "1", "other": "1"})
    assert build(text, files={"other": "2"}).executed == []
    assert build(text, files={"used": "2"}).read_text("/out") == "2"


def test_a_cache_outlives_the_build_and_is_in_no_layer(build: Builder) -> None:
    step = "RUN --mount=type=cache,target=/c,id=mine echo $N >> /c/log && cat /c/log > /out"
    text = f"FROM busybox\nARG N\n{step}\n"
    build(text, build_args={"N": "1"})
    image = build(text, build_args={"N": "2"})
    assert image.read_text("/out") == "1\n2\n"
    assert not image.path("/c").exists()


def test_a_cache_is_shared_across_platforms_unless_its_name_says_otherwise(build: Builder) -> None:
    """Trap 6."""
    image = build(
        """
        FROM busybox
        ARG TARGETARCH
        RUN --mount=type=cache,target=/c,sharing=locked echo $TARGETARCH >> /c/log && sort -u /c/log > /shared
        RUN --mount=type=cache,target=/c,id=own-$TARGETARCH echo $TARGETARCH >> /c/log && cat /c/log > /own
        RUN --mount=type=cache,target=/c,sharing=locked sort -u /c/log > /after
        """,
        platform=TWO,
    )
    seen = [set(image.read_text("/after", platform).split()) for platform in TWO]
    assert {"amd64", "arm64"} in seen
    assert [image.read_text("/own", platform) for platform in TWO] == ["amd64\n", "arm64\n"]


def test_without_cache_a_cache_begins_anew(build: Builder) -> None:
    text = """
        FROM busybox
        ARG N
        RUN --mount=type=cache,target=/c,id=mine,mode=0700 echo $N >> /c/log && cat /c/log > /out
        RUN --mount=type=cache,target=/o,from=busybox,source=/etc echo $N >> /o/log && cat /o/log > /seeded
    """
    build(text, build_args={"N": "1"})
    image = build(text, build_args={"N": "2"}, no_cache=True)
    assert (image.read_text("/out"), image.read_text("/seeded")) == ("2\n", "2\n")
    image = build(text, build_args={"N": "3"})
    assert (image.read_text("/out"), image.read_text("/seeded")) == ("2\n3\n", "2\n3\n")


def test_a_caches_names_are_apart_by_namespace(build: Builder) -> None:
    text = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c touch /c/$N && ls /c > /out\n"
    build(text, build_args={"N": "1"})
    image = build(text, build_args={"N": "2", "BUILDKIT_CACHE_MOUNT_NS": "other"})
    assert image.read_text("/out").split() == ["2"]


def test_a_new_cache_has_the_owner_and_mode_that_were_asked_for(build: Builder) -> None:
    image = build(
        "FROM busybox\n"
        "RUN --mount=type=cache,target=/c,uid=7,gid=8,mode=0750,id=owned stat -c '%u %g %a' /c > /out\n"
        "RUN --mount=type=cache,target=/d,id=plain stat -c '%u %g %a' /d > /plain\n"
    )
    assert (image.read_text("/out"), image.read_text("/plain")) == ("7 8 750\n", "0 0 755\n")


def test_a_cache_may_begin_with_files_of_a_stage(build: Builder) -> None:
    text = """
        FROM busybox AS seed
        RUN mkdir -p /s/deep && echo S > /s/deep/f && ln /s/deep/f /s/hard && chown 3:4 /s/deep
        FROM busybox
        ARG N
        RUN --mount=type=cache,target=/c,from=seed,source=/s echo $N >> /c/log \\
          && cat /c/hard /c/log > /out && stat -c '%u %g' /c/deep > /owner
        FROM busybox
        RUN --mount=type=cache,target=/c,from=seed,source=/nope true
    """
    first = build(text.rpartition("FROM")[0], build_args={"N": "1"})
    assert (first.read_text("/out"), first.read_text("/owner")) == ("S\n1\n", "3 4\n")
    assert build(text.rpartition("FROM")[0], build_args={"N": "2"}).read_text("/out") == "S\n1\n2\n"
    with pytest.raises(AnyarchError, match="/nope"):
        build(text)


def test_a_tmpfs_has_a_size_and_keeps_nothing(build: Builder) -> None:
    image = build(
        "FROM busybox\n"
        "RUN --mount=type=tmpfs,target=/t,size=3m df -k /t | tail -n 1 > /size && touch /t/x && ls /t > /ls\n"
    )
    assert image.read_text("/size").split()[1] == str(3 << 10)
    assert image.read_text("/ls") == "x\n"
    assert not image.path("/t").exists()


@pytest.mark.parametrize(
    ("mount", "command", "seen"),
    [
        ("id=tok", "cat /run/secrets/tok", "s3cret"),
        ("id=tok,target=/x/y", "cat /x/y", "s3cret"),
        ("source=tok,dst=/x", "cat /x", "s3cret"),
        ("target=/a/tok", "cat /a/tok", "s3cret"),
        ("id=tok,env=T", "echo -n $T; ! test -e /run/secrets/tok", "s3cret"),
        ("id=tok,env=T,target=/x", "echo -n $T; cat /x", "s3crets3cret"),
        ("id=tok", "stat -c '%a %u %g' /run/secrets/tok", "400 0 0\n"),
        ("id=tok,mode=0440,uid=1,gid=2", "stat -c '%a %u %g' /run/secrets/tok", "440 1 2\n"),
        ("id=none", "ls /run/secrets 2>/dev/null; echo -n absent", "absent"),
    ],
)
def test_a_secret_is_where_and_how_it_was_asked_for(
    build: Builder, tmp_path: Path, mount: str, command: str, seen: str
) -> None:
    (tmp_path / "tok").write_text("s3cret")
    image = build(
        f"FROM busybox\nRUN --mount=type=secret,{mount} ({command}) > /out\n",
        secrets=(Secret("tok", str(tmp_path / "tok")),),
    )
    assert image.read_text("/out") == seen
    assert not image.path("/run/secrets/tok").exists()


@pytest.mark.parametrize(
    ("mount", "problem"),
    [
        ("type=bnd,target=/x", "did you mean bind"),
        ("type=bind,targt=/x", "did you mean target"),
        ("type=tmpfs,target=/x,mode=0700", "mode not allowed"),
        ("type=bind,target=/x,size=1", "unexpected key 'size'"),
        ("type=secret,id=a,source=b", "both source and id"),
        ("type=secret", "one of source, target required"),
        ("type=bind,target=/x,required", "unexpected key 'required'"),
        ("type=cache,target=/x,sharing=some", "unsupported sharing value"),
        ("type=bind,target=/x,sharing=locked", "invalid cache sharing"),
        ("type=cache,target=/", "invalid mount target"),
        ("type=bind", "invalid mount target"),
        ("type=bind,target=/x,from=$Y", "from"),
        ("type=ssh,source=x", "ssh does not support source"),
        ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
    ],
)
def test_a_senseless_mount_is_an_error_at_its_line(build: Builder, mount: str, problem: str) -> None:
    with pytest.raises(BuildError, match=problem) as caught:
        build(f"FROM busybox\nARG Y=busybox\nRUN --mount={mount} true\n")
    assert caught.value.source is not None
    assert caught.value.source.start == 3


def test_options_of_mounts_are_expanded(build: Builder) -> None:
    image = build(
        "FROM busybox\nARG KIND=tmpfs WHERE=/here\nRUN --mount=type=$KIND,target=${WHERE} df $WHERE > /out\n"
    )
    assert "tmpfs" in image.read_text("/out")


# shells and scripts -------------------------------------------------------------------------------


def test_a_typing_error_in_json_becomes_a_command_for_the_shell(build: Builder) -> None:
    """Trap 12."""
    image = build('FROM busybox\nRUN echo ["x", > /out\nRUN ["/bin/sh", "-c", "echo $0 > /json", "zero"]\n')
    assert image.read_text("/out") == "[x,\n"
    assert image.read_text("/json") == "zero\n"


def test_a_shell_of_its_own_runs_what_follows(build: Builder) -> None:
    image = build(
        'FROM busybox\nSHELL ["/bin/sh", "-exc"]\nRUN echo $- > /flags\nENTRYPOINT run me\nCMD with this\n'
    )
    assert "e" in image.read_text("/flags")
    config = image.config().config
    assert config.entrypoint == ("/bin/sh", "-exc", "run me")
    assert config.cmd == ("/bin/sh", "-exc", "with this")


def test_the_directory_user_and_variables_of_a_step(build: Builder) -> None:
    image = build(
        """
        FROM busybox
        RUN echo app:x:1234:1234::/home/app:/bin/sh >> /etc/passwd && mkdir -m 777 /out
        ENV A=1 B="two words"
        ARG C=3
        USER app
        WORKDIR /w/sub
        RUN echo "$(pwd) $(id -u) $HOME $A $B $C $(stat -c %u /w/sub)" > /out/seen
        USER 4321:99
        RUN id -u > /out/uid; id -g > /out/gid
        """
    )
    assert image.read_text("/out/seen") == "/w/sub 1234 /home/app 1 two words 3 1234\n"
    assert (image.read_text("/out/uid"), image.read_text("/out/gid")) == ("4321\n", "99\n")


def test_a_step_that_fails_says_what_and_where(build: Builder) -> None:
    with pytest.raises(ExecFailed, match="did not complete successfully: exit code: 3") as caught:
        build("FROM busybox\nRUN true\nRUN echo doing; exit 3\n")
    assert caught.value.source is not None
    assert caught.value.source.start == 3
    assert b"doing" in caught.value.tail


def test_private_caches_of_steps_at_the_same_time_are_apart(build: Builder) -> None:
    """Both steps wait for one another in a shared cache, so that they do run at the same time."""
    mounts = "--mount=type=cache,target=/meet --mount=type=cache,id=p,target=/c,sharing=private"
    wait = "i=0; until [ -e /meet/amd64 ] && [ -e /meet/386 ]; do sleep 0.1; i=$((i+1)); [ $i -lt 600 ]; done"
    step = f"RUN {mounts} set -e; touch /meet/$TARGETARCH /c/$TARGETARCH; {wait}; ls /c > /seen"
    both = ("linux/amd64", "linux/386")
    image = build(f"FROM busybox\nARG TARGETARCH\n{step}\n", platform=both)
    assert [image.read_text("/seen", platform) for platform in both] == ["amd64\n", "386\n"]
    again = build(f"FROM busybox\nRUN {mounts} ls /c > /seen\n")
    assert again.read_text("/seen") in ("amd64\n", "386\n")
