"""Run a program of an image: pick the platform's manifest, unpack, and start it in a sandbox of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.engine.export import stored_image
from anyarch.engine.solve import os_errors
from anyarch.errors import Canceled, ManifestNotFound, UsageError
from anyarch.llb.ops import NetMode
from anyarch.source.layout import import_layout, is_layout
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform, host_platform
from anyarch.spec.reference import Reference
from anyarch.store.store import Store, default_root
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

__all__ = ["run"]

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
        image = await asyncio.to_thread(_find, worker, request, wanted)
        snapshot = SnapshotResult(tuple(_add_layers(worker.layers, image)))
        await worker.ensure_local(snapshot)
        with worker.step_directory() as directory:
            plan = await asyncio.to_thread(_plan, worker, request, image, wanted, snapshot, directory)
            token = worker.new_cancel()
            if cancel is not None:
                cancel.add_callback(token.cancel)
            stdin = 0 if request.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = await asyncio.to_thread(
                    worker.machine.executor().run,
                    plan,
                    on_output=_to_streams,
                    cancel=token,
                    stdio=(stdin, 1, 2),
                )
            finally:
                if stdin:
                    os.close(stdin)
        if cancel is not None and cancel.is_set():
            raise Canceled("context canceled")
        return status


def _to_streams(stream: int, data: bytes) -> None:
    out = sys.stdout if stream == 1 else sys.stderr
    out.buffer.write(data)
    out.buffer.flush()


def _find(worker: Worker, request: RunRequest, wanted: Platform) -> Image:
    """The image of a layout, of the store, or of a registry, in that order."""
    name = request.image
    if name.startswith(_LAYOUT) or (("/" in name or name.startswith(".")) and is_layout(name)):
        descriptor = import_layout(worker.store.content, name.removeprefix(_LAYOUT))
        return worker.images.image(_NO_NAME.with_digest(Digest.parse(descriptor.digest)), wanted)
    reference = Reference.parse(name)
    if request.pull != "always":
        stored = stored_image(worker.store, reference)
        if stored is not None and worker.store.content.has(Digest(stored["digest"])):
            pinned = reference.with_digest(Digest.parse(stored["digest"]))
            return worker.images.image(pinned, wanted)
    if request.pull == "never":
        raise ManifestNotFound(
            f"{reference.familiar}: no such image in the store", hint="leave out --pull=never to fetch it"
        )
    return worker.images.image(reference, wanted)


def _add_layers(layers: LayerStore, image: Image) -> list[str]:
    is_from_layout = image.reference.name == _NO_NAME.name
    fetch_from = "" if is_from_layout else str(image.reference.with_digest(image.manifest_digest))
    return [
        layers.add_blob(descriptor, diff_id, fetch_from=fetch_from).id
        for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
    ]


def _plan(
    worker: Worker,
    request: RunRequest,
    image: Image,
    wanted: Platform,
    snapshot: SnapshotResult,
    directory: Path,
) -> ExecRequest:
    from anyarch.sandbox.plan import Bind, ExecRequest

    config = decode(ImageConfig, image.config).config
    # An image may be served by one of a lower CPU variant: what it says of itself decides how it runs.
    route = worker.route(image.platform if image.platform.os else wanted)
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
    network = NetMode.NONE if request.network == "none" else NetMode.UNSET
    hostname = os.uname().nodename
    return ExecRequest(
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=request.workdir or config.working_dir or "/",
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        root=_rootfs(worker, snapshot, directory),
        mounts=(
            *worker.network_files(network, (), hostname),
            *(Bind(os.path.abspath(v.source), v.dest, v.readonly) for v in request.volumes),
        ),
        hostname=hostname,
        network="none" if network is NetMode.NONE else "host",
        emulators=route.emulators,
        tty=request.tty,
    )


def _rootfs(worker: Worker, snapshot: SnapshotResult, directory: Path) -> RootFS:
    from anyarch.sandbox.plan import RootFS

    upper, work = directory / "upper", directory / "work"
    upper.mkdir()
    work.mkdir()
    node = worker.view(snapshot).lookup("")
    if node is not None:
        worker.set_root_metadata(upper, node.entry)
    return RootFS(worker.directories(snapshot), str(upper), str(work))
