"""Output files that are complete or not there, whatever kills the process that writes them.

A file is written under a name of its own beside its target and renamed at the end. The writer holds a lock
(flock) on it, which the kernel drops with the process: whoever writes to the same directory next finds such
a file unlocked and removes it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from anyarch.errors import NoSpace, OutputError
from anyarch.store.filelock import is_at, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.errors import AnyarchError

__all__ = ["clear_leftovers", "output_error", "whole_file"]

_SUFFIX = ".anyarch-part"


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A stream of which the content becomes the file `target` when the block ends, and vanishes when it
    fails; directories above it are made. A device or pipe is written to directly; behind a symbolic link its
    file is replaced. OSError."""
    path = os.path.realpath(target)
    if not _is_replaceable(path):
        with open(path, "wb") as stream:
            yield stream
        return
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = f"{directory}/.{name}.{os.getpid()}{_SUFFIX}"
    with _create(temporary) as stream:
        try:
            yield stream
            stream.flush()
            os.replace(temporary, path)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise


def output_error(error: OSError, path: Path | str) -> AnyarchError:
    """The error for an `OSError` met while `path` was written."""
    where = os.fsdecode(error.filename) if error.filename else str(path)
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"cannot write {where}: {reason}",
            hint="free some space there or choose another destination; the build itself is cached",
        )
    if isinstance(error, FileNotFoundError):
        return OutputError(
            f"cannot write {path}: its directory does not exist",
            hint=f"make it first: mkdir -p {os.path.dirname(path) or '.'}",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a destination that this user may write to; the build itself is cached"
        return OutputError(f"cannot write {where}: {reason}", hint=hint)
    return OutputError(f"cannot write {where}: {reason}")


def _is_replaceable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _create(path: str) -> BinaryIO:
    while True:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if not _lock(fd, wait=True) or is_at(fd, path):
            return os.fdopen(fd, "wb")
        os.close(fd)  # between creating and locking it, another process took it for a leftover


def clear_leftovers(directory: Path) -> None:
    """Remove what writers that were killed left in `directory`. OSError when it cannot be listed."""
    for name in os.listdir(directory):
        if not name.endswith(_SUFFIX):
            continue
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it has got its real name meanwhile, or is another user's
        try:
            if _lock(fd, wait=False) and is_at(fd, path):
                os.unlink(path)
        finally:
            os.close(fd)


def _lock(fd: int, *, wait: bool) -> bool:
    """Whether the file is ours now; False also on file systems without locks."""
    try:
        return take(fd, wait=wait)
    except OSError:
        return False
