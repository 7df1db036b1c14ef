"""Directories of `RUN --mount=type=cache`: they outlive builds, belong to no image and are known by their id
alone.

Sharing holds across processes, by flock: `shared` takes a read lock (so that a clean-up can tell what is in
use),
`locked` waits for the only write lock, `private` takes the first of numbered directories that nobody has.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyarch.llb.ops import CacheSharing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.llb.ops import CacheOpt

__all__ = ["cache_mount"]


@contextmanager
def cache_mount(root: Path, options: CacheOpt) -> Iterator[str]:
    """The directory for `options`, held until the context is left. May wait (`locked`)."""
    name = hashlib.sha256(options.id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    base = root / "cache-mounts"
    base.mkdir(exist_ok=True)
    number = 0
    while True:
        directory = base / (name if number == 0 else f"{name}-{number}")
        lock = os.open(f"{directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            match options.sharing:
                case CacheSharing.SHARED:
                    fcntl.flock(lock, fcntl.LOCK_SH)
                case CacheSharing.LOCKED:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                case CacheSharing.PRIVATE:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        number += 1
                        continue
            directory.mkdir(mode=0o755, exist_ok=True)
            # What `du` shows, and when it was last used.
            os.pwrite(lock, options.id.encode("utf-8", "surrogateescape"), 0)
            yield str(directory)
            return
        finally:
            os.close(lock)
