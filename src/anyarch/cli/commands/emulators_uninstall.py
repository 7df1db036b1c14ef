"""`anyarch emulators uninstall`: takes back what `emulators install` registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "emulators uninstall",
    summary="Remove emulators that were registered with emulators install",
    usage="emulators uninstall all | ARCH[,ARCH...]",
    description=(
        "Remove the entries that `anyarch emulators install` has made in the machine's binfmt_misc. Entries "
        "of others, such as those of a package, are never touched. Needs root."
    ),
    arguments=(("all", "every entry of ours"), ("ARCH", "an architecture, as for emulators install")),
    least=1,
    most=1,
)


def run(parsed: Parsed) -> int:
    from anyarch.emulation.emulator import PLATFORM_ARCHITECTURES
    from anyarch.engine.emulators import uninstall_emulators

    changes = uninstall_emulators(parsed.args[0])
    for change in changes:
        name = PLATFORM_ARCHITECTURES.get(change.arch, change.arch)
        print(f"{name}: {change.action}: {change.detail}")
    if not changes:
        print("nothing of ours is registered")
    return 0
