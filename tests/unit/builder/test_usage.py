from __future__ import annotations

import asyncio

import pytest

from anyarch.api.proto import control_pb2 as control
from anyarch.api.rpc.server import Server, unary
from anyarch.api.rpc.socket import on_accept
from anyarch.builder.builder import Builder
from anyarch.builder.store import NodeGroup, NodeRecord
from anyarch.builder.usage import prune_on, split_filters, usage_on
from anyarch.errors import BuilderError, UsageError

CONTROL = "/moby.buildkit.v1.Control"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), ([], 0)),
        (("type=regular", "shared"), (["type==regular,shared"], 0)),
        (("id~=^a", "description!=x", "until=1h30m"), (["id~=^a,description!=x"], 5400 * 10**9)),
    ],
)
def test_filters_are_joined_as_the_api_has_them(texts, expected):
    assert split_filters(texts) == expected


@pytest.mark.parametrize("text", ["", "=x", "until=soon", "until=", "a b=c"])
def test_filters_that_are_none(text):
    with pytest.raises(UsageError):
        split_filters([text])


def record(name, size):
    made = control.UsageRecord(ID=name, Size=size, RecordType="regular", Shared=True, Parents=["p"])
    made.CreatedAt.seconds = 5
    return made


def test_the_records_of_all_nodes_are_told_and_removed(surroundings, tmp_path):
    asked = []

    async def usage(request, _call):
        asked.append(list(request.filter))
        return control.DiskUsageResponse(record=[record("small", 1), record("large", 10)])

    async def prune(call):
        request = await call.request(control.PruneRequest)
        asked.append((request.all, request.reservedSpace, request.keepDuration))
        await call.send(record("gone", 3))

    async def workers(_request, _call):
        return control.ListWorkersResponse()

    async def info(_request, _call):
        return control.InfoResponse()

    methods = {
        f"{CONTROL}/DiskUsage": unary(control.DiskUsageRequest, usage),
        f"{CONTROL}/ListWorkers": unary(control.ListWorkersRequest, workers),
        f"{CONTROL}/Info": unary(control.InfoRequest, info),
        f"{CONTROL}/Prune": prune,
    }

    async def work():
        links = set()
        async with Server(methods) as server:
            loop = asyncio.get_running_loop()
            path = str(tmp_path / "s")
            listener = await loop.create_unix_server(on_accept(server, links), path)
            node = NodeRecord(name="n", endpoint=f"unix://{path}")
            builder = Builder(NodeGroup(name="b", driver="remote", nodes=(node,)), surroundings)
            found = await usage_on(builder, ["type=regular"])
            removed = []
            await prune_on(
                builder,
                ["until=1s"],
                all=True,
                reserved=7,
                max_used=0,
                min_free=0,
                on_removed=removed.append,
            )
            listener.close()
            await listener.wait_closed()
            return found, removed

    found, removed = asyncio.run(work())
    assert [(item.id, item.size, item.created_at, item.parents) for item in found] == [
        ("large", 10, 5.0, ("p",)),
        ("small", 1, 5.0, ("p",)),
    ]
    assert [item.id for item in removed] == ["gone"]
    assert asked == [["type==regular"], (True, 7, 10**9)]


def test_a_builder_that_does_not_run_has_nothing_to_tell(surroundings):
    node = NodeRecord(name="n", endpoint="unix:///nowhere")
    builder = Builder(NodeGroup(name="b", driver="remote", nodes=(node,)), surroundings)
    with pytest.raises(BuilderError, match="no node of builder b is running"):
        asyncio.run(usage_on(builder, []))
