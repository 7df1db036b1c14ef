"""Files of a tree that a step may be changing now: the upper directory of its overlay above what it began
with, looked into without a mount.

Whoever runs in the step may put a symbolic link, a pipe or a device where a file was a moment ago. So every
component is opened without following links, relative to the directory before it, and only what turned out to
be a regular file is opened for reading. Nothing here leads out of the tree; a link that would is told.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from anyarch.archive.entry import TYPE_BITS, Kind
from anyarch.errors import PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.snapshot.tree import TreeView

__all__ = ["LiveFile", "LiveTree"]

_MAX_LINKS = 40


class LiveFile:
    """What is known of a file; `mode` has the type's bits, `linkname` is that of a symbolic link."""

    __slots__ = ("gid", "linkname", "mode", "mtime_ns", "size", "uid")

    def __init__(self, mode: int, uid: int, gid: int, size: int, mtime_ns: int, linkname: str) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime_ns = mtime_ns
        self.linkname = linkname

    @classmethod
    def of_entry(cls, entry: Entry) -> LiveFile:
        size = len(os.fsencode(entry.linkname)) if entry.kind is Kind.SYMLINK else entry.size
        link = entry.linkname if entry.kind is Kind.SYMLINK else ""
        mode = TYPE_BITS[entry.kind] | entry.mode
        return cls(mode, entry.uid, entry.gid, size, entry.mtime_ns, link)


class LiveTree:
    """`upper` is a directory or None, `opaque` the attribute by which its overlay marks a directory that
    hides what is below (empty: it is no overlay's), `base` what lies below."""

    def __init__(self, upper: Path | None, base: TreeView, *, opaque: str = "") -> None:
        self._upper = upper
        self._base = base
        self._opaque = opaque

    def stat(self, path: str) -> LiveFile:
        """Links are followed, but for a last one that would lead out, which is told itself. Raises
        `PathNotFound`."""
        with self._looking(path) as stack:
            return self._find(path, stack, follow="inside").file

    def read(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes of a regular file. Raises `PathNotFound`."""
        with self._looking(path) as stack:
            found = self._find(path, stack, follow="always")
            if not stat.S_ISREG(found.file.mode):
                raise PathNotFound(f"read {path}: is not a regular file")
            with found.open() as stream:
                stream.seek(offset)
                return stream.read(length)

    def listdir(self, path: str) -> list[tuple[str, LiveFile]]:
        """Sorted names in a directory, and what each is itself. Raises `PathNotFound`."""
        with self._looking(path) as stack:
            found = self._find(path, stack, follow="always")
            if not stat.S_ISDIR(found.file.mode):
                raise PathNotFound(f"readdir {path}: is not a directory")
            names = set(os.listdir(found.upper)) if found.upper >= 0 else set()
            if found.below is not None:
                names.update(self._base.listdir(found.below))
            listed = []
            for name in sorted(names):
                with ExitStack() as own:
                    child = self._child(found, name, own)
                    if child is not None:
                        listed.append((name, child.file))
            return listed

    @contextmanager
    def _looking(self, path: str) -> Iterator[ExitStack]:
        try:
            with ExitStack() as stack:
                yield stack
        except ValueError:  # a null byte
            raise PathNotFound(f"open {path!r}: invalid argument") from None
        except OSError as error:
            raise PathNotFound(f"open {path}: {(error.strerror or str(error)).lower()}") from None

    def _root(self, stack: ExitStack) -> _Found:
        node = self._base.lookup("")
        below = "" if node is not None else None
        if self._upper is None:
            return _Found(self._base, _of_node(self._base, ""), -1, below)
        fd = os.open(self._upper, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return _Found(self._base, _of_stat(os.fstat(fd)), _readable(fd, stack), below)

    def _find(self, path: str, stack: ExitStack, *, follow: str) -> _Found:
        trail = [self._root(stack)]
        wanted = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while wanted:
            part = wanted.pop(0)
            if part == "..":
                if len(trail) == 1:
                    raise PathNotFound(f"open {path}: path escapes from parent")
                trail.pop()
                continue
            if not stat.S_ISDIR(trail[-1].file.mode):
                raise PathNotFound(f"open {path}: not a directory")
            found = self._child(trail[-1], part, stack)
            if found is None:
                raise PathNotFound(f"open {path}: no such file or directory")
            if not stat.S_ISLNK(found.file.mode):
                trail.append(found)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise PathNotFound(f"open {path}: too many levels of symbolic links")
            target = [name for name in found.file.linkname.split("/") if name not in ("", ".")]
            if found.file.linkname.startswith("/") or _leaves(len(trail) - 1, [*target, *wanted]):
                if wanted or follow == "always":
                    raise PathNotFound(f"open {path}: path escapes from parent")
                return found
            wanted = target + wanted
        return trail[-1]

    def _child(self, parent: _Found, name: str, stack: ExitStack) -> _Found | None:
        below = None
        if parent.below is not None:
            below = f"{parent.below}/{name}" if parent.below else name
        if parent.upper >= 0:
            fd = _open_path(name, parent.upper)
            if fd is not None:
                stack.callback(os.close, fd)
                return self._of_upper(fd, below, stack)
        if below is None:
            return None
        node = self._base.lookup(below)
        return _Found(self._base, _of_node(self._base, below), -1, below) if node is not None else None

    def _of_upper(self, fd: int, below: str | None, stack: ExitStack) -> _Found | None:
        found = os.fstat(fd)
        if self._opaque and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return None  # a whiteout
        file = _of_stat(found)
        if stat.S_ISLNK(found.st_mode):
            file.linkname = os.readlink("", dir_fd=fd)
        if not stat.S_ISDIR(found.st_mode):
            return _Found(self._base, file, fd, None)
        if below is not None and (self._is_opaque(fd) or not _is_directory(self._base, below)):
            below = None
        return _Found(self._base, file, _readable(fd, stack), below)

    def _is_opaque(self, fd: int) -> bool:
        try:
            return bool(self._opaque) and os.getxattr(f"/proc/self/fd/{fd}", self._opaque) == b"y"
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                return False
            raise


class _Found:
    """One file: in the upper directory by a descriptor (`upper`, of a directory one to look into), else in
    the base by its path (`below`; of a directory of the upper one, what it covers)."""

    def __init__(self, base: TreeView, file: LiveFile, upper: int, below: str | None) -> None:
        self._base = base
        self.file = file
        self.upper = upper
        self.below = below

    def open(self) -> BinaryIO:
        if self.upper >= 0:
            # What the descriptor names was seen to be a regular file, and cannot become another.
            return open(f"/proc/self/fd/{self.upper}", "rb", buffering=0)
        assert self.below is not None
        node = self._base.lookup(self.below)
        assert node is not None
        return self._base.open(node)


def _open_path(name: str, parent: int) -> int | None:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return None


def _readable(fd: int, stack: ExitStack) -> int:
    """A directory's descriptor that can be listed."""
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    stack.callback(os.close, listed)
    return listed


def _leaves(depth: int, parts: Sequence[str]) -> bool:
    """Whether a path leads above the root, from `depth` directories below it."""
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _is_directory(base: TreeView, path: str) -> bool:
    node = base.lookup(path)
    return node is not None and node.entry.kind is Kind.DIRECTORY


def _of_stat(found: os.stat_result) -> LiveFile:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return LiveFile(found.st_mode, found.st_uid, found.st_gid, size, found.st_mtime_ns, "")


def _of_node(base: TreeView, path: str) -> LiveFile:
    node = base.lookup(path)
    if node is None:
        return LiveFile(stat.S_IFDIR | 0o755, 0, 0, 0, 0, "")
    file = LiveFile.of_entry(node.entry)
    file.size = base.target(node).entry.size if node.entry.kind is Kind.HARDLINK else file.size
    return file
