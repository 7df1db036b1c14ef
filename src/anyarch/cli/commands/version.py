"""`anyarch version`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command("version", summary="Show the version", usage="version")


def run(parsed: Parsed) -> int:
    from anyarch.version import __version__

    print("anyarch", __version__)
    return 0
