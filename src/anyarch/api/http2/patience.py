"""What one connection puts up with: counts of what a peer can do without end, and the limits of each.

Each limit is far above what BuildKit's clients and ours do, and low enough that a peer which means harm costs
little: it is disconnected, and others do not notice.
"""

from __future__ import annotations

from anyarch.api.http2.errors import ENHANCE_YOUR_CALM, ProtocolError

__all__ = ["MAX_PENDING", "Patience"]

MAX_PENDING = 256 << 20
"""Bytes of answers that may wait for a peer that asks and does not read: sixteen of the largest messages."""
_MAX_UNREAD_CONTROL = 10_000
_MAX_RESETS = 2000
_MAX_RESIZED = 1_000_000


class Patience:
    """Methods raise `ProtocolError` (ENHANCE_YOUR_CALM) where it is at an end."""

    def __init__(self) -> None:
        self._control = 0
        self._resets = 0
        self._resized = 0
        self._pending = 0

    def answerable(self) -> None:
        """A frame that is answered or means nothing."""
        self._control += 1
        if self._control > _MAX_UNREAD_CONTROL:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many control frames")

    def useful(self) -> None:
        """A frame that brings something: it makes up for one of the others."""
        if self._control:
            self._control -= 1

    def answers_left(self) -> None:
        """The transport has taken what was to be answered."""
        self._control = 0

    def given_up(self) -> None:
        """A stream that the peer gave up (rapid reset) or made us give up."""
        self._resets += 1
        if self._resets > _MAX_RESETS:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many streams were reset")

    def finished(self) -> None:
        """A stream that came to an end makes up for one that did not."""
        if self._resets:
            self._resets -= 1

    def resized(self, streams: int) -> None:
        """The peer changed the window of that many streams at once."""
        self._resized += streams
        if self._resized > _MAX_RESIZED:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the initial window changes without end")

    def waits(self, size: int) -> bool:
        """That many bytes more (or fewer) wait to be sent. Whether that is within the limit."""
        self._pending += size
        return self._pending <= MAX_PENDING
