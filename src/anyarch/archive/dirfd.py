"""Walking a directory tree by file descriptors, never out of its root, and removing what is in it.

Every component is opened on its own with O_NOFOLLOW. A symbolic link on the way is read and followed by
hand, with the root as `/` (as in a chroot), so nothing that a tree contains leads out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from anyarch.archive.fold import MAX_LINKS
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RootWalker", "encode", "remove"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 64  # levels; paths can be 2000 deep, and a process has 1024 descriptors by default


def encode(text: str) -> bytes:
    """`text` as the kernel gets it, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


class RootWalker:
    """Opens directories below `root` (a path, or a descriptor that is duplicated).

    The descriptors on the way to the last directory are kept, so that neighbours cost one openat each.
    Context manager.
    """

    def __init__(self, root: str | int) -> None:
        if isinstance(root, int):
            self.root = os.dup(root)
        else:
            self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._names: list[str] = []  # where the last directory really is
        self._fds: list[int] = []  # -1 where the level is not kept open
        self._last = ""

    def __enter__(self) -> RootWalker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        self._cut(0)
        self._last = ""
        if self.root >= 0:
            os.close(self.root)
            self.root = -1

    @property
    def real(self) -> str:
        """Where the directory of the last `enter` really is."""
        return "/".join(self._names)

    def forget(self) -> None:
        """Let the next `enter` resolve links anew; the descriptor of the last one stays valid until then."""
        self._last = "\0"  # no path

    def enter(
        self, path: str, *, make: Callable[[int, str, str], None] | None = None, follow: bool = True
    ) -> int:
        """A descriptor of the directory `path`, valid until the next call.

        `make(fd, name, real_path)` is called for a directory that is missing and must create it; without it
        FileNotFoundError is raised. Something else than a directory or link on the way, a link when not
        `follow`, or too many links, is NotADirectoryError or `MalformedArchive`.
        """
        if path == self._last:
            return self._fds[-1] if self._fds else self.root
        todo = path.split("/")[::-1] if path else []
        shared = 0
        for name in self._names:
            if not todo or todo[-1] != name:
                break
            todo.pop()
            shared += 1
        self.forget()
        if shared < len(self._names) and shared and self._fds[shared - 1] < 0:
            self._climb(shared)
        while shared and self._fds[shared - 1] < 0:
            shared -= 1
            todo.append(self._names[shared])
        self._cut(shared)
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":  # in the target of a link; the root's parent is the root
                keep = len(self._names) - 1
                if keep > 0 and self._fds[keep - 1] < 0:
                    todo += self._names[:keep][::-1]
                    keep = 0
                self._cut(max(keep, 0))
                continue
            fd = self._fds[-1] if self._fds else self.root
            raw = encode(name)
            try:
                child = os.open(raw, _OPEN, dir_fd=fd)
            except FileNotFoundError:
                if make is None:
                    raise
                make(fd, name, "/".join((*self._names, name)))
                child = os.open(raw, _OPEN, dir_fd=fd)
            except NotADirectoryError:
                status = os.stat(raw, dir_fd=fd, follow_symlinks=False)
                if make is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    make(fd, name, "/".join((*self._names, name)))  # a whiteout of overlay
                    child = os.open(raw, _OPEN, dir_fd=fd)
                elif not follow or not stat.S_ISLNK(status.st_mode):
                    raise
                else:
                    links += 1
                    if links > MAX_LINKS:
                        raise MalformedArchive(f"{path!r}: too many symbolic links") from None
                    target = os.readlink(raw, dir_fd=fd).decode("utf-8", "surrogateescape")
                    if target.startswith("/"):
                        self._cut(0)
                    todo += target.split("/")[::-1]
                    continue
            self._names.append(name)
            self._fds.append(child)
            if len(self._fds) > _KEPT_OPEN and self._fds[-2] >= 0:
                os.close(self._fds[-2])
                self._fds[-2] = -1
        self._last = path
        return self._fds[-1] if self._fds else self.root

    def _climb(self, level: int) -> None:
        """Open a level that is not kept open by way of `..`, if that is shorter than from above.

        Else the directories of a path 2000 deep, visited one by one, would cost 2 million openat.
        """
        steps = len(self._names) - level
        if steps > level - _KEPT_OPEN:
            return
        fd = -1
        try:
            for _ in range(steps):
                upper = os.open(b"..", _OPEN, dir_fd=self._fds[-1] if fd < 0 else fd)
                if fd >= 0:
                    os.close(fd)
                fd = upper
        except PermissionError:  # its mode was set already, and we are not root: the long way
            if fd >= 0:
                os.close(fd)
            return
        self._cut(level)
        self._fds[-1] = fd

    def _cut(self, length: int) -> None:
        """Forget all levels from `length` on."""
        for fd in self._fds[length:]:
            if fd >= 0:
                os.close(fd)
        del self._fds[length:]
        del self._names[length:]


def remove(fd: int, name: bytes) -> None:
    """Remove `name` in the directory `fd` with everything below it; nothing happens when it is not there."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise
        _remove_directory(fd, name)


def _remove_directory(fd: int, name: bytes) -> None:
    """Remove a directory by moving up what its subdirectories hold until none is left.

    So neither recursion nor descriptors grow with the depth, which the writer of an archive chooses.
    """
    top = _open_writable(fd, name)
    try:
        serial = 0
        while directories := _unlink_files(top):
            for directory in directories:
                inner = _open_writable(top, directory)
                try:
                    for child in _unlink_files(inner):
                        os.close(_open_writable(inner, child))  # moving a directory writes its `..`
                        serial = _move_up(inner, child, top, serial)
                finally:
                    os.close(inner)
                os.rmdir(directory, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=fd)


def _move_up(source: int, name: bytes, target: int, serial: int) -> int:
    """Move the directory `name` to `target` under a name that is free; answers the number used for it."""
    while True:
        serial += 1
        try:
            os.rename(name, b".anyarch-%d" % serial, src_dir_fd=source, dst_dir_fd=target)
            return serial
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # the tree itself may have such a name
                raise


def _unlink_files(fd: int) -> list[bytes]:
    """Remove all but directories from the directory `fd`; the names of those."""
    directories = []
    with os.scandir(fd) as items:
        found = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in items]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
        else:
            os.unlink(name, dir_fd=fd)
    return directories


def _open_writable(fd: int, name: bytes) -> int:
    """Open the directory `name` so that it can be emptied, also where its mode forbids that to its owner."""
    try:
        opened = os.open(name, _OPEN, dir_fd=fd)
    except PermissionError:
        # `name` is a directory, so chmod cannot follow a link; chmod without opening needs only ownership.
        os.chmod(name, 0o700, dir_fd=fd)
        opened = os.open(name, _OPEN, dir_fd=fd)
    if os.geteuid():
        os.fchmod(opened, 0o700)
    return opened
