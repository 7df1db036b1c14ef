"""Removing and moving directory trees whatever their modes and depth."""

from __future__ import annotations

import os
import stat

__all__ = ["move_tree", "remove_tree"]

_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a file, link or directory tree; nothing there is no error. Links are not followed;
    directories without write permission are opened up first. Any depth: what lies very deep is moved up
    before it is removed. OSError."""
    where = os.fspath(path)
    try:
        is_directory = stat.S_ISDIR(os.lstat(where).st_mode)
    except FileNotFoundError:
        return
    if not is_directory:
        os.unlink(where)
        return
    top = _open_directory(where, None)
    try:
        moved = 0
        while True:
            moved = _clear(top, top, 0, moved)
            with os.scandir(top) as left:
                if next(left, None) is None:
                    break
    finally:
        os.close(top)
    os.rmdir(where)


def _open_directory(name: str, parent: int | None) -> int:
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _OPEN, dir_fd=parent)


def _clear(directory: int, top: int, depth: int, moved: int) -> int:
    with os.scandir(directory) as entries:
        listing = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listing:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth >= _DEPTH:
            os.rename(name, f".deep-{os.getpid()}-{moved}", src_dir_fd=directory, dst_dir_fd=top)
            moved += 1
        else:
            child = _open_directory(name, directory)
            try:
                moved = _clear(child, top, depth + 1, moved)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=directory)
    return moved


def move_tree(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a directory on the same file system; one that its owner may not write is opened up for the
    moment (the kernel rewrites its `..`, which wants write permission). OSError."""
    try:
        os.rename(source, target)
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(source).st_mode)
        os.chmod(source, mode | 0o700)
        try:
            os.rename(source, target)
        except OSError:
            os.chmod(source, mode)
            raise
        os.chmod(target, mode)
