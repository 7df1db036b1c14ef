"""Static QEMU user-mode emulators on this machine."""

from __future__ import annotations

import msgspec

__all__ = ["Emulator", "find_emulators"]


class Emulator(msgspec.Struct, frozen=True):
    """One QEMU program: `arch` is QEMU's own name (aarch64, x86_64 …), `path` where it lies."""

    arch: str
    path: str

    def version(self) -> str:
        """What the program says of itself, such as `7.2.17`; empty when it says nothing usable."""
        return ""

    def digest(self) -> str:
        """`sha256:…` of the program file."""
        return ""


def find_emulators() -> dict[str, Emulator]:
    """All usable emulators by QEMU's architecture name. Nothing is executed."""
    return {}
