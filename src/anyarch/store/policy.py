"""What a collection takes: filters, limits, and the rules that hold after builds.

The rules are those of BuildKit's daemon: tried in order, each with filters, an age, and three limits. Sizes
in the `[gc]` table of the configuration file are bytes, units (`10GB`) or a percentage of the disk:

    [gc]
    enabled = true
    reservedSpace = "10GB"      # never collect below this
    maxUsedSpace = "80%"        # collect above this
    minFreeSpace = "20%"        # collect until so much of the disk is free
    cap = "50GB"                # more than this is never used, not during a build either

    [[gc.policy]]               # instead of the usual rules
    filters = ["type==exec.cachemount"]
    keepDuration = "48h"
    maxUsedSpace = "512MB"
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.store.usage import Record

__all__ = ["Disk", "Filter", "Policy", "Settings", "default_policies", "parse_duration", "parse_size"]

_GB = 10**9
_HOUR = 3600.0
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": _HOUR, "d": 24 * _HOUR}
_FIELDS = ("id", "parents", "description", "inuse", "mutable", "immutable", "type", "shared", "private")
_AGES = ("until", "unused-for")


class Disk(msgspec.Struct, frozen=True):
    """The file system of a store: bytes in all, and free for this user."""

    total: int
    free: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Disk:
        found = os.statvfs(path)
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


class Filter(msgspec.Struct, frozen=True):
    """One `--filter`: a field, how it is compared (`==`, `!=`, `~=`), and with what."""

    field: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """`type=regular`, `id!=abc`, `description~=RUN`, `shared`. Raises `UsageError`."""
        match = re.fullmatch(r"([a-zA-Z.-]+)(?:(==?|!=|~=)(.*))?", text, re.DOTALL)
        if match is None or match[1].lower() not in _FIELDS:
            raise UsageError(
                f"invalid filter {text!r}",
                hint=f"a filter is one of {', '.join((*_AGES, *_FIELDS))}, and a value",
            )
        comparison = match[2] or "=="
        value = match[3] or ""
        if comparison == "~=":
            try:
                re.compile(value)
            except re.error as error:
                raise UsageError(f"invalid filter {text!r}: {error}") from None
        if comparison == "=":  # as people write it: an id may then be a part of one
            comparison = "==" if match[1].lower() != "id" else "~="
            value = value if comparison == "==" else re.escape(value)
        return cls(match[1].lower(), comparison, value)

    def __str__(self) -> str:
        return (
            f"{self.field}{self.comparison}{self.value}"
            if self.value or self.comparison == "!="
            else self.field
        )

    def __call__(self, record: Record) -> bool:
        match self.field:
            case "id":
                values: tuple[str, ...] = (record.id,)
            case "parents":
                values = record.parents
            case "description":
                values = (record.description,)
            case "type":
                values = (record.kind,)
            case _:
                truth = {
                    "inuse": record.in_use,
                    "mutable": record.mutable,
                    "immutable": not record.mutable,
                    "shared": record.shared,
                    "private": not record.shared,
                }[self.field]
                wanted = self.value.lower() not in ("false", "0", "f")
                return (truth == wanted) != (self.comparison == "!=")
        if self.comparison == "~=":
            return any(re.search(self.value, value) for value in values)
        return (self.value in values) != (self.comparison == "!=")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. Takes what passes one group of `filters` (each group: all of its filters; no group: anything)
    and was not used for `keep_s` seconds, least recently used first, until the limits (bytes) are kept; all
    of it when there are none. `all` includes internal records and images that have a name."""

    all: bool = False
    filters: tuple[tuple[Filter, ...], ...] = ()
    keep_s: float = 0.0
    reserved: int = 0
    max_used: int = 0
    min_free: int = 0

    def matches(self, record: Record, now: float) -> bool:
        if record.in_use or (not self.all and (record.shared or record.kind in ("internal", "frontend"))):
            return False
        if self.keep_s and record.last_used > now - self.keep_s:
            return False
        return not self.filters or any(all(one(record) for one in group) for group in self.filters)

    def goal(self, used: int, disk: Disk) -> int:
        """How many bytes may stay, when `used` are."""
        if not (self.reserved or self.max_used or self.min_free):
            return 0
        goal = used if self.max_used or self.min_free else self.reserved
        if self.max_used:
            goal = min(goal, self.max_used)
        if self.min_free and disk.free < self.min_free:
            goal = min(goal, used - (self.min_free - disk.free))
        return max(goal, self.reserved, 0)


def default_policies(reserved: int, max_used: int, min_free: int) -> tuple[Policy, ...]:
    """The rules of BuildKit's daemon for these limits."""
    cheap = tuple(
        (Filter("type", "==", kind),) for kind in ("source.local", "exec.cachemount", "source.git.checkout")
    )
    limits = Policy(reserved=reserved, max_used=max_used, min_free=min_free)
    return (
        Policy(filters=cheap, keep_s=48 * _HOUR, max_used=512 * 10**6),
        msgspec.structs.replace(limits, keep_s=60 * 24 * _HOUR),
        limits,
        msgspec.structs.replace(limits, all=True),
    )


class Settings(msgspec.Struct, frozen=True):
    """The `[gc]` table. `cap` is 0 for none."""

    enabled: bool = True
    policies: tuple[Policy, ...] = ()
    cap: int = 0

    @classmethod
    def load(cls, disk: Disk, env: Mapping[str, str] | None = None) -> Settings:
        """From the configuration file; BuildKit's defaults where it says nothing. Raises `UsageError`."""
        env = os.environ if env is None else env
        home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "/", ".config")
        path = env.get("ANYARCH_CONFIG") or os.path.join(home, "anyarch", "config.toml")
        try:
            with open(path, "rb") as file:
                raw = file.read()
        except OSError:
            return cls.of({}, disk)  # a file that must exist is complained about where registries are read
        if b"gc" not in raw:
            return cls.of({}, disk)
        import tomllib

        try:
            table = tomllib.loads(raw.decode()).get("gc", {})
            return cls.of(table, disk)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}", hint=error.hint) from None

    @classmethod
    def of(cls, table: Mapping[str, Any], disk: Disk) -> Settings:
        known = {"enabled", "reservedSpace", "maxUsedSpace", "minFreeSpace", "cap", "policy"}
        _refuse_unknown(table, known, "[gc]")
        limits = _limits(table, disk)
        policies = default_policies(
            limits.reserved if "reservedSpace" in table else min(disk.total // 10, 10 * _GB),
            limits.max_used if "maxUsedSpace" in table else min(disk.total * 8 // 10, 100 * _GB),
            limits.min_free if "minFreeSpace" in table else disk.total // 5,
        )
        if "policy" in table:
            policies = tuple(_policy(item, disk) for item in table["policy"])
        return cls(bool(table.get("enabled", True)), policies, parse_size(table.get("cap", 0), disk))


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(
            f"{where} has no setting {unknown[0]!r}", hint=f"there are {', '.join(sorted(known))}"
        )


def _limits(table: Mapping[str, Any], disk: Disk) -> Policy:
    return Policy(
        reserved=parse_size(table.get("reservedSpace", 0), disk),
        max_used=parse_size(table.get("maxUsedSpace", 0), disk),
        min_free=parse_size(table.get("minFreeSpace", 0), disk),
    )


def _policy(table: Mapping[str, Any], disk: Disk) -> Policy:
    known = {"all", "filters", "keepDuration", "reservedSpace", "maxUsedSpace", "minFreeSpace"}
    _refuse_unknown(table, known, "[[gc.policy]]")
    # As for BuildKit: the texts of one rule are alternatives, what commas join must all be true.
    groups = tuple(
        tuple(Filter.parse(part) for part in str(text).split(",")) for text in table.get("filters", ())
    )
    return msgspec.structs.replace(
        _limits(table, disk),
        all=bool(table.get("all", False)),
        filters=groups,
        keep_s=parse_duration(table.get("keepDuration", 0)),
    )


def parse_size(value: object, disk: Disk | None = None) -> int:
    """Bytes of `1024`, `512MB`, `1.5g`, `10GiB` (units of 1024) or, of a disk, `10%`. Raises `UsageError`."""
    text = str(value).strip().lower()
    percent = natural(text.removesuffix("%")) if text.endswith("%") else None
    if disk is not None and percent is not None:
        return disk.total * percent // 100
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", text)
    if match is None:
        raise UsageError(f"invalid size: {value!r}", hint="a number with one of k, m, g, t, for example 10GB")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2] or " "))


def parse_duration(value: object) -> float:
    """Seconds of `48h`, `1h30m`, `7d`, or a number of seconds. Raises `UsageError`."""
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"invalid duration: {value!r}", hint="for example 24h, 90m or 7d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
