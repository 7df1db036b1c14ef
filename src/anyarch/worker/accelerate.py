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
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import AnyarchError, BuildError, NotSupported, SandboxError, StoreError
from anyarch.llb.ops import ExecOp, FileOp, MergeOp, SourceOp
from anyarch.solver.events import LogEvent, WarningEvent
from anyarch.spec.codec import json_decoder
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anyarch.emulation.accelerate.archive import KeptFile
    from anyarch.emulation.accelerate.dispatcher import Twin
    from anyarch.emulation.accelerate.packages import Packages
    from anyarch.llb.ops import Op
    from anyarch.sandbox.plan import ExecRequest
    from anyarch.snapshot.view import TreeView
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["Acceleration", "Step"]

_VERSION = "twins/4"
_NAMESPACE = "twins"
_MOST_LOG = 64 << 20
_DISPATCHER, _LOG = "dispatcher", "log"


class _Set(msgspec.Struct, frozen=True):
    """A set of twins in the store: its layer, the twins in the dispatcher's order, and by package or path why
    some have none."""

    layer: str
    twins: tuple[tuple[str, str], ...] = ()  # path and digest of the native program
    emulated: tuple[tuple[str, str], ...] = ()


class _Archive(msgspec.Struct, frozen=True):
    """Packages that were fetched: the layers of the native ones and of the target's, none with why there is
    none."""

    layers: tuple[str, ...] = ()
    gcc: str = ""
    missing: str = ""


class Report(msgspec.Struct, frozen=True):
    """What became of one step: the layer with its twins, how many programs ran natively, and how many of
    those that have a twin did not, by path and reason."""

    twins: str
    native: int
    emulated: dict[str, dict[str, int]]


class Acceleration:
    """Of one build. `mode` is off, tools, cross or verify; safe for threads."""

    def __init__(self, worker: Worker, mode: str) -> None:
        self.worker = worker
        self.mode = mode
        self.reports: dict[str, Report] = {}
        self._bases: dict[str, SourceOp | None] = {}
        self._archives: dict[str, _Archive] = {}
        self._archive_locks: dict[str, asyncio.Lock] = {}
        self._siblings: dict[str, tuple[str, ...] | str] = {}
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

    async def _archive(self, vertex: str, sibling: tuple[str, ...], platform: Platform) -> _Archive:
        """Packages with compilers for a target, fetched when they are not in the store."""
        if self.mode == "tools":
            return _Archive()
        await self.worker.ensure_local(SnapshotResult(sibling))
        lock = self._archive_locks.setdefault(platform.architecture, asyncio.Lock())
        async with lock:
            return await asyncio.to_thread(self._find_archive, vertex, sibling, platform)

    def _find_archive(self, vertex: str, sibling: tuple[str, ...], platform: Platform) -> _Archive:
        from anyarch.emulation.accelerate.archive import codename_of
        from anyarch.emulation.accelerate.cross import GCC_VERSIONS
        from anyarch.emulation.accelerate.selection import TARGETS

        worker = self.worker
        tree = worker.view(SnapshotResult(sibling))
        codename = codename_of(tree)
        if codename not in GCC_VERSIONS or platform.architecture not in TARGETS:
            releases = ", ".join(GCC_VERSIONS)
            return _Archive(missing=f"cross compilers are known of Debian {releases}, not of this base")
        key = f"archive 1 {codename} {worker.platform.architecture} {platform.architecture}"
        known = self._archives.get(key)
        if known is not None:
            return known
        raw = worker.store.cache.get_value(_NAMESPACE, key)
        found = json_decoder(_Archive).decode(raw) if raw is not None else _Archive(missing="?")
        try:
            for layer in found.layers:
                worker.layer(layer)
        except StoreError:
            found = _Archive(missing="?")  # collected
        if found.missing:
            found = self._fetch_archive(tree, codename, platform)
            if not found.missing:
                worker.store.cache.set_value(_NAMESPACE, key, msgspec.json.encode(found))
        self._archives[key] = found
        return found

    def _fetch_archive(self, tree: TreeView, codename: str, platform: Platform) -> _Archive:
        from anyarch.emulation.accelerate.archive import archive_of, fetch
        from anyarch.emulation.accelerate.cross import GCC_VERSIONS, host_packages, target_packages
        from anyarch.emulation.accelerate.selection import TARGETS

        host = self.worker.platform.architecture
        target = platform.architecture
        sets = (host_packages(codename, host, target), target_packages(codename, target))
        work = self.worker.store.work_dir()
        try:
            files = fetch(
                work / "archive",
                archive_of(tree, codename),
                host=TARGETS[host].debian,
                packages=[name for needed, _ in sets for name in needed],
                optional=[name for _, optional in sets for name in optional],
            )
        except NotSupported as error:
            return _Archive(missing=f"no cross compilers could be fetched: {error.message}")
        finally:
            self.worker.layers.dispose(work)
        own, other = (self._keep_files(files.get(TARGETS[name].debian, [])) for name in (host, target))
        return _Archive((own, other), GCC_VERSIONS[codename])

    def _keep_files(self, files: Iterable[KeptFile]) -> str:
        from anyarch.emulation.accelerate.archive import KeptFile

        links = [KeptFile(name, 0o777, 0, link=f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")]
        by_path = {file.path: file for file in (*files, *links)}
        with self.worker.layers.new_tar(description="packages for native twins") as layer:
            for file in sorted(by_path.values(), key=lambda file: file.path.split("/")):
                time_ns = file.mtime * 1_000_000_000
                if file.link:
                    entry = Entry(file.path, Kind.SYMLINK, 0o777, mtime_ns=time_ns, linkname=file.link)
                    layer.add(entry, None)
                else:
                    size = len(file.data)
                    mode = file.mode & 0o7777
                    layer.add(Entry(file.path, Kind.FILE, mode, mtime_ns=time_ns, size=size), file.data)
            return layer.commit().id

    def _is_foreign(self, platform: Platform) -> bool:
        return platform.os == "linux" and self.worker.route(platform).kind != "native"

    async def _sibling(self, vertex: str) -> tuple[str, ...] | str:
        """The layers of the native sibling of the base, or why there is none. None of them is fetched."""
        from anyarch.worker.ops.source import make_source

        base = self._bases.get(vertex)
        if base is None:
            return "it does not begin with an image"
        found = self._siblings.get(base.identifier)
        if found is None:
            source = make_source(self.worker, base, self.worker.platform, vertex)
            try:
                (result,) = await source.run(())
                found = result.layers if isinstance(result, SnapshotResult) else ()
            except AnyarchError as error:
                found = f"its base image has no native sibling: {error.message}"
            self._siblings[base.identifier] = found
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
            return await asyncio.to_thread(self._step, vertex, platform, root, sibling, archive)
        except (NotSupported, SandboxError) as error:
            self.say(vertex, f"the step is emulated: {error.message}")
            return None

    def _step(
        self,
        vertex: str,
        platform: Platform,
        root: SnapshotResult,
        sibling: tuple[str, ...],
        archive: _Archive,
    ) -> Step:
        worker = self.worker
        emulator = worker.private_emulator(platform)
        target = self._packages_of(root.layers)
        if _exists(target.tree, "etc/ld.so.preload"):
            raise NotSupported("/etc/ld.so.preload names libraries for all programs")
        if not target.installed:
            raise NotSupported("no packages of dpkg are in its root")
        native = self._packages_of(sibling)
        key = self._key(target, native, platform, archive, emulator.digest(worker.host.memo))
        with self._lock:
            found = self._kept(key)
            if found is None:
                found = self._make(target, native, archive, platform, emulator.path)
                raw = msgspec.json.encode(found)
                worker.store.cache.set_value(_NAMESPACE, key, raw)
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
        self, target: Packages, native: Packages, platform: Platform, archive: _Archive, emulator: str
    ) -> str:
        """Of a set of twins: of all that it is made from."""
        from anyarch.emulation.accelerate.twins import state_of

        host, architecture = self.worker.platform.architecture, platform.architecture
        parts = [_VERSION, self.mode, host, architecture, emulator, *archive.layers]
        whole = hashlib.sha256(msgspec.json.encode(parts))
        whole.update(repr(sorted(native.installed.items())).encode())
        whole.update(state_of(target, native, architecture))
        if archive.layers:
            from anyarch.emulation.accelerate.cross import state_of_compilers

            other = self._packages_of(archive.layers[1:])
            whole.update(state_of_compilers(target, other, target=architecture, gcc=archive.gcc))
        return whole.hexdigest()

    def _kept(self, key: str) -> _Set | None:
        raw = self.worker.store.cache.get_value(_NAMESPACE, key)
        if raw is None:
            return None
        found = json_decoder(_Set).decode(raw)
        try:
            self.worker.layer(found.layer)
        except StoreError:
            return None  # collected
        return found

    def _make(
        self, target: Packages, native: Packages, archive: _Archive, platform: Platform, emulator: str
    ) -> _Set:
        from anyarch.emulation.accelerate.dispatcher import dispatcher
        from anyarch.emulation.accelerate.twins import choose_tools

        host = self.worker.platform.architecture
        chosen = choose_tools(target, native, "t", host=host, architecture=platform.architecture)
        if archive.layers:
            from anyarch.emulation.accelerate.cross import choose_compilers

            own, other = (self._packages_of((layer,)) for layer in archive.layers)
            architecture = platform.architecture
            further = choose_tools(other, own, "u", host=host, architecture=architecture, root=target)
            compilers = choose_compilers(
                [target, other], own, "x", host=host, target=architecture, gcc=archive.gcc
            )
            for each in (further, compilers):
                chosen.twins += each.twins
                chosen.files |= each.files
                chosen.emulated |= each.emulated
        with open(emulator, "rb") as file:
            files = {_DISPATCHER: dispatcher(file.read(), chosen.twins, host=host), _LOG: b""}
        layer = self._keep({**chosen.files, **files})
        return _Set(layer, _named(chosen.twins, chosen.files), tuple(sorted(chosen.emulated.items())))

    def _keep(self, files: Mapping[str, bytes]) -> str:
        """A layer of these files."""
        directories = {
            "/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)
        }
        with self.worker.layers.new_tar(description="native twins") as layer:
            for path in sorted({*files, *directories}, key=lambda path: path.split("/")):
                if path in files:
                    mode = 0o644 if path == _LOG else 0o755
                    layer.add(Entry(path, Kind.FILE, mode, size=len(files[path])), files[path])
                else:
                    layer.add(Entry(path, Kind.DIRECTORY, 0o755))
            return layer.commit().id

    def say(self, vertex: str, text: str) -> None:
        """A line in the step's log."""
        self.worker.emit(LogEvent(vertex, 2, f"accelerate: {text}\n".encode(), time.time()))

    def host_files(self, layer: str) -> list[str]:
        """Programs and libraries of this machine's architecture among the files of a layer."""
        from anyarch.elf.header import machine_name

        worker = self.worker
        host = worker.platform.architecture
        index = worker.layers.index(worker.layer(layer))
        found = []
        for entry in index.below(""):
            if entry.kind is Kind.FILE and entry.size > 64:
                with worker.layers.open_file(worker.layer(layer), entry) as file:
                    if machine_name(file.read(64)) == host:
                        found.append(entry.path)
        return found


class Step:
    """The twins of one step. First `request`, after the step `finish`."""

    def __init__(
        self, acceleration: Acceleration, vertex: str, directory: str, found: _Set, registration: object
    ) -> None:
        self._acceleration = acceleration
        self._vertex = vertex
        self._directory = directory
        self._set = found
        self._registration = registration
        self._log: Path | None = None

    def request(self, request: ExecRequest, work: Path) -> ExecRequest:
        """The same step, with its twins. `work` is a directory that lives as long as the step."""
        from anyarch.sandbox.plan import Hidden, Registration

        assert isinstance(self._registration, Registration)
        self._log = work / "accelerate.log"
        self._log.touch()
        self._log.chmod(0o666)  # for every user that the step has
        entry = msgspec.structs.replace(self._registration, interpreter=f"{self._directory}/{_DISPATCHER}")
        return msgspec.structs.replace(
            request, emulators=(entry,), hidden=Hidden(self._directory, str(self._log))
        )

    def finish(self) -> None:
        """Tell what ran natively, and what did not and why."""
        from anyarch.emulation.accelerate.dispatcher import RAN, read_log

        assert self._log is not None
        with open(self._log, "rb") as file:
            counts = read_log(file.read(_MOST_LOG), len(self._set.twins))
        native = sum(verdicts.get(RAN, 0) for verdicts in counts.values())
        emulated: dict[str, dict[str, int]] = {}
        for number, verdicts in sorted(counts.items()):
            reasons = {_REASONS[verdict]: times for verdict, times in verdicts.items() if verdict != RAN}
            native -= verdicts.get(_GONE, 0)  # it was counted before it was looked for
            if reasons:
                emulated[self._set.twins[number][0]] = reasons
        self._acceleration.reports[self._vertex] = Report(self._set.layer, native, emulated)
        self._acceleration.say(
            self._vertex,
            f"runs of native programs: {native}; programs with a native twin: {len(self._set.twins)}",
        )
        for path, reasons in emulated.items():
            told = ", ".join(f"{times} times because {reason}" for reason, times in sorted(reasons.items()))
            self._acceleration.say(self._vertex, f"{path} was emulated {told}")

    def say(self, text: str) -> None:
        """A line in the step's log."""
        self._acceleration.say(self._vertex, text)

    def compare(self, plain: Sequence[Result], fast: Sequence[Result]) -> None:
        """Tell every difference between the step's outputs without and with twins."""
        from anyarch.worker.verify import differences

        worker = self._acceleration.worker
        found = differences(worker, plain, fast)
        for one in found:
            self.say(f"DIFFERENT: /{one.path}: {one.what} ({one.cause})")
        if found:
            text = f"{len(found)} paths differ between the emulated and the accelerated step: see its log"
            worker.emit(WarningEvent(self._vertex, text))
        else:
            self.say("verified: the files are the same with and without native twins")

    def check(self, outputs: Iterable[Result]) -> None:
        """Nothing native may have come into the step's results. Raises `BuildError` when a twin has."""
        for output in outputs:
            if isinstance(output, SnapshotResult) and output.layers:
                self._check(output.layers[-1])

    def _check(self, layer: str) -> None:
        paths = self._acceleration.host_files(layer)
        if not paths:
            return
        worker = self._acceleration.worker
        own = {digest for _, digest in self._set.twins}
        index = worker.layers.index(worker.layer(layer))
        entries = [entry for path in paths if (entry := index.get(path)) is not None]
        digests = worker.layers.file_digests(worker.layer(layer), entries)
        leaked = sorted(path for path, digest in digests.items() if digest.hex() in own)
        if leaked:
            raise BuildError(
                f"/{leaked[0]} in the result of an accelerated step is a native twin",
                hint="a step copied files from /../dev/mqueue; build it with --accelerate=off",
            )
        shown = ", ".join(f"/{path}" for path in paths[:5])
        self._acceleration.say(
            self._vertex, f"{len(paths)} files of the result are for {worker.platform}: {shown}"
        )


_GONE = 5
_REASONS = {
    2: "the file is not the package's any more, or another version",
    3: "a variable such as LD_PRELOAD, LD_LIBRARY_PATH or a locale was set",
    4: "an argument asks for what only the emulated one knows",
    5: "it ran in another root directory",
}


def _named(twins: Iterable[Twin], files: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    return tuple((twin.path, hashlib.sha256(files[twin.program]).hexdigest()) for twin in twins)


def _exists(tree: TreeView, path: str) -> bool:
    return tree.lookup(path) is not None
