"""Disk usage and pruning, as the service Control has them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyarch.api.proto import control_pb2
from anyarch.daemon.events import timestamp
from anyarch.engine.storage import filter_groups, prune, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyarch.engine.storage import Record

__all__ = ["disk_usage", "prune_store"]

_NS = 1_000_000_000


def disk_usage(root: Path, request: control_pb2.DiskUsageRequest) -> list[control_pb2.UsageRecord]:
    """Raises `UsageError` for a filter that makes no sense. Blocks."""
    groups = filter_groups(list(request.filter))
    limit = time.time() - request.ageLimit / _NS
    return [
        _message(record)
        for record in usage_of(root)
        if (not groups or any(all(one(record) for one in group) for group in groups))
        and (not request.ageLimit or record.last_used <= limit)
    ]


def prune_store(
    root: Path,
    request: control_pb2.PruneRequest,
    on_removed: Callable[[control_pb2.UsageRecord], object],
) -> None:
    """Remove what a request chooses, telling of each. Never what a running build uses. Blocks."""
    from anyarch.engine.storage import policy_of

    policy = policy_of(
        list(request.filter),
        keep_s=request.keepDuration / _NS,
        reserved=request.reservedSpace,
        max_used=request.maxUsedSpace,
        min_free=request.minFreeSpace,
    )
    prune(policy, all=request.all, on_removed=lambda record: on_removed(_message(record)), root=str(root))


def _message(record: Record) -> control_pb2.UsageRecord:
    message = control_pb2.UsageRecord(
        ID=record.id,
        Mutable=record.mutable,
        InUse=record.in_use,
        Size=record.size,
        CreatedAt=timestamp(record.created_at),
        LastUsedAt=timestamp(record.last_used),
        UsageCount=record.uses,
        Description=record.description,
        RecordType=record.kind,
        Shared=record.shared,
        Parents=record.parents,
    )
    return message
