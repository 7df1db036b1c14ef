"""What is kept of the output of steps: so much in all and so much a second, as of BuildKit's daemon, by the
same variables. A step that writes without end fills neither memory nor records; its last words are kept.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anyarch.solver.events import LogEvent, VertexEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.solver.events import Event

__all__ = ["Clip"]

_SIZE = 2 << 20
_SPEED = 200 << 10
_TAIL = 256 << 10


class Clip:
    """`events` is asked for each event of a build, in order. Limits in bytes; -1 for none."""

    def __init__(self, *, size: int = _SIZE, speed: int = _SPEED) -> None:
        self._size = size
        self._speed = speed
        self._streams: dict[str, dict[int, _Stream]] = {}

    @classmethod
    def of(cls, env: Mapping[str, str] | None = None) -> Clip:
        """As BUILDKIT_STEP_LOG_MAX_SIZE and BUILDKIT_STEP_LOG_MAX_SPEED say."""
        env = os.environ if env is None else env
        return cls(
            size=_number(env.get("BUILDKIT_STEP_LOG_MAX_SIZE", ""), _SIZE),
            speed=_number(env.get("BUILDKIT_STEP_LOG_MAX_SPEED", ""), _SPEED),
        )

    def events(self, event: Event) -> list[Event]:
        """What is told instead of `event`."""
        if isinstance(event, LogEvent):
            streams = self._streams.setdefault(event.vertex, {})
            stream = streams.get(event.stream)
            if stream is None:
                stream = streams[event.stream] = _Stream(event.timestamp)
            data = self._take(stream, event)
            return [replace(event, data=data)] if data else []
        if isinstance(event, VertexEvent) and event.completed is not None:
            streams = self._streams.pop(event.digest, {})
            return [
                *(
                    LogEvent(event.digest, number, bytes(stream.tail), event.completed)
                    for number, stream in sorted(streams.items())
                    if stream.tail
                ),
                event,
            ]
        return [event]

    def _take(self, stream: _Stream, event: LogEvent) -> bytes:
        if event.timestamp < stream.last:  # the clock was set back, which gives nobody less
            stream.began -= stream.last - event.timestamp
        stream.last = event.timestamp
        limit, text = self._limit(event.timestamp - stream.began)
        before, stream.size = stream.size, stream.size + len(event.data)
        room = len(event.data) if limit < 0 else max(0, limit - before)
        if room >= len(event.data):
            stream.is_clipping = False
            stream.tail.clear()
            return event.data
        stream.tail += event.data[room:]
        del stream.tail[: max(0, len(stream.tail) - _TAIL)]
        if stream.is_clipping:
            return event.data[:room]
        stream.is_clipping = True
        return event.data[:room] + f"\n[output clipped, log limit {text} reached]\n".encode()

    def _limit(self, elapsed: float) -> tuple[int, str]:
        """Bytes that may have been told by now, and which limit that is."""
        if self._speed >= 0:
            by_speed = max(1, math.ceil(elapsed)) * self._speed
            if self._size < 0 or by_speed <= self._size:
                return by_speed, f"{_text(self._speed)}/s"
        return self._size, _text(self._size)


class _Stream:
    def __init__(self, began: float) -> None:
        self.began = self.last = began
        self.size = 0
        self.is_clipping = False
        self.tail = bytearray()


def _number(text: str, default: int) -> int:
    try:
        return max(-1, int(text))
    except ValueError:
        return default


def _text(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g}{unit}"
    return f"{size}B"
