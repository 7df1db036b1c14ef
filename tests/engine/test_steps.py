"""Builds with RUN: natively and emulated, failures, cancelling."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import BuildError, Canceled, ExecFailed, NoMatchingPlatform
from anyarch.solver.events import LogEvent, VertexEvent

if TYPE_CHECKING:
    from anyarch.testing.builder import Builder

pytestmark = pytest.mark.root

SEVEN = (
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v7",
    "linux/riscv64",
    "linux/s390x",
    "linux/ppc64le",
    "linux/386",
)
MACHINES = {
    "linux/amd64": {"x86_64"},
    "linux/arm64": {"aarch64"},
    "linux/arm/v7": {"armv7l", "armv8l"},
    "linux/riscv64": {"riscv64"},
    "linux/s390x": {"s390x"},
    "linux/ppc64le": {"ppc64le"},
    "linux/386": {"i686", "i586", "i386", "x86_64"},
}


@pytest.mark.emulation
def test_run_sees_the_target_under_emulation_on_every_platform(build: Builder) -> None:
    image = build(
        "FROM busybox\nRUN uname -m > /arch && busybox sha256sum /bin/busybox > /sum\n", platform=SEVEN
    )
    for platform in SEVEN:
        assert image.read_text("/arch", platform).strip() in MACHINES[platform]
    assert len({image.read_text("/sum", platform) for platform in SEVEN}) == 7
    assert len(image.executed) == 7


@pytest.mark.emulation
def test_a_cross_compiling_stage_runs_natively_once_a_target(build: Builder) -> None:
    image = build(
        """
        FROM --platform=$BUILDPLATFORM busybox AS build
        RUN echo neutral > /neutral
        ARG TARGETARCH TARGETVARIANT
        RUN uname -m > /machine; echo "for $TARGETARCH$TARGETVARIANT" > /target
        FROM busybox
        COPY --from=build /neutral /machine /target /
        """,
        platform=SEVEN,
    )
    assert {image.read_text("/machine", platform) for platform in SEVEN} == {os.uname().machine + "\n"}
    assert image.read_text("/target", "linux/arm/v7") == "for armv7\n"
    runs = [name for name in image.executed if "RUN" in name]
    assert len([name for name in runs if "neutral" in name]) == 1
    assert len([name for name in runs if "target" in name]) == 7


def test_what_a_step_changed_is_the_layer_and_nothing_else(build: Builder) -> None:
    image = build(
        """
        FROM busybox
        RUN mkdir -p /d/e && echo 1 > /d/e/f && ln -s f /d/e/l && ln /d/e/f /d/e/h && chmod 4755 /d/e/f
        RUN rm -r /d/e/l && echo 2 > /etc/new
        RUN true
        RUN cat /etc/resolv.conf /etc/hosts > /dev/null; touch /dev/shm/x /tmp/t && rm /tmp/t
        """
    )
    listed = image.listing("/d")
    assert listed == ["e", "e/f", "e/h"]
    assert image.path("/d/e/f").stat().st_mode & 0o7777 == 0o4755
    assert image.path("/d/e/f").stat().st_ino == image.path("/d/e/h").stat().st_ino
    assert not image.path("/dev/shm").exists()
    # A step that changed nothing has a layer without entries, as with BuildKit.
    history = image.config().history
    assert history is not None
    assert [item.empty_layer for item in history[-2:]] == [False, False]
    assert image.members(-1) == {}
    assert image.manifest().layers[-1] == image.manifest().layers[-2]


def test_a_time_that_a_step_gives_a_directory_is_kept_whatever_is_mounted_in_it(build: Builder) -> None:
    image = build(
        """
        FROM busybox
        RUN mkdir /idle /deep
        RUN --mount=type=tmpfs,target=/var/x --mount=type=tmpfs,target=/deep/y/z \\
            touch -d @1234567890 /bin /etc /var /deep /var/x && touch /idle/t && rm /idle/t
        """
    )
    layer = {path: member.mtime for path, member in image.members(-1).items()}
    assert layer == dict.fromkeys(("bin", "deep", "etc", "var"), 1234567890)


def test_the_environment_directory_and_user_of_a_step(build: Builder) -> None:
    image = build(
        """
        FROM busybox
        ARG WITH=arg
        ENV KEY="a b"
        RUN echo 'app:x:77:78::/home/app:/bin/sh' >> /etc/passwd && echo 'extra:x:99:app' >> /etc/group
        RUN mkdir /out && chmod 777 /out
        USER app
        WORKDIR /work
        RUN env | sort > /out/env; id > /out/id; pwd > /out/pwd; hostname > /out/host
        """
    )
    env = image.read_text("/out/env").splitlines()
    assert {"KEY=a b", "WITH=arg", "HOME=/home/app", "PWD=/work"} <= set(env)
    assert image.read_text("/out/id").startswith("uid=77(app) gid=78 groups=78,99(extra)")
    assert image.read_text("/out/pwd") == "/work\n"
    assert image.read_text("/out/host") == "buildkitsandbox\n"


def test_scripts_and_here_documents_run(build: Builder) -> None:
    image = build(
        """
        FROM busybox
        RUN <<EOF
        set -e
        echo one > /one
        echo "$HOME" > /home.txt
        EOF
        RUN ["/bin/busybox", "touch", "/exec form"]
        COPY <<-X /inline
        \ttext $UNSET end
        X
        """
    )
    assert image.read_text("/one") == "one\n"
    assert image.read_text("/home.txt") == "/root\n"
    assert image.path("/exec form").exists()
    assert image.read_text("/inline") == "text  end\n"


def test_cache_and_bind_mounts(build: Builder) -> None:
    text = """
        FROM busybox AS src
        RUN mkdir /s && echo data > /s/f
        FROM busybox
        RUN --mount=type=cache,target=/c echo x >> /c/count && wc -l < /c/count > /n
        RUN --mount=from=src,source=/s,target=/m cat /m/f > /copied && ! touch /m/no
        RUN --mount=target=/ctx cat /ctx/hello > /hello
        RUN --mount=type=tmpfs,target=/t touch /t/x
    """
    image = build(text, files={"hello": "hi"})
    assert image.read_text("/copied") == "data\n"
    assert image.read_text("/hello") == "hi"
    assert image.read_text("/n") == "1\n"
    assert image.listing("/c") == image.listing("/t") == []
    again = text.replace("/n\n", "/n #\n")
    assert build(again, files={"hello": "hi"}).read_text("/n") == "2\n"
    assert build(again, files={"hello": "hi"}, no_cache=True).read_text("/n") == "1\n"


def meet(mine: str, other: str) -> str:
    """A step that ends well only when the other one runs at the same time."""
    return (
        f"RUN --mount=type=cache,id=meeting,target=/m touch /m/{mine}; n=0;"
        f" until test -e /m/{other}; do n=$((n + 1)); test $n -lt 150 || exit 9; sleep 0.2; done;"
        f" echo {mine} > /{mine}"
    )


def test_stages_that_one_stage_copies_from_run_side_by_side(build: Builder) -> None:
    image = build(
        f"""
        FROM busybox AS one
        {meet("one", "two")}
        FROM busybox AS two
        {meet("two", "one")}
        FROM scratch
        COPY --from=one /one /
        COPY --from=two /two /
        """
    )
    assert image.read_text("/one") + image.read_text("/two") == "one\ntwo\n"
    assert len(image.executed) == 4


def test_a_stage_runs_side_by_side_with_the_steps_before_the_copy_from_it(build: Builder) -> None:
    image = build(
        f"""
        FROM busybox AS other
        {meet("other", "own")}
        FROM busybox
        {meet("own", "other")}
        COPY --from=other /other /
        """
    )
    assert image.read_text("/own") + image.read_text("/other") == "own\nother\n"


def test_a_failing_step_says_what_where_and_why(build: Builder) -> None:
    text = "FROM busybox\nRUN echo before\nRUN echo to-stderr >&2; exit 3\n"
    with pytest.raises(ExecFailed) as caught:
        build(text, platform=("linux/amd64", "linux/arm64"))
    error = caught.value
    assert error.status == 3
    assert error.message == (
        'process "/bin/sh -c echo to-stderr >&2; exit 3" did not complete successfully: exit code: 3'
    )
    assert error.source is not None
    assert (error.source.start, error.platform) in ((3, "linux/amd64"), (3, "linux/arm64"))
    assert b"to-stderr" in error.tail


def test_work_that_was_finished_before_a_failure_stays_cached(build: Builder) -> None:
    with pytest.raises(ExecFailed):
        build("FROM busybox\nRUN echo 1 > /one\nRUN false\n")
    image = build("FROM busybox\nRUN echo 1 > /one\nRUN true\n")
    assert [name.partition("] ")[2] for name in image.executed] == ["RUN true"]


def test_killed_by_a_signal_is_128_and_the_signal(build: Builder) -> None:
    with pytest.raises(ExecFailed, match="exit code: 137") as caught:
        build("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n")
    assert caught.value.hint is not None


def test_an_unknown_user_and_a_missing_program_are_errors(build: Builder) -> None:
    with pytest.raises(BuildError, match="unable to find user nobody2"):
        build("FROM busybox\nUSER nobody2\nRUN true\n")
    with pytest.raises(Exception, match="/no/such"):
        build('FROM busybox\nRUN ["/no/such"]\n')


def test_a_base_without_the_platform_lists_those_it_has(build: Builder) -> None:
    with pytest.raises(NoMatchingPlatform) as caught:
        build("FROM busybox\n", platform="linux/mips64le")
    assert caught.value.hint is not None
    assert "linux/riscv64" in caught.value.hint
    assert caught.value.source is not None


def test_output_is_streamed_with_the_vertex(build: Builder) -> None:
    image = build("FROM busybox\nRUN echo out; echo err >&2\n")
    logs = [event for event in image.events if isinstance(event, LogEvent)]
    assert {(event.stream, event.data) for event in logs} == {(1, b"out\n"), (2, b"err\n")}
    names = {event.digest: event.name for event in image.events if isinstance(event, VertexEvent)}
    assert all("RUN echo out" in names[event.vertex] for event in logs)


@pytest.mark.emulation
def test_cancelling_ends_every_step_within_a_second(build: Builder) -> None:
    from anyarch.engine import build as run_build
    from anyarch.engine.request import BuildRequest, CancelToken

    cancel = CancelToken()
    started = threading.Semaphore(0)

    def on_event(event: object) -> None:
        if isinstance(event, LogEvent) and b"started" in event.data:
            started.release()

    ended: list[float] = []

    def run() -> None:
        request = BuildRequest(
            context=str(build.context),
            dockerfile_data=b"FROM busybox\nRUN sleep 1000 & echo started; sleep 987654\n",
            platforms=("linux/amd64", "linux/arm64"),
            root=str(build.store),
        )
        with pytest.raises(Canceled):
            run_build(request, on_event, cancel)
        ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.acquire(timeout=30)
    assert started.acquire(timeout=30)
    cancelled = time.monotonic()
    cancel.set()
    thread.join(30)
    assert ended
    assert ended[0] - cancelled < 5  # a bound for a busy machine; the kill itself is immediate
    sleeping = [pid for pid in os.listdir("/proc") if pid.isdigit() and _sleeps(pid)]
    assert sleeping == []


def _sleeps(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return b"987654" in stream.read()
    except OSError:
        return False
