"""Run a program of an image: pick the platform's manifest, unpack, and start it in a sandbox of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, overload

from anyarch.engine.export import stored_image
from anyarch.engine.failure import os_errors
from anyarch.engine.ports import relaying
from anyarch.errors import Canceled, ManifestNotFound, UsageError
from anyarch.llb.ops import HostIP
from anyarch.source.layout import import_layout, is_layout
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform, compatible, host_platform
from anyarch.spec.reference import Reference
from anyarch.store.store import Store, default_root
from anyarch.worker.network import network_files
from anyarch.worker.ops.exec import DEFAULT_PATH
from anyarch.worker.passwd import UserDatabase
from anyarch.worker.result import SnapshotResult
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from anyarch.engine.request import CancelToken, RunRequest
    from anyarch.sandbox.plan import ExecRequest, RootFS
    from anyarch.snapshot.layers import LayerStore
    from anyarch.solver.events import Event, EventSink
    from anyarch.source.image import Image

__all__ = ["add_layers", "find_image", "make_plan", "run"]

_LAYOUT = "oci-layout://"
_NO_NAME = Reference("localhost", "layout")


def run(request: RunRequest, on_event: EventSink | None = None, cancel: CancelToken | None = None) -> int:
    """Run to the end and return the program's exit status (128+N when signal N ended it).

    Its standard streams are this process's own. Raises `AnyarchError` where it could not be started.
    """
    root = Path(request.root) if request.root else default_root()
    with os_errors(), Store.open(root) as store:
        return asyncio.run(_run(request, store, on_event or _ignore, cancel))


def _ignore(event: Event) -> None:
    """Nobody watches."""


async def _run(request: RunRequest, store: Store, emit: EventSink, cancel: CancelToken | None) -> int:
    async with Worker(store, emit, emulators=request.emulators) as worker:
        wanted = Platform.parse(request.platform) if request.platform else host_platform()
        image = await asyncio.to_thread(find_image, worker, request, wanted)
        # An image may be served by one of a lower CPU variant: what it says of itself decides how it runs.
        found = image.platform if image.platform.os else wanted
        if not request.platform and found not in compatible(wanted):
            notice(
                f"WARNING: The requested image's platform ({found}) does not match the detected host "
                f"platform ({wanted}) and no specific platform was requested"
            )
        snapshot = SnapshotResult(tuple(add_layers(worker.layers, image)))
        await worker.ensure_local(snapshot)
        with worker.step_directory() as directory:
            plan = await asyncio.to_thread(
                make_plan, worker, request, image.config, found, snapshot, directory
            )
            token = worker.new_cancel()
            if cancel is not None:
                cancel.add_callback(token.cancel)
            stdin = 0 if request.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                async with relaying(request.ports):
                    status = await asyncio.to_thread(
                        worker.machine.executor().run,
                        plan,
                        on_output=_to_streams,
                        cancel=token,
                        stdio=(stdin, 1, 2),
                        on_note=lambda kind, text: notice(f"WARNING: {kind}: {text}"),
                    )
            finally:
                if stdin:
                    os.close(stdin)
        if cancel is not None and cancel.is_set():
            raise Canceled("context canceled")
        return status


def notice(text: str) -> None:
    """A line for the user, beside what the program writes."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def _to_streams(stream: int, data: bytes) -> None:
    out = sys.stdout if stream == 1 else sys.stderr
    out.buffer.write(data)
    out.buffer.flush()


@overload
def find_image(worker: Worker, request: RunRequest, wanted: Platform) -> Image: ...
@overload
def find_image(worker: Worker, request: RunRequest, wanted: None) -> Reference: ...
def find_image(worker: Worker, request: RunRequest, wanted: Platform | None) -> Image | Reference:
    """The image of a layout, of the store, or of a registry, in that order: what serves `wanted`, or with
    None the reference by which the worker knows it."""
    reference = _reference(worker, request)
    return reference if wanted is None else worker.images.image(reference, wanted)


def _reference(worker: Worker, request: RunRequest) -> Reference:
    name = request.image
    if name.startswith(_LAYOUT) or (("/" in name or name.startswith(".")) and is_layout(name)):
        descriptor = import_layout(worker.store.content, name.removeprefix(_LAYOUT))
        worker.trust_store()
        return _NO_NAME.with_digest(Digest.parse(descriptor.digest))
    reference = Reference.parse(name)
    if request.pull != "always":
        stored = stored_image(worker.store, reference)
        if stored is not None and worker.store.content.has(Digest(stored["digest"])):
            worker.trust_store()
            return reference.with_digest(Digest.parse(stored["digest"]))
    if request.pull == "never":
        raise ManifestNotFound(
            f"{reference.familiar}: no such image in the store", hint="leave out --pull=never to fetch it"
        )
    return reference


def add_layers(layers: LayerStore, image: Image) -> list[str]:
    """Make the layers of an image known, without fetching them; their ids."""
    is_from_layout = image.reference.name == _NO_NAME.name
    fetch_from = "" if is_from_layout else str(image.reference.with_digest(image.manifest_digest))
    return [
        layers.add_blob(descriptor, diff_id, fetch_from=fetch_from).id
        for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
    ]


def make_plan(
    worker: Worker,
    request: RunRequest,
    image_config: bytes,
    platform: Platform,
    snapshot: SnapshotResult,
    directory: Path,
) -> ExecRequest:
    """What the sandbox is to run: the program of `request` in an image with this configuration and these
    layers. Raises `UsageError`, `EmulatorMissing`."""
    from anyarch.sandbox.plan import (
        DEFAULT_SHM_SIZE,
        NO_RESOURCES,
        Bind,
        ExecRequest,
        Resources,
        Tmpfs,
        Ulimit,
    )

    config = decode(ImageConfig, image_config).config
    route = worker.ready_route(platform)
    entrypoint = config.entrypoint or ()
    command = request.command or (config.cmd or ())
    if request.entrypoint is not None:
        entrypoint = (request.entrypoint,) if request.entrypoint else ()
        command = request.command
    argv = (*entrypoint, *command)
    if not argv:
        raise UsageError(
            f"{request.image}: no command specified",
            hint="the image has no CMD: give a command",
        )
    tree = worker.view(snapshot)
    identity = UserDatabase(tree).identity(request.user if request.user is not None else config.user)
    env = dict(item.partition("=")[::2] for item in (DEFAULT_PATH, *(config.env or ())))
    env.update(item.partition("=")[::2] for item in request.env)
    env.setdefault("HOME", identity.home or "/")
    if request.tty:
        env.setdefault("TERM", os.environ.get("TERM", "xterm"))
    network = "none" if request.network == "none" else "host"
    hostname = request.hostname or os.uname().nodename
    hosts = [HostIP(name, address) for name, address in request.add_hosts]
    return ExecRequest(
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=request.workdir or config.working_dir or "/",
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        root=_rootfs(worker, snapshot, directory, readonly=request.readonly),
        mounts=(
            *network_files(network, hosts, hostname),
            *(Tmpfs(dest, size) for dest, size in request.tmpfs),
            *(Bind(os.path.abspath(v.source), v.dest, v.readonly) for v in request.volumes),
        ),
        hostname=hostname,
        network=network,
        shm_size=DEFAULT_SHM_SIZE if request.shm_size is None else request.shm_size,
        ulimits=tuple(Ulimit(u.name, u.soft, u.hard) for u in request.ulimits),
        resources=Resources(memory=request.memory, cpu_period=100_000, cpu_quota=request.cpu_quota)
        if request.memory or request.cpu_quota
        else NO_RESOURCES,
        emulators=route.emulators,
        tty=request.tty,
    )


def _rootfs(worker: Worker, snapshot: SnapshotResult, directory: Path, *, readonly: bool) -> RootFS:
    from anyarch.sandbox.plan import RootFS

    upper, work = directory / "upper", directory / "work"
    upper.mkdir()
    work.mkdir()
    node = worker.view(snapshot).lookup("")
    if node is not None:
        worker.set_root_metadata(upper, node.entry)
    return RootFS(worker.directories(snapshot), str(upper), str(work), readonly=readonly)
