"""What went through the proxy of one step: requests, what they gave, and what of it is not known whole."""

from __future__ import annotations

import threading

import msgspec

__all__ = ["UNKNOWN", "Material", "Missing", "Passed", "Recorder", "Traffic"]

_MOST_BYTES = 16 << 20
"""What is written down of one step; one that asks for more has materials that are not known."""
_EACH = 100


class Material(msgspec.Struct, frozen=True):
    url: str
    digest: str


class Passed(msgspec.Struct, frozen=True):
    """A request that was answered; `redirect` is where the answer leads, if anywhere."""

    method: str
    url: str
    status: int
    redirect: str = ""


class Missing(msgspec.Struct, frozen=True):
    """A request whose answer is no material that is known by a digest. `reason` is BuildKit's word."""

    method: str
    url: str
    reason: str


class Traffic(msgspec.Struct, frozen=True):
    requests: tuple[Passed, ...] = ()
    fetched: tuple[Material, ...] = ()
    missing: tuple[Missing, ...] = ()

    def materials(self) -> list[Material]:
        """What was fetched, and under which other addresses, since those led to it."""
        digests = {item.url: item.digest for item in self.fetched}
        leads = {item.url: item.redirect for item in self.requests if item.redirect not in ("", item.url)}
        found = list(self.fetched)
        grows = True
        while grows:
            grows = False
            for url, target in leads.items():
                if url not in digests and target in digests:
                    digests[url] = digests[target]
                    found.append(Material(url, digests[target]))
                    grows = True
        return found

    def log(self) -> str:
        """What the step's output tells of it; empty where it asked for nothing."""
        if not self.requests:
            return ""
        lines = [f"- {item.method} {item.url} -> {item.status}\n" for item in self.requests]
        return "proxy network requests:\n" + "".join(lines)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Traffic:
        return msgspec.msgpack.decode(raw, type=cls)


UNKNOWN = Traffic(missing=(Missing("", "", "not_captured"),))
"""Of a step whose result was made elsewhere."""


class Recorder:
    """Thread-safe. After `finish` nothing is written down any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Passed] = []
        self._materials: dict[int, Material] = {}
        self._missing: list[Missing] = []
        self._next = 0
        self._left = _MOST_BYTES
        self._is_finished = False

    def passed(self, item: Passed) -> None:
        with self._lock:
            if self._has_room(item.method, item.url, item.redirect):
                self._requests.append(item)

    def material(self, url: str, digest: str) -> int:
        """A number by which it can be taken back."""
        with self._lock:
            self._next += 1
            if self._has_room("GET", url):
                self._materials[self._next] = Material(url, digest)
            return self._next

    def take_back(self, number: int) -> None:
        with self._lock:
            if not self._is_finished:
                self._materials.pop(number, None)

    def missing(self, item: Missing) -> None:
        with self._lock:
            if self._has_room(item.method, item.url):
                self._missing.append(item)

    def _has_room(self, method: str, *texts: str) -> bool:
        """The first thing that there is no room for is noted as missing, without its address."""
        if self._is_finished or self._left <= 0:
            return False
        self._left -= _EACH + len(method) + sum(map(len, texts))
        if self._left <= 0:
            self._missing.append(Missing("", "", "too_many_requests"))
        return self._left > 0

    def finish(self) -> Traffic:
        """All of it."""
        with self._lock:
            self._is_finished = True
            return Traffic(tuple(self._requests), tuple(self._materials.values()), tuple(self._missing))
