"""ADD of a local archive: its entries instead of the file itself. What an archive is, its content decides,
not its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import MalformedArchive
from anyarch.snapshot.slices import FileSlice
from anyarch.worker.draft import clean, join, parent_of

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.llb.ops import ActionCopy
    from anyarch.snapshot.tree import TreeView
    from anyarch.worker.copytree import Owner
    from anyarch.worker.draft import Draft

__all__ = ["check_archive", "unpack_archive"]


def unpack_archive(
    draft: Draft, tree: TreeView, source: str, action: ActionCopy, owner: Owner | None, *, spool: Path
) -> bool:
    """Put the entries of the archive at `source` below the action's destination; False when it is none.

    `spool` is a file to be created for the content; it has to stay until the draft is committed.
    """
    from anyarch.archive.compression import open_decompressed
    from anyarch.archive.tar_reader import read_tar

    node = tree.lookup(tree.resolve(source))
    if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
        return False
    with tree.open(node) as packed:
        head = packed.read(512)
    if not head:
        return False
    found: list[tuple[Entry, int]] = []
    position = 0
    try:
        with tree.open(node) as packed, open_decompressed(packed) as plain, spool.open("wb") as out:
            for entry, content in read_tar(plain, whiteouts=False):
                start = position
                if entry.kind is Kind.FILE:
                    while chunk := content.read(1 << 20):
                        out.write(chunk)
                        position += len(chunk)
                found.append((entry, start))
    except MalformedArchive:
        if found:
            raise
        return False
    if not found:
        return False
    target = draft.resolve(clean(action.dest))
    uid, gid = owner or (0, 0)
    draft.make_parents(target, uid=uid, gid=gid)
    for entry, start in found:
        _put(draft, target, entry, owner, (spool, start))
    return True


def check_archive(packed: BinaryIO) -> None:
    """Read an archive to its end. Raises `MalformedArchive` when it is damaged or none."""
    from anyarch.archive.compression import open_decompressed
    from anyarch.archive.tar_reader import read_tar

    try:
        with open_decompressed(packed) as plain:
            for _, content in read_tar(plain, whiteouts=False):
                while content.read(1 << 20):
                    continue
    except MalformedArchive as error:
        raise MalformedArchive(
            f"the build context on standard input cannot be read: {error.message}",
            hint="it has to be a whole tar archive, which may be compressed: tar -c . | anyarch build -",
        ) from None


def _put(draft: Draft, target: str, entry: Entry, owner: Owner | None, content: tuple[Path, int]) -> None:
    if not entry.path:
        return
    parent = draft.resolve(join(target, parent_of(entry.path)) if parent_of(entry.path) else target)
    draft.make_parents(parent)
    path = join(parent, entry.path.rpartition("/")[2])
    existing = draft.get(path)
    if existing is not None and not (existing.kind is Kind.DIRECTORY and entry.kind is Kind.DIRECTORY):
        draft.remove(path)
    uid, gid = owner or (entry.uid, entry.gid)
    linkname = entry.linkname
    if entry.kind is Kind.HARDLINK:
        linkname = draft.resolve(join(target, linkname), last=False)
        if draft.get(linkname) is None:
            raise MalformedArchive(f"/{path} is a hard link to /{linkname}, which the archive does not hold")
    changed = msgspec.structs.replace(entry, path=path, uid=uid, gid=gid, linkname=linkname, offset=-1)
    spool, start = content

    def opened() -> BinaryIO:
        return cast(BinaryIO, FileSlice(str(spool), start, entry.size))

    draft.put(changed, opened if entry.kind is Kind.FILE else None)
