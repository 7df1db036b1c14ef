"""The packages that compilers' twins are made of, as layers of the store: fetched once for a release and a
pair of architectures, collected like other layers, fetched again when they are missed.

They come from the archive of the base image's distribution, or from where a build says: a directory or an
image with files `NAME_VERSION_ARCH.deb`, anywhere below.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import AnyarchError, NotSupported, StoreError
from anyarch.llb.ops import SourceOp
from anyarch.spec.codec import json_decoder
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import BinaryIO

    from anyarch.emulation.accelerate.archive import Release
    from anyarch.emulation.accelerate.deb import KeptFile
    from anyarch.spec.platform import Platform
    from anyarch.worker.worker import Worker

    _Files = dict[str, Callable[[], BinaryIO]]

__all__ = ["TWINS", "CompilerPackages", "Compilers"]

TWINS = "twins"
"""The part of the cache table where acceleration keeps what it knows."""

_IMAGE = "docker-image://"


class CompilerPackages(msgspec.Struct, frozen=True):
    """Packages that were fetched: the layers of the native ones and of the target's, none with why there is
    none."""

    layers: tuple[str, ...] = ()
    gcc: str = ""
    missing: str = ""


class Compilers:
    """Of one build; safe for threads. `source` is a directory or `docker-image://NAME`, empty for the archive
    of the distribution."""

    def __init__(self, worker: Worker, source: str = "") -> None:
        self._worker = worker
        self._source = source
        self._known: dict[str, CompilerPackages] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def packages(
        self, sibling: tuple[str, ...], platform: Platform, base: Callable[[], Awaitable[tuple[str, ...]]]
    ) -> CompilerPackages:
        """Those for a target and the release of a native base image, fetched when they are not in the store.
        `base` gives the target's base image where it is needed for that."""
        await self._worker.ensure_local(SnapshotResult(sibling))
        lock = self._locks.setdefault(platform.architecture, asyncio.Lock())
        async with lock:
            return await self._packages(sibling, platform, base)

    async def _packages(
        self, sibling: tuple[str, ...], platform: Platform, base: Callable[[], Awaitable[tuple[str, ...]]]
    ) -> CompilerPackages:
        from anyarch.emulation.accelerate.archive import release_of
        from anyarch.emulation.accelerate.selection import TARGETS

        worker = self._worker
        release = release_of(worker.view(SnapshotResult(sibling)))
        if release.distribution not in ("debian", "ubuntu") or not release.codename:
            return CompilerPackages(
                missing="cross compilers are known of Debian and Ubuntu, not of this base"
            )
        if platform.architecture not in TARGETS:
            return CompilerPackages(missing=f"no cross compilers are known for {platform}")
        try:
            place, name = await self._place()
        except AnyarchError as error:
            return CompilerPackages(missing=f"no cross compilers could be fetched: {error.message}")
        key = f"archive 2 {release} {worker.platform.architecture} {platform.architecture} {name}"
        found = self._known.get(key) or await asyncio.to_thread(self._kept, key)
        if found is None:
            await worker.ensure_local(SnapshotResult(place))
            trees = {worker.platform.architecture: sibling}
            if not self._source:
                trees[platform.architecture] = await base()
                await worker.ensure_local(SnapshotResult(trees[platform.architecture]))
            found = await asyncio.to_thread(self._fetch, key, trees, release, platform, place)
        self._known[key] = found
        return found

    async def equal(self, sibling: tuple[str, ...], wanted: Mapping[str, str], kept: str) -> str:
        """The layer with this machine's packages in given versions (`wanted`, by name), or of one source,
        of which the files that match `kept` are needed. Raises `NotSupported` when they are not to be had."""
        from anyarch.emulation.accelerate.archive import release_of

        worker = self._worker
        try:
            place, name = await self._place()
        except AnyarchError as error:
            raise NotSupported(error.message) from None
        release = release_of(worker.view(SnapshotResult(sibling)))
        words = [f"{package}={version}" for package, version in sorted(wanted.items())]
        key = " ".join(["equal 1", str(release), worker.platform.architecture, kept, *words, name])
        async with self._locks.setdefault("", asyncio.Lock()):
            found = self._known.get(key) or await asyncio.to_thread(self._kept, key)
            if found is None:
                await worker.ensure_local(SnapshotResult(place))
                found = await asyncio.to_thread(self._fetch_equal, key, sibling, release, place, wanted, kept)
            self._known[key] = found
        if found.missing:
            raise NotSupported(found.missing)
        return found.layers[0]

    def _fetch_equal(
        self,
        key: str,
        sibling: tuple[str, ...],
        release: Release,
        place: tuple[str, ...],
        wanted: Mapping[str, str],
        kept: str,
    ) -> CompilerPackages:
        from anyarch.emulation.accelerate.selection import TARGETS

        host = TARGETS[self._worker.platform.architecture].debian
        try:
            if self._source:
                files = self._equal_from_source(place, host, wanted, kept)
            else:
                files = self._equal_from_archive(sibling, release, host, wanted, kept)
        except NotSupported as error:
            return CompilerPackages(missing=error.message)
        layer = self._keep_files([file for name in (host, "all") for file in files.get(name, [])])
        found = CompilerPackages((layer,))
        self._worker.store.cache.set_value(TWINS, key, msgspec.json.encode(found))
        return found

    def _equal_from_archive(
        self, sibling: tuple[str, ...], release: Release, host: str, wanted: Mapping[str, str], kept: str
    ) -> dict[str, list[KeptFile]]:
        from anyarch.emulation.accelerate import archive

        worker = self._worker
        if release.distribution not in ("debian", "ubuntu"):
            raise NotSupported("the packages are neither Debian's nor Ubuntu's")
        work = worker.store.work_dir()
        try:
            known = archive.archive_of({host: worker.view(SnapshotResult(sibling))}, release)
            return archive.fetch_equal(work / "archive", known, host=host, wanted=wanted, kept=kept)
        finally:
            worker.layers.dispose(work)

    def _equal_from_source(
        self, place: tuple[str, ...], host: str, wanted: Mapping[str, str], kept: str
    ) -> dict[str, list[KeptFile]]:
        from anyarch.emulation.accelerate.deb import equal_files, kept_files

        paths = self._packages_of_image(place) if place else _packages_below(self._source)
        try:
            chosen = equal_files(paths, wanted, host)
            with ExitStack() as stack:
                return kept_files(((path, stack.enter_context(paths[path]())) for path in chosen), kept=kept)
        except NotSupported as error:
            raise NotSupported(f"{self._source}: {error.message}") from None

    async def _place(self) -> tuple[tuple[str, ...], str]:
        """The layers of the image that packages come from, and a name for the state of the source."""
        if not self._source:
            return (), "the archive"
        if not self._source.startswith(_IMAGE):
            return (), await asyncio.to_thread(_state, self._source)
        from anyarch.spec.reference import Reference
        from anyarch.worker.ops.source import make_source

        worker = self._worker
        name = str(Reference.parse(self._source.removeprefix(_IMAGE)))
        source = make_source(worker, SourceOp(f"{_IMAGE}{name}"), worker.platform, "")
        (result,) = await source.run(())
        layers = result.layers if isinstance(result, SnapshotResult) else ()
        return layers, " ".join(layers)

    def _kept(self, key: str) -> CompilerPackages | None:
        raw = self._worker.store.cache.get_value(TWINS, key)
        if raw is None:
            return None
        found = json_decoder(CompilerPackages).decode(raw)
        try:
            for layer in found.layers:
                self._worker.layer(layer)
        except StoreError:
            return None  # collected
        return found

    def _fetch(
        self,
        key: str,
        trees: dict[str, tuple[str, ...]],
        release: Release,
        platform: Platform,
        place: tuple[str, ...],
    ) -> CompilerPackages:
        from anyarch.emulation.accelerate.deb import kept_files
        from anyarch.emulation.accelerate.selection import TARGETS

        host, target = self._worker.platform.architecture, platform.architecture
        try:
            with ExitStack() as stack:
                if self._source:
                    gcc, files = self._from_source(place, host, target)
                else:
                    gcc, files = self._from_archive(stack, trees, release, target)
                opened = ((path, stack.enter_context(open_file())) for path, open_file in files.items())
                kept = kept_files(opened)
        except NotSupported as error:
            where = f"{self._source}: " if self._source else ""
            return CompilerPackages(missing=f"no cross compilers could be fetched: {where}{error.message}")
        own, other = (self._keep_files(kept.get(TARGETS[name].debian, [])) for name in (host, target))
        found = CompilerPackages((own, other), gcc)
        self._worker.store.cache.set_value(TWINS, key, msgspec.json.encode(found))
        return found

    def _from_archive(
        self, stack: ExitStack, trees: dict[str, tuple[str, ...]], release: Release, target: str
    ) -> tuple[str, _Files]:
        from anyarch.emulation.accelerate.archive import PrivateApt, archive_of
        from anyarch.emulation.accelerate.cross import default_compiler
        from anyarch.emulation.accelerate.selection import TARGETS

        worker = self._worker
        host = worker.platform.architecture
        views = {TARGETS[name].debian: worker.view(SnapshotResult(layers)) for name, layers in trees.items()}
        work = worker.store.work_dir()
        stack.callback(worker.layers.dispose, work)
        archive = archive_of(views, release)
        apt = PrivateApt(work / "archive", archive, host=TARGETS[host].debian, architectures=views)
        gcc = default_compiler(apt.depends(f"gcc:{TARGETS[host].debian}"))
        return gcc, _by_path(apt.download(*_wanted(gcc, host, target)))

    def _from_source(self, place: tuple[str, ...], host: str, target: str) -> tuple[str, _Files]:
        from anyarch.emulation.accelerate.cross import default_compiler
        from anyarch.emulation.accelerate.deb import wanted_files

        files = self._packages_of_image(place) if place else _packages_below(self._source)
        gcc = default_compiler((os.path.basename(path).partition("_")[0] for path in files), target)
        return gcc, {path: files[path] for path in wanted_files(files, *_wanted(gcc, host, target))}

    def _packages_of_image(self, layers: tuple[str, ...]) -> _Files:
        tree = self._worker.view(SnapshotResult(layers))
        return {
            node.entry.path: partial(tree.open, node)
            for node in tree.walk("")
            if node.entry.kind in (Kind.FILE, Kind.HARDLINK) and node.entry.path.endswith(".deb")
        }

    def _keep_files(self, files: Iterable[KeptFile]) -> str:
        from anyarch.emulation.accelerate.deb import KeptFile

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


def _wanted(gcc: str, host: str, target: str) -> tuple[list[str], list[str]]:
    """Packages that have to be there, and others."""
    from anyarch.emulation.accelerate.cross import host_packages, target_packages

    sets = (host_packages(gcc, host, target), target_packages(gcc, target))
    return [name for needed, _ in sets for name in needed], [name for _, more in sets for name in more]


def _packages_below(directory: str) -> _Files:
    if not os.path.isdir(directory):
        raise NotSupported(f"{directory} is not a directory")
    return _by_path(sorted(path for path in Path(directory).rglob("*.deb") if path.is_file()))


def _by_path(paths: Iterable[Path]) -> _Files:
    return {str(path): partial(_opened, path) for path in paths}


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _state(directory: str) -> str:
    """Of the packages in a directory: another when one is added, removed or replaced."""
    found = hashlib.sha256()
    for path in _packages_below(directory):
        status = os.stat(path)
        found.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return found.hexdigest()
