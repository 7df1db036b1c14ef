"""Foreign platforms: which emulators there are, what the kernel runs by itself, and by which route a step runs."""

from __future__ import annotations

from anyarch.emulation.emulator import Emulator, find_emulators
from anyarch.emulation.host import Handler, Host, Memo
from anyarch.emulation.route import Route, plan, probe

__all__ = ["Emulator", "Handler", "Host", "Memo", "Route", "find_emulators", "plan", "probe"]
