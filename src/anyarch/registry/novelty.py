"""Whether a repository is so new that asking for small blobs, one by one, is a waste.

To ask for a blob of some kilobytes costs as much as to send it, and a new repository answers no every time:
of an image of many small layers that is a third of all requests. So once the first blobs were all missing and
the registry says that it knows no such repository, small ones are sent unasked. A push that was broken off
leaves its first blobs there (blobs go in a fixed order), and one that is found ends this for good.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Novelty"]

_MISSES = 16  # more than transfers run side by side: a broken push leaves no gap as wide
_SMALL = 1 << 16  # bytes


class Novelty:
    """What one client learnt about repositories, by name. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._misses: dict[str, int] = {}
        self._is_new: dict[str, bool] = {}

    def heard(self, repository: str, *, found: bool) -> None:
        """The answer to a question for a blob or a manifest."""
        with self._lock:
            if found:
                self._is_new[repository] = False
            else:
                self._misses[repository] = self._misses.get(repository, 0) + 1

    def spares(self, repository: str, size: int, is_unknown: Callable[[], bool]) -> bool:
        """Whether a blob of `size` bytes is to be sent without asking for it. `is_unknown` asks the registry
        whether it knows the repository; it is called at most once for each."""
        if size > _SMALL:
            return False
        with self._lock:
            known = self._is_new.get(repository)
            if known is not None or self._misses.get(repository, 0) < _MISSES:
                return known is True
            self._is_new[repository] = False  # what the other threads go by until the answer is there
        if not is_unknown():
            return False
        with self._lock:
            self._is_new[repository] = True
        return True
