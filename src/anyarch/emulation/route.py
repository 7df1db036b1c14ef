"""By which route a step of some platform runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import EmulatorMissing
from anyarch.sandbox.plan import Registration

if TYPE_CHECKING:
    from anyarch.emulation.host import Host
    from anyarch.sandbox.executor import Executor
    from anyarch.spec.platform import Platform

__all__ = ["Route", "plan", "probe"]


class Route(msgspec.Struct, frozen=True):
    """`kind` is `native`, `host` (a handler that the host has registered) or `private` (our own binfmt_misc).

    `emulators` is what to put into `ExecRequest.emulators`. `cache_identity` names the emulator and its version;
    it belongs into the cache key of a step that runs by this route, and is empty for native ones.
    """

    kind: str
    emulators: tuple[Registration, ...] = ()
    cache_identity: str = ""


def plan(platform: Platform, host: Host, *, is_root: bool) -> Route:
    """The best route for `platform`. Raises `EmulatorMissing` with what is missing and what to install."""
    raise EmulatorMissing(f"no route to {platform} yet")


def probe(platform: Platform, host: Host, executor: Executor, *, is_root: bool) -> Route:
    """Like `plan`, and run a tiny program of the platform by that route. Raises `SandboxError` when that fails."""
    raise EmulatorMissing(f"no route to {platform} yet")
