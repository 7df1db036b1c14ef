"""What the daemons of a builder keep, and its removal: `du` and `prune` for builders elsewhere."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from anyarch.engine.storage import Record
from anyarch.errors import BuilderError, NotSupported, UsageError
from anyarch.spec.timestamp import LATEST_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.builder.builder import Builder, Node
    from anyarch.builder.wire import WireClient

__all__ = ["prune_on", "split_filters", "usage_on", "wire_client"]

_FILTER = re.compile(r"([A-Za-z-]+)(?:(!=|~=|==|=)(.*))?\Z", re.DOTALL)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")


def split_filters(texts: Sequence[str]) -> tuple[list[str], int]:
    """Filters as BuildKit's API takes them, and the age in nanoseconds that `until` asks for. Raises
    `UsageError`."""
    filters, age = [], 0
    for text in texts:
        match = _FILTER.match(text)
        if match is None:
            raise UsageError(f"invalid filter {text!r}", hint="for example type=regular or until=24h")
        key, operator, value = match.groups()
        if key in ("until", "unused-for"):
            age = _nanoseconds(value or "")
        elif operator is None:
            filters.append(key)
        else:
            filters.append(f"{key}{'==' if operator == '=' else operator}{value}")
    return [",".join(filters)] if filters else [], age  # all of them have to be true


def _nanoseconds(text: str) -> int:
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise UsageError(f"invalid duration {text!r} in a filter", hint="for example 24h or 90m")
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts) * 1_000_000_000)


async def usage_on(builder: Builder, texts: Sequence[str], *, timeout_s: float = 20.0) -> list[Record]:
    """The records of all nodes, the largest first. Nodes have `timeout_s` to tell their status (0: any time).
    Raises `AnyarchError`."""
    from anyarch.api.proto import control_pb2 as control

    filters, age = split_filters(texts)
    request = control.DiskUsageRequest(filter=filters, ageLimit=age)

    async def one(node: Node) -> list[Any]:
        client = await wire_client(node)
        try:
            found: list[Any] = await client.disk_usage(request)
            return found
        finally:
            await client.close()

    found = await asyncio.gather(*(one(node) for node in await _running(builder, timeout_s)))
    records = [_record(item) for items in found for item in items]
    return sorted(records, key=lambda record: -record.size)


async def prune_on(
    builder: Builder,
    texts: Sequence[str],
    *,
    all: bool,
    reserved: int,
    max_used: int,
    min_free: int,
    on_removed: Callable[[Record], None],
    timeout_s: float = 20.0,
) -> None:
    """Remove on all nodes what the filters and limits (bytes, 0: none) choose."""
    from anyarch.api.proto import control_pb2 as control

    filters, age = split_filters(texts)
    request = control.PruneRequest(
        filter=filters,
        all=all,
        keepDuration=age,
        reservedSpace=reserved,
        maxUsedSpace=max_used,
        minFreeSpace=min_free,
    )

    async def one(node: Node) -> None:
        client = await wire_client(node)
        try:
            await client.prune(request, lambda item: on_removed(_record(item)))
        finally:
            await client.close()

    await asyncio.gather(*(one(node) for node in await _running(builder, timeout_s)))


async def wire_client(node: Node) -> WireClient:
    """A client of a daemon's API. Raises `NotSupported` for a node that is none."""
    from anyarch.builder.wire import WireClient

    assert node.driver is not None
    client = await node.driver.client()
    inner = getattr(client, "wire", client)
    if not isinstance(inner, WireClient):
        await client.close()
        raise NotSupported(f"node {node.name} does not tell what it keeps")
    return inner


async def _running(builder: Builder, timeout_s: float) -> list[Node]:
    """The nodes that run; raises what one that cannot be asked has said, and where none runs."""
    await builder.load(timeout_s)
    for node in builder.nodes:
        if node.error is not None:
            raise node.error
    running = [node for node in builder.nodes if node.is_running]
    if not running:
        raise BuilderError(
            f"no node of builder {builder.name} is running", hint="anyarch inspect --bootstrap starts it"
        )
    return running


def _record(item: Any) -> Record:
    return Record(
        id=item.ID,
        kind=item.RecordType,
        size=item.Size,
        created_at=_seconds(item.CreatedAt),
        last_used=_seconds(item.LastUsedAt),
        description=item.Description,
        parents=tuple(item.Parents) or ((item.Parent,) if item.Parent else ()),
        shared=item.Shared,
        in_use=item.InUse,
        mutable=item.Mutable,
        uses=item.UsageCount,
    )


def _seconds(stamp: Any) -> float:
    """Within the years that have names."""
    return float(min(max(stamp.seconds + stamp.nanos / 1e9, 0.0), float(LATEST_S)))
