"""Events of one of several nodes, kept apart from those of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.solver.events import LogEvent, StatusEvent, VertexEvent, WarningEvent
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.solver.events import Event, EventSink

__all__ = ["renamed"]


def renamed(emit: EventSink, node: str) -> Callable[[Event], None]:
    """Events of one of several nodes: two of them may work on what is the same vertex."""

    def digest(text: str) -> str:
        return str(Digest.of(f"{node} {text}".encode()))

    def name(text: str) -> str:
        return f"[{node} {text[1:]}" if text.startswith("[") else f"[{node}] {text}"

    def rename(event: Event) -> None:
        match event:
            case VertexEvent():
                inputs = tuple(digest(one) for one in event.inputs)
                changed: Event = msgspec.structs.replace(
                    event, digest=digest(event.digest), name=name(event.name), inputs=inputs
                )
            case StatusEvent() | LogEvent() | WarningEvent():
                changed = msgspec.structs.replace(event, vertex=digest(event.vertex))
        emit(changed)

    return rename
