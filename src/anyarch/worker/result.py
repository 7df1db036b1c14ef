"""What operations give one another: snapshots in the store, or a host directory that is read in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from anyarch.snapshot.hosttree import HostTree
from anyarch.snapshot.view import View
from anyarch.spec.snapshot import Snapshot as SnapshotResult

if TYPE_CHECKING:
    from anyarch.snapshot.layers import LayerStore
    from anyarch.snapshot.tree import TreeView

__all__ = ["LocalResult", "Result", "SnapshotResult", "view_of"]


class LocalResult(msgspec.Struct, frozen=True):
    """A filtered directory of the client, scanned but not copied; `digest` covers all that the filter let
    through. `attributes` are the extended attributes that a client has told of its files, by path; None for a
    directory of this machine, which can be asked."""

    tree: HostTree
    digest: str
    attributes: Mapping[str, tuple[tuple[str, bytes], ...]] | None = None


Result = SnapshotResult | LocalResult | None
"""None is the empty root."""


def view_of(result: Result, layers: LayerStore) -> TreeView | None:
    """The tree of a result; None for the empty root. The bytes of its layers must be local."""
    match result:
        case None:
            return None
        case LocalResult(tree=tree):
            return tree
        case SnapshotResult(layers=ids):
            return View(layers, [layers.get(layer_id) for layer_id in ids])
