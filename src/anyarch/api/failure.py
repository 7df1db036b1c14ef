"""From the status of a call back to an error of ours: which lines of the Dockerfile, which vertex, which exit
status.

A `google.rpc.Status` carries details as JSON in messages whose type is a plain path of Go's (`errdefs` of
BuildKit); `session` and `daemon` write them, this reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyarch.api.rpc.status import Code
from anyarch.errors import BuildError, Canceled, NotSupported, ProtocolError, SourceRange

if TYPE_CHECKING:
    from anyarch.api.rpc.status import RpcError
    from anyarch.errors import AnyarchError

__all__ = ["build_error"]

_PREFIX = "github.com/moby/buildkit/"
_SOURCE = f"{_PREFIX}errdefs.Source+json"
_VERTEX = f"{_PREFIX}errdefs.Vertex+json"
_MOST_DETAILS = 64


def build_error(error: RpcError, *, where: str = "") -> AnyarchError:
    """The error of a build on another builder, `where`."""
    message = error.message.removeprefix("failed to solve: ")
    match error.code:
        case Code.CANCELLED:
            return Canceled(message)
        case Code.UNAVAILABLE:
            return ProtocolError(
                f"{where}: {message}" if where else message,
                hint="is the builder running, and still the same?",
            )
        case Code.UNIMPLEMENTED:
            return NotSupported(f"the builder {where} does not support this: {message}")
    source: SourceRange | None = None
    vertex: str | None = None
    for kind, value in _details(error.details):
        if kind == _SOURCE:
            source = source or _source(value)
        elif kind == _VERTEX and isinstance(digest := value.get("digest"), str):
            vertex = digest
    return BuildError(message, source=source, vertex=vertex)


def _details(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The details that can be read; a builder of another release may send others."""
    import json

    from google.protobuf.message import DecodeError

    from anyarch.api.proto.rpcstatus_pb2 import Status

    try:
        details = Status.FromString(raw).details[:_MOST_DETAILS]
    except DecodeError:
        return []
    found = []
    for detail in details:
        try:
            value = json.loads(detail.value)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append((detail.type_url, value))
    return found


def _source(value: dict[str, Any]) -> SourceRange | None:
    """The first range of a source, None where it makes no sense."""
    import base64
    import binascii

    try:
        info = value["info"]
        ranges = value.get("ranges") or []
        lines = [(int(one["start"]["line"]), int(one.get("end", one["start"])["line"])) for one in ranges]
        if not lines:
            return None
        data = base64.b64decode(info.get("data") or "")
        return SourceRange(str(info["filename"]), lines[0][0], max(lines[0]), data=data)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        return None
