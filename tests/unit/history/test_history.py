"""Build records: what is kept, what filters choose, who is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from anyarch.api.proto import content_pb2 as content
from anyarch.api.proto import control_pb2 as control
from anyarch.api.proto import rpcstatus_pb2 as rpcstatus
from anyarch.api.proto import wellknown_pb2 as wellknown
from anyarch.api.rpc.server import Server
from anyarch.api.rpc.socket import connect_unix, on_accept
from anyarch.api.rpc.status import Code, RpcError
from anyarch.daemon.content import content_methods
from anyarch.daemon.history import BuildHistory, LogWriter
from anyarch.errors import UsageError
from anyarch.history.filter import duration_s, matcher
from anyarch.history.store import HistoryStore
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

LISTEN = "/moby.buildkit.v1.Control/ListenBuildHistory"
UPDATE = "/moby.buildkit.v1.Control/UpdateBuildHistory"
CONTENT = "/containerd.services.content.v1.Content"


def record(
    ref: str = "a", *, created: int = 100, completed: int | None = 110, **more: object
) -> control.BuildHistoryRecord:
    made = control.BuildHistoryRecord(Ref=ref, CreatedAt=wellknown.Timestamp(seconds=created), **more)  # type: ignore[arg-type]
    if completed is not None:
        made.CompletedAt.CopyFrom(wellknown.Timestamp(seconds=completed))
    return made


def failed(message: str) -> control.BuildHistoryRecord:
    return record(error=rpcstatus.Status(code=2, message=message))


FROM_GIT = {"vcs:source": "https://example.com/r.git"}


@pytest.mark.parametrize(
    ("filters", "made", "passes"),
    [
        ([], record(), True),
        (["ref==a"], record(), True),
        (["ref!=a"], record(), False),
        (["ref~=^[ab]$"], record(), True),
        (["status==completed"], record(), True),
        (["status==running"], record(completed=None), True),
        (["status==error"], failed("exit code: 1"), True),
        (["status==canceled"], failed("rpc: context canceled"), True),
        (["status==error"], failed("context canceled"), False),
        (["repository"], record(), False),
        (["repository"], record(FrontendAttrs=FROM_GIT), True),
        (["repository==https://example.com/r.git"], record(FrontendAttrs=FROM_GIT), True),
        (["repository~=r.git"], record(FrontendAttrs={"context": "https://e.com/r.git#main"}), True),
        (["startedAt>=900s"], record(created=100), True),  # now is 1000
        (["startedAt>900s"], record(created=100), False),
        (["startedAt<2024-01-01T00:00:00Z"], record(), True),
        (["completedAt<=890s"], record(completed=110), True),
        (["duration>9s"], record(), True),
        (["duration<=10s"], record(), True),
        (["duration>1h"], record(), False),
        (["duration>9s,status==error"], record(), False),
        (["status==error", "duration>9s"], record(), True),
    ],
)
def test_filters_choose(filters: list[str], made: control.BuildHistoryRecord, passes: bool) -> None:
    assert matcher(filters, now=1000.0)(made) is passes


@pytest.mark.parametrize(
    "text", ["nothing==1", "startedAt>=yesterday", "duration>long", "ref~=[", "status=x"]
)
def test_filters_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        matcher([text])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h30m", 5400.0),
        ("2.5s", 2.5),
        ("-1m", -60.0),
        ("0", 0.0),
        ("100ms", 0.1),
        ("", None),
        ("1", None),
        ("1 s", None),
    ],
)
def test_durations_are_gos(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def test_only_what_is_both_old_and_beyond_the_number_goes(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path, keep=2, keep_s=100)
    for number in range(5):
        made = record(f"r{number}", completed=1000 + number, pinned=number == 0)
        made.logs.CopyFrom(store.put_blob(b"log %d" % number, "t"))
        store.put(made)
    assert store.collect(now=1050) == []
    assert [r.Ref for r in store.collect(now=2000)] == ["r2", "r1"]
    assert [r.Ref for r in store.all()] == ["r0", "r3", "r4"]
    assert len(list(store.blobs())) == 3


def test_blob_stays_while_another_record_names_it(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path)
    for ref in ("a", "b"):
        made = record(ref)
        made.logs.CopyFrom(store.put_blob(b"same", "t"))
        store.put(made)
    assert store.delete("a")
    assert store.blob(made.logs.digest) is not None
    assert store.delete("b")
    assert store.blob(made.logs.digest) is None
    assert not store.delete("b")


@pytest.mark.parametrize("ref", ["../../escape", "/etc/x", "a" * 300, "", "\0", "ü"])
def test_names_of_clients_lead_nowhere_else(tmp_path: Path, ref: str) -> None:
    store = HistoryStore(tmp_path / "history")
    store.put(record(ref))
    assert store.get(ref) == record(ref)
    assert [path.name for path in tmp_path.iterdir()] == ["history"]
    assert store.blob("sha256:../../x") is None


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    HistoryStore(tmp_path).put(record("a"))
    (tmp_path / "records" / ".b.record").write_bytes(b"half")
    (tmp_path / "records" / "c.record").write_bytes(b"\xff\xff damaged")
    store = HistoryStore(tmp_path)
    assert [r.Ref for r in store.all()] == ["a"]
    assert not (tmp_path / "records" / ".b.record").exists()


@asynccontextmanager
async def served(history: BuildHistory, store: HistoryStore, tmp_path: Path) -> AsyncIterator[Channel]:
    links: set[object] = set()
    with Store.open(tmp_path / "store") as blobs:
        methods = {**history.methods(), **content_methods(blobs.content, store)}
        async with Server(methods) as server:
            path = str(tmp_path / "s")
            listener = await asyncio.get_running_loop().create_unix_server(on_accept(server, links), path)  # type: ignore[arg-type]
            channel = await connect_unix(path)
            yield channel
            channel.close()
            listener.close()


async def listen(channel: Channel, **request: object) -> list[tuple[int, str]]:
    call = channel.start(LISTEN)
    await call.send(control.BuildHistoryRequest(EarlyExit=True, **request))  # type: ignore[arg-type]
    call.end()
    return [(event.type, event.record.Ref) async for event in call.messages(control.BuildHistoryEvent)]


def finished(history: BuildHistory, ref: str, **more: object) -> None:
    history.begin(ref, frontend="dockerfile.v0", attrs={})
    log = LogWriter()
    when = wellknown.Timestamp(seconds=1)
    for cached in (False, True):
        vertex = control.Vertex(
            digest=f"sha256:{cached}", name=ref, started=when, completed=when, cached=cached
        )
        log.add(control.StatusResponse(vertexes=[vertex]))
    history.complete(ref, log, **more)  # type: ignore[arg-type]


def test_listeners_get_what_runs_what_ended_and_what_comes(tmp_path: Path) -> None:
    async def run() -> None:
        store = HistoryStore(tmp_path / "h")
        history = BuildHistory(store)
        async with served(history, store, tmp_path) as channel:
            finished(history, "old")
            history.begin("new", frontend="", attrs={})
            assert await listen(channel) == [(0, "new"), (1, "old")]
            assert await listen(channel, ActiveOnly=True) == [(0, "new")]
            assert await listen(channel, Ref="old") == [(1, "old")]
            assert await listen(channel, Ref="buildx-test-history-api-feature", ActiveOnly=True) == []
            assert await listen(channel, Filter=["status==error"]) == [(0, "new")]
            with pytest.raises(RpcError) as refused:
                await listen(channel, Filter=["what"])
            assert refused.value.code == Code.INVALID_ARGUMENT

            call = channel.start(LISTEN)
            await call.send(control.BuildHistoryRequest(ActiveOnly=True))
            assert (await call.receive(control.BuildHistoryEvent)).record.Ref == "new"
            history.complete("new", LogWriter())
            event = await call.receive(control.BuildHistoryEvent)
            assert (event.type, event.record.Ref) == (control.COMPLETE, "new")
            call.cancel()

    asyncio.run(run())


def test_record_tells_how_a_build_ended_and_its_log_can_be_read(tmp_path: Path) -> None:
    async def run() -> None:
        store = HistoryStore(tmp_path / "h")
        history = BuildHistory(store)
        async with served(history, store, tmp_path) as channel:
            details = rpcstatus.Status(code=2, message="m", details=[wellknown.Any(type_url="t", value=b"v")])
            error = RpcError(2, "it broke", details=details.SerializeToString())
            finished(history, "bad", error=error, response={"k": "v"})
            made = store.get("bad")
            assert made is not None
            counts = (made.numTotalSteps, made.numCachedSteps, made.numCompletedSteps)
            assert (counts, made.error.message, dict(made.ExporterResponse)) == (
                (2, 1, 2),
                "it broke",
                {"k": "v"},
            )

            async def read(digest: str, **part: int) -> bytes:
                call = channel.start(f"{CONTENT}/Read")
                await call.send(content.ReadContentRequest(digest=digest, **part))
                call.end()
                return b"".join([m.data async for m in call.messages(content.ReadContentResponse)])

            raw = await read(made.externalError.digest)
            assert rpcstatus.Status.FromString(raw).details[0].value == b"v"
            log = await read(made.logs.digest)
            assert len(log) == made.logs.size
            assert await read(made.logs.digest, offset=2, size=3) == log[2:5]
            replay = history.status_log("bad")
            assert replay is not None
            assert [v.name for m in replay for v in m.vertexes] == ["bad", "bad"]
            assert history.status_log("unknown") is None
            info = await channel.unary(
                f"{CONTENT}/Info", content.InfoRequest(digest=made.logs.digest), content.InfoResponse
            )
            assert info.info.size == len(log)
            for bad in ("sha256:" + "0" * 64, "sha256:../../../etc/passwd", "x"):
                with pytest.raises(RpcError) as missing:
                    await read(bad)
                assert missing.value.code == Code.NOT_FOUND

    asyncio.run(run())


def test_records_are_pinned_and_deleted_when_nobody_reads_them(tmp_path: Path) -> None:
    async def run() -> None:
        store = HistoryStore(tmp_path / "h")
        history = BuildHistory(store)
        async with served(history, store, tmp_path) as channel:

            async def update(**request: object) -> None:
                message = control.UpdateBuildHistoryRequest(**request)  # type: ignore[arg-type]
                await channel.unary(UPDATE, message, control.UpdateBuildHistoryResponse)

            finished(history, "a")
            await update(Ref="a", Pinned=True)
            kept = store.get("a")
            assert kept is not None
            assert (kept.pinned, kept.Generation) == (True, 2)
            await update(Ref="a", Finalize=True)
            call = channel.start(LISTEN)
            await call.send(control.BuildHistoryRequest(Ref="a"))
            await call.receive(control.BuildHistoryEvent)
            await update(Ref="a", Delete=True)
            assert (await call.receive(control.BuildHistoryEvent)).type == control.DELETED
            assert store.get("a") is not None
            assert await listen(channel) == []
            call.cancel()
            for _ in range(100):
                if store.get("a") is None:
                    break
                await asyncio.sleep(0.01)
            assert store.get("a") is None
            for request in ({"Delete": True}, {"Pinned": True}):
                with pytest.raises(RpcError) as missing:
                    await update(Ref="a", **request)
                assert missing.value.code == Code.NOT_FOUND

    asyncio.run(run())
