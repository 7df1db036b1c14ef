"""What the daemon keeps, as its flags and configuration say: the rules of the store's collection, and how
many build records stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError
from anyarch.spec.number import natural
from anyarch.store.policy import Disk, parse_duration
from anyarch.store.policy import Settings as GcSettings

if TYPE_CHECKING:
    from anyarch.daemon.config import Config

__all__ = ["HistoryLimits", "gc_table", "history_limits"]

_LIMITS = ("reservedSpace", "minFreeSpace", "maxUsedSpace")
_POLICY = frozenset({"all", "filters", "keepDuration", "keepBytes", *_LIMITS})
_SOME_DISK = Disk(10**12, 10**12)


class HistoryLimits(msgspec.Struct, frozen=True):
    """Records go that are both beyond `entries` and older than `age_s`."""

    entries: int = 50
    age_s: float = 48 * 3600.0


def gc_table(config: Config, keep: str) -> dict[str, Any] | None:
    """The rules as the store's `[gc]` table has them; None where nothing is said. `keep` is the flag's text:
    RESERVED[,FREE[,MAXIMUM]] in MB. Raises `UsageError`."""
    worker = config.get("worker", "oci") or {}
    limits = {name: worker[name] for name in _LIMITS if worker.get(name)}
    if keep:
        limits = _flag_limits(keep)
    if not limits and worker.get("gckeepstorage"):
        limits = {"reservedSpace": worker["gckeepstorage"]}
    rules = worker.get("gcpolicy")
    if not limits and not rules:
        return None
    # As for buildkitd: where one limit is set, those that are not are none.
    table: dict[str, Any] = {name: limits.get(name, 0) for name in _LIMITS}
    if rules:
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise UsageError(f"{config.path}: worker.oci.gcpolicy has to be a list of tables")
        table["policy"] = [_policy(rule, config.path) for rule in rules]
    try:
        GcSettings.of(table, _SOME_DISK)
    except UsageError as error:
        raise UsageError(f"{config.path}: [worker.oci] {error.message}", hint=error.hint) from None
    return table


def _flag_limits(text: str) -> dict[str, int]:
    numbers = [number for number in map(natural, text.split(",")) if number is not None]
    if len(numbers) <= text.count(",") or len(numbers) > len(_LIMITS):
        raise UsageError(f"oci-worker-gc-keepstorage: {text!r} is not RESERVED[,FREE[,MAXIMUM]] in MB")
    return dict(zip(_LIMITS, (number * 10**6 for number in numbers), strict=False))


def _policy(rule: dict[str, Any], path: str) -> dict[str, Any]:
    for key in rule:
        if key not in _POLICY:
            raise UsageError(
                f"{path}: [[worker.oci.gcpolicy]]: unknown key {key!r}",
                hint=f"known are {', '.join(sorted(_POLICY))}",
            )
    found = {key: value for key, value in rule.items() if key != "keepBytes"}
    if rule.get("keepBytes") and not rule.get("reservedSpace"):
        found["reservedSpace"] = rule["keepBytes"]
    filters = found.get("filters", [])
    if not isinstance(filters, list) or not all(isinstance(text, str) for text in filters):
        raise UsageError(f"{path}: worker.oci.gcpolicy.filters has to be a list of strings")
    if "keepDuration" in found:
        found["keepDuration"] = _seconds(found["keepDuration"], f"{path}: worker.oci.gcpolicy.keepDuration")
    return found


def history_limits(config: Config) -> HistoryLimits:
    """The table `[history]`; as for buildkitd, what it leaves out is 0. Raises `UsageError`."""
    if not config.get("history"):
        return HistoryLimits()
    entries = config.number("history", "maxEntries") or 0
    if entries < 0:
        raise UsageError(f"{config.path}: history.maxEntries: {entries} is less than 0")
    age = config.get("history", "maxAge")
    return HistoryLimits(entries, 0.0 if age is None else _seconds(age, f"{config.path}: history.maxAge"))


def _seconds(value: object, what: str) -> float:
    text = str(value).strip()
    try:
        number = natural(text)
        return float(number) if number is not None else parse_duration(text)
    except UsageError as error:
        raise UsageError(f"{what}: {error.message}", hint=error.hint) from None
