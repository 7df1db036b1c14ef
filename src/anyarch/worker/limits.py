"""How much of one kind of work a build does at the same time: steps, transfers, compression.

Steps wait for slots of their own, so a long RUN never keeps a download or a compression waiting, and the
other way round. `[parallelism]` in the configuration file sets the numbers, `--parallel` overrides it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Limits"]

_NAMES = ("exec", "network", "cpu")
_HINT = "write exec=N (steps), network=N (transfers) or cpu=N (layers compressed at once)"


class Limits(msgspec.Struct, frozen=True):
    """`exec`: steps that run; `network`: blobs that are fetched or sent; `cpu`: layers that are packed and
    compressed, each on several threads."""

    exec: int
    network: int = 8
    cpu: int = 2

    @classmethod
    def default(cls) -> Limits:
        cpus = len(os.sched_getaffinity(0))
        return cls(exec=max(8, 2 * cpus), network=8, cpu=max(2, cpus))

    @classmethod
    def of(cls, texts: Sequence[str], env: Mapping[str, str] | None = None) -> Limits:
        """The defaults, with what the configuration file and `texts` (`exec=4,network=2`) say. Raises
        `UsageError`."""
        values = {**msgspec.structs.asdict(cls.default()), **_configured(env or os.environ)}
        for text in texts:
            for field in text.split(","):
                name, _, number = field.strip().partition("=")
                if name not in _NAMES or not (number.isascii() and number.isdigit() and int(number) > 0):
                    raise UsageError(f"invalid value {field!r} of --parallel", hint=_HINT)
                values[name] = int(number)
        return cls(**values)


def _configured(env: Mapping[str, str]) -> dict[str, int]:
    home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "/", ".config")
    path = env.get("ANYARCH_CONFIG") or os.path.join(home, "anyarch", "config.toml")
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        return {}  # a file that must exist is complained about where registries are read
    if b"parallelism" not in raw:
        return {}
    import tomllib

    try:
        table: Any = tomllib.loads(raw.decode()).get("parallelism", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
    for name, value in table.items() if isinstance(table, dict) else [("", None)]:
        if name not in _NAMES or type(value) is not int or value < 1:
            raise UsageError(
                f"{path}: invalid {name or 'value'} in [parallelism]",
                hint=f"numbers from 1 on for {', '.join(_NAMES)}",
            )
    return dict(table)
