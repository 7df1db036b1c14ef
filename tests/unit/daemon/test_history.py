"""Build records over the API: listed, replayed, pinned, deleted; and the services beside them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import content_pb2, control_pb2, rpcstatus_pb2, trace_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.historyfilter import parse_filters
from anyarch.daemon.spans import trace_of

from .harness import CONTROL, Client, daemon, run, solve, statuses, tree

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

CONTENT = "/containerd.services.content.v1.Content/"


def _objects(text: str) -> list[Any]:
    """JSON texts one after another."""
    found, position = [], 0
    while position < len(text):
        value, position = json.JSONDecoder().raw_decode(text, position)
        found.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def test_a_build_belongs_to_the_trace_of_its_client() -> None:
    trace, span = "ab" * 16, "cd" * 8
    for header, expected in (
        (f"00-{trace}-{span}-01", (trace, span)),
        ("00-nonsense-x-01", None),
        (f"00-{'0' * 32}-{span}-01", None),
        (f"00-{'g' * 32}-{span}-01", None),
        ("", None),
    ):
        (solved,) = _objects(trace_of("r", [], began=1.0, ended=2.5, parent=header).decode())
        found = (solved["SpanContext"]["TraceID"], solved["Parent"]["SpanID"])
        assert (found == expected) if expected else (found[0] != trace and found[1] == "0" * 16)
        assert (solved["StartTime"], solved["EndTime"]) == (
            "1970-01-01T00:00:01.000000Z",
            "1970-01-01T00:00:02.500000Z",
        )


async def listed(channel: Channel, **fields: Any) -> list[control_pb2.BuildHistoryEvent]:
    call = channel.start(CONTROL + "ListenBuildHistory")
    await call.send(control_pb2.BuildHistoryRequest(EarlyExit=True, **fields))
    call.end()
    return [event async for event in call.messages(control_pb2.BuildHistoryEvent)]


async def read(channel: Channel, digest: str, **fields: int) -> bytes:
    call = channel.start(CONTENT + "Read")
    await call.send(content_pb2.ReadContentRequest(digest=digest, **fields))
    call.end()
    return b"".join([m.data async for m in call.messages(content_pb2.ReadContentResponse)])


def test_records_survive_the_daemon_and_are_replayed(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(channel, client, "good", Frontend="dockerfile.v0")
            await solve(channel, client, "quiet", Frontend="dockerfile.v0", Internal=True)
            (context / "Dockerfile").write_text("FROM scratch\nCOPY two /\n")
            with pytest.raises(RpcError):
                await solve(channel, client, "bad", Frontend="dockerfile.v0")
        async with daemon(tmp_path) as channel:
            records = {event.record.Ref: event.record for event in await listed(channel)}
            assert records.keys() == {"good", "bad"}
            assert records["good"].numCompletedSteps == records["good"].numTotalSteps > 0
            assert '"/two": not found' in records["bad"].error.message
            names = [v.name for m in await statuses(channel, "good") for v in m.vertexes]
            assert "[1/1] COPY one /" in names
            raw = await read(channel, records["good"].trace.digest)
            solved, *steps = _objects(raw.decode())
            assert solved["Parent"]["SpanID"] == "0" * 16
            assert "[1/1] COPY one /" in [span["Name"] for span in steps]
            for span in steps:
                assert span["Parent"] == solved["SpanContext"]
                assert solved["StartTime"] <= span["StartTime"] <= span["EndTime"] <= solved["EndTime"]
            failed = _objects((await read(channel, records["bad"].trace.digest)).decode())
            assert '"/two": not found' in failed[0]["Status"]["Description"]
            raw = await read(channel, records["bad"].externalError.digest)
            # The record says more than the answer: the places in our code, not those of this machine.
            told = {item.type_url: item.value for item in rpcstatus_pb2.Status.FromString(raw).details}
            frames = json.loads(told["github.com/moby/buildkit/stack.Stack+json"])["frames"]
            assert any(frame["File"].startswith("anyarch/daemon/") and frame["Line"] > 0 for frame in frames)
            assert not any(frame["File"].startswith("/") for frame in frames)
            assert rpcstatus_pb2.Status.FromString(raw).details
            assert len(await listed(channel, Filter=["status=error"])) == 1
            assert len(await listed(channel, Limit=1)) == 1
            update = control_pb2.UpdateBuildHistoryRequest(Ref="good", Pinned=True)
            await channel.unary(
                CONTROL + "UpdateBuildHistory", update, control_pb2.UpdateBuildHistoryResponse
            )
            (event,) = await listed(channel, Ref="good")
            assert event.record.pinned
            update = control_pb2.UpdateBuildHistoryRequest(Ref="bad", Delete=True)
            await channel.unary(
                CONTROL + "UpdateBuildHistory", update, control_pb2.UpdateBuildHistoryResponse
            )
            assert await listed(channel, Ref="bad") == []
            with pytest.raises(RpcError) as caught:
                await channel.unary(
                    CONTROL + "UpdateBuildHistory", update, control_pb2.UpdateBuildHistoryResponse
                )
            assert caught.value.code == Code.NOT_FOUND

    run(work())


def test_the_image_of_a_record_can_be_read_until_the_record_goes(tmp_path: Path) -> None:
    """Clients export records; what a collection takes from the store does not matter."""

    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            output = control_pb2.Exporter(Type="image", Attrs={"name": "example.test/a"})
            await solve(channel, client, "made", Frontend="dockerfile.v0", Exporters=[output])
            (event,) = await listed(channel, Ref="made")
            digest = event.record.Result.Results[0].digest
            prune = channel.start(CONTROL + "Prune")
            await prune.send(control_pb2.PruneRequest(all=True))
            prune.end()
            assert [record async for record in prune.messages(control_pb2.UsageRecord)]
            manifest = await read(channel, digest)
            assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == digest
            assert json.loads(manifest)["schemaVersion"] == 2
            request = control_pb2.UpdateBuildHistoryRequest(Ref="made", Delete=True)
            await channel.unary(
                CONTROL + "UpdateBuildHistory", request, control_pb2.UpdateBuildHistoryResponse
            )
            with pytest.raises(RpcError, match="not found"):
                await read(channel, digest)

    run(work())


def test_a_build_that_may_not_begin_has_no_record(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            with pytest.raises(RpcError, match=r"granting entitlement network\.host is not allowed"):
                await solve(channel, Client(), "refused", Entitlements=["network.host"])
            assert await listed(channel) == []

    run(work())


def test_the_probe_for_history_ends_with_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            assert await listed(channel, ActiveOnly=True, Ref="buildx-test-history-api-feature") == []

    run(work())


def test_listeners_hear_of_builds_that_begin_and_end(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\n")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            call = channel.start(CONTROL + "ListenBuildHistory")
            await call.send(control_pb2.BuildHistoryRequest())
            call.end()
            await call.wait_headers()
            await solve(channel, client, "one", Frontend="dockerfile.v0")
            kinds = []
            while len(kinds) < 2:
                event = await call.receive(control_pb2.BuildHistoryEvent)
                assert event is not None
                kinds.append(event.type)
            assert kinds == [control_pb2.STARTED, control_pb2.COMPLETE]
            call.cancel()

    run(work())


def test_the_store_is_listed_and_pruned(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1" * 10_000)
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            await solve(channel, client, Frontend="dockerfile.v0")

            async def usage(*filters: str) -> list[Any]:
                request = control_pb2.DiskUsageRequest(filter=filters)
                reply = await channel.unary(CONTROL + "DiskUsage", request, control_pb2.DiskUsageResponse)
                return list(reply.record)

            assert [record.Description for record in await usage("type==regular")]
            call = channel.start(CONTROL + "Prune")
            await call.send(control_pb2.PruneRequest(all=True))
            call.end()
            removed = [record async for record in call.messages(control_pb2.UsageRecord)]
            assert removed
            assert await usage("type==regular") == []
            with pytest.raises(RpcError, match="invalid filter 'nonsense==x'"):
                await usage("nonsense==x")

    run(work())


def test_content_is_read_in_parts_and_never_written(tmp_path: Path) -> None:
    async def work() -> None:
        context = tree(tmp_path / "c", Dockerfile="FROM scratch\nCOPY one /\n", one="1")
        client = Client(context=context, dockerfile=context)
        async with daemon(tmp_path) as channel, client.serving(channel):
            exporters = [control_pb2.Exporter(Type="oci")]
            answer = await solve(channel, client, Frontend="dockerfile.v0", Exporters=exporters)
            digest = answer.ExporterResponse["containerimage.digest"]
            whole = await read(channel, digest)
            assert f"sha256:{hashlib.sha256(whole).hexdigest()}" == digest
            assert await read(channel, digest, offset=3, size=5) == whole[3:8]
            info = await channel.unary(
                CONTENT + "Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse
            )
            assert info.info.size == len(whole)
            call = channel.start(CONTENT + "List")
            await call.send(content_pb2.ListContentRequest())
            call.end()
            found = {i.digest async for m in call.messages(content_pb2.ListContentResponse) for i in m.info}
            assert digest in found
            for bad, code in (
                ("sha256:" + "0" * 64, Code.NOT_FOUND),
                ("../../etc/passwd", Code.INVALID_ARGUMENT),
            ):
                with pytest.raises(RpcError) as caught:
                    await read(channel, bad)
                assert caught.value.code == code
            with pytest.raises(RpcError) as caught:
                await channel.unary(
                    CONTENT + "Delete",
                    content_pb2.DeleteContentRequest(digest=digest),
                    content_pb2.InfoResponse,
                )
            assert caught.value.code == Code.UNIMPLEMENTED

    run(work())


def test_traces_are_acknowledged(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path) as channel:
            await channel.unary(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                trace_pb2.ExportTraceServiceRequest(),
                trace_pb2.ExportTraceServiceResponse,
            )

    run(work())


NOW = 1_000_000.0


def record(**fields: Any) -> control_pb2.BuildHistoryRecord:
    made = control_pb2.BuildHistoryRecord(Ref="abc", **fields)
    made.CreatedAt.seconds = int(NOW) - 600
    made.CompletedAt.seconds = int(NOW) - 540
    return made


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("ref=abc", True),
        ("ref!=abc", False),
        ("ref~=^a", True),
        ("status=completed", True),
        ("status==running", False),
        ("startedAt>5m", False),
        ("startedAt>20m", True),
        ("duration>=1m", True),
        ("duration>1m,ref=abc", False),
        ("repository=https://x", False),
    ],
)
def test_filters_of_records(text: str, holds: bool) -> None:
    assert parse_filters([text], NOW)(record()) is holds


@pytest.mark.parametrize("text", ["what", "color=red", "duration>long", "startedAt>then", "ref~=("])
def test_filters_that_make_no_sense_are_errors(text: str) -> None:
    with pytest.raises(RpcError):
        parse_filters([text], NOW)(record())
