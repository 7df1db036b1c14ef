"""What each platform's programs would meet on this machine: the facts behind `anyarch emulators ls`.

Nothing is changed here. With a probe each platform's route is really taken, by a program of a few bytes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.emulator import QEMU_ARCHITECTURES, Emulator
from anyarch.emulation.route import plan, probe
from anyarch.errors import EmulatorMissing, NotSupported, SandboxError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.emulation.host import Handler, Host
    from anyarch.emulation.route import Route
    from anyarch.sandbox.executor import Executor

__all__ = ["Status", "platforms_of_interest", "survey"]

NOT_FIXED = (
    "the machine's handler {name} lacks the flag F: the kernel would look for {interpreter} inside the "
    "step's root file system, where it is not"
)


class Status(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How programs of `platform` run here.

    `route` is native, host (a handler that the machine has registered), private (a binfmt_misc of the
    build's own), register (a build of root registers a handler), or empty when there is none. `works` is what
    the probe found, None when it was not made. `interpreter`, `version` and `flags` are the emulator's,
    `registered_by` the handler's name, `private` or empty. `problem` says what is missing and `hint` what to
    do; `notes` are things that do not stand in the way.
    """

    platform: str
    route: str = ""
    works: bool | None = None
    interpreter: str = ""
    version: str = ""
    flags: str = ""
    registered_by: str = ""
    problem: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """There is a route, and where it was tried it worked."""
        return bool(self.route) and self.works is not False


def platforms_of_interest(host: Host) -> list[Platform]:
    """What the machine runs natively, then one platform for each architecture that QEMU knows."""
    native = host.native_platforms()
    architectures = {platform.architecture for platform in native}
    foreign = [Platform.make("linux", name) for name in QEMU_ARCHITECTURES if name not in architectures]
    return [*native, *sorted(foreign)]


def survey(
    platforms: Iterable[Platform], host: Host, executor: Executor | None, *, is_root: bool
) -> list[Status]:
    """One status a platform; with an `executor` each is probed."""
    return [_status(platform, host, executor, is_root) for platform in platforms]


def _status(platform: Platform, host: Host, executor: Executor | None, is_root: bool) -> Status:
    handlers = host.handlers(QEMU_ARCHITECTURES.get(platform.architecture, ""))
    notes = tuple(
        NOT_FIXED.format(name=handler.name, interpreter=handler.interpreter)
        for handler in handlers
        if not handler.is_fixed
    )
    try:
        route = plan(platform, host, is_root=is_root)
    except EmulatorMissing as error:
        return Status(str(platform), problem=error.message, hint=error.hint or "", notes=notes)
    status = _described(platform, route, host, handlers, notes)
    if executor is None:
        return status
    try:
        probe(platform, host, executor, is_root=is_root)
    except NotSupported:
        return status  # no program that small is known for it
    except SandboxError as error:
        hint = error.hint or (
            "try another QEMU: another version of qemu-user-static, or a directory named by ANYARCH_QEMU_DIR"
            if route.kind != "native"
            else ""
        )
        return msgspec.structs.replace(status, works=False, problem=error.message, hint=hint)
    return msgspec.structs.replace(status, works=True)


def _described(
    platform: Platform, route: Route, host: Host, handlers: list[Handler], notes: tuple[str, ...]
) -> Status:
    if route.kind == "native":
        return Status(str(platform), "native", notes=notes)
    if route.kind == "register":
        version = Emulator(QEMU_ARCHITECTURES[platform.architecture], route.interpreter).version(host.memo)
        notes = (*notes, f"a build of root registers it with the machine, for {route.note}")
        return Status(str(platform), "register", None, route.interpreter, version, notes=notes)
    if route.kind == "private":
        (entry,) = route.emulators
        version = Emulator(QEMU_ARCHITECTURES[platform.architecture], entry.interpreter).version(host.memo)
        return Status(
            str(platform), "private", None, entry.interpreter, version, entry.flags, "private", notes=notes
        )
    handler = next(handler for handler in handlers if handler.is_fixed)
    # a handler may go by a link whose name QEMU takes as an option
    path = os.path.realpath(handler.interpreter)
    version = Emulator(handler.arch, path).version(host.memo)
    return Status(
        str(platform), "host", None, handler.interpreter, version, handler.flags, handler.name, notes=notes
    )
