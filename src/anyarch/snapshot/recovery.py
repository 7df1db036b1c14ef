"""Clearing up before the first look at layers: what belongs to other ids, and what a machine crash cut
short."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.errors import StoreError
from anyarch.snapshot.index import decode_index
from anyarch.store.tree import move_tree

if TYPE_CHECKING:
    from anyarch.snapshot.dirops import DirOps
    from anyarch.store.store import Store

__all__ = ["recover"]

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_UNSYNCED_S = (
    600.0  # the kernel writes dirty pages back after about 30 s; ten minutes is far on the safe side
)


def recover(store: Store, dirops: DirOps) -> None:
    """Remove leftovers that `Store.open` could not; after a reboot look at the forms that were made last
    before it."""
    for path in store.leftovers[:]:
        try:
            dirops.remove(path)
            store.leftovers.remove(path)
        except StoreError:
            continue  # the next open tries again; it is in nobody's way
    boot = _boot_id()
    if boot and store.cache.get_value("store", "boot") != boot:
        _check_forms(store, dirops)
        store.cache.set_value("store", "boot", boot)


def _boot_id() -> bytes:
    try:
        with open(_BOOT_ID, "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


def _check_forms(store: Store, dirops: DirOps) -> None:
    suspects = set()
    for layer, form, size in store.records.made_since(_UNSYNCED_S):
        path = f"{store.layer_path(layer)}/{form}"
        try:
            whole = _directory_is_whole(path) if form.startswith("dir") else os.lstat(path).st_size == size
        except (OSError, StoreError):
            whole = False
        if not whole:
            store.records.drop_form(layer, form)
            suspects.add(layer)
    for layer in sorted(suspects):
        row = store.records.find(layer)
        if row is None:
            continue
        has_blob = any(
            not b.compression
            or (not b.compression.startswith("estargz:") and store.content.has(b.descriptor.digest))
            for b in store.records.blobs(layer)
        )
        # A directory without its index is of no use: the index is the truth about owners and modes.
        if has_blob or "tar" in row.forms or ("index" in row.forms and len(row.forms) > 1):
            continue
        trash = f"{store.work_dir()}/gone"
        path = store.layer_path(layer)
        store.records.drop(layer, take_away=partial(_move, path, trash))
        dirops.remove(os.path.dirname(trash))


def _move(path: str, trash: str) -> None:
    if os.path.lexists(path):
        move_tree(path, trash)


def _directory_is_whole(path: str) -> bool:
    """Whether each file has the size that the index says."""
    with open(f"{os.path.dirname(path)}/index", "rb") as file:
        index = decode_index(file.read())
    for entry in index:
        if entry.kind is Kind.FILE:
            try:
                found = os.lstat(f"{path}/{entry.path}")
            except PermissionError:
                continue  # files of other ids, in a directory that this user may not search
            if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
                return False
    return True
