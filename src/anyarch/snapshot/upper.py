"""What a step left in an upper directory, against the tree that was below it.

The kernel's upper directory says more than the step did. A file that was moved away and back, or opened for
writing and left, is there although nothing changed; a directory that was removed and made again hides
whatever is below it, wherever the layer is put later (`merge`). A layer holds neither: entries that are
as they are below are dropped, and for a directory that replaced another each name that is gone gets a
whiteout of its own.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.snapshot.index import sort_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.snapshot.tree import Node, TreeView

    SameContent = Callable[[Entry, Node], bool]

_SECOND = 1_000_000_000

__all__ = ["Amendment", "amend_directory", "drop_roots", "settle"]


class Amendment(msgspec.Struct, frozen=True):
    """What has to be done to an upper directory, so that it holds what the layer's entries say. Paths;
    `removed` are children before their parents."""

    removed: tuple[str, ...] = ()
    whiteouts: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    """Directories that are opaque no more."""

    def __bool__(self) -> bool:
        return bool(self.removed or self.whiteouts or self.opened)


def settle(
    entries: Sequence[Entry], below: TreeView, same_content: SameContent, *, since_ns: int = 0
) -> tuple[list[Entry], Amendment]:
    """The entries of the layer, sorted, and what to do to the directory that `entries` were scanned from.

    `same_content(entry, node)` says whether a file here has the content of that file below; asked only when
    all else, the time included, is equal. With `since_ns`, when the step began, a directory counts as changed
    too if the step set its time: to one at which the kernel cannot have changed it.
    """
    now_ns = time.time_ns()
    known = {entry.path: entry for entry in entries}
    opened = {entry.path for entry in entries if entry.opaque}
    hidden = [path for top in sorted(opened) for path in _gone(top, known, below)]
    settled = [msgspec.structs.replace(entry, opaque=False) if entry.opaque else entry for entry in entries]
    nodes = _counterparts(settled, below)
    same = _same_files(settled, nodes, below, same_content)
    # A directory has an entry if it is not as below, or something in it changed.
    needed = {path.rpartition("/")[0] for path in hidden}
    kept: list[Entry] = []
    removed: list[str] = []
    for entry in reversed(settled):
        path = entry.path
        if path in same or (
            _is_dropped(entry, needed, nodes)
            and not (since_ns and _has_time_set(entry, nodes, since_ns, now_ns))
        ):
            if path:
                removed.append(path)
            continue
        needed.add(path.rpartition("/")[0])
        kept.append(entry)
    kept.reverse()
    if hidden:
        kept += [Entry(path, Kind.WHITEOUT) for path in hidden]
        kept.sort(key=lambda entry: sort_key(entry.path))
    return kept, Amendment(tuple(removed), tuple(hidden), tuple(sorted(opened.difference(removed))))


def drop_roots(entries: Sequence[Entry]) -> list[Entry]:
    """`entries` of an upper directory of which it is not known what was below, without that of its root."""
    return [entry for entry in entries if entry.path]


def _gone(top: str, known: dict[str, Entry], below: TreeView) -> Iterator[str]:
    """What the tree below has in the directory `top`, which replaced that one, and is not there any more."""
    stack = [top]
    while stack:
        directory = stack.pop()
        old = below.lookup(directory)
        # What is below may lie behind a link that this directory replaced: then it is another's.
        if old is None or old.entry.kind is not Kind.DIRECTORY or old.entry.path != directory:
            continue
        for name in below.listdir(directory):
            path = f"{directory}/{name}" if directory else name
            entry = known.get(path)
            if entry is None:
                yield path
            elif entry.kind is Kind.DIRECTORY and not entry.opaque:
                stack.append(path)


def _counterparts(entries: Iterable[Entry], below: TreeView) -> dict[str, Node]:
    """For each entry what the tree below has at that very path, not behind a link on the way there."""
    found: dict[str, Node] = {}
    new: set[str] = set()  # directories: nothing in them has to be looked up
    for entry in entries:
        path = entry.path
        if path.rpartition("/")[0] not in new or not path:
            node = below.lookup(path)
            if node is not None and node.entry.path == path:
                found[path] = node
                continue
        if entry.kind is Kind.DIRECTORY:
            new.add(path)
    return found


def _is_dropped(entry: Entry, needed: set[str], nodes: dict[str, Node]) -> bool:
    node = nodes.get(entry.path)
    if entry.kind is Kind.WHITEOUT:
        return node is None
    if entry.kind is not Kind.DIRECTORY or node is None or (entry.path and entry.path in needed):
        return False
    # No time: a directory's changes with what is made in it and taken away again (but see `_has_time_set`).
    return _attributes(node.entry) == _attributes(entry)


def _has_time_set(entry: Entry, nodes: dict[str, Node], since_ns: int, now_ns: int) -> bool:
    node = nodes.get(entry.path)
    return (
        entry.kind is Kind.DIRECTORY
        and bool(entry.path)
        and node is not None
        and not since_ns <= entry.mtime_ns <= now_ns
        and not _is_same_time(node.entry, entry)
    )


def _is_same_time(below: Entry, here: Entry) -> bool:
    """An archive has whole seconds, so what was unpacked from one may lack the rest."""
    parts = {one.mtime_ns % _SECOND for one in (below, here)}
    return below.mtime_ns // _SECOND == here.mtime_ns // _SECOND and (len(parts) == 1 or 0 in parts)


def _same_files(
    entries: Iterable[Entry], nodes: dict[str, Node], below: TreeView, same_content: SameContent
) -> set[str]:
    """Paths of what is no directory and as it is below. Names of one file are so together or not at all."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind is Kind.HARDLINK:
            groups[entry.linkname].append(entry)
        elif entry.kind is not Kind.DIRECTORY and entry.path in nodes:
            groups[entry.path] = [entry]
        elif entry.kind is Kind.FILE:
            groups[entry.path] = []  # new: not the same, whatever its other names are
    same: set[str] = set()
    for path, group in groups.items():
        if not group or group[0].path != path or group[0].kind is Kind.WHITEOUT:
            continue
        found = [nodes.get(entry.path) for entry in group]
        targets = {
            (one.position, one.entry.path): one
            for one in (below.target(node) for node in found if node is not None)
        }
        if None in found or len(targets) != 1:
            continue
        (target,) = targets.values()
        if _is_equal(target.entry, group[0]) and (
            group[0].kind is not Kind.FILE or same_content(group[0], target)
        ):
            same.update(entry.path for entry in group)
    return same


def _attributes(entry: Entry) -> tuple[object, ...]:
    return (entry.kind, entry.mode, entry.uid, entry.gid, entry.xattrs)


def _is_equal(below: Entry, here: Entry) -> bool:
    """All but the content."""
    facts = [(*_attributes(one), one.size, one.linkname, one.major, one.minor) for one in (below, here)]
    return facts[0] == facts[1] and _is_same_time(below, here)


def amend_directory(directory: str, amendment: Amendment, opaque_attribute: str) -> None:
    """Do to the upper directory what `settle` found; times of directories stay as they are. `OSError`."""
    top = os.fsencode(directory)

    def place(path: str) -> bytes:
        return b"%b/%b" % (top, path.encode("utf-8", "surrogateescape")) if path else top

    changed = {path.rpartition("/")[0] for path in (*amendment.removed, *amendment.whiteouts)}
    times = {path: os.lstat(place(path)) for path in changed}
    for path in amendment.removed:
        full = place(path)
        if stat.S_ISDIR(os.lstat(full).st_mode):
            os.rmdir(full)
        else:
            os.unlink(full)
    for path in amendment.opened:
        os.removexattr(place(path), opaque_attribute)
    for path in amendment.whiteouts:
        os.mknod(place(path), stat.S_IFCHR, os.makedev(0, 0))
    for path in changed.difference(amendment.removed):
        os.utime(place(path), ns=(times[path].st_atime_ns, times[path].st_mtime_ns))
