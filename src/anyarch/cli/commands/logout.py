"""`anyarch logout`: forget the credentials of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "logout",
    summary="Forget the credentials of a registry",
    usage="logout [SERVER]",
    description="Remove what `anyarch login` or `docker login` keeps. Without SERVER it is Docker Hub.",
    arguments=(("SERVER", "host[:port] of the registry"),),
    least=0,
    most=1,
)


def run(parsed: Parsed) -> int:
    """Raises `UsageError`, `OutputError`."""
    from anyarch.registry import login

    server = parsed.args[0] if parsed.args else "docker.io"
    shown = login.key_of(server)
    if login.erase(server):
        print(f"Removing login credentials for {shown}")
    else:
        print(f"Not logged in to {shown}")
    return 0
