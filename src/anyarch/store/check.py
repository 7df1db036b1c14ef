"""Checking a whole store: does what the database names exist, and has every blob its digest?"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from anyarch.store.store import Store

__all__ = ["verify"]


def verify(store: Store) -> list[str]:
    """One line for each thing that is wrong; reads every blob and every layer's tar."""
    problems = [f"database: {row[0]}" for row in store.meta.query("PRAGMA quick_check") if row[0] != "ok"]
    for layer in store.records.ids():
        problems += _check_layer(store, layer)
    problems += [
        f"database: chain {chain} of layers lies on chain {below}, which is not there"
        for chain, below in store.meta.query(
            "SELECT id, below FROM chains WHERE below != 0 AND below NOT IN (SELECT id FROM chains)"
        )
    ]
    problems += [
        f"database: result {canonical} is chain {chain} of layers, which is not there"
        for canonical, chain in store.meta.query(
            """SELECT canonical, chain FROM cache_results
               WHERE chain > 0 AND chain NOT IN (SELECT id FROM chains)"""
        )
    ]
    for digest in store.content:
        try:
            actual = _sha(str(store.content.path(digest)), digest.algorithm)
        except OSError as error:
            problems.append(f"blob {digest}: {error.strerror}")
            continue
        if actual != digest.hex:
            problems.append(f"blob {digest}: its bytes have digest {digest.algorithm}:{actual}")
    return problems


def _check_layer(store: Store, layer: str) -> list[str]:
    problems = []
    row = store.records.find(layer)
    if row is None:
        return []  # removed by another process meanwhile
    for form, size in row.forms.items():
        path = f"{store.layer_path(layer)}/{form}"
        try:
            actual = os.lstat(path).st_size
        except OSError as error:
            problems.append(f"layer {layer}: {form}: {error.strerror}")
            continue
        if form in ("index", "tar") and actual != size:
            problems.append(f"layer {layer}: {form}: {actual} bytes instead of {size}")
        if form == "tar" and row.diff_id is not None and "sha256:" + _sha(path, "sha256") != row.diff_id:
            problems.append(f"layer {layer}: tar: its bytes do not have digest {row.diff_id}")
    blobs = store.records.blobs(layer)
    for blob in blobs:
        try:
            if blob.compression and store.content.size(blob.descriptor.digest) != blob.descriptor.size:
                problems.append(f"layer {layer}: blob {blob.descriptor.digest}: wrong size")
        except AnyarchError as error:
            problems.append(f"layer {layer}: {error.message}")
    if not blobs and "tar" not in row.forms and not any(form.startswith("dir") for form in row.forms):
        problems.append(f"layer {layer}: has no content")
    return problems


def _sha(path: str, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
