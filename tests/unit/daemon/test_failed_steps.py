"""What a frontend can look into: the files of its containers, and what failed steps left."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, gateway_pb2, llb_pb2, rpcstatus_pb2
from anyarch.api.rpc.status import Code, RpcError
from anyarch.llb.ops import ActionMkdir, ActionMkfile
from anyarch.llb.state import scratch

from .harness import CONTROL, Client, daemon, run, solve, tree
from .test_process import Message, Shell, init, outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.root

_SOLVE = "github.com/moby/buildkit/errdefs.Solve+json"
BASE = "FROM scratch AS base\nCOPY busybox /bin/busybox\nFROM base\n"
SHELL = '["/bin/busybox", "sh", "-c", "%s"]'


@asynccontextmanager
async def build(path: Path, **recipes: str) -> AsyncIterator[Shell]:
    """A build that is led by the test; `recipes` are further Dockerfiles."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    context = tree(path / "c", Dockerfile=BASE, **recipes)
    shutil.copy(busybox, context / "busybox")
    client = Client(context=context, dockerfile=context)
    async with daemon(path) as channel, client.serving(channel):
        building = asyncio.ensure_future(solve(channel, client, "led"))
        box = Shell(channel, "")
        try:
            reply = await asked(box)
            box.ref = reply.result.ref.id
            yield box
        finally:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)
            while [record for record in await disk_usage(box) if record.InUse]:  # noqa: ASYNC110 - asked anew
                await asyncio.sleep(0.05)


async def disk_usage(box: Shell) -> list[control_pb2.UsageRecord]:
    reply = control_pb2.DiskUsageResponse
    return list(
        (await box.channel.unary(CONTROL + "DiskUsage", control_pb2.DiskUsageRequest(), reply)).record
    )


async def asked(box: Shell, recipe: str = "Dockerfile") -> gateway_pb2.SolveResponse:
    request = gateway_pb2.SolveRequest(
        Frontend="dockerfile.v0",
        FrontendOpt={"filename": recipe},
        allowResultReturn=True,
        Evaluate=recipe != "Dockerfile",
    )
    return await box.ask("Solve", request, gateway_pb2.SolveResponse)


def failure(error: RpcError) -> dict[str, Any]:
    status = rpcstatus_pb2.Status.FromString(error.details)
    (found,) = [json.loads(detail.value) for detail in status.details if detail.type_url == _SOLVE]
    return found


async def ran(box: Shell, container: str, script: str) -> bytes:
    call = box.call()
    await call.send(Message(ProcessID="p", Init=init(container, script, (1, 2))))
    data, code, _ = await outcome(call)
    assert code == 0, data
    return data[1]


def test_files_of_a_container_are_those_that_its_processes_see(tmp_path: Path) -> None:
    async def work() -> None:
        async with build(tmp_path) as box:
            mounts = [
                llb_pb2.Mount(dest="/", resultID=box.ref),
                llb_pb2.Mount(dest="/c", mountType=3, cacheOpt=llb_pb2.CacheOpt(ID="k")),
                llb_pb2.Mount(dest="/t", mountType=4),
                llb_pb2.Mount(dest="/w"),
            ]
            request = gateway_pb2.NewContainerRequest(ContainerID="one", Mounts=mounts)
            await box.ask("NewContainer", request, gateway_pb2.NewContainerResponse)

            async def stat(path: str, mount: int = 0) -> Any:
                wanted = gateway_pb2.StatFileRequest(Ref="one", Path=path, MountIndex=mount)
                return (await box.ask("StatFileContainer", wanted, gateway_pb2.StatFileResponse)).stat

            async def read(path: str, mount: int = 0, **more: Any) -> bytes:
                wanted = gateway_pb2.ReadFileRequest(Ref="one", FilePath=path, MountIndex=mount, **more)
                return bytes((await box.ask("ReadFileContainer", wanted, gateway_pb2.ReadFileResponse)).Data)

            assert (await stat("/bin/busybox")).mode == 0o755
            with pytest.raises(RpcError, match="mountable 1 not found"):
                await read("/x", 1)
            script = "echo root >/r; echo cached >/c/f; echo there >/w/f; /bin/busybox ln -s /etc/passwd /out"
            await ran(box, "one", script)
            assert (await read("/r"), await read("/f", 1), await read("/f", 3)) == (
                b"root\n",
                b"cached\n",
                b"there\n",
            )
            assert await read("/f", 3, Range=gateway_pb2.FileRange(Offset=2, Length=2)) == b"er"
            assert (await stat("/out")).linkname == "/etc/passwd"
            listed = gateway_pb2.ReadDirRequest(Ref="one", DirPath="/", IncludePattern="[br]*")
            reply = await box.ask("ReadDirContainer", listed, gateway_pb2.ReadDirResponse)
            assert [entry.path for entry in reply.entries] == ["bin", "r"]
            for path, mount, words in (
                ("/out", 0, "escapes"),
                ("/absent", 0, "no such file"),
                ("/f", 2, "mountable 2 not found"),
                ("/f", 4, "out of bounds"),
                ("/f", -1, "out of bounds"),
            ):
                with pytest.raises(RpcError, match=words):
                    await read(path, mount)
            with pytest.raises(RpcError, match="invalid range"):
                await read("/r", Range=gateway_pb2.FileRange(Offset=-1))
            release = gateway_pb2.ReleaseContainerRequest(ContainerID="one")
            await box.ask("ReleaseContainer", release, gateway_pb2.ReleaseContainerResponse)
            with pytest.raises(RpcError, match="not found"):
                await read("/r")

    run(work())


def test_failed_step_leaves_its_mounts_for_a_container(tmp_path: Path) -> None:
    script = SHELL % "echo kept >/data; echo there >/w/data; exit 3"
    recipe = f"{BASE}RUN --mount=type=bind,from=base,target=/w,rw {script}\n"

    async def work() -> None:
        async with build(tmp_path, Failing=recipe) as box:
            with pytest.raises(RpcError, match="exit code: 3") as caught:
                await asked(box, "Failing")
            told = failure(caught.value)
            assert told["op"]["exec"]["meta"]["args"][-1].endswith("exit 3")
            assert "RUN" in told["description"]["llb.customname"]
            assert [len(told["inputIDs"]), len(told["mountIDs"])] == [2, 2]
            for container, ids in (("left", told["mountIDs"]), ("initial", told["inputIDs"])):
                mounts = [
                    llb_pb2.Mount(dest=mount["dest"], resultID=identity)
                    for mount, identity in zip(told["op"]["exec"]["mounts"], ids, strict=True)
                ]
                request = gateway_pb2.NewContainerRequest(ContainerID=container, Mounts=mounts)
                await box.ask("NewContainer", request, gateway_pb2.NewContainerResponse)
            assert await ran(box, "left", "/bin/busybox cat /data /w/data") == b"kept\nthere\n"
            assert await ran(box, "initial", "echo /data /w/* /bin/*") == b"/data /w/bin /bin/busybox\n"
            # The step itself was not remembered as done.
            with pytest.raises(RpcError, match="exit code: 3"):
                await asked(box, "Failing")

    run(work())


def test_what_a_failed_step_left_goes_with_the_build(tmp_path: Path) -> None:
    from anyarch.store.store import Store

    recipe = f"{BASE}RUN {SHELL % 'echo kept >/data; exit 3'}\n"

    async def work() -> None:
        async with build(tmp_path, Failing=recipe) as box:
            request = gateway_pb2.EvaluateRequest(Ref=box.ref)
            await box.ask("Evaluate", request, gateway_pb2.EvaluateResponse)
            with Store.open(tmp_path / "root") as store:
                before = set(store.records.ids())
            with pytest.raises(RpcError, match="exit code: 3"):
                await asked(box, "Failing")
            with Store.open(tmp_path / "root") as store:
                assert len(set(store.records.ids()) - before) == 1
        with Store.open(tmp_path / "root") as store:
            assert set(store.records.ids()) == before

    run(work())


def test_failed_file_action_is_named_with_what_it_stood_on(tmp_path: Path) -> None:
    state = scratch().file(
        ActionMkdir("/found", 0o755),
        ActionMkfile("/found/f", 0o644, b"text"),
        ActionMkfile("/no/f", 0o644, b""),
    )
    definition = llb_pb2.Definition.FromString(state.marshal().marshal())

    async def work() -> None:
        async with build(tmp_path) as box:
            request = gateway_pb2.SolveRequest(Definition=definition, Evaluate=True, allowResultReturn=True)
            with pytest.raises(RpcError, match="no such file") as caught:
                await box.ask("Solve", request, gateway_pb2.SolveResponse)
            told = failure(caught.value)
            assert told["file"] == {"index": "2"}
            assert told.get("inputIDs", []) == []
            assert [bool(identity) for identity in told["mountIDs"]] == [False, False, True]
            mounts = [
                llb_pb2.Mount(dest="/", resultID=box.ref),
                llb_pb2.Mount(dest="/left", resultID=told["mountIDs"][2]),
            ]
            made = gateway_pb2.NewContainerRequest(ContainerID="one", Mounts=mounts)
            await box.ask("NewContainer", made, gateway_pb2.NewContainerResponse)
            assert await ran(box, "one", "/bin/busybox cat /left/found/f") == b"text"

    run(work())


def test_input_without_what_is_mounted_of_it_is_named(tmp_path: Path) -> None:
    script = SHELL % "true"
    mount = "--mount=type=bind,from=other,source=/absent,target=/w"
    recipe = f"FROM scratch AS other\nCOPY busybox /x\n{BASE}RUN {mount} {script}\n"

    async def work() -> None:
        async with build(tmp_path, Failing=recipe) as box:
            with pytest.raises(RpcError) as caught:
                await asked(box, "Failing")
            told = failure(caught.value)
            assert "cache" in told
            assert (len(told["inputIDs"]), told.get("mountIDs", [])) == (1, [])
            with pytest.raises(RpcError) as caught:
                mounts = [llb_pb2.Mount(dest="/", resultID="of-no-step")]
                request = gateway_pb2.NewContainerRequest(ContainerID="one", Mounts=mounts)
                await box.ask("NewContainer", request, gateway_pb2.NewContainerResponse)
            assert caught.value.code == Code.UNKNOWN

    run(work())
