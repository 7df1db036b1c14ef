"""The whole exception tree of anyarch, readable at one sight.

Every error that a user can cause or meet is an `AnyarchError`. It says what happened (`message`), where
(`source`, `platform`, `vertex`) and what to do next (`hint`). Facts are added on the way up with
`error_context`; the text is made at the edge (`cli`), never by matching on messages.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "AnyarchError",
    "BadReference",
    "BlobNotFound",
    "BuildError",
    "BuilderError",
    "CacheError",
    "Canceled",
    "ContextError",
    "DigestMismatch",
    "DockerfileError",
    "EmulatorMissing",
    "ExecFailed",
    "FailedState",
    "FeatureTooNew",
    "IncompleteMaterials",
    "InvalidDigest",
    "InvalidPlatform",
    "MalformedArchive",
    "ManifestNotFound",
    "NetworkError",
    "NoMatchingPlatform",
    "NoSpace",
    "NoSuchBuilder",
    "NodeLost",
    "NotAnImage",
    "NotSupported",
    "OutputError",
    "PathNotFound",
    "PlatformsFailed",
    "ProtocolError",
    "RegistryError",
    "SandboxError",
    "SignatureInvalid",
    "SourceRange",
    "StoreError",
    "Unauthorized",
    "UnsupportedMedia",
    "UsageError",
    "error_context",
]


class SourceRange:
    """Lines `start`..`end` (1-based, both included) of a Dockerfile, with its text for the excerpt.
    `definition` is the message `pb.Definition` of where the file comes from, empty where that is unknown;
    `others` are further places of the same step. `ranges` are the exact ones (first and last line, and the
    characters there), where a client has told them."""

    __slots__ = ("column", "data", "definition", "end", "filename", "language", "others", "ranges", "start")

    def __init__(
        self,
        filename: str,
        start: int,
        end: int,
        *,
        column: int = 0,
        data: bytes = b"",
        definition: bytes = b"",
        language: str = "Dockerfile",
        others: Sequence[SourceRange] = (),
        ranges: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        self.ranges = tuple(ranges)
        self.language = language
        self.others = tuple(others)
        self.definition = definition
        self.filename = filename
        self.start = start
        self.end = end
        self.column = column
        self.data = data

    def __repr__(self) -> str:
        return f"SourceRange({self.filename}:{self.start}-{self.end})"


class FailedState:
    """What a failed step leaves to be looked into: results of the worker, None for an empty tree.

    Of an exec, `inputs` and `outputs` are of its mounts; of a file operation, of its inputs and actions, the
    one that failed being `action`; of a key by content that could not be made, `inputs` is the one input,
    whose position is `key_input`.
    """

    __slots__ = ("action", "inputs", "key_input", "outputs")

    def __init__(
        self,
        inputs: Sequence[object],
        outputs: Sequence[object] = (),
        *,
        action: int | None = None,
        key_input: int | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.action = action
        self.key_input = key_input


class AnyarchError(Exception):
    """Base of everything that is raised across a package border on purpose.

    `node` is the node of a builder where it happened, when there are several; `build_ref` the name
    (`builder/node/ref`) of the record that is kept of the build.
    `exit_code` is the process exit status the command line answers with.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        source: SourceRange | None = None,
        platform: str | None = None,
        vertex: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.source = source
        self.platform = platform
        self.vertex = vertex
        self.node: str | None = None
        self.build_ref: str | None = None
        self.failed_state: FailedState | None = None

    def __str__(self) -> str:
        return self.message


class Canceled(AnyarchError):
    """Work that was stopped because its caller asked for that."""


class UsageError(AnyarchError):
    """The command line or an API argument makes no sense."""


class NotSupported(AnyarchError):
    """Valid in the language or protocol, but not offered by this release."""


class FeatureTooNew(NotSupported):
    """A client wants outputs as an older release made them (`version`), with a `feature` that it had not."""

    def __init__(self, version: int, feature: str, *, hint: str) -> None:
        super().__init__(f"unsupported compatibility-version {version} feature {feature}", hint=hint)
        self.version = version
        self.feature = feature


class InvalidDigest(AnyarchError):
    """Not an `algorithm:hex` digest, or an algorithm we do not compute."""


class InvalidPlatform(AnyarchError):
    """A platform specifier that cannot be parsed."""


class BadReference(AnyarchError):
    """An image reference that cannot be parsed."""


class StoreError(AnyarchError):
    """The local store cannot be used (corrupt, unwritable, made by a newer release)."""


class NoSpace(StoreError):
    """The disk (or quota) of the store or of an output is full."""


class BlobNotFound(StoreError):
    """A blob that should be in the content store is not."""


class DigestMismatch(AnyarchError):
    """Bytes that do not have the digest or size they were announced with."""


class SignatureInvalid(AnyarchError):
    """A signature that was demanded is missing, or not by the key that was named."""


class MalformedArchive(AnyarchError):
    """A tar or compressed stream that is damaged or hostile."""


class NetworkError(AnyarchError):
    """An HTTP exchange that did not come about or broke off.

    `kind` says how, for those who decide what to do next: refused, dns, timeout, reset, closed (before an
    answer was complete), tls (handshake or certificate), not_tls (the peer speaks plain HTTP), only_tls (the
    peer speaks TLS only), protocol, proxy, other. `host` is the peer, as it is written in a URL.
    """

    def __init__(self, message: str, *, kind: str = "other", host: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.host = host


class ProtocolError(AnyarchError):
    """A builder or client on the other side of a connection sent what its protocol does not allow, or the
    connection was lost."""


class RegistryError(AnyarchError):
    """A registry could not be reached or answered with an error."""


class Unauthorized(RegistryError):
    """The registry wants credentials, or refuses those it was given."""


class ManifestNotFound(RegistryError):
    """The registry has no such repository, tag or digest."""


class UnsupportedMedia(RegistryError):
    """A manifest of a kind that is not handled (schema 1, an artifact where an image is needed)."""


class NoMatchingPlatform(AnyarchError):
    """An index has no entry for the wanted platform; `available` lists those it has."""

    def __init__(self, message: str, *, available: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.available = tuple(available)


class SandboxError(AnyarchError):
    """The sandbox of a step could not be set up (which gate refused is in the message)."""


class EmulatorMissing(SandboxError):
    """A step needs an emulator that this machine does not have."""


class BuildError(AnyarchError):
    """A build failed for a reason that lies in the build's input."""


class IncompleteMaterials(BuildError):
    """Not all that a build is made of is known by a digest, as was demanded: `names` are local sources,
    `requests` what went through the proxies of steps, in BuildKit's fields."""

    def __init__(
        self, message: str, *, names: Sequence[str] = (), requests: Sequence[dict[str, str]] = ()
    ) -> None:
        hint = "take the context from git or a URL, or leave complete-materials out"
        if requests and not names:
            hint = "have steps fetch what they need whole, by GET, or leave complete-materials out"
        super().__init__(message, hint=hint)
        self.names = tuple(names)
        self.requests = tuple(requests)


class NotAnImage(BuildError):
    """A policy made something else of an image: the source `identifier`."""

    def __init__(self, message: str, *, identifier: str) -> None:
        super().__init__(message)
        self.identifier = identifier


class DockerfileError(BuildError):
    """The Dockerfile is wrong; `source` says where."""


class ContextError(BuildError):
    """The build context or a file in it cannot be read."""


class NoContext(ContextError):
    """Nobody offers local directories to the build."""


class PathNotFound(BuildError):
    """A COPY source, or a file asked of a result, does not exist. `of_key`: that was seen when a step's key
    was made of what it uses, before it ran."""

    of_key = False


class ExecFailed(BuildError):
    """A RUN step ended with a status that is not 0.

    `argv` is what ran, `exit_code` its status (128+N when signal N ended it), `tail` its last output;
    `reason` is told in the status's place where it is known.
    """

    def __init__(
        self,
        argv: Sequence[str],
        exit_code: int,
        *,
        tail: bytes = b"",
        hint: str | None = None,
        reason: str = "",
    ) -> None:
        command = " ".join(argv)
        why = reason or f"exit code: {exit_code}"
        super().__init__(f'process "{command}" did not complete successfully: {why}', hint=hint)
        self.argv = tuple(argv)
        self.status = exit_code
        self.tail = tail


class PlatformsFailed(BuildError):
    """Some platforms of a build failed while others were built to the end. `errors` says how, by platform;
    `built` are the others."""

    def __init__(self, errors: Mapping[str, AnyarchError], built: Sequence[str]) -> None:
        count = len(errors) + len(built)
        hint = "nothing was published"
        if built:
            hint = (
                f"{', '.join(built)}: built and in the cache, but nothing was published; "
                "the next build takes up what failed"
            )
        super().__init__(f"{len(errors)} of {count} platforms failed: {', '.join(errors)}", hint=hint)
        self.errors = dict(errors)
        self.built = tuple(built)


class CacheError(AnyarchError):
    """A build cache outside the store that cannot be read or written."""


class OutputError(AnyarchError):
    """An output (file, directory, docker or podman store) could not be written."""


class BuilderError(AnyarchError):
    """A builder instance, node or driver that cannot be used as asked."""


class NoSuchBuilder(BuilderError):
    """A name that no builder instance and no docker context has."""


class NodeLost(BuilderError):
    """A node that cannot be reached, or that went away during a build: its work can go to another one."""


@contextmanager
def error_context(
    *, source: SourceRange | None = None, platform: str | None = None, vertex: str | None = None
) -> Iterator[None]:
    """Add facts to any `AnyarchError` that passes; facts already there (nearer the cause) win."""
    try:
        yield
    except AnyarchError as error:
        error.source = error.source or source
        error.platform = error.platform or platform
        error.vertex = error.vertex or vertex
        raise
