"""Disk errors in the words of a user: what could not be done, where, and what helps."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.errors import NoSpace, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DAMAGED", "disk_errors", "no_space", "storage_error"]

DAMAGED = "the store was changed from outside, or the disk fails; remove the store and build again"
"""The hint for a store that is not what was recorded."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def no_space(path: str | os.PathLike[str]) -> NoSpace:
    """The error for a full disk (or quota) under `path`."""
    return NoSpace(
        f"no space left on device: {os.fspath(path)}",
        hint="free some space, or set ANYARCH_ROOT to a directory on a larger disk; finished work is kept",
    )


def storage_error(error: OSError, path: str | os.PathLike[str]) -> StoreError:
    """The `StoreError` for an `OSError` met at `path`."""
    where = os.fspath(path)
    if error.errno in _FULL:
        return no_space(where)
    reason = error.strerror or str(error)
    if error.errno in _REFUSED:
        return StoreError(
            f"cannot write to the store: {where}: {reason}",
            hint="make the directory writable for this user, or set ANYARCH_ROOT to one that is",
        )
    return StoreError(f"the store cannot be used: {where}: {reason}")


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every `OSError` inside into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error
