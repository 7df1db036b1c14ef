"""What a frontend is told of a step that failed (`errdefs.Solve`): its operation, and ids by which containers
can be made of what it stood on and what it left."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.api.proto import errdefs_pb2, rpcstatus_pb2, wellknown_pb2
from anyarch.api.rpc.status import RpcError
from anyarch.daemon.failure import status_of, translate
from anyarch.errors import AnyarchError
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anyarch.daemon.job import Job
    from anyarch.llb.definition import Definition

__all__ = ["solve_failure", "told_in_full"]

_TYPE = "github.com/moby/buildkit/errdefs.Solve+json"
_MAX_OP = 256 << 10
"""Details travel in a header: an operation with much data in it stays out."""


def solve_failure(job: Job, error: AnyarchError, definitions: Iterable[Definition | None]) -> RpcError:
    """`error` as the frontend of `job` gets it; `definitions` are those that the step may be of."""
    failure = translate(error)
    raw, description = _operation(error.vertex, definitions)
    if raw is None:
        return failure
    solve = errdefs_pb2.Solve(description=description)
    if len(raw) <= _MAX_OP:
        solve.op.ParseFromString(raw)
    state = error.failed_state
    if state is not None:
        solve.inputIDs.extend(job.keep_state(result) for result in state.inputs)
        solve.mountIDs.extend(job.keep_state(result) for result in state.outputs)
        if state.action is not None:
            solve.file.index = state.action
        if state.key_input is not None:
            solve.cache.index = state.key_input
    status = rpcstatus_pb2.Status()
    status.CopyFrom(status_of(failure))
    status.details.insert(0, wellknown_pb2.Any(type_url=_TYPE, value=_json(solve)))
    return RpcError(failure.code, failure.message, details=status.SerializeToString())


@contextmanager
def told_in_full(job: Job, definitions: Iterable[Definition | None]) -> Iterator[None]:
    """Steps of `definitions` that fail are told with what is left of them."""
    try:
        yield
    except AnyarchError as error:
        raise solve_failure(job, error, definitions) from error


def _json(message: errdefs_pb2.Solve) -> bytes:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(message, indent=None).encode()


def _operation(
    vertex: str | None, definitions: Iterable[Definition | None]
) -> tuple[bytes | None, dict[str, str]]:
    if vertex is None:
        return None, {}
    for definition in definitions:
        for raw in definition.ops if definition is not None else ():
            if Digest.of(raw) == vertex:
                assert definition is not None
                metadata = definition.metadata.get(vertex)
                return raw, dict(metadata.description) if metadata is not None else {}
    return None, {}
