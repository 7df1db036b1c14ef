"""Foreign platforms: which emulators there are, what the kernel runs by itself, and a step's route."""

from __future__ import annotations

from anyarch.emulation.emulator import Emulator, Memo, find_emulators
from anyarch.emulation.host import Handler, Host
from anyarch.emulation.route import Route, plan, probe

__all__ = ["Emulator", "Handler", "Host", "Memo", "Route", "find_emulators", "plan", "probe"]
