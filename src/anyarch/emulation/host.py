"""What this machine can run: by its CPU and kernel, and through handlers registered with the host's binfmt_misc."""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = ["Handler", "Host", "Memo"]


class Memo(Protocol):
    """Small facts that stay true until the next boot or until a file changes; the caller stores them."""

    def get(self, key: str) -> bytes | None: ...
    def set(self, key: str, value: bytes) -> None: ...


class Handler(msgspec.Struct, frozen=True):
    """An entry of the host's binfmt_misc that serves the QEMU architecture `arch`."""

    arch: str
    name: str
    interpreter: str
    flags: str


class Host:
    """This machine, asked lazily: each fact is found out when it is first needed."""

    def __init__(self, *, memo: Memo | None = None) -> None:
        self._memo = memo
