"""A directory as entries (`scan_tree`), and entries with the files of a directory as a tar (`tar_tree`).

The directory belongs to the caller and is not being changed. Symbolic links are never followed below the
root.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Literal, Protocol

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EntryWriter", "scan_tree", "tar_tree"]

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFIFO: Kind.FIFO,
}

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


class EntryWriter(Protocol):
    """`TarWriter` and `LayerWriter`."""

    def add(self, entry: Entry, content: bytes | None = None, /) -> Entry: ...

    def add_fd(self, entry: Entry, fd: int, /) -> Entry: ...


def scan_tree(
    root: str | int, *, overlay: Literal["trusted", "user"] | None = None, include_root: bool = False
) -> list[Entry]:
    """What is below `root` (a path or a directory's file descriptor), sorted as `fold.sort_key` sorts.

    Of the paths of one file the first is a FILE, the others are HARDLINKs to it (with the same attributes).
    Sockets are left out. Of the extended attributes those of the kinds `user.*`, `trusted.*`, POSIX ACLs and
    `security.capability` are kept, never overlay's own.

    With `overlay`, `root` is an upper directory of an overlay whose attributes are of that namespace: its
    whiteouts become WHITEOUT entries, and opaque directories `opaque` ones. Digests and offsets are not
    known. Raises `StoreError`.
    """
    top = f"/proc/self/fd/{root}".encode() if isinstance(root, int) else os.fsencode(root)
    scan = _Scan(None if overlay is None else f"{overlay}.overlay.")
    try:
        if include_root:
            scan.add("", top, os.stat(top))
        # Depth first in the order of names, which is the order of `sort_key`. Names are ordered as text,
        # since bytes that are not UTF-8 sort differently as surrogates.
        stack = _children(top, "")
        while stack:
            path, item = stack.pop()
            status = item.stat(follow_symlinks=False)
            if scan.add(path, item.path, status):
                stack += _children(item.path, path + "/")
    except OSError as error:
        raise StoreError(f"cannot read {os.fsdecode(top)}: {error}") from error
    return scan.entries


def _children(directory: bytes, prefix: str) -> list[tuple[str, os.DirEntry[bytes]]]:
    """(path, item) of what is in `directory`, in reverse order."""
    with os.scandir(directory) as items:
        found = [(prefix + item.name.decode("utf-8", "surrogateescape"), item) for item in items]
    found.sort(reverse=True)
    return found


class _Scan:
    def __init__(self, overlay: str | None) -> None:
        self.entries: list[Entry] = []
        self._overlay = overlay
        self._files: dict[tuple[int, int], str] = {}
        self._has_xattrs = True

    def add(self, path: str, full_path: bytes, status: os.stat_result) -> bool:
        """Append the entry of `path`; is it a directory?"""
        mode = status.st_mode
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            return False  # a socket: no archive can hold it, and nobody listens on it any more
        size = major = minor = 0
        target = ""
        opaque = False
        xattrs: tuple[tuple[str, bytes], ...] = ()
        if kind is Kind.FILE:
            size = status.st_size
            if status.st_nlink > 1:
                first = self._files.setdefault((status.st_dev, status.st_ino), path)
                if first is not path:
                    kind = Kind.HARDLINK
                    target = first
                    size = 0
        elif kind is Kind.SYMLINK:
            target = os.readlink(full_path).decode("utf-8", "surrogateescape")
        elif kind is not Kind.DIRECTORY:
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            if self._overlay is not None and kind is Kind.CHAR_DEVICE and not major and not minor:
                self.entries.append(Entry(path, Kind.WHITEOUT))
                return False
            if kind is Kind.FIFO:
                major = minor = 0
        # Other kinds can have neither user.* attributes nor capabilities.
        if self._has_xattrs and (kind <= Kind.DIRECTORY or kind is Kind.HARDLINK):
            names = self._list(full_path)
            if names:
                xattrs, opaque = self._read(full_path, names)
        self.entries.append(
            Entry(
                path,
                kind,
                mode & 0o7777,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                target,
                major,
                minor,
                xattrs,
                opaque,
            )
        )
        return kind is Kind.DIRECTORY

    def _list(self, full_path: bytes) -> list[str]:
        try:
            return os.listxattr(full_path, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            self._has_xattrs = False  # one file system: none of the others has any either
            return []

    def _read(self, full_path: bytes, names: list[str]) -> tuple[tuple[tuple[str, bytes], ...], bool]:
        """The attributes to keep, and whether the directory is opaque."""
        kept = []
        opaque = False
        overlay = self._overlay
        for name in names:
            # The interpreter decodes names by the locale; entries speak UTF-8.
            text = os.fsencode(name).decode("utf-8", "surrogateescape")
            if text.startswith(("trusted.overlay.", "user.overlay.")):
                if overlay is not None and text.startswith(overlay):
                    mark = text[len(overlay) :]
                    if mark == "opaque":
                        opaque = os.getxattr(full_path, name, follow_symlinks=False) == b"y"
                    elif mark in ("redirect", "metacopy"):
                        # What this path holds is not here but under another name of a lower layer.
                        raise StoreError(
                            f"{os.fsdecode(full_path)} has the attribute {text}",
                            hint="the overlay has to be mounted with redirect_dir=off and metacopy=off",
                        )
            elif text == "security.capability" or text.startswith(("user.", "trusted.")) or text in _ACLS:
                kept.append((text, os.getxattr(full_path, name, follow_symlinks=False)))
        kept.sort()
        return tuple(kept), opaque


def tar_tree(entries: Iterable[Entry], root: str | int, writer: EntryWriter) -> list[Entry]:
    """Write `entries`, in their order and with contents from below `root`; answers what the writer answered.

    Raises `StoreError` when a file is not there, `MalformedArchive` when it is not of the size its entry
    says.
    """
    top = f"/proc/self/fd/{root}".encode() if isinstance(root, int) else os.fsencode(root)
    top += b"/"
    written = []
    for entry in entries:
        if entry.kind is not Kind.FILE or not entry.size:
            written.append(writer.add(entry, None))
            continue
        try:
            fd = os.open(
                top + entry.path.encode("utf-8", "surrogateescape"),
                os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
            )
        except OSError as error:
            raise StoreError(f"cannot read {entry.path!r}: {error}") from error
        try:
            written.append(writer.add_fd(entry, fd))
        finally:
            os.close(fd)
    return written
