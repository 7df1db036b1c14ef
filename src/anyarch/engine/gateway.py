"""The gateway: what the engine offers a frontend."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyarch.archive.entry import TYPE_BITS, Kind
from anyarch.errors import PathNotFound, RegistryError
from anyarch.frontend.gateway import DirEntry, FileStat, ResolvedImage
from anyarch.solver.events import VertexEvent
from anyarch.spec.digest import Digest
from anyarch.spec.reference import Reference
from anyarch.worker.graph import load
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyarch.archive.entry import Entry
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.sourcepolicy import SourcePolicy
    from anyarch.frontend.gateway import BuildOpts
    from anyarch.llb.definition import Definition
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.solver.events import WarningEvent
    from anyarch.solver.solver import Solver
    from anyarch.solver.vertex import Edge
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["EngineGateway", "EngineRef"]

_MAX_FILE = 64 << 20


class EngineRef:
    """Implements `frontend.gateway.Ref`."""

    def __init__(self, solver: Solver, worker: Worker, edge: Edge | None) -> None:
        self._solver = solver
        self._worker = worker
        self._edge = edge

    async def evaluate(self) -> None:
        """Run what is behind it. Raises what the steps raise."""
        if self._edge is not None:
            await self._solver.solve([self._edge])

    async def result(self) -> Result:
        """What is behind it, evaluated. Raises what the steps raise."""
        if self._edge is None:
            return None
        found: list[Result] = await self._solver.solve([self._edge])
        return found[0]

    async def _tree(self) -> TreeView:
        if self._edge is None:
            return self._worker.view(None)
        (result,) = await self._solver.solve([self._edge])
        if isinstance(result, SnapshotResult):
            await self._worker.ensure_local(result)
        return self._worker.view(result)

    async def _node(self, path: str) -> tuple[TreeView, Node]:
        tree = await self._tree()
        node = tree.lookup(tree.resolve(path))
        if node is None:
            raise PathNotFound(f"open {path}: no such file or directory")
        return tree, node

    async def read_file(self, path: str, *, length: int | None = None, offset: int = 0) -> bytes:
        tree, node = await self._node(path)
        if node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            raise PathNotFound(f"read {path}: is not a regular file")

        def read() -> bytes:
            with tree.open(node) as stream:
                if offset:
                    stream.seek(offset)
                return stream.read(_MAX_FILE if length is None else length)

        return await asyncio.to_thread(read)

    async def read_dir(self, path: str) -> list[DirEntry]:
        tree, node = await self._node(path)
        if node.entry.kind is not Kind.DIRECTORY:
            raise PathNotFound(f"readdir {path}: is not a directory")
        base = node.entry.path
        found = []
        for name in tree.listdir(base):
            child = tree.lookup(f"{base}/{name}" if base else name)
            if child is not None:
                found.append(DirEntry(name, _stat(child.entry)))
        return found

    async def stat_file(self, path: str) -> FileStat:
        _, node = await self._node(path)
        return _stat(node.entry)


def _stat(entry: Entry) -> FileStat:
    return FileStat(
        entry.path,
        TYPE_BITS[entry.kind] | entry.mode,
        len(entry.linkname.encode("utf-8", "surrogateescape")) if entry.kind is Kind.SYMLINK else entry.size,
        entry.uid,
        entry.gid,
        entry.linkname,
        entry.mtime_ns,
    )


class EngineGateway:
    """Implements `frontend.gateway.Gateway` for one build."""

    def __init__(self, solver: Solver, worker: Worker, opts: BuildOpts) -> None:
        self._solver = solver
        self._worker = worker
        self._opts = opts
        self.policy: SourcePolicy | None = None
        """What decides on sources."""
        self.call: FrontendCall | None = None
        """Where it is noted what the frontend looks into."""
        self._announced: dict[str, tuple[str, asyncio.Lock]] = {}
        self.warnings = 0

    @property
    def build_opts(self) -> BuildOpts:
        return self._opts

    async def solve(self, definition: Definition) -> EngineRef:
        if self.policy is not None:
            from anyarch.engine.sourcepolicy import policed

            definition = await policed(definition, self.policy)
        if self.call is not None:
            self.call.solved.append(definition)
        return EngineRef(self._solver, self._worker, load(self._solver, self._worker, definition))

    async def resolve_image_config(
        self, reference: str, *, platform: Platform | None, mode: str, log_name: str, layout: str = ""
    ) -> ResolvedImage:
        if self.policy is not None:
            from anyarch.engine.sourcepolicy import policed_image

            reference = await policed_image(self.policy, reference, platform, is_layout=bool(layout))
        name = Reference.parse(reference)
        images = self._worker.layout_images(store=layout) if layout else self._worker.images
        try:
            async with self.step(log_name or f"[internal] load metadata for {name}"):
                wanted = platform or self._worker.platform
                image = await self._worker.in_network(images.image, name, wanted)
        except RegistryError as error:
            # BuildKit's words
            error.message = f"failed to resolve source metadata for {name}: {error.message}"
            raise
        if self.call is not None:
            self.call.add_image(str(name), platform, image.digest, is_local=bool(layout))
        return ResolvedImage(str(name), image.digest, image.config)

    async def source_time(self, definition: Definition, *, log_name: str) -> int | None:
        from anyarch.engine.times import source_time

        async with self.step(log_name) as vertex:
            return await source_time(self._solver, self._worker, definition, vertex)

    @asynccontextmanager
    async def step(self, log_name: str) -> AsyncIterator[str]:
        """Show what is done inside as a vertex. All that has the same name is one line, done one by one:
        images of several platforms are resolved once."""
        vertex = Digest.of(log_name.encode("utf-8", "surrogateescape"))
        known = self._announced.get(vertex)
        if known is None:
            known = self._announced[vertex] = (log_name, asyncio.Lock())
        async with known[1]:
            started = time.time()
            self._worker.emit(VertexEvent(vertex, log_name, started=started))
            try:
                yield vertex
            except Exception as error:
                self._worker.emit(
                    VertexEvent(vertex, log_name, started=started, completed=time.time(), error=str(error))
                )
                raise
            self._worker.emit(VertexEvent(vertex, log_name, started=started, completed=time.time()))

    def warn(self, warning: WarningEvent) -> None:
        self.warnings += 1
        self._worker.emit(warning)
