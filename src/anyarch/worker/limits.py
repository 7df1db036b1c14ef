"""How much of one kind of work a build does at the same time: steps, transfers, compression.

Steps wait for slots of their own, so a long RUN never keeps a download or a compression waiting, and the
other way round. `[parallelism]` in the configuration file sets the numbers, `--parallel` overrides it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

__all__ = ["Limits", "SharedSlots"]

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
                most = natural(number)
                if name not in _NAMES or not most:
                    raise UsageError(f"invalid value {field!r} of --parallel", hint=_HINT)
                values[name] = most
        return cls(**values)


class SharedSlots:
    """At most `count` holders at the same time, of any number of event loops, in the order they came. An
    asynchronous context manager, for any number of tasks."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        import asyncio
        from concurrent.futures import Future

        with self._lock:
            if self._free:
                self._free -= 1
                return
            mine: Future[None] = Future()
            self._waiting.append(mine)
        try:
            await asyncio.wrap_future(mine)
        except asyncio.CancelledError:
            with self._lock:
                is_waiting = mine in self._waiting
                if is_waiting:
                    self._waiting.remove(mine)
            if not is_waiting:  # it was given the slot meanwhile
                self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            given = self._waiting.popleft()
        # Who was cancelled just now finds that it waits no longer, and passes the slot on.
        if given.set_running_or_notify_cancel():
            given.set_result(None)


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
