"""What the frontend reads, and what options and contexts do."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.errors import (
    AnyarchError,
    BadReference,
    ContextError,
    DockerfileError,
    InvalidPlatform,
    NotSupported,
    UsageError,
)
from anyarch.frontend.dockerfile.build import ForeignSyntax, build
from anyarch.llb.ops import SourceOp
from anyarch.llb.source import image
from anyarch.spec.platform import Platform
from tests.unit.frontend.fakes import FakeGateway

if TYPE_CHECKING:
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.llb.definition import Definition


def run(gateway: FakeGateway) -> FrontendResult:
    return asyncio.run(build(gateway))


def failure(gateway: FakeGateway) -> AnyarchError:
    with pytest.raises(AnyarchError) as caught:
        run(gateway)
    return caught.value


def sources(definition: Definition | None) -> list[SourceOp]:
    assert definition is not None
    return [op.kind for op in definition.decoded.values() if isinstance(op.kind, SourceOp)]


def only(result: FrontendResult) -> Definition:
    (definition,) = result.refs.values()
    assert definition is not None
    return definition


def test_reads_dockerfile_and_ignore_file_in_one_go_then_the_general_one() -> None:
    gateway = FakeGateway("FROM scratch\nCOPY . /\n", files={"local://context": {".dockerignore": b"*.o\n"}})
    result = run(gateway)
    first, second = (sources(definition)[0] for definition in gateway.solved)
    assert first.identifier == "local://dockerfile"
    assert json.loads(first.attrs["local.followpaths"]) == [
        "Dockerfile",
        "Dockerfile.dockerignore",
        "dockerfile",
    ]
    assert json.loads(second.attrs["local.followpaths"]) == [".dockerignore"]
    (context,) = sources(only(result))
    assert json.loads(context.attrs["local.excludepatterns"]) == ["*.o"]


def test_ignore_file_of_the_dockerfile_replaces_the_general_one() -> None:
    files = {
        "local://dockerfile": {
            "Dockerfile": b"FROM scratch\nCOPY . /\n",
            "Dockerfile.dockerignore": b"own\n",
        },
        "local://context": {".dockerignore": b"general\n"},
    }
    gateway = FakeGateway(files=files)
    (context,) = sources(only(run(gateway)))
    assert json.loads(context.attrs["local.excludepatterns"]) == ["own"]
    assert len(gateway.solved) == 1


def test_missing_dockerfile_says_what_docker_says() -> None:
    error = failure(FakeGateway(files={"local://dockerfile": {}}))
    assert isinstance(error, ContextError)
    assert error.message == "failed to read dockerfile: open Dockerfile: no such file or directory"
    error = failure(FakeGateway(opts={"filename": "x/Other"}))
    assert error.message == "failed to read dockerfile: open x/Other: no such file or directory"


def test_bad_ignore_pattern_is_an_error() -> None:
    error = failure(
        FakeGateway("FROM scratch\nCOPY a b\n", files={"local://context": {".dockerignore": b"!\n"}})
    )
    assert "failed parsing .dockerignore" in error.message


@pytest.mark.parametrize(
    "line",
    [
        "# syntax=docker/dockerfile:1",
        "# syntax=docker/dockerfile:1.7-labs",
        "# syntax=docker.io/docker/dockerfile:labs",
        "# syntax=docker/dockerfile:latest",
        "# syntax = docker/dockerfile",
        "// syntax=docker/dockerfile:1\n# x",
        "# other comment",
    ],
)
def test_dockers_own_frontend_is_built_in(line: str) -> None:
    text = f"{line}\nFROM scratch\nCOPY a b\n"
    gateway = FakeGateway(text.replace("// ", "# "))
    assert only(run(gateway)).ops


@pytest.mark.parametrize(
    "name",
    ["docker/dockerfile-upstream:master", "docker/dockerfile@sha256:" + "0" * 64, "docker/dockerfile:pr-1"],
)
def test_what_names_other_bytes_is_not_built_in(name: str) -> None:
    error = failure(FakeGateway(f"# syntax={name}\nFROM scratch\n"))
    assert isinstance(error, NotSupported)
    assert name in error.message


def test_other_frontends_are_refused_with_their_line() -> None:
    error = failure(FakeGateway("# syntax=mine/frontend:2\nFROM scratch\n"))
    assert isinstance(error, NotSupported)
    assert "mine/frontend:2" in error.message
    assert error.source is not None
    assert error.source.start == 1
    error = failure(FakeGateway("FROM scratch\n", opts={"build-arg:BUILDKIT_SYNTAX": "mine/frontend"}))
    assert isinstance(error, NotSupported)


def test_syntax_argument_wins_over_the_line() -> None:
    gateway = FakeGateway(
        "# syntax=mine/frontend\nFROM scratch\nCOPY a b\n",
        opts={"build-arg:BUILDKIT_SYNTAX": "dockerfile.v0"},
    )
    assert only(run(gateway)).ops


def tar_of(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(
    "head", [tar_of(Dockerfile=b"x"), b"\x1f\x8b\x08rest", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"]
)
def test_uploaded_archive_is_the_context_and_holds_the_dockerfile(head: bytes) -> None:
    url = "http://buildkit-session/1"
    gateway = FakeGateway(
        opts={"context": url},
        files={url: {"context": head, "Dockerfile": b"FROM scratch\nCOPY a b\n"}},
    )
    definition = only(run(gateway))
    assert [source.identifier for source in sources(definition)] == [url]


def test_downloaded_text_is_the_dockerfile() -> None:
    url = "https://host/Dockerfile"
    gateway = FakeGateway(opts={"context": url}, files={url: {"context": b"FROM busybox\nCOPY a b\n"}})
    assert [source.identifier for source in sources(only(run(gateway)))][1] == url


def test_ignore_file_does_not_hold_for_archives() -> None:
    url = "http://h/x.tar"
    files = {"context": b"BZh", "Dockerfile": b"FROM scratch\nCOPY a b\n", ".dockerignore": b"a\n"}
    gateway = FakeGateway(opts={"context": url}, files={url: files})
    run(gateway)
    assert not any(
        source.identifier.startswith("local:") for item in gateway.solved for source in sources(item)
    )


@pytest.mark.parametrize(
    ("url", "identifier"),
    [
        ("https://github.com/a/b.git#v1:sub", "git://github.com/a/b.git#v1:sub"),
        ("git@github.com:a/b", "git://github.com/a/b"),
        ("git://h:9418/x?tag=v1", "git://h:9418/x#refs/tags/v1"),
        ("github.com/a/b", "git://github.com/a/b"),
    ],
)
def test_git_contexts_bring_the_dockerfile_and_no_ignore_file(url: str, identifier: str) -> None:
    files = {"Dockerfile": b"FROM scratch\nCOPY a b\n", ".dockerignore": b"a\n"}
    gateway = FakeGateway(opts={"context": url}, files={identifier: files})
    assert [source.identifier for source in sources(only(run(gateway)))] == [identifier]
    assert not any(
        source.identifier.startswith("local:") for item in gateway.solved for source in sources(item)
    )


def test_git_contexts_keep_their_git_directory_and_times_when_asked_to() -> None:
    identifier = "git://h/x.git"
    arguments = {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1", "SOURCE_DATE_EPOCH": "1"}
    gateway = FakeGateway(
        opts={"context": "https://h/x.git", **{f"build-arg:{k}": v for k, v in arguments.items()}},
        files={identifier: {"Dockerfile": b"FROM scratch\nCOPY a b\n"}},
    )
    (source,) = sources(only(run(gateway)))
    assert source.attrs == {
        "git.fullurl": "https://h/x.git",
        "git.authheadersecret": "GIT_AUTH_HEADER",
        "git.authtokensecret": "GIT_AUTH_TOKEN",
        "git.keepgitdir": "true",
        "git.mtime": "commit",
    }


def test_a_layout_stands_in_for_an_image() -> None:
    digest = "sha256:" + "1" * 64
    gateway = FakeGateway("FROM base\nRUN x\n", opts={"context:base": f"oci-layout://store@{digest}"})
    (source,) = (item for item in sources(only(run(gateway))) if item.identifier.startswith("oci"))
    assert source.identifier == f"oci-layout://docker.io/library/base@{digest}"
    assert source.attrs == {"oci.session": "session-1", "oci.store": "store"}


@pytest.mark.parametrize(
    ("opts", "kind", "text"),
    [
        ({"platform": "a/b/c/d"}, InvalidPlatform, "failed to parse target platform a/b/c/d"),
        ({"image-resolve-mode": "x"}, UsageError, "invalid image-resolve-mode"),
        ({"force-network-mode": "x"}, UsageError, "invalid netmode x"),
        ({"add-hosts": "a"}, UsageError, "invalid key-value pair a"),
        ({"add-hosts": "a=b"}, UsageError, "failed to parse IP b"),
        ({"ulimit": "nofile"}, UsageError, "failed to parse ulimit"),
        ({"ulimit": "nofile=5:1"}, UsageError, "soft limit"),
        ({"shm-size": "x"}, UsageError, "invalid shm-size"),
        ({"memory": "0"}, UsageError, "must be at least 1"),
        ({"multi-platform": "maybe"}, UsageError, "invalid boolean value"),
        ({"build-arg:BUILDKIT_DISABLE_FILEOP": "1"}, NotSupported, "was removed"),
        ({"build-arg:SOURCE_DATE_EPOCH": "some-stage"}, UsageError, "invalid SOURCE_DATE_EPOCH: some-stage"),
        ({"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip"}, DockerfileError, "check option"),
        ({"target": "nope"}, UsageError, 'target stage "nope" could not be found'),
        ({"context": "ftp://x"}, ContextError, "unsupported build context"),
        ({"context:base": "oci-layout://x@sha256:0"}, BadReference, "invalid digest"),
        ({"context:base": "oci-layout://x"}, UsageError, "has no digest"),
        ({"context:base": "input:x"}, UsageError, "invalid input x for base"),
        ({"context:base": "target:x"}, UsageError, "unsupported context source target for base"),
        ({"context:base": "https://h/x.git?nope=1"}, UsageError, "unexpected query"),
        ({"context": "https://h/x.git?nope=1"}, UsageError, "unexpected query"),
        ({"context:base": "nothing"}, UsageError, "invalid context specifier"),
        ({"context:base": "zip:x"}, UsageError, "unsupported context source"),
    ],
)
def test_senseless_options_are_refused(opts: dict[str, str], kind: type[AnyarchError], text: str) -> None:
    error = failure(FakeGateway("FROM base\nRUN x\n", opts=opts))
    assert isinstance(error, kind)
    assert text in error.message


def test_what_another_build_made_may_be_a_named_context() -> None:
    made = image("docker.io/library/made:1", platform=Platform("linux", "amd64")).marshal()
    text = "FROM base\nENV MORE=$FROM_IT\nCOPY --from=files /x /y\n"
    config = b'{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/b","FROM_IT=1"]}}'
    opts = {
        "context:base": "input:base",
        "context:files": "input:files",
        "input-metadata:base": json.dumps({"containerimage.config": base64.b64encode(config).decode()}),
    }
    gateway = FakeGateway(text, opts=opts, inputs={"base": made, "files": made})
    result = run(gateway)
    (definition,) = result.refs.values()
    assert definition is not None
    assert set(made.digests[:1]) <= set(definition.digests)
    assert json.loads(next(iter(result.configs.values())))["config"]["Env"] == [
        "PATH=/b",
        "FROM_IT=1",
        "MORE=1",
    ]
    assert gateway.resolved == []
    opts["input-metadata:base"] = "{"
    error = failure(FakeGateway(text, opts=opts, inputs={"base": made}))
    assert "failed to parse input metadata" in error.message


def test_the_frontend_that_a_file_names_may_be_wanted_as_its_image() -> None:
    text = "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY a b\n"
    assert isinstance(failure(FakeGateway(text, frontend_images=True)), ForeignSyntax)
    assert run(FakeGateway("FROM scratch\nCOPY a b\n", frontend_images=True)).refs
    assert run(FakeGateway(text)).refs


def test_one_platform_becomes_an_index_only_when_asked() -> None:
    assert not run(FakeGateway("FROM scratch\nCOPY a b\n", opts={"platform": "linux/arm64"})).multi_platform
    opts = {"platform": "linux/arm64", "build-arg:BUILDKIT_MULTI_PLATFORM": "1"}
    assert run(FakeGateway("FROM scratch\nCOPY a b\n", opts=opts)).multi_platform


def test_platform_asked_for_twice_is_made_once() -> None:
    result = run(FakeGateway("FROM scratch\nCOPY a b\n", opts={"platform": "linux/arm64,linux/arm64/v8"}))
    assert result.platforms == (("linux/arm64", Platform("linux", "arm64")),)


def test_without_a_platform_the_builders_own_is_the_target() -> None:
    riscv = Platform("linux", "riscv64")
    result = run(FakeGateway("FROM busybox\nRUN x\n", build_platforms=(riscv,)))
    assert result.platforms == (("linux/riscv64", riscv),)


def test_empty_image_has_no_graph() -> None:
    result = run(FakeGateway("FROM scratch\nLABEL a=b\n"))
    assert result.refs == {"linux/amd64": None}
    assert json.loads(result.configs["linux/amd64"])["config"]["Labels"] == {"a": "b"}


def test_each_base_image_is_asked_for_once_a_platform() -> None:
    gateway = FakeGateway(
        "FROM busybox AS a\nRUN x\nFROM busybox\nCOPY --from=busybox /a /b\nCOPY --from=a /c /d\n",
        opts={"platform": "linux/amd64,linux/arm64"},
    )
    run(gateway)
    assert sorted(str(platform) for _, platform, _, _ in gateway.resolved) == ["linux/amd64", "linux/arm64"]


def test_stages_that_are_not_needed_ask_for_nothing() -> None:
    gateway = FakeGateway("FROM nosuch\nRUN x\nFROM busybox AS t\nFROM other\n", opts={"target": "t"})
    run(gateway)
    assert [reference for reference, *_ in gateway.resolved] == ["docker.io/library/busybox:latest"]


def test_missing_base_image_points_at_its_from_line() -> None:
    error = failure(FakeGateway("ARG V\nFROM x.test/no/such:1\n", images={}))
    assert error.source is not None
    assert (error.source.start, error.platform) == (2, "linux/amd64")


def test_local_named_context_transfers_what_is_copied() -> None:
    gateway = FakeGateway(
        "FROM scratch\nCOPY --from=ctx a/b /x\n",
        opts={"context:ctx": "local:ctx-1", "sharedkey:localdir:ctx": "key", "local-sessionid:ctx-1": "s2"},
        files={"local://ctx-1": {".dockerignore": b"z\n"}},
    )
    (source,) = sources(only(run(gateway)))
    assert source.identifier == "local://ctx-1"
    assert source.attrs == {
        "local.session": "s2",
        "local.followpaths": '["a/b"]',
        "local.excludepatterns": '["z"]',
        "local.sharedkeyhint": "context:ctx-key",
    }


def test_named_context_for_one_platform_wins_there() -> None:
    opts = {
        "platform": "linux/amd64,linux/arm64",
        "context:base": "docker-image://one",
        "context:base::linux/arm64": "docker-image://two",
    }
    result = run(FakeGateway("FROM base\n", opts=opts))
    found = {name: sources(definition)[0].identifier for name, definition in result.refs.items()}
    assert found == {
        "linux/amd64": "docker-image://docker.io/library/one:latest",
        "linux/arm64": "docker-image://docker.io/library/two:latest",
    }


def test_epoch_is_handed_on_and_given_to_steps_that_ask() -> None:
    result = run(
        FakeGateway(
            "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN x\n", opts={"build-arg:SOURCE_DATE_EPOCH": "0123"}
        )
    )
    assert result.metadata == {"source.date.epoch/linux/amd64": b"123"}
    assert b"SOURCE_DATE_EPOCH=123" in b"".join(only(result).ops)


def test_warnings_are_given_once_and_show_their_line() -> None:
    gateway = FakeGateway(
        "FROM busybox\nCMD echo $UNSET\nWORKDIR rel\n", opts={"platform": "linux/amd64,linux/arm64"}
    )
    run(gateway)
    assert [warning.short.partition(":")[0] for warning in gateway.warnings] == [
        "JSONArgsRecommended",
        "WorkdirRelativePath",
    ]
    warning = gateway.warnings[1]
    assert (warning.filename, warning.lines, warning.source) == ("Dockerfile", ((3, 3),), gateway.data)
    assert warning.vertex == gateway.solved[0].digests[0]


def test_warnings_before_an_error_are_told() -> None:
    gateway = FakeGateway(
        "FROM scratch AS Bad\nMAINTAINER me\nFROM scratch AS Bad\nBADCMD\nFROM x AS Worse\n"
    )
    assert "unknown instruction: BADCMD" in failure(gateway).message
    # No rule about the file as a whole, which was not read.
    assert [warning.short.partition(":")[0] for warning in gateway.warnings] == [
        "StageNameCasing",
        "MaintainerDeprecated",
        "StageNameCasing",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "FROM --platform=$BULIDPLATFORM scratch\n",
            "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)",
        ),
        (
            "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\n",
            'failed to parse platform linux/${MYARCH}: "" is an invalid component of "linux/": platform '
            'specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument (did you mean MY_ARCH?)',
        ),
    ],
)
def test_a_platform_of_an_unknown_argument_suggests_one_that_is_known(text: str, says: str) -> None:
    assert failure(FakeGateway(text)).message == says


def test_checks_can_be_made_to_fail_the_build() -> None:
    gateway = FakeGateway(
        "FROM busybox\nCMD echo\n", opts={"build-arg:BUILDKIT_DOCKERFILE_CHECK": "error=true"}
    )
    error = failure(gateway)
    assert error.message == "lint violation found for rules: JSONArgsRecommended"
    assert len(gateway.warnings) == 1


def test_windows_image_takes_the_version_of_its_base() -> None:
    gateway = FakeGateway("FROM win\nCOPY a C:\\\\b\n", opts={"platform": "windows/amd64"})

    async def resolve(reference: str, **_: Any) -> Any:
        from anyarch.frontend.gateway import ResolvedImage

        raw = {
            "os": "windows",
            "architecture": "amd64",
            "os.version": "10.0.1",
            "history": [{"created_by": "x"}],
        }
        raw["rootfs"] = {"type": "layers", "diff_ids": []}
        return ResolvedImage(reference, "", json.dumps(raw).encode())

    gateway.resolve_image_config = resolve  # type: ignore[method-assign]
    result = run(gateway)
    assert result.platforms == (("windows/amd64", Platform("windows", "amd64", "", "10.0.1")),)
