"""The files of a result: into a directory (`type=local`) or one tar (`type=tar`), a sub-directory each for
several
platforms."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import OutputError
from anyarch.snapshot.tree import TreeView
from anyarch.spec.platform import Platform
from anyarch.store.whole_file import output_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anyarch.snapshot.tree import Node

__all__ = ["PlatformTree", "delete_others", "files_of", "write_directory", "write_tar"]


class PlatformTree(msgspec.Struct, frozen=True):
    """One platform's files; None is an empty result."""

    platform: Platform
    tree: TreeView | None


def _nodes(tree: TreeView | None) -> list[Node]:
    return [] if tree is None else [node for node in tree.walk("") if node.entry.path]


def _bounded(entry: Entry, prefix: str, epoch: int | None) -> Entry:
    path = f"{prefix}/{entry.path}" if prefix else entry.path
    linkname = entry.linkname
    if entry.kind is Kind.HARDLINK and prefix:
        linkname = f"{prefix}/{linkname}"
    mtime_ns = entry.mtime_ns if epoch is None else epoch * 1_000_000_000
    return msgspec.structs.replace(
        entry, path=path, linkname=linkname, mtime_ns=mtime_ns, offset=-1, opaque=False
    )


def write_tar(
    trees: Sequence[PlatformTree],
    sink: Callable[[bytes | memoryview], object],
    *,
    split: bool,
    epoch: int | None = None,
) -> None:
    """One tar of everything, in canonical order."""
    from anyarch.archive.tar import TarWriter

    writer = TarWriter(sink, whiteouts=False)
    for item in sorted(trees, key=lambda t: t.platform.directory):
        prefix = item.platform.directory if split else ""
        if prefix:
            writer.add(Entry(prefix, Kind.DIRECTORY, 0o755, mtime_ns=(epoch or 0) * 1_000_000_000))
        for node, entry in _with_links(item.tree):
            out = _bounded(entry, prefix, epoch)
            if entry.kind is Kind.FILE and item.tree is not None:
                with item.tree.open(node) as stream:
                    writer.add(out, stream)
            else:
                writer.add(out, None)
    writer.close()


def _with_links(tree: TreeView | None) -> list[tuple[Node, Entry]]:
    """Nodes with entries of which every hard link leads to an entry that comes before it and is in the
    tree."""
    first: dict[tuple[int, str], str] = {}
    out = []
    for node in _nodes(tree):
        entry = node.entry
        if entry.kind in (Kind.FILE, Kind.HARDLINK) and tree is not None:
            target = tree.target(node)
            key = (target.position, target.entry.path)
            known = first.get(key)
            if known is not None:
                entry = msgspec.structs.replace(entry, kind=Kind.HARDLINK, linkname=known, size=0, digest=b"")
            else:
                first[key] = entry.path
                entry = msgspec.structs.replace(target.entry, path=entry.path)
        out.append((node, entry))
    return out


def files_of(
    trees: Sequence[PlatformTree], *, split: bool, epoch: int | None = None
) -> list[tuple[Entry, TreeView | None, Node]]:
    """Everything that `write_directory` would write, with the tree and node that its content comes from.
    Raises `OutputError` where two platforms have the same file and are not split."""
    if not split:
        _check_overlap(trees)
    found = []
    for item in trees:
        prefix = item.platform.directory if split else ""
        for node, entry in _with_links(item.tree):
            found.append((_bounded(entry, prefix, epoch), item.tree, node))
    return found


def write_directory(
    trees: Sequence[PlatformTree],
    directory: Path,
    *,
    split: bool,
    epoch: int | None = None,
    delete: bool = False,
) -> None:
    """Files into `directory`, owned by whoever runs this. What is there already and not in the result stays,
    or with `delete` goes when all is written. Without `split` no two platforms may have the same file."""
    from anyarch.archive.apply import Unpacker

    if not split:
        _check_overlap(trees)
    written: set[str] = set()

    if directory.exists() and not directory.is_dir():
        raise OutputError(f"destination {directory} is not a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for item in trees:
            target = directory / item.platform.directory if split else directory
            target.mkdir(exist_ok=True)
            prefix = f"{item.platform.directory}/" if split else ""
            written.add(prefix.rstrip("/"))
            with Unpacker(str(target), whiteouts="delete", chown=False, keep_root=True) as unpacker:
                for node, entry in _with_links(item.tree):
                    if entry.kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE):
                        continue
                    written.add(prefix + entry.path)
                    out = _bounded(entry, "", epoch)
                    if entry.kind is Kind.FILE and item.tree is not None:
                        with item.tree.open(node) as stream:
                            unpacker.put(out, stream)
                    else:
                        unpacker.put(out, None)
                unpacker.finish()
            if split:
                os.utime(target, (epoch or 0, epoch or 0))  # no build made it at any time, as in BuildKit
        if delete:
            delete_others(str(directory), written)
    except OSError as error:
        raise output_error(error, directory) from None


def _check_overlap(trees: Sequence[PlatformTree]) -> None:
    owners: dict[str, Platform] = {}
    for item in trees if len(trees) > 1 else ():
        for node in _nodes(item.tree):
            if node.entry.kind is Kind.DIRECTORY:
                continue
            first = owners.setdefault(node.entry.path, item.platform)
            if first is not item.platform:
                raise OutputError(
                    f"cannot overwrite {node.entry.path} from {first} with {item.platform} when split option"
                    " is disabled",
                    hint="leave out platform-split=false: each platform then has a directory of its own",
                )


def delete_others(directory: str, kept: set[str]) -> None:
    """Remove all below `directory` that is neither in `kept` nor above something in it. Follows no link."""
    from anyarch.store.tree import remove_tree

    above = {path[:position] for path in kept for position in _slashes(path)}
    stack = [""]
    while stack:
        below = stack.pop()
        with os.scandir(os.path.join(directory, below)) as entries:
            found = list(entries)
        for entry in found:
            path = f"{below}/{entry.name}" if below else entry.name
            if path not in kept and path not in above:
                remove_tree(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                stack.append(path)


def _slashes(path: str) -> Iterator[int]:
    position = path.find("/")
    while position >= 0:
        yield position
        position = path.find("/", position + 1)
