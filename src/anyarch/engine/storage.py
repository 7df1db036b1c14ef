"""The store as a user looks after it: what it holds, what may go, whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError
from anyarch.store.collect import collect, disk_usage
from anyarch.store.policy import Disk, Filter, Policy, Settings, parse_duration, parse_size
from anyarch.store.store import Store, default_root
from anyarch.store.usage import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


__all__ = [
    "Record",
    "check",
    "filter_groups",
    "keep_limits",
    "policy_of",
    "prune",
    "selection",
    "usage",
    "usage_of",
]

_AGES = ("until", "unused-for")


def selection(filters: Iterable[str], **limits: str | None) -> Policy:
    """The rule of `--filter` texts, which must all be true, and of `reserved`, `max_used` and `min_free`
    (sizes as text). Raises `UsageError`."""
    chosen = []
    ages = []
    for text in filters:
        name, _, value = text.partition("=")
        if name.strip() in _AGES:
            ages.append(parse_duration(value))
        else:
            chosen.append(Filter.parse(text.strip()))
    if len(ages) > 1:
        raise UsageError("filters until and unused-for expect one value together")
    sizes = {name: parse_size(text) for name, text in limits.items() if text is not None}
    return Policy(
        filters=(tuple(chosen),) if chosen else (),
        keep_s=ages[0] if ages else 0.0,
        reserved=sizes.get("reserved", 0),
        max_used=sizes.get("max_used", 0),
        min_free=sizes.get("min_free", 0),
    )


def filter_groups(texts: Iterable[str]) -> tuple[tuple[Filter, ...], ...]:
    """Filters as BuildKit's API has them: any of `texts` may be true, all parts of one between its commas.
    Raises `UsageError`."""
    groups = [tuple(Filter.parse(part.strip()) for part in text.split(",") if part.strip()) for text in texts]
    return tuple(group for group in groups if group)


def policy_of(texts: Iterable[str], *, keep_s: float, reserved: int, max_used: int, min_free: int) -> Policy:
    """The rule of such filters and limits (bytes). Raises `UsageError`."""
    return Policy(
        filters=filter_groups(texts),
        keep_s=keep_s,
        reserved=reserved,
        max_used=max_used,
        min_free=min_free,
    )


def usage_of(root: Path) -> list[Record]:
    """What the store at `root` holds; the largest first."""
    with Store.open(root) as store:
        return disk_usage(store)


def usage(filters: Iterable[str] = (), *, root: str | None = None) -> list[Record]:
    """What the store holds, as far as it passes all `filters`; the largest first."""
    import time

    policy = selection(filters)
    now = time.time()
    with Store.open(Path(root) if root else default_root()) as store:
        return [
            record
            for record in disk_usage(store)
            if all(one(record) for group in policy.filters for one in group)
            and (not policy.keep_s or record.last_used <= now - policy.keep_s)
        ]


def prune(
    policy: Policy, *, all: bool, on_removed: Callable[[Record], object], root: str | None = None
) -> list[Record]:
    """Remove what `policy` chooses; `all` includes images with a name and internal records. Never takes what
    a running build uses."""
    from anyarch.worker.worker import Machine

    with Store.open(Path(root) if root else default_root()) as store:
        machine = Machine(store)
        try:
            machine.open_layers()  # as an ordinary user, steps' files belong to other ids
            return collect(store, (msgspec.structs.replace(policy, all=all),), on_removed=on_removed)
        finally:
            machine.close()


def keep_limits(root: Path, table: Mapping[str, Any] | None) -> list[Record]:
    """Apply the rules of `table` (as `[gc]`; None: those of the configuration file); answers what was
    removed. Never waits for another collection."""
    from anyarch.worker.worker import Machine

    disk = Disk.of(root)
    settings = Settings.load(disk) if table is None else Settings.of(table, disk)
    if not settings.enabled:
        return []
    with Store.open(root) as store:
        machine = Machine(store)
        try:
            machine.open_layers()  # as for `prune`
            return collect(store, settings.policies, wait=False)
        finally:
            machine.close()


def check(*, root: str | None = None) -> list[str]:
    """One line for each thing that is wrong with the store; reads all of it."""
    with Store.open(Path(root) if root else default_root()) as store:
        return store.verify()
