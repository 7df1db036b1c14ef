"""Programs that make twins, run in a sandbox for this machine; and what they have made, in the store."""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import NotSupported, SandboxError, StoreError
from anyarch.worker.compilers import TWINS
from anyarch.worker.ops.mountplan import ROOT, MountPlan
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.emulation.accelerate.chains import Work
    from anyarch.sandbox.plan import Mount
    from anyarch.worker.worker import Worker

__all__ = ["SandboxWorkshop", "want"]

_TAIL = 300


def want(worker: Worker, name: str) -> None:
    """Make what is called so from now on."""
    worker.store.cache.set_value(TWINS, f"wanted {name}", b"1")


class SandboxWorkshop:
    """For one root, `natives` being layers of the base image's native sibling and of what was fetched beside
    it; all of them are local. `say` tells the user what takes its time."""

    def __init__(
        self,
        worker: Worker,
        root: tuple[str, ...],
        natives: tuple[tuple[str, ...], ...],
        say: Callable[[str], None],
        *,
        is_eager: bool,
    ) -> None:
        """With `is_eager` all is made at once."""
        self._worker = worker
        self._root = root
        self._natives = natives
        self._say = say
        self._is_eager = is_eager

    def is_wanted(self, name: str) -> bool:
        """Whether a twin that takes long to make is worth it."""
        return self._is_eager or self._worker.store.cache.get_value(TWINS, f"wanted {name}") is not None

    def make(self, work: Work, check: Callable[[], None]) -> bytes:
        """The product of a work, made once for the same sources. Raises `NotSupported`."""
        worker = self._worker
        tree = worker.view(SnapshotResult(self._root))
        sources = [str(tree.content_digest(path)) for path, _ in work.from_root]
        parts = [self._natives[0], self._natives[work.native], sources, worker.platform.architecture]
        key = "made 1 " + hashlib.sha256(msgspec.json.encode([parts, work])).hexdigest()
        kept = worker.store.cache.get_value(TWINS, key)
        if kept is not None:
            try:
                return self._read(kept.decode(), work.product)
            except StoreError:
                pass  # collected: it is made again
        check()
        self._say(f"making a native {work.product} ({work.name}), once")
        started = time.monotonic()
        product = self._run(work)
        self._say(f"made a native {work.product} in {time.monotonic() - started:.0f} s")
        with worker.layers.new_tar(description="a compiled native twin") as layer:
            layer.add(Entry(work.product, Kind.FILE, 0o755, size=len(product)), product)
            made = layer.commit().id
        worker.store.cache.set_value(TWINS, key, made.encode())
        want(worker, work.name)
        return product

    def _read(self, layer: str, name: str) -> bytes:
        tree = self._worker.view(SnapshotResult((layer,)))
        node = tree.lookup(name)
        assert node is not None
        with tree.open(node) as file:
            return file.read()

    def _run(self, work: Work) -> bytes:
        from anyarch.sandbox.plan import Bind, ExecRequest, OverlayMount

        worker = self._worker
        output = bytearray()
        with ExitStack() as stack:
            mounts = MountPlan(worker, stack)
            place = mounts.directory / "place"
            place.mkdir()
            for name, data in work.files:
                (place / name).write_bytes(data)
            trees = (self._natives[0], self._natives[work.native], self._root)
            sibling, native, root = map(SnapshotResult, trees)
            extra: list[Mount] = []
            if work.native:
                tree = mounts.rootfs(0, native, readonly=False)
                extra.append(OverlayMount(tree, f"/{work.from_native}", selector=work.from_native))
            for number, (path, destination) in enumerate(work.from_root, 1):
                tree = mounts.rootfs(number, root, readonly=True)
                extra.append(OverlayMount(tree, destination, selector=path))
            extra.append(Bind(str(place), work.place))
            request = ExecRequest(
                argv=work.argv,
                env=work.env,
                cwd=work.place,
                root=mounts.rootfs(ROOT, sibling, readonly=False),
                mounts=tuple(extra),
                network="none",
                pids=worker.pids,
            )
            try:
                status = worker.machine.executor().run(
                    request, on_output=lambda _, data: output.extend(data), cancel=worker.new_cancel()
                )
            except SandboxError as error:
                raise NotSupported(f"it could not be made for this machine: {error.message}") from None
            made = place / work.product
            if status or not made.is_file() or made.is_symlink():
                told = bytes(output[-_TAIL:]).decode("utf-8", "replace").strip().replace("\n", "; ")
                raise NotSupported(f"it could not be made for this machine: status {status}: {told}")
            return made.read_bytes()
