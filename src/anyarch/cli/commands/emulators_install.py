"""`anyarch emulators install`: emulators for the whole machine, as `tonistiigi/binfmt --install` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "emulators install",
    summary="Register emulators with the machine, for all its programs",
    usage="emulators install [OPTIONS] all | ARCH[,ARCH...]",
    description=(
        "Register static QEMU emulators with the machine's binfmt_misc, so that programs of other "
        "architectures run everywhere on it: in docker, podman and chroots too. They are registered with the "
        "flag F, so a container need not hold them. Entries of others are left alone; the registration "
        "lasts until the next boot. Builds of anyarch need it only where the kernel has no private "
        "binfmt_misc (before Linux 6.7). Needs root."
    ),
    arguments=(
        ("all", "every architecture that the machine does not run natively and has an emulator for"),
        ("ARCH", "an architecture: 386, amd64, arm, arm64, loong64, mips64le, ppc64le, riscv64, s390x ..."),
    ),
    least=1,
    most=1,
    flags=(
        Flag("from", "Take the emulators of this directory", metavar="DIR", complete="directory"),
        Flag("from-image", "Take them out of an image, such as tonistiigi/binfmt", metavar="IMAGE"),
    ),
    examples=(
        ("Two architectures, with the system's QEMU", "anyarch emulators install arm64,riscv64"),
        ("All, without a package", "anyarch emulators install --from-image tonistiigi/binfmt all"),
    ),
)


def run(parsed: Parsed) -> int:
    """0, or 1 when one that was asked for is not there or does not work."""
    from anyarch.emulation.emulator import PLATFORM_ARCHITECTURES
    from anyarch.emulation.register import BINFMT_MISC
    from anyarch.engine.emulators import install_emulators, owns_the_machine

    directory, image = parsed.text("from"), parsed.text("from-image")
    if directory and image:
        raise UsageError("--from and --from-image cannot be used together")
    mounted, changes = install_emulators(parsed.args[0], directory=directory or None, image=image or None)
    if mounted:
        print(f"mounted binfmt_misc at {BINFMT_MISC}")
    for change in changes:
        print(f"{PLATFORM_ARCHITECTURES[change.arch]}: {change.action}: {change.detail}")
    if not owns_the_machine():
        from anyarch.cli.dispatch import stderr

        print(
            "WARNING: this is a user namespace (a rootless container?): what was registered holds in it "
            "alone, not on the machine, and goes when it ends",
            file=stderr(),
        )
    bad = [change for change in changes if change.action in ("missing", "broken")]
    if any(change.action == "missing" for change in bad):
        from anyarch.cli.dispatch import stderr

        print(
            "hint: apt-get install qemu-user-static, or take them out of an image: "
            "--from-image tonistiigi/binfmt",
            file=stderr(),
        )
    return 1 if bad else 0
