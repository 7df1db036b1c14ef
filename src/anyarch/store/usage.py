"""What the store holds and how much of the disk it takes: the records of `anyarch du`, which a collection
takes away."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from anyarch.store.metadata import Metadata
    from anyarch.store.store import Store

__all__ = ["Record", "records_of", "tree_size"]


class Record(msgspec.Struct, frozen=True):
    """One thing that can be kept or removed by itself.

    `id` is a layer's id, a blob's digest, or `cache-mounts/<name>`, `transfers/<name>`, `stat/<name>`,
    `git/<name>`. `kind` is what `--filter type=` names: regular (a layer with the blobs made of it),
    internal (documents, downloads), source.local, source.git.checkout, exec.cachemount. `size` in bytes,
    times in seconds since the epoch. `shared`: part of an image that was given a name. `in_use`: a living
    process holds it. `mutable`: its content may change. `blobs` are the digests that go with a layer.
    `depth` is how many layers a layer was seen to lie on, `uses` in how many builds and other commands it was
    used.
    """

    id: str
    kind: str
    size: int
    created_at: float
    last_used: float
    description: str = ""
    parents: tuple[str, ...] = ()
    shared: bool = False
    in_use: bool = False
    mutable: bool = False
    blobs: tuple[str, ...] = ()
    depth: int = 0
    uses: int = 1

    @property
    def reclaimable(self) -> bool:
        return not self.in_use


def tree_size(path: str) -> int:
    """Bytes on disk of a directory tree, each file once; what cannot be read counts nothing."""
    total = 0
    seen: set[tuple[int, int]] = set()
    places = [path]
    while places:
        try:
            with os.scandir(places.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        places.append(entry.path)
        except OSError:
            continue  # gone meanwhile, or closed to this user
    return total


def records_of(store: Store, in_use: Container[str] = frozenset()) -> list[Record]:
    """Everything in the store, unordered. `in_use` tells by `in` which layers and blobs are held."""
    blobs = _blobs(store)
    named = _named_blobs(store, blobs)
    records = list(_layers(store, blobs, named, in_use))
    taken = {digest for record in records for digest in record.blobs}
    used = {
        digest: (created, last, uses)
        for digest, created, last, uses in store.meta.query(
            "SELECT digest, created_at, last_used, uses FROM blobs"
        )
    }
    for digest, (size, changed_at) in blobs.items():
        if digest not in taken:
            created_at, last_used, uses = used.get(digest, (changed_at, changed_at, 1))
            records.append(
                Record(
                    digest,
                    "internal",
                    size,
                    created_at,
                    last_used,
                    "document or download",
                    shared=digest in named,
                    in_use=digest in in_use,
                    uses=uses,
                )
            )
    records += _directories(store, "cache-mounts", "exec.cachemount")
    records += _directories(store, "git", "source.git.checkout")
    records += _directories(store, "transfers", "source.local")
    records += _files(store, "stat", "source.local", "digests of a build context's files")
    return records


def _blobs(store: Store) -> dict[str, tuple[int, float]]:
    """Size and time of all blobs that are here, not marking them as used."""
    found = {}
    for algorithm in _scan(f"{store.root}/blobs"):
        for entry in _scan(algorithm.path):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            found[f"{algorithm.name}:{entry.name}"] = (stat.st_size, stat.st_mtime)
    return found


def _scan(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return


def _named_blobs(store: Store, blobs: dict[str, tuple[int, float]]) -> set[str]:
    """All blobs that images with a name lead to."""
    found: set[str] = set()
    roots = store.meta.query("SELECT value FROM memo WHERE namespace = 'image'")
    left = [json.loads(bytes(raw)).get("digest", "") for (raw,) in roots]
    while left:
        digest = left.pop()
        if digest in found:
            continue
        found.add(digest)
        if digest not in blobs:
            continue
        try:
            with open(f"{store.root}/blobs/{digest.replace(':', '/')}", "rb") as file:
                document = json.loads(file.read())
        except (OSError, ValueError):
            continue  # damaged or gone: `store check` tells
        left += [item["digest"] for item in document.get("manifests") or ()]
        if "config" in document:
            found.add(document["config"]["digest"])
            found.update(item["digest"] for item in document.get("layers") or ())
    return found


def _layers(
    store: Store, blobs: dict[str, tuple[int, float]], named: set[str], held: Container[str]
) -> Iterator[Record]:
    meta = store.meta
    forms: dict[str, dict[str, int]] = {}
    for layer, form, size in meta.query("SELECT layer, form, size FROM layer_forms"):
        forms.setdefault(layer, {})[form] = size
    of_layer: dict[str, list[str]] = {}
    for layer, digest in meta.query("SELECT DISTINCT layer, digest FROM layer_blobs ORDER BY layer, digest"):
        of_layer.setdefault(layer, []).append(digest)
    parents, depths = _chains(meta)
    for layer, diff_id, description, created_at, last_used, uses in meta.query(
        "SELECT id, diff_id, description, created_at, last_used, uses FROM layers"
    ):
        known = of_layer.get(layer, ())
        local = tuple(digest for digest in known if digest in blobs)
        made = forms.get(layer, {})
        size = sum(made.values()) + sum(blobs[d][0] for d in local if not ("tar" in made and d == diff_id))
        yield Record(
            layer,
            "regular",
            size,
            created_at,
            last_used,
            description or ("layer of an image" if known and not made else ""),
            parents=tuple(sorted(parents.get(layer, ()))),
            shared=any(digest in named for digest in known),
            in_use=layer in held or any(digest in held for digest in local),
            blobs=local,
            depth=depths.get(layer, 0),
            uses=uses,
        )


def _chains(meta: Metadata) -> tuple[dict[str, set[str]], dict[str, int]]:
    """What each layer was seen to lie on, and how deep the chain below it was."""
    parents: dict[str, set[str]] = {}
    depths: dict[str, int] = {}
    chains: dict[int, tuple[str, int]] = {0: ("", -1)}
    # In the order of their making: what a chain lies on comes before it.
    for number, below, layer in meta.query("SELECT id, below, layer FROM chains ORDER BY id"):
        parent, depth = chains.get(below, chains[0])
        chains[number] = (layer, depth + 1)
        depths[layer] = max(depths.get(layer, 0), depth + 1)
        if parent:
            parents.setdefault(layer, set()).add(parent)
    return parents, depths


def _directories(store: Store, place: str, kind: str) -> Iterator[Record]:
    """Directories that are locked (by `<name>.lock` beside them) while they are used."""
    for entry in _scan(f"{store.root}/{place}"):
        made = _stat(entry)
        if made is None or not stat.S_ISDIR(made.st_mode):
            continue
        used, description, is_locked = made.st_mtime, "", False
        try:
            fd = os.open(f"{entry.path}.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            fd = -1
        if fd >= 0:
            try:
                used = os.fstat(fd).st_mtime
                description = os.read(fd, 4096).decode("utf-8", "replace")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                is_locked = True
            finally:
                os.close(fd)
        yield Record(
            f"{place}/{entry.name}",
            kind,
            tree_size(entry.path),
            made.st_ctime,
            used,
            description,
            in_use=is_locked,
            mutable=True,
        )


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None when it was removed since the directory was listed."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _files(store: Store, place: str, kind: str, description: str) -> Iterator[Record]:
    for entry in _scan(f"{store.root}/{place}"):
        found = _stat(entry)
        if found is None:
            continue
        yield Record(
            f"{place}/{entry.name}",
            kind,
            found.st_size,
            found.st_mtime,
            found.st_mtime,
            description,
            mutable=True,
        )
