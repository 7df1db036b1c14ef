"""Acceleration of emulated steps: which native twins a step gets, and what is told of it.

The twins of a step come from a *supply*: the native sibling of its base image (the same reference for this
machine's platform). A set of twins is made once for a state of the step's root and kept in the store as a
layer that no image has. A step for which there is none is emulated as without acceleration, and its log says
why.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import AnyarchError, NotSupported, SandboxError, StoreError
from anyarch.llb.ops import ExecOp, FileOp, MergeOp, SourceOp
from anyarch.solver.events import LogEvent
from anyarch.spec.codec import json_decoder
from anyarch.worker.accelerated_step import DISPATCHER, LOG, Step, TwinSet
from anyarch.worker.compilers import TWINS, CompilerPackages, Compilers
from anyarch.worker.languages import Languages, ToolChains
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyarch.emulation.accelerate.dispatcher import Twin
    from anyarch.emulation.accelerate.packages import Packages
    from anyarch.llb.ops import Op
    from anyarch.snapshot.tree import TreeView
    from anyarch.spec.platform import Platform
    from anyarch.worker.accelerated_step import StepReport
    from anyarch.worker.worker import Worker

__all__ = ["Acceleration", "Step"]

_VERSION = "twins/29"


class Acceleration:
    """Of one build. `mode` is off, tools, cross or verify, and may name where the packages of compilers are
    (`cross,packages=/srv/debs`, see `Compilers`); safe for threads."""

    def __init__(self, worker: Worker, mode: str) -> None:
        mode, _, packages = mode.partition(",packages=")
        self.worker = worker
        self.mode = mode
        self.reports: dict[str, StepReport] = {}
        self._bases: dict[str, SourceOp | None] = {}
        self._compilers = Compilers(worker, packages)
        self._languages = Languages(worker, self._compilers, self._packages_of)
        self._siblings: dict[tuple[str, str], tuple[str, ...] | str] = {}
        self._lock = threading.RLock()
        self._packages: dict[tuple[str, ...], Packages] = {}

    def record(self) -> dict[str, object]:
        """What a build's record tells of it: the mode, and of each step that ran the set of its twins, how
        many programs ran natively, and which did not and why."""
        steps = {vertex: msgspec.to_builtins(report) for vertex, report in sorted(self.reports.items())}
        return {"mode": self.mode, "steps": steps}

    # the graph ------------------------------------------------------------------------------------

    def learn(self, digest: str, op: Op) -> None:
        """Remember which image the result of an operation begins with. Operations come inputs first."""
        kind = op.kind
        base: SourceOp | None = None
        position = -1
        match kind:
            case SourceOp():
                if kind.identifier.startswith(("docker-image://", "oci-layout://")):
                    base = kind
            case ExecOp():
                position = next((mount.input for mount in kind.mounts if mount.dest == "/"), -1)
            case FileOp():
                position = kind.actions[0].input if kind.actions else -1
            case MergeOp():
                position = 0
        if 0 <= position < len(op.inputs):
            base = self._bases.get(op.inputs[position].digest)
        self._bases[digest] = base

    # keys -----------------------------------------------------------------------------------------

    async def identity(self, vertex: str, platform: Platform) -> list[object]:
        """What of the acceleration belongs into the key of an emulated step; empty when there is none."""
        if self.mode == "off" or not await asyncio.to_thread(self._is_foreign, platform):
            return []
        sibling = await self._sibling(vertex)
        if isinstance(sibling, str):
            return [[_VERSION, self.mode]]
        archive = await self._archive(vertex, sibling, platform)
        return [[_VERSION, self.mode, list(sibling), *archive.layers]]

    async def _archive(self, vertex: str, sibling: tuple[str, ...], platform: Platform) -> CompilerPackages:
        if self.mode == "tools":
            return CompilerPackages()

        async def base() -> tuple[str, ...]:
            found = await self._base(vertex, platform)
            return () if isinstance(found, str) else found

        return await self._compilers.packages(sibling, platform, base)

    def _is_foreign(self, platform: Platform) -> bool:
        return platform.os == "linux" and self.worker.route(platform).kind != "native"

    async def _sibling(self, vertex: str) -> tuple[str, ...] | str:
        """The layers of the native sibling of the base, or why there is none. None of them is fetched."""
        return await self._base(vertex, self.worker.platform)

    async def _base(self, vertex: str, platform: Platform) -> tuple[str, ...] | str:
        from anyarch.worker.ops.source import make_source

        base = self._bases.get(vertex)
        if base is None:
            return "it does not begin with an image"
        key = (base.identifier, str(platform))
        found = self._siblings.get(key)
        if found is None:
            source = make_source(self.worker, base, platform, vertex)
            try:
                (result,) = await source.run(())
                found = result.layers if isinstance(result, SnapshotResult) else ()
            except AnyarchError as error:
                found = f"its base image has no native sibling: {error.message}"
            self._siblings[key] = found
        return found

    # steps ----------------------------------------------------------------------------------------

    async def step(self, vertex: str, platform: Platform, root: SnapshotResult | None) -> Step | None:
        """The twins for a step above `root`, or None: the log says why."""
        if self.mode == "off" or not await asyncio.to_thread(self._is_foreign, platform):
            return None
        try:
            sibling = await self._sibling(vertex)
            if isinstance(sibling, str):
                raise NotSupported(sibling)
            if root is None:
                raise NotSupported("it does not begin with an image")
            if root.layers[: len(sibling)] == sibling:
                raise NotSupported("its base image has no native sibling: it is of one platform only")
            await self.worker.ensure_local(SnapshotResult(sibling))
            archive = await self._archive(vertex, sibling, platform)
            if archive.missing:
                self.say(vertex, archive.missing)
            chains = await self._chains(vertex, platform, root.layers, sibling)
            return await asyncio.to_thread(self._step, vertex, platform, root, sibling, archive, chains)
        except (NotSupported, SandboxError) as error:
            self.say(vertex, f"the step is emulated: {error.message}")
            return None

    async def _chains(
        self, vertex: str, platform: Platform, root: tuple[str, ...], sibling: tuple[str, ...]
    ) -> ToolChains:
        if self.mode == "tools":
            return ToolChains()
        await self.worker.ensure_local(SnapshotResult(root))
        base = await self._base(vertex, platform)
        based = len(base) if isinstance(base, tuple) and root[: len(base)] == base else 0
        say = partial(self.say, vertex)
        return await self._languages.of(root, based, sibling, platform.architecture, say)

    def _step(
        self,
        vertex: str,
        platform: Platform,
        root: SnapshotResult,
        sibling: tuple[str, ...],
        archive: CompilerPackages,
        chains: ToolChains,
    ) -> Step:
        worker = self.worker
        emulator = worker.private_emulator(platform)
        target = self._packages_of(root.layers)
        if _exists(target.tree, "etc/ld.so.preload"):
            raise NotSupported("/etc/ld.so.preload names libraries for all programs")
        if not target.installed:
            raise NotSupported("no packages of dpkg or apk are in its root")
        native = self._packages_of(sibling)
        key = self._key(target, native, platform, archive, chains, emulator.digest(worker.host.memo))
        with self._lock:
            found = self._kept(key)
            if found is None:
                found = self._make(target, native, archive, chains, platform, emulator.path)
                raw = msgspec.json.encode(found)
                worker.store.cache.set_value(TWINS, key, raw)
        for what, reason in found.emulated:
            self.say(vertex, f"{what if what[0] == '/' else f'package {what}'} is emulated: {reason}")
        if not found.twins:
            raise NotSupported("nothing in its root has a twin")
        directory = worker.directories(SnapshotResult((found.layer,)))[0]
        from anyarch.emulation.emulator import registration

        return Step(self, vertex, directory, found, registration(emulator))

    def _packages_of(self, layers: tuple[str, ...]) -> Packages:
        from anyarch.emulation.accelerate.packages import Packages

        with self._lock:
            found = self._packages.get(layers)
            if found is None:
                found = self._packages[layers] = Packages(self.worker.view(SnapshotResult(layers)))
            return found

    def _key(
        self,
        target: Packages,
        native: Packages,
        platform: Platform,
        archive: CompilerPackages,
        chains: ToolChains,
        emulator: str,
    ) -> str:
        """Of a set of twins: of all that it is made from."""
        from anyarch.emulation.accelerate.twins import state_of

        host, architecture = self.worker.platform.architecture, platform.architecture
        parts = [_VERSION, self.mode, host, architecture, emulator, *archive.layers]
        whole = hashlib.sha256(msgspec.json.encode(parts))
        whole.update(repr(sorted(native.installed.items())).encode())
        whole.update(state_of(target, native, host=host, architecture=architecture))
        whole.update(chains.state())
        if archive.layers:
            from anyarch.emulation.accelerate.cross import state_of_compilers

            other = self._packages_of(archive.layers[1:])
            whole.update(state_of_compilers(target, other, target=architecture, gcc=archive.gcc))
        return whole.hexdigest()

    def _kept(self, key: str) -> TwinSet | None:
        raw = self.worker.store.cache.get_value(TWINS, key)
        if raw is None:
            return None
        found = json_decoder(TwinSet).decode(raw)
        try:
            self.worker.layer(found.layer)
        except StoreError:
            return None  # collected
        return found

    def _make(
        self,
        target: Packages,
        native: Packages,
        archive: CompilerPackages,
        chains: ToolChains,
        platform: Platform,
        emulator: str,
    ) -> TwinSet:
        from anyarch.emulation.accelerate.machine_code import dispatcher
        from anyarch.emulation.accelerate.twins import choose_tools

        host = self.worker.platform.architecture
        chosen = choose_tools(target, native, "t", host=host, architecture=platform.architecture)
        further = chains.choose()
        if archive.layers:
            from anyarch.emulation.accelerate.cross import choose_compilers

            own, other = (self._packages_of((layer,)) for layer in archive.layers)
            architecture = platform.architecture
            further += [
                choose_tools(other, own, "u", host=host, architecture=architecture, root=target),
                choose_compilers([target, other], own, "x", host=host, target=architecture, gcc=archive.gcc),
            ]
        for each in further:
            chosen.twins += each.twins
            chosen.files |= each.files
            chosen.emulated |= each.emulated
            chosen.awaited |= each.awaited
            chosen.links |= each.links
        with open(emulator, "rb") as file:
            files = {DISPATCHER: dispatcher(file.read(), chosen.twins, host=host), LOG: b""}
        layer = self._keep({**chosen.files, **files}, chosen.links)
        return TwinSet(
            layer,
            _named(chosen.twins, chosen.files),
            tuple(sorted(chosen.emulated.items())),
            tuple(sorted(chosen.awaited.items())),
        )

    def _keep(self, files: Mapping[str, bytes], links: Mapping[str, str]) -> str:
        """A layer of these files and symbolic links."""
        directories = {
            "/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)
        }
        with self.worker.layers.new_tar(description="native twins") as layer:
            for path in sorted({*files, *links, *directories}, key=lambda path: path.split("/")):
                if path in files:
                    mode = 0o644 if path == LOG else 0o755
                    layer.add(Entry(path, Kind.FILE, mode, size=len(files[path])), files[path])
                elif path in links:
                    layer.add(Entry(path, Kind.SYMLINK, 0o777, linkname=links[path]))
                else:
                    layer.add(Entry(path, Kind.DIRECTORY, 0o755))
            return layer.commit().id

    def say(self, vertex: str, text: str) -> None:
        """A line in the step's log."""
        self.worker.emit(LogEvent(vertex, 2, f"accelerate: {text}\n".encode(), time.time()))


def _named(twins: Iterable[Twin], files: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    return tuple((twin.path, hashlib.sha256(files[twin.program]).hexdigest()) for twin in twins)


def _exists(tree: TreeView, path: str) -> bool:
    return tree.lookup(path) is not None
