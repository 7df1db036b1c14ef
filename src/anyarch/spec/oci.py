"""OCI image documents (image-spec: descriptor.md, manifest.md, image-index.md, config.md).

The structs hold what we read and write; whatever has a digest also travels as a `Blob` with the exact bytes
it came from, so nothing is ever re-encoded to be digested again. Encoding is deterministic: fields in the
order of the specification, maps sorted by key, no white space.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from anyarch.errors import UnsupportedMedia
from anyarch.spec.codec import convert, json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.text import in_utf8

__all__ = [
    "Blob",
    "Descriptor",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "PlatformSpec",
    "RootFS",
    "RunConfig",
    "decode",
    "encode",
]

_T = TypeVar("_T")


class PlatformSpec(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    """The `platform` object of a descriptor."""

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What points at a blob: media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] | None = None
    data: str = ""
    platform: PlatformSpec | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """An image manifest."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """An image index (manifest list)."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """Docker's extension of the config; durations in nanoseconds."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """The `config` object of an image config: how to run it. `on_build`, `shell`, `healthcheck` and
    `args_escaped` are Docker's additions."""

    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None


class RootFS(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    kind: str = "layers"
    diff_ids: tuple[str, ...] | None = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    """An image configuration. `created` is RFC 3339 text."""

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] | None = None
    variant: str = ""
    author: str = ""
    created: str | None = None
    config: RunConfig = RunConfig()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] | None = ()


class Blob(msgspec.Struct, frozen=True):
    """Bytes with their identity; small ones (manifests, configs)."""

    media_type: str
    raw: bytes
    digest: Digest

    @classmethod
    def of(cls, media_type: str, raw: bytes) -> Blob:
        return cls(media_type, raw, Digest.of(raw))

    def descriptor(self, **more: Any) -> Descriptor:
        return Descriptor(self.media_type, str(self.digest), len(self.raw), **more)


def _plain(value: object) -> str:
    """`Digest` as msgspec wants it: it encodes `str` itself only, not what is derived from it."""
    if isinstance(value, Digest):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=_plain)


def encode(value: msgspec.Struct) -> bytes:
    """Deterministic JSON of a document. Struct fields keep their declared order, dict keys are sorted.

    JSON is UTF-8: for other bytes (names in a Dockerfile may have them) U+FFFD is written, as Go does.
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        plain = _in_utf8(msgspec.to_builtins(value, enc_hook=_plain))
        return _encoder.encode(convert(plain, type(value)))


def _in_utf8(value: Any) -> Any:
    match value:
        case str():
            return in_utf8(value)
        case dict():
            return {_in_utf8(key): _in_utf8(item) for key, item in value.items()}
        case list() | tuple():
            return [_in_utf8(item) for item in value]
        case _:
            return value


def decode(kind: type[_T], raw: bytes) -> _T:
    """Parse a document; unknown fields are ignored. Raises `UnsupportedMedia` on text that is not of that
    form."""
    try:
        return json_decoder(kind).decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UnsupportedMedia(f"malformed {kind.__name__.lower()} document: {error}") from None
