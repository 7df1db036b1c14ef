"""One daemon for a root directory. Builds of `anyarch` without a daemon may use the same store beside it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.errors import StoreError
from anyarch.store.filelock import take
from anyarch.store.place import default_root

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["claimed"]


@contextmanager
def claimed(root: str | None) -> Iterator[None]:
    """Raises `StoreError` where another daemon has it, or where it cannot be written to."""
    directory = root or str(default_root())
    path = os.path.join(directory, "buildkitd.lock")
    try:
        os.makedirs(directory, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {directory}: {error.strerror}", hint="choose another --root") from error
    try:
        if not take(fd, wait=False):
            raise StoreError(
                f"could not lock {path}, another instance running?",
                hint="end the other daemon, or give this one a --root of its own",
            )
        yield
    finally:
        os.close(fd)
