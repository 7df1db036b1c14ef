"""Errors as statuses, with the details that clients draw Dockerfile excerpts from.

Details are JSON inside messages whose type is a plain path of Go's; `api.failure` reads them.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import traceback
from typing import TYPE_CHECKING

from anyarch.api.proto import llb_pb2, rpcstatus_pb2, wellknown_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import (
    AnyarchError,
    Canceled,
    FeatureTooNew,
    IncompleteMaterials,
    ManifestNotFound,
    NetworkError,
    NotSupported,
    PathNotFound,
    Unauthorized,
)
from anyarch.frontend.gateway import CapNotSupported, RequestNotSupported
from anyarch.version import __version__

if TYPE_CHECKING:
    from anyarch.errors import SourceRange

__all__ = ["error_of_status", "status_of", "translate", "with_stack"]

_PREFIX = "github.com/moby/buildkit/"


def translate(error: Exception) -> RpcError:
    """The status of what a handler raised."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RpcError(Code.UNKNOWN, f"{error.filename or 'the store'}: no space left on device")
    if not isinstance(error, AnyarchError):
        return RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}")
    message = _message(error)
    details: list[wellknown_pb2.Any] = []
    if error.vertex:
        details.append(_detail("errdefs.Vertex+json", {"digest": error.vertex}))
    match error:
        case CapNotSupported(name=name):
            details.append(_detail("errdefs.FrontendCap+json", {"name": name}))
        case RequestNotSupported(name=name):
            details.append(_detail("errdefs.Subrequest+json", {"name": name}))
        case FeatureTooNew(version=version, feature=feature):
            told = {"version": version, "feature": feature}
            details.append(_detail("errdefs.CompatibilityFeature+json", told))
        case IncompleteMaterials(names=names, requests=requests):
            items = [*({"name": name, "reason": "local_source"} for name in names), *requests]
            details.append(_detail("errdefs.ProvenanceMaterialsIncomplete+json", {"incomplete": items}))
    messages = getattr(error, "messages", None)
    if messages:
        denied = {"action": 1, "denyMessages": [{"message": text} for text in messages]}
        details.append(_detail("policysession.DecisionResponse+json", denied))
    if error.source is not None:
        # What comes first is what lies innermost in Go's chain: the last place.
        places = (*reversed(error.source.others), error.source)
        details += [_detail("errdefs.Source+json", _source(place)) for place in places]
    code = _code(error)
    status = rpcstatus_pb2.Status(code=code, message=message, details=details)
    return RpcError(code, message, details=status.SerializeToString() if details else b"")


def _message(error: AnyarchError) -> str:
    """BuildKit's words where they go beyond ours."""
    if isinstance(error, Canceled):
        return "context canceled"
    if isinstance(error, PathNotFound) and error.of_key:
        # What a step uses of an input is read when its key is made.
        reading = f"failed to calculate checksum of ref {error.vertex}: {error.message}"
        return f"failed to compute cache key: {reading}"
    lookup = _failed_lookup(error)
    if lookup is not None:
        return f"{error.message}: dial tcp: lookup {lookup}: no such host"
    if error.hint and error.hint.startswith("did you mean"):
        return f"{error.message} ({error.hint})"
    return error.message


def _failed_lookup(error: BaseException | None) -> str | None:
    """The host whose name could not be looked up, where that is the reason."""
    while error is not None:
        if isinstance(error, NetworkError) and error.kind == "dns":
            return error.host.rpartition(":")[0] or error.host
        error = error.__cause__ or error.__context__
    return None


def _code(error: AnyarchError) -> int:
    match error:
        case Canceled():
            return Code.CANCELLED
        case NotSupported():
            return Code.UNIMPLEMENTED
        case PathNotFound() if error.vertex is None and error.source is None:
            return Code.NOT_FOUND
        case Unauthorized():
            return Code.UNKNOWN
        case ManifestNotFound():
            return Code.NOT_FOUND
    return Code.UNKNOWN


def _detail(name: str, value: dict[str, object]) -> wellknown_pb2.Any:
    return wellknown_pb2.Any(type_url=_PREFIX + name, value=json.dumps(value).encode())


def _source(source: SourceRange) -> dict[str, object]:
    info: dict[str, object] = {
        "filename": source.filename,
        "data": base64.b64encode(source.data).decode(),
        "language": source.language,
    }
    if source.definition:
        info["definition"] = _definition(source.definition)
    if source.ranges:
        places = [
            {"start": {"line": start, "character": first}, "end": {"line": end, "character": last}}
            for start, end, first, last in source.ranges
        ]
        return {"info": info, "ranges": places}
    # A range for each line, as BuildKit has them; not more than there are lines, whatever a client says.
    end = max(source.start, min(source.end, source.start + source.data.count(b"\n")))
    lines = [{"line": number} for number in range(source.start, end + 1)]
    return {"info": info, "ranges": [{"start": line, "end": line} for line in lines]}


def _definition(raw: bytes) -> dict[str, object]:
    """As Go writes the message in JSON."""
    definition = llb_pb2.Definition.FromString(raw)
    metadata = {
        digest: {"description": dict(item.description), "caps": dict(item.caps)}
        for digest, item in definition.metadata.items()
    }
    ops = [base64.b64encode(op).decode() for op in getattr(definition, "def")]
    return {"def": ops, "metadata": metadata}


def with_stack(failure: RpcError, error: BaseException) -> RpcError:
    """The same, with the places in our code that `error` came through: for records, not for answers, whose
    details are headers of limited size."""
    frames = [
        {"Name": frame.name, "File": _in_package(frame.filename), "Line": frame.lineno}
        for frame in reversed(traceback.extract_tb(error.__traceback__))
    ]
    status = status_of(failure)
    stack = {"frames": frames, "cmdline": ["anyarchd"], "pid": os.getpid(), "version": __version__}
    status.details.append(_detail("stack.Stack+json", stack))
    return RpcError(failure.code, failure.message, details=status.SerializeToString())


def _in_package(path: str) -> str:
    _, found, inside = path.rpartition("/anyarch/")
    return f"anyarch/{inside}" if found else os.path.basename(path)


def status_of(error: RpcError) -> rpcstatus_pb2.Status:
    """The message of an error, with its details."""
    if error.details:
        return rpcstatus_pb2.Status.FromString(error.details)
    return rpcstatus_pb2.Status(code=error.code, message=error.message)


def error_of_status(status: rpcstatus_pb2.Status) -> RpcError:
    return RpcError(
        status.code, status.message, details=status.SerializeToString() if status.details else b""
    )
