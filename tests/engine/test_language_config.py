"""Stages, arguments and what lands in the image config: platforms, inheritance, triggers, here-documents.
Traps are numbered as in the notes on the language."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import BuildRequest, Output
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, BuildError, DockerfileError, InvalidPlatform, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder, BuiltImage

TWO = ("linux/amd64", "linux/arm64")


def created_by(image: BuiltImage, platform: str | None = None) -> list[str]:
    return [entry.created_by or "" for entry in image.config(platform).history or ()]


# platforms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "seen"),
    [
        ("linux/arm64/v8", ("linux/arm64", "arm64", "")),
        ("linux/arm", ("linux/arm/v7", "arm", "v7")),
        ("linux/arm/6", ("linux/arm/v6", "arm", "v6")),
        ("linux/amd64/v1", ("linux/amd64", "amd64", "")),
        ("linux/amd64/v3", ("linux/amd64/v3", "amd64", "v3")),
        ("linux/x86_64", ("linux/amd64", "amd64", "")),
        ("linux/aarch64", ("linux/arm64", "arm64", "")),
    ],
)
def test_targets_are_normalised_in_arguments_and_config(
    scratch_build: Builder, platform: str, seen: tuple[str, str, str]
) -> None:
    image = scratch_build(
        "FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT\n"
        "COPY <<END /seen\n$TARGETPLATFORM $TARGETARCH $TARGETVARIANT\nEND\n",
        platform=platform,
    )
    assert image.read_text("/seen") == " ".join(seen) + "\n"
    config = image.config()
    assert (config.os, config.architecture, config.variant) == ("linux", seen[1], seen[2])


def test_two_words_are_os_and_architecture_whatever_they_are(scratch_build: Builder) -> None:
    """Trap 7: the language takes any two words; whoever asks by the command line or the API is told."""
    image = scratch_build("FROM scratch\nCOPY a /a\n", platform="arm64/v8", files={"a": "1"})
    assert (image.config().os, image.config().architecture) == ("arm64", "v8")
    (scratch_build.context / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(InvalidPlatform) as caught:
        prepare(BuildRequest(context=str(scratch_build.context), platforms=("arm64/v8",)))
    assert "linux/arm64" in f"{caught.value.message} {caught.value.hint}"


def test_the_platform_of_the_config_is_that_of_the_target(scratch_build: Builder) -> None:
    """Trap 8."""
    image = scratch_build(
        """
        FROM --platform=linux/s390x scratch AS other
        COPY a /a
        FROM --platform=linux/riscv64 other
        COPY a /b
        """,
        platform=TWO,
        files={"a": "1"},
    )
    assert [image.config(platform).architecture for platform in TWO] == ["amd64", "arm64"]


def test_a_stage_on_the_build_platform_is_made_once_for_all_targets(build: Builder) -> None:
    image = build(
        """
        FROM --platform=$BUILDPLATFORM busybox AS tools
        ARG BUILDPLATFORM BUILDARCH
        RUN echo "$BUILDPLATFORM $BUILDARCH $(uname -m)" > /seen
        FROM scratch
        ARG TARGETARCH
        COPY --from=tools /seen /
        COPY <<END /target
        $TARGETARCH
        END
        """,
        platform=TWO,
    )
    assert sum("RUN echo" in name for name in image.executed) == 1
    assert {image.read_text("/seen", platform) for platform in TWO} == {"linux/amd64 amd64 x86_64\n"}
    assert [image.read_text("/target", platform).strip() for platform in TWO] == ["amd64", "arm64"]


# arguments and variables --------------------------------------------------------------------------


def test_an_argument_after_a_variable_wins_for_the_build_only(build: Builder) -> None:
    """Trap 15."""
    image = build("FROM busybox\nENV G=a\nARG G=b\nRUN echo $G > /seen\nLABEL g=$G\n")
    assert image.read_text("/seen") == "b\n"
    config = image.config().config
    assert "G=a" in (config.env or ())
    assert config.labels == {"g": "b"}


def test_global_arguments_are_seen_in_stages_only_when_declared_there(scratch_build: Builder) -> None:
    """Trap 16."""
    image = scratch_build(
        """
        ARG GLOBAL=g
        ARG DERIVED=${GLOBAL}h
        FROM scratch AS ${NO:-one}
        COPY <<END /one
        [$GLOBAL][$TARGETARCH]
        END
        FROM one
        ARG GLOBAL DERIVED=own TARGETARCH
        COPY <<END /two
        [$GLOBAL][$DERIVED][$TARGETARCH]
        END
        """.replace("${NO:-one}", "one")
    )
    assert image.read_text("/one") == "[][]\n"
    assert image.read_text("/two") == "[g][own][amd64]\n"


def test_arguments_come_from_the_command_line_the_global_scope_or_the_default(scratch_build: Builder) -> None:
    text = """
        ARG A=global
        FROM scratch AS base
        ARG A B=default C
        FROM base
        COPY <<END /seen
        $A $B [$C]
        END
    """
    assert scratch_build(text).read_text("/seen") == "global default []\n"
    given = scratch_build(text, build_args={"A": "1", "B": "2", "C": "3"})
    assert given.read_text("/seen") == "1 2 [3]\n"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("${v:-w}", "x.tar.gz"),
        ("${e:-w}", "w"),
        ("${e-w}", ""),
        ("${u-w}", "w"),
        ("${v:+w}", "w"),
        ("${e:+w}", ""),
        ("${e+w}", "w"),
        ("${v%.*}", "x.tar"),
        ("${v%%.*}", "x"),
        ("${v#*.}", "tar.gz"),
        ("${v##*.}", "gz"),
        ("${v/./_}", "x_tar.gz"),
        ("${v//./_}", "x_tar_gz"),
        ("${u:-${v:-n}}", "x.tar.gz"),
        ("'$v'", "$v"),
        ('"$v"', "x.tar.gz"),
        (r"\$v", "$v"),
    ],
)
def test_variables_expand_with_every_modifier(scratch_build: Builder, word: str, value: str) -> None:
    image = scratch_build(f"FROM scratch\nARG v=x.tar.gz e=\nLABEL l={word}\nWORKDIR /w\n")
    assert image.config().config.labels == {"l": value}


def test_a_variable_may_be_demanded(scratch_build: Builder) -> None:
    with pytest.raises(DockerfileError, match="give one") as caught:
        scratch_build('FROM scratch\nARG A\nLABEL l="${A:?give one}"\n')
    assert caught.value.source is not None
    assert caught.value.source.start == 3


def test_one_instruction_sees_the_environment_from_before_it(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nENV a=1\nENV a=2 b=$a\nARG x=1 y=$x\nLABEL l=$b$y\nWORKDIR /w\n")
    assert image.config().config.labels == {"l": "11"}


# stages -------------------------------------------------------------------------------------------


def test_only_what_the_target_needs_is_built(build: Builder) -> None:
    text = """
        FROM busybox AS a
        RUN echo a > /a
        FROM busybox AS b
        RUN exit 1
        FROM scratch AS c
        COPY --from=a /a /
    """
    assert build(text).listing() == ["a"]
    assert build(text, target="A").read_text("/a") == "a\n"
    with pytest.raises(AnyarchError, match="exit code: 1"):
        build(text, target="b")
    with pytest.raises(UsageError, match='target stage "d" could not be found'):
        build(text, target="d")
    with pytest.raises(UsageError):
        build(text, target="0")


def test_a_base_may_be_an_argument(build: Builder) -> None:
    text = "ARG BASE=busybox\nARG TAG\nFROM ${BASE}:${TAG:-latest}\nRUN echo ok > /ok\n"
    assert build(text).read_text("/ok") == "ok\n"
    with pytest.raises(AnyarchError):
        build(text, build_args={"TAG": "nope"})
    with pytest.raises(DockerfileError, match="should not be blank"):
        build("ARG X\nFROM $X\nRUN true\n")


def test_an_entrypoint_clears_the_inherited_command_but_not_an_own_one(scratch_build: Builder) -> None:
    """Trap 13."""
    image = scratch_build(
        'FROM scratch AS base\nCOPY a /a\nCMD ["base"]\nFROM base\nENTRYPOINT ["e"]\n', files={"a": "1"}
    )
    assert (image.config().config.entrypoint, image.config().config.cmd) == (("e",), None)
    image = scratch_build('FROM scratch\nCOPY a /a\nCMD ["own"]\nENTRYPOINT ["e"]\n')
    assert (image.config().config.entrypoint, image.config().config.cmd) == (("e",), ("own",))


def test_triggers_of_a_stage_in_the_same_file_fire_once(build: Builder) -> None:
    """Trap 14."""
    image = build(
        """
        FROM busybox AS base
        ONBUILD ARG WHO=nobody
        ONBUILD RUN echo fired $WHO >> /fired
        ONBUILD COPY --from=files /f /copied
        FROM scratch AS files
        COPY f /f
        FROM base AS child
        RUN echo own >> /fired
        FROM child
        RUN echo grandchild >> /fired
        """,
        files={"f": "F"},
        build_args={"WHO": "me"},
    )
    assert image.read_text("/fired") == "fired me\nown\ngrandchild\n"
    assert image.read_text("/copied") == "F"
    assert image.config().config.on_build is None


def test_triggers_travel_in_the_image_until_they_fire(scratch_build: Builder, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    base = scratch_build(
        "FROM scratch\nCOPY a /a\nONBUILD COPY b /b\n",
        files={"a": "1", "b": "2"},
        outputs=(Output("oci", str(layout), {"tar": "false"}),),
    )
    assert base.config().config.on_build == ("COPY b /b",)
    child = scratch_build("FROM base\n", build_contexts={"base": f"oci-layout://{layout}"})
    assert child.listing() == ["a", "b"]
    assert child.config().config.on_build is None


def test_a_named_context_may_replace_a_stage(scratch_build: Builder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/f").write_text("replaced")
    text = "FROM scratch AS s\nCOPY nothing /f\nFROM scratch\nCOPY --from=s /f /f\n"
    image = scratch_build(text, build_contexts={"s": str(tmp_path / "other")})
    assert image.read_text("/f") == "replaced"


def test_a_platform_may_have_a_named_context_of_its_own(scratch_build: Builder, tmp_path: Path) -> None:
    for name in ("all", "arm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    image = scratch_build(
        "FROM scratch\nCOPY --from=ctx f /f\n",
        platform=TWO,
        build_contexts={"ctx": str(tmp_path / "all"), "ctx::linux/arm64": str(tmp_path / "arm")},
    )
    assert [image.read_text("/f", platform) for platform in TWO] == ["all", "arm"]


def test_a_named_context_may_be_another_image(build: Builder) -> None:
    text = """FROM base AS one
RUN true
FROM scratch
COPY --from=one /etc/passwd /a
COPY --from=other /bin/sh /b
"""
    contexts = {"base": "docker-image://busybox", "other": "docker-image://docker.io/library/alpine:latest"}
    image = build(text, build_contexts=contexts)
    assert "root" in image.read_text("/a")
    assert image.path("/b").exists()
    contexts = {"base": "docker-image://scratch"}
    empty = build("FROM base\nCOPY x /x\n", files={"x": "1"}, build_contexts=contexts)
    assert empty.listing() == ["x"]


def test_a_single_platform_becomes_an_index_by_argument(scratch_build: Builder) -> None:
    def media_type(value: str, platform: tuple[str, ...] = ("linux/arm64",)) -> str:
        arguments = {"BUILDKIT_MULTI_PLATFORM": value}
        image = scratch_build("FROM scratch\nWORKDIR /x\n", platform=platform, build_args=arguments)
        assert image.result.digest is not None
        return str(json.loads(image.blob(image.result.digest))["mediaType"])

    assert media_type("1").endswith("index.v1+json")
    assert media_type("0").endswith("manifest.v1+json")
    with pytest.raises(UsageError, match="returning multiple target platforms is not allowed"):
        media_type("0", TWO)


# metadata -----------------------------------------------------------------------------------------


def test_a_working_directory_is_a_layer_owned_by_the_user(build: Builder) -> None:
    """Trap 19."""
    image = build("FROM busybox\nUSER 7:8\nWORKDIR /one/two\nWORKDIR three\nWORKDIR /\n")
    owned = image.member("/one/two/three")
    assert (owned.uid, owned.gid, owned.mode) == (7, 8, 0o755)
    assert image.config().config.working_dir == "/"
    assert [entry.empty_layer for entry in image.config().history or ()][-3:] == [False, False, True]


def test_ports_volumes_and_labels_expand_and_split(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch
        ENV PORTS="80 443/udp" V=/data
        EXPOSE $PORTS 8000-8002/TCP
        VOLUME $V [/not, json]
        VOLUME ["/a", "/b"]
        LABEL one=1 two="2 2"
        LABEL old style
        STOPSIGNAL ${S:-SIGQUIT}
        HEALTHCHECK --interval=1m --retries=3 CMD curl x
        MAINTAINER me
        WORKDIR /w
        """,
        labels={"one": "cli"},
    )
    run = image.config().config
    assert sorted(run.exposed_ports or ()) == ["443/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
    assert sorted(run.volumes or ()) == ["/a", "/b", "/data", "[/not,", "json]"]
    assert run.labels == {"one": "cli", "two": "2 2", "old": "style"}
    assert run.stop_signal == "SIGQUIT"
    assert run.healthcheck is not None
    assert (run.healthcheck.test, run.healthcheck.interval) == (("CMD-SHELL", "curl x"), 60_000_000_000)
    assert image.config().author == "me"


def test_the_history_tells_each_instruction(build: Builder) -> None:
    image = build(
        "FROM busybox\nARG A=1\nENV B=2\nRUN echo hi > /hi\nCOPY --chown=1:1 a /a\nCMD x\n", files={"a": "1"}
    )
    assert created_by(image)[-5:] == [
        "ARG A=1",
        "ENV B=2",
        "RUN |1 A=1 /bin/sh -c echo hi > /hi # buildkit",
        "COPY --chown=1:1 a /a # buildkit",
        'CMD ["/bin/sh" "-c" "x"]',
    ]


def test_an_escape_character_may_be_chosen(scratch_build: Builder) -> None:
    image = scratch_build("# escape=`\nFROM scratch\nCOPY a `\n  C:\\x\nLABEL l=`$a\n", files={"a": "1"})
    assert image.listing() == ["C:\\x"]
    assert image.config().config.labels == {"l": "$a"}


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("FROM scratch\nFRM x\n", "unknown instruction: FRM", 2),
        ("FROM scratch\nCOPY --chwon=1 a b\n", "unknown flag: --chwon", 2),
        ("RUN x\n", "no build stage in current context", 1),
        ("FROM scratch\nENV a\n", "ENV must have two arguments", 2),
        ("FROM scratch\nONBUILD FROM x\n", "FROM isn't allowed as an ONBUILD trigger", 2),
        ("FROM scratch\nEXPOSE 99999\n", "invalid", 2),
        ("FROM scratch\nSTOPSIGNAL NOPE\n", "invalid signal", 2),
        ("FROM scratch\nSHELL x\n", "SHELL requires the arguments to be in JSON form", 2),
        ("FROM scratch\nHEALTHCHECK FOO\n", "HEALTHCHECK", 2),
        ("FROM scratch\nRUN <<END\nx\n", "unterminated heredoc", 2),
        ("FROM scratch\nCOPY a\n", "COPY requires at least two arguments", 2),
        ("FROM scratch AS 1x\n", "invalid name for build stage", 1),
    ],
)
def test_errors_name_the_line_and_the_nearest_word(
    scratch_build: Builder, text: str, problem: str, line: int
) -> None:
    with pytest.raises(BuildError, match=problem) as caught:
        scratch_build(text)
    assert caught.value.source is not None
    assert caught.value.source.start == line


# the ignore file ----------------------------------------------------------------------------------


def test_the_dockerfiles_own_ignore_file_replaces_the_general_one(scratch_build: Builder) -> None:
    """Trap 10."""
    scratch_build.write(
        {
            ".dockerignore": "a\n",
            "x.Dockerfile": "FROM scratch\nCOPY . /\n",
            "x.Dockerfile.dockerignore": "b\n",
            "a": "1",
            "b": "2",
        }
    )
    path = str(scratch_build.context / "x.Dockerfile")
    image = scratch_build("", dockerfile_data=None, dockerfile=path)
    assert "a" in image.listing()
    assert "b" not in image.listing()
    assert "a" not in scratch_build("FROM scratch\nCOPY . /\n").listing()
