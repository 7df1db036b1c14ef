"""What the daemon's store keeps of builds: received contexts, and the rules by which they go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2
from anyarch.daemon.collector import Collector
from anyarch.daemon.log import Log

from .harness import CONTROL, Client, daemon, run, solve, tree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from anyarch.api.rpc.client import Channel
    from anyarch.api.rpc.server import ServerCall

DOCKERFILE = "FROM scratch\nCOPY . /\n"


async def received(channel: Channel) -> list[control_pb2.UsageRecord]:
    request = control_pb2.DiskUsageRequest(filter=["type==source.local,id~=^transfers/"])
    reply = await channel.unary(CONTROL + "DiskUsage", request, control_pb2.DiskUsageResponse)
    return sorted(reply.record, key=lambda record: record.ID)


async def prune(channel: Channel, *filters: str) -> list[str]:
    call = channel.start(CONTROL + "Prune")
    await call.send(control_pb2.PruneRequest(filter=list(filters)))
    call.end()
    return [record.ID async for record in call.messages(control_pb2.UsageRecord)]


def test_a_received_context_is_a_record_that_can_be_pruned_and_sent_again(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile=DOCKERFILE, file="x" * 10000)
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(channel, client, "one", Frontend="dockerfile.v0")
            # The .dockerignore was asked for by itself.
            record = max(await received(channel), key=lambda record: record.Size)
            assert (record.RecordType, record.Description) == ("source.local", "local source for context")
            assert record.Mutable
            assert not record.InUse
            assert record.Size >= 10000
            gone = await prune(channel, "type==source.local")
            assert record.ID in gone
            assert not (tmp_path / "root" / record.ID).exists()
            assert await received(channel) == []
            client.sent_files = 0
            (context / "file").write_text("y")
            await solve(channel, client, "two", Frontend="dockerfile.v0")
            assert client.sent_files == 3  # everything again
            assert record.ID in [after.ID for after in await received(channel)]

    run(work())


class Gated(Client):
    """Sends no file before it is told to."""

    def __init__(self, **directories: Path) -> None:
        super().__init__(**directories)
        self.was_asked = asyncio.Event()
        self.may_send = asyncio.Event()

    async def _sync(self, call: ServerCall) -> None:
        self.was_asked.set()
        await self.may_send.wait()
        await super()._sync(call)


def test_what_builds_receive_is_not_taken_while_they_run(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY . /\n")
        slow, quick = (Gated(dockerfile=context, context=context) for _ in range(2))
        quick.may_send.set()
        async with daemon(tmp_path) as channel, slow.serving(channel), quick.serving(channel):
            building = asyncio.ensure_future(solve(channel, slow, "slow", Frontend="dockerfile.v0"))
            await slow.was_asked.wait()
            await solve(channel, quick, "quick", Frontend="dockerfile.v0")
            records = await received(channel)
            # Two builds at a time never share a directory, which either of them may change.
            assert [record.InUse for record in records if record.Description.endswith("dockerfile")] == [
                True,
                False,
            ]
            busy = {record.ID for record in records if record.InUse}
            gone = await prune(channel, "type==source.local")
            assert not busy & set(gone)
            slow.may_send.set()
            await building
            assert busy <= set(await prune(channel, "type==source.local"))

    run(work())


def test_limits_hold_after_builds_that_only_received(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1", two="2")
        client = Client(context=context, dockerfile=context)
        rules = {"policy": [{"filters": ["type==source.local"]}]}
        async with daemon(tmp_path, gc_rules=rules) as channel, client.serving(channel):
            await solve(channel, client, "one", Frontend="dockerfile.v0")
            async with asyncio.timeout(20):
                while await received(channel):  # noqa: ASYNC110 (what a thread does to files)
                    await asyncio.sleep(0.05)

    run(work())


def test_a_collection_that_fails_is_told_and_the_next_one_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        (tmp_path / "anyarch.db").mkdir()
        collector = Collector(tmp_path, {}, Log(), every_s=0.01)
        task = asyncio.ensure_future(collector.run())
        collector.wake()
        async with asyncio.timeout(20):
            while "could not be collected" not in capsys.readouterr().err:  # noqa: ASYNC110 (a stream)
                await asyncio.sleep(0.01)
            (tmp_path / "anyarch.db").rmdir()
            collector.wake()
            while not (tmp_path / "anyarch.db").exists():  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    run(work())


def test_the_worker_tells_the_rules_that_hold(tmp_path: Path) -> None:
    async def work() -> None:
        rules = {
            "policy": [
                {"filters": ["type==source.local,shared"], "keepDuration": "48h", "maxUsedSpace": "1MB"}
            ]
        }
        async with daemon(tmp_path, gc_rules=rules) as channel:
            request = control_pb2.ListWorkersRequest()
            reply = await channel.unary(CONTROL + "ListWorkers", request, control_pb2.ListWorkersResponse)
            (policy,) = reply.record[0].GCPolicy
            assert list(policy.filters) == ["type==source.local,shared"]
            assert (policy.keepDuration, policy.maxUsedSpace) == (48 * 3600 * 10**9, 1 << 20)
        async with daemon(tmp_path, gc=False) as channel:
            reply = await channel.unary(CONTROL + "ListWorkers", request, control_pb2.ListWorkersResponse)
            assert list(reply.record[0].GCPolicy) == []

    run(work())
