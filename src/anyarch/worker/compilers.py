"""The packages that compilers' twins are made of, as layers of the store: fetched once for a release and a
pair of architectures, collected like other layers, fetched again when they are missed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import NotSupported, StoreError
from anyarch.spec.codec import json_decoder
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.emulation.accelerate.archive import KeptFile
    from anyarch.snapshot.view import TreeView
    from anyarch.spec.platform import Platform
    from anyarch.worker.worker import Worker

__all__ = ["TWINS", "CompilerPackages", "Compilers"]

TWINS = "twins"
"""The part of the cache table where acceleration keeps what it knows."""


class CompilerPackages(msgspec.Struct, frozen=True):
    """Packages that were fetched: the layers of the native ones and of the target's, none with why there is
    none."""

    layers: tuple[str, ...] = ()
    gcc: str = ""
    missing: str = ""


class Compilers:
    """Of one build; safe for threads."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._known: dict[str, CompilerPackages] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def packages(self, sibling: tuple[str, ...], platform: Platform) -> CompilerPackages:
        """Those for a target and the release of a native base image, fetched when the store has none."""
        await self._worker.ensure_local(SnapshotResult(sibling))
        lock = self._locks.setdefault(platform.architecture, asyncio.Lock())
        async with lock:
            return await asyncio.to_thread(self._find, sibling, platform)

    def _find(self, sibling: tuple[str, ...], platform: Platform) -> CompilerPackages:
        from anyarch.emulation.accelerate.archive import codename_of
        from anyarch.emulation.accelerate.cross import GCC_VERSIONS
        from anyarch.emulation.accelerate.selection import TARGETS

        worker = self._worker
        tree = worker.view(SnapshotResult(sibling))
        codename = codename_of(tree)
        if codename not in GCC_VERSIONS or platform.architecture not in TARGETS:
            releases = ", ".join(GCC_VERSIONS)
            return CompilerPackages(
                missing=f"cross compilers are known of Debian {releases}, not of this base"
            )
        key = f"archive 1 {codename} {worker.platform.architecture} {platform.architecture}"
        known = self._known.get(key)
        if known is not None:
            return known
        raw = worker.store.cache.get_value(TWINS, key)
        found = (
            json_decoder(CompilerPackages).decode(raw) if raw is not None else CompilerPackages(missing="?")
        )
        try:
            for layer in found.layers:
                worker.layer(layer)
        except StoreError:
            found = CompilerPackages(missing="?")  # collected
        if found.missing:
            found = self._fetch(tree, codename, platform)
            if not found.missing:
                worker.store.cache.set_value(TWINS, key, msgspec.json.encode(found))
        self._known[key] = found
        return found

    def _fetch(self, tree: TreeView, codename: str, platform: Platform) -> CompilerPackages:
        from anyarch.emulation.accelerate.archive import archive_of, fetch
        from anyarch.emulation.accelerate.cross import GCC_VERSIONS, host_packages, target_packages
        from anyarch.emulation.accelerate.selection import TARGETS

        host = self._worker.platform.architecture
        target = platform.architecture
        sets = (host_packages(codename, host, target), target_packages(codename, target))
        work = self._worker.store.work_dir()
        try:
            files = fetch(
                work / "archive",
                archive_of(tree, codename),
                host=TARGETS[host].debian,
                packages=[name for needed, _ in sets for name in needed],
                optional=[name for _, optional in sets for name in optional],
            )
        except NotSupported as error:
            return CompilerPackages(missing=f"no cross compilers could be fetched: {error.message}")
        finally:
            self._worker.layers.dispose(work)
        own, other = (self._keep_files(files.get(TARGETS[name].debian, [])) for name in (host, target))
        return CompilerPackages((own, other), GCC_VERSIONS[codename])

    def _keep_files(self, files: Iterable[KeptFile]) -> str:
        from anyarch.emulation.accelerate.archive import KeptFile

        links = [KeptFile(name, 0o777, 0, link=f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")]
        by_path = {file.path: file for file in (*files, *links)}
        with self._worker.layers.new_tar(description="packages for native twins") as layer:
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
