"""From the flags of `anyarch build` to a build request: environment, standard input and Docker's settings
included."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, TextIO

from anyarch.engine import grammar
from anyarch.engine.request import BuildRequest, Output
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import Method

__all__ = ["build_request", "display_mode", "is_archive", "method_of"]

_HEADER = 1024
_MAGIC = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


def display_mode(parsed: Parsed, stream: TextIO, environment: Mapping[str, str]) -> tuple[str, bool]:
    """The progress mode, and whether the image id is printed at the end."""
    from anyarch.progress import choose_mode

    wanted = parsed.text("progress") or environment.get("BUILDKIT_PROGRESS") or "auto"
    quiet = parsed.switch("quiet") or wanted == "quiet"
    if quiet:
        if parsed.text("progress") not in (None, "auto", "quiet"):
            raise UsageError(f"progress={wanted} and quiet cannot be used together")
        return "quiet", True
    return choose_mode(wanted, stream, environment), False


def build_request(
    parsed: Parsed, environment: Mapping[str, str], stdin: Callable[[], BinaryIO | None]
) -> BuildRequest:
    """The request as the user wrote it; `engine.validate.prepare` checks the rest. `stdin` gives the
    standard input if the command line refers to it."""
    from anyarch.engine.accelerate import acceleration

    asked = {"provenance": parsed.text("provenance"), "sbom": parsed.text("sbom")}
    attests = grammar.attests(parsed.texts("attest"), **asked)
    outputs = [grammar.output(text) for text in parsed.texts("output") if text]
    if parsed.text("iidfile") and any(output.type in ("local", "tar") for output in outputs):
        raise UsageError("local and tar exporters are incompatible with image ID file")
    part = parsed.text("part")
    if part:
        outputs.append(Output("oci", part, {"tar": "false", "part": "true"}))
    shm_size = parsed.text("shm-size")
    context, dockerfile = parsed.args[0], parsed.text("file")
    archive, data = _standard_input(context, dockerfile, stdin)
    return BuildRequest(
        context=context,
        context_tar=archive,
        dockerfile=None if dockerfile == "-" else dockerfile,
        dockerfile_data=data,
        platforms=_platforms(parsed, environment),
        target=parsed.text("target") or "",
        build_args=_build_args(parsed, environment),
        labels=_labels(parsed, environment),
        tags=tuple(dict.fromkeys(parsed.texts("tag"))),
        outputs=_with_artifacts(
            grammar.with_shorthands(outputs, push=parsed.switch("push"), load=parsed.switch("load")),
            environment,
        ),
        cache_from=grammar.cache_options(parsed.texts("cache-from")),
        cache_to=grammar.cache_options(parsed.texts("cache-to")),
        no_cache=parsed.switch("no-cache"),
        no_cache_filter=tuple(
            name for text in parsed.texts("no-cache-filter") for name in text.split(",") if name
        ),
        pull=parsed.switch("pull"),
        network=parsed.text("network") or "default",
        proxy_network=parsed.switch("proxy-network"),
        add_hosts=grammar.add_hosts(parsed.texts("add-host")),
        shm_size=grammar.size_bytes(shm_size) or None if shm_size else None,
        ulimits=tuple(grammar.ulimit(text) for text in parsed.texts("ulimit")),
        resources=grammar.resources(_resources(parsed)),
        cgroup_parent=parsed.text("cgroup-parent") or "",
        build_contexts=grammar.build_contexts(parsed.texts("build-context")),
        secrets=tuple(grammar.secret(text, environment) for text in parsed.texts("secret")),
        ssh=tuple(grammar.ssh(text) for text in parsed.texts("ssh")),
        allow=tuple(text for text in parsed.texts("allow") if text),
        arch_check=parsed.text("arch-check") or "warn",
        arch_check_allow=tuple(parsed.texts("arch-check-allow")),
        lock="" if parsed.command.name == "fetch" else parsed.text("lock") or "",
        offline=parsed.switch("offline"),
        tests=tuple(parsed.texts("test")),
        accelerate=acceleration(parsed.text("accelerate"), environment),
        no_emulation=parsed.switch("no-emulation"),
        stage_platform=parsed.switch("stage-platform"),
        emulators=grammar.directory(parsed.text("emulators"), "--emulators"),
        keep_going=parsed.switch("keep-going"),
        require=_names(parsed, "require"),
        optional=_names(parsed, "optional"),
        parallel=tuple(parsed.texts("parallel")),
        annotations=grammar.image_annotations(parsed.texts("annotation")),
        attests=attests,
        default_provenance=_by_default(parsed, environment),
        metadata_provenance=_in_metadata(parsed, environment),
        call=method_of(parsed).name,
    )


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    """Raises `UsageError` for what is no truth value."""
    text = environment.get(name)
    if text is None:
        return False
    value = grammar.truth(text)
    if value is None:
        raise UsageError(f'invalid {name} "{text}"', hint="it is true or false")
    return value


def _with_artifacts(outputs: tuple[Output, ...], environment: Mapping[str, str]) -> tuple[Output, ...]:
    """With `oci-artifact=false` where the environment wants attestations to be image manifests."""
    if not _is_set(environment, "BUILDX_NO_DEFAULT_OCI_ARTIFACT"):
        return outputs
    return tuple(
        Output(out.type, out.dest, {"oci-artifact": "false", **out.attrs})
        if out.type in ("image", "oci")
        else out
        for out in outputs
    )


def _by_default(parsed: Parsed, environment: Mapping[str, str]) -> bool:
    """Whether nothing was said of provenance."""
    is_said = bool(parsed.text("provenance")) or any(
        ("type", "provenance") in grammar.pairs(text) for text in parsed.texts("attest")
    )
    return not is_said and not _is_set(environment, "BUILDX_NO_DEFAULT_ATTESTATIONS")


def _in_metadata(parsed: Parsed, environment: Mapping[str, str]) -> str:
    """min or max; empty where the metadata file is to say nothing, or there is none."""
    text = environment.get("BUILDX_METADATA_PROVENANCE", "")
    if not parsed.text("metadata-file") or method_of(parsed).name != "build":
        return ""
    if text == "disabled" or grammar.truth(text) is False:
        return ""
    return "max" if text == "max" else "min"


_RESOURCE_FLAGS = (
    "memory",
    "memory-swap",
    "cpu-shares",
    "cpu-period",
    "cpu-quota",
    "cpuset-cpus",
    "cpuset-mems",
)


def _resources(parsed: Parsed) -> list[str]:
    """`--resource`, after the flags of docker build that it has replaced."""
    old = [f"{name}={value}" for name in _RESOURCE_FLAGS if (value := parsed.text(name))]
    return [*old, *parsed.texts("resource")]


def _labels(parsed: Parsed, environment: Mapping[str, str]) -> dict[str, str]:
    """`--label`, and before them what BUILDX_GIT_LABELS asks for."""
    given = grammar.key_values(parsed.texts("label"))
    if not environment.get("BUILDX_GIT_LABELS"):
        return given
    from anyarch.builder.vcs import git_labels

    return git_labels(parsed.args[0], parsed.text("file"), environment) | given


def method_of(parsed: Parsed) -> Method:
    """What `--call` or `--check` asks for."""
    if parsed.switch("check"):
        return grammar.method("lint")
    return grammar.method(parsed.text("call") or parsed.text("print") or "build")


def _platforms(parsed: Parsed, environment: Mapping[str, str]) -> tuple[str, ...]:
    texts = [text for text in parsed.texts("platform") if text]
    default = environment.get("DOCKER_DEFAULT_PLATFORM")
    if not texts and default:
        texts = [default]
    names, twice = grammar.platforms(texts)
    if twice:
        from anyarch.cli.dispatch import stderr

        print(f"WARNING: platform given twice: {', '.join(twice)}", file=stderr())
    return names


def _names(parsed: Parsed, flag: str) -> tuple[str, ...]:
    return tuple(name for text in parsed.texts(flag) for name in text.split(",") if name)


def _build_args(parsed: Parsed, environment: Mapping[str, str]) -> dict[str, str]:
    """`--build-arg`, and what Docker's tools add by themselves: SOURCE_DATE_EPOCH and the configured
    proxies."""
    result = grammar.key_values(parsed.texts("build-arg"), environment)
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch and "SOURCE_DATE_EPOCH" not in result:
        result["SOURCE_DATE_EPOCH"] = epoch
    for name, value in _configured_proxies(environment).items():
        result.setdefault(name, value)
    if not result.get("BUILDKIT_SYNTAX", "x").strip():
        raise UsageError(
            "empty BUILDKIT_SYNTAX build-arg is invalid, use --build-arg BUILDKIT_SYNTAX without '=' for "
            "optional behavior"
        )
    return result


def _configured_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The build arguments of `proxies` in Docker's config.json, for the engine of the current context; none
    when there is no readable one."""
    from anyarch.builder.docker_config import DockerConfig

    docker = DockerConfig(environment)
    try:
        if "proxies" not in docker.document():
            return {}
    except UsageError:
        return {}  # whoever needs the credentials in it will complain about the file
    return docker.proxies(docker.resolve(docker.current_endpoint()).host)


def _standard_input(
    context: str, dockerfile: str | None, stdin: Callable[[], BinaryIO | None]
) -> tuple[BinaryIO | None, bytes | None]:
    """The context archive and the Dockerfile's text, as far as standard input is either of them."""
    if context != "-" and dockerfile != "-":
        return None, None
    if context == "-" and dockerfile == "-":
        raise UsageError(
            "invalid argument: can't use stdin for both build context and dockerfile",
            hint="an archive on standard input may hold its Dockerfile; else name the file with -f",
        )
    stream = stdin()
    if stream is None:
        raise UsageError("standard input is closed", hint="- reads the context or Dockerfile from it")
    if dockerfile == "-":
        return None, _read_text(stream)
    head = stream.read(_HEADER)
    if is_archive(head):
        return io.BufferedReader(_Rejoined(head, stream), 1 << 16), None
    if dockerfile is not None:
        raise UsageError(
            "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
            hint="what came on standard input is no archive; give a directory as context, or leave -f out",
        )
    return None, head + _read_text(stream, is_rest=bool(head))


def _read_text(stream: BinaryIO, *, is_rest: bool = False) -> bytes:
    text = stream.read()
    if not text and not is_rest:
        raise UsageError(
            "standard input is empty", hint="- expects a Dockerfile or an archive of the context there"
        )
    return text


def is_archive(head: bytes) -> bool:
    """Whether a stream that begins so is an archive: gzip, bzip2, xz, zstd, or a tar header with a right
    checksum."""
    if head.startswith(_MAGIC):
        return True
    if len(head) < 512:
        return False
    header = head[:512]
    if not header.strip(b"\0"):
        return True  # an empty archive begins with its end mark
    try:
        stored = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 8 * 32 + sum(header[156:])


class _Rejoined(io.RawIOBase):
    """A stream whose head has been read already, whole again."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)
