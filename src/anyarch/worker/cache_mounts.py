"""Directories of `RUN --mount=type=cache`: they outlive builds, belong to no image and are known by their id
alone.

Sharing holds across processes, by flock: `shared` takes a read lock (so that a clean-up can tell what is in
use), `locked` waits for the only write lock, `private` takes the first of numbered directories that nobody
has. One that begins with files of a stage (`from=`, or an owner and mode of its own) is known by those too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from anyarch.archive.entry import Kind
from anyarch.archive.tar import TarWriter
from anyarch.errors import PathNotFound
from anyarch.llb.ops import CacheSharing
from anyarch.store.tree import move_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from anyarch.llb.ops import CacheOpt
    from anyarch.store.store import Store
    from anyarch.worker.result import SnapshotResult
    from anyarch.worker.worker import Worker

__all__ = ["Seed", "TreeSeed", "cache_mount", "drop_cache_mounts"]


class Seed(Protocol):
    """What a cache begins with."""

    @property
    def key(self) -> str:
        """Equal for equal beginnings."""
        ...

    def fill(self, directory: str) -> None:
        """Make `directory`, which is not there yet."""
        ...


class TreeSeed:
    """Implements `Seed` by what is at `path` in a result; it stands at the same path in the directory."""

    def __init__(self, worker: Worker, result: SnapshotResult, path: str) -> None:
        self._worker = worker
        self._result = result
        self._path = path

    @property
    def key(self) -> str:
        return f"{':'.join(self._result.layers)}/{self._path}"

    def fill(self, directory: str) -> None:
        layers = self._worker.layers
        tree = self._worker.view(self._result)
        path = tree.resolve(self._path)
        if tree.lookup(path) is None:
            raise PathNotFound(f'failed to mount cache: "/{self._path}": not found')
        links: dict[tuple[int, str], str] = {}
        with self._worker.step_directory() as work:
            tar = work / "seed.tar"
            with tar.open("wb") as sink:
                writer = TarWriter(sink.write)
                for node in tree.walk(path):
                    # Where the path leads through links, what is found there stands at the path itself.
                    inside = node.entry.path[len(path) :].strip("/")
                    place = "/".join(part for part in (self._path, inside) if part)
                    if not place:
                        continue
                    file = tree.target(node)
                    entry = replace(file.entry, path=place, digest=b"", offset=-1, opaque=False)
                    known = links.setdefault((file.position, file.entry.path), place)
                    if entry.kind is Kind.FILE and known != place:
                        link = replace(entry, kind=Kind.HARDLINK, linkname=known, size=0)
                        writer.add(link, None)
                    elif entry.kind is Kind.FILE:
                        with tree.open(node) as stream:
                            writer.add(entry, stream)
                    else:
                        writer.add(entry, None)
                writer.close()
            overlay = layers.dirops.overlay
            made = f"{work}/seed"
            layers.dirops.unpack(str(tar), made, overlay=overlay, parents=(), expected=None)
            move_tree(made, directory)


@contextmanager
def cache_mount(root: Path, options: CacheOpt, seed: Seed | None = None) -> Iterator[str]:
    """The directory for `options`, held until the context is left. May wait (`locked`)."""
    key = options.id if seed is None else f"{options.id}\0{seed.key}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    base = root / "cache-mounts"
    base.mkdir(exist_ok=True)
    number = 0
    while True:
        directory = base / (name if number == 0 else f"{name}-{number}")
        lock = os.open(f"{directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            match options.sharing:
                case CacheSharing.SHARED:
                    fcntl.flock(lock, fcntl.LOCK_SH)
                case CacheSharing.LOCKED:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                case CacheSharing.PRIVATE:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        number += 1
                        continue
            if seed is None:
                directory.mkdir(mode=0o755, exist_ok=True)
            elif not directory.exists():
                _fill(directory, lock, seed, options.sharing)
            # What `du` shows, and when it was last used.
            os.ftruncate(lock, 0)
            os.pwrite(lock, options.id.encode("utf-8", "surrogateescape"), 0)
            yield str(directory)
            return
        finally:
            os.close(lock)


def drop_cache_mounts(store: Store, ids: Collection[str]) -> list[Path]:
    """Let the caches of `ids` begin anew, but for directories that a step has: work directories to be
    removed, with what was in them."""
    dropped = []
    for lock_file in (store.root / "cache-mounts").glob("*.lock"):
        with lock_file.open("rb") as lock:
            if os.read(lock.fileno(), 4096).decode("utf-8", "surrogateescape") not in ids:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                work = store.work_dir()
                move_tree(lock_file.with_suffix(""), f"{work}/gone")
            except (BlockingIOError, FileNotFoundError):
                continue
            dropped.append(work)
    return dropped


def _fill(directory: Path, lock: int, seed: Seed, sharing: CacheSharing) -> None:
    """Make the directory; of several who share it, one does, and the others wait for it."""
    if sharing is CacheSharing.SHARED:
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not directory.exists():
        seed.fill(str(directory))
    if sharing is CacheSharing.SHARED:
        fcntl.flock(lock, fcntl.LOCK_SH)
