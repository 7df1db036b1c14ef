"""What one tree has changed against another it was not built on, as a layer.

Two entries are the same when kind, owner, mode, attributes, link target, device and content are, and the
time but for directories. A changed entry comes with the directories it lies in, as a step's layer has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from anyarch.archive.entry import Entry, Kind
from anyarch.worker.draft import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.snapshot.layers import LayerStore
    from anyarch.snapshot.tree import Node, TreeView

__all__ = ["diff_layer"]


def diff_layer(layers: LayerStore, lower: TreeView, upper: TreeView) -> str | None:
    """The id of a layer that makes `upper` of `lower`; None when they are equal."""
    entries = sorted(_changes(lower, upper), key=lambda item: item[0].path.split("/"))
    if not entries:
        return None
    first: dict[tuple[int, str], str] = {}
    with layers.new_tar(description="difference of two trees") as layer:
        for entry, node in entries:
            if node is None or entry.kind not in (Kind.FILE, Kind.HARDLINK):
                layer.add(entry)
                continue
            target = upper.target(node)
            known = first.setdefault((target.position, target.entry.path), entry.path)
            if known != entry.path:
                layer.add(
                    replace(
                        target.entry,
                        path=entry.path,
                        kind=Kind.HARDLINK,
                        linkname=known,
                        size=0,
                        digest=b"",
                        offset=-1,
                    )
                )
                continue
            with upper.open(node) as stream:
                layer.add(replace(target.entry, path=entry.path, digest=b"", offset=-1), stream)
        return layer.commit().id


def _changes(lower: TreeView, upper: TreeView) -> Iterator[tuple[Entry, Node | None]]:
    """Entries of the layer in any order, each with the node its content is read from."""
    # Directories to compare, each with those it lies in that have no entry yet. No recursion: trees get deep.
    stack: list[tuple[str, tuple[Node, ...]]] = [("", ())]
    given: set[str] = set()
    while stack:
        path, above = stack.pop()
        old_names = set(lower.listdir(path))
        new_names = upper.listdir(path)
        changes: list[tuple[Entry, Node | None]] = [
            (Entry(join(path, name), Kind.WHITEOUT), None) for name in sorted(old_names.difference(new_names))
        ]
        for name in new_names:
            child = join(path, name)
            node = upper.lookup(child)
            old = lower.lookup(child) if name in old_names else None
            if node is None:
                continue
            is_directory = node.entry.kind is Kind.DIRECTORY
            if is_directory and old is not None and old.entry.kind is Kind.DIRECTORY:
                if _meta(node.entry) != _meta(old.entry):
                    changes.append((_plain(node.entry), None))
                    given.add(child)
                stack.append((child, (*above, node)))
            elif is_directory:
                changes += [
                    (_plain(one.entry) if one.entry.kind is Kind.DIRECTORY else one.entry, one)
                    for one in upper.walk(child)
                ]
            elif old is None or not _is_same(lower, old, upper, node):
                changes.append((node.entry, node))
        if changes:
            for one in above:
                if one.entry.path not in given:
                    given.add(one.entry.path)
                    yield _plain(one.entry), None
        yield from changes


def _plain(entry: Entry) -> Entry:
    return replace(entry, opaque=False)


def _meta(entry: Entry) -> tuple[object, ...]:
    return (entry.kind, entry.mode, entry.uid, entry.gid, entry.xattrs)


def _is_same(lower: TreeView, old: Node, upper: TreeView, new: Node) -> bool:
    a, b = lower.target(old).entry, upper.target(new).entry
    facts = [(*_meta(e), e.mtime_ns, e.linkname, e.major, e.minor, e.size) for e in (a, b)]
    if facts[0] != facts[1]:
        return False
    if a.kind is not Kind.FILE:
        return True
    return lower.content_digest(old.entry.path) == upper.content_digest(new.entry.path)
