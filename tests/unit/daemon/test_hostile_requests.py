"""Requests and graphs that no client of good will sends: refused in words, and at once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, llb_pb2
from anyarch.api.rpc.status import RpcError
from tests.unit.daemon.harness import CONTROL, daemon, run

if TYPE_CHECKING:
    from pathlib import Path


def digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def op(*inputs: bytes, index: int = 0, **kind: Any) -> bytes:
    taken = [llb_pb2.Input(digest=digest(raw), index=index) for raw in inputs]
    return llb_pb2.Op(inputs=taken, **kind).SerializeToString(deterministic=True)


def mkdir(name: str) -> bytes:
    action = llb_pb2.FileActionMkDir(path=f"/{name}", mode=0o755, timestamp=-1)
    return op(
        file=llb_pb2.FileOp(actions=[llb_pb2.FileAction(input=-1, secondaryInput=-1, output=0, mkdir=action)])
    )


def merge(lower: bytes, upper: bytes) -> bytes:
    return op(lower, upper, merge=llb_pb2.MergeOp(inputs=[llb_pb2.MergeInput(input=n) for n in (0, 1)]))


def graph(*ops: bytes) -> llb_pb2.Definition:
    definition = llb_pb2.Definition()
    getattr(definition, "def").extend(ops)
    return definition


def doubled(levels: int) -> list[bytes]:
    """Merges of merges of one directory with itself."""
    ops = [mkdir("a")]
    for _ in range(levels):
        ops.append(merge(ops[-1], ops[-1]))
    return [*ops, op(ops[-1])]


A = mkdir("a")


@pytest.mark.parametrize(
    ("ops", "says"),
    [
        ([A, op(mkdir("b"))], "its result is sha256:"),
        ([A, op(A, index=-1)], "output -1 of sha256:"),
        ([A, op(A, index=1 << 40)], "output 1099511627776 of sha256:"),
        ([A, op(A, A)], "its last operation has to have one input"),
        ([op(A, file=llb_pb2.FileOp()), A, op(A)], "which does not come before it"),
        (doubled(60), "a merge of more than 20000 layers"),
    ],
    ids=["no result", "negative", "large", "two results", "order", "doubling"],
)
def test_a_graph_that_makes_no_sense_is_refused(tmp_path: Path, ops: list[bytes], says: str) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            request = control_pb2.SolveRequest(Ref="graph", Definition=graph(*ops))
            with pytest.raises(RpcError, match=says):
                await channel.unary(CONTROL + "Solve", request, control_pb2.SolveResponse)
            request = control_pb2.SolveRequest(Ref="sound", Definition=graph(A, op(A)))
            await channel.unary(CONTROL + "Solve", request, control_pb2.SolveResponse)

    run(work())


@pytest.mark.parametrize(
    ("method", "request_", "says"),
    [
        (
            "Solve",
            control_pb2.SolveRequest(Ref="r", FrontendAttrs={str(n): "" for n in range(10_001)}),
            "has 10001 frontend attributes; no more than 10000",
        ),
        ("Solve", control_pb2.SolveRequest(Ref="r", Entitlements=["x"] * 1001), "has 1001 entitlements"),
        (
            "Solve",
            control_pb2.SolveRequest(Ref="r", Exporters=[control_pb2.Exporter(Type="tar")] * 1001),
            "has 1001 outputs",
        ),
        ("DiskUsage", control_pb2.DiskUsageRequest(filter=["id==x"] * 1001), "has 1001 filters"),
        ("Prune", control_pb2.PruneRequest(filter=["id==x"] * 1001), "has 1001 filters"),
        ("ListenBuildHistory", control_pb2.BuildHistoryRequest(Filter=["ref==x"] * 1001), "has 1001 filters"),
    ],
    ids=["attributes", "entitlements", "outputs", "usage", "prune", "history"],
)
def test_a_request_that_lists_without_end_is_refused(
    tmp_path: Path, method: str, request_: Any, says: str
) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            with pytest.raises(RpcError, match=says):
                await channel.unary(CONTROL + method, request_, control_pb2.SolveResponse)

    run(work())
