"""`anyarch history rm`: let the nodes forget builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "history rm",
    summary="Remove build records",
    usage="history rm [OPTIONS] [REF...]",
    description="Remove records of builds from the nodes of the builder. What was built stays.",
    arguments=(("REF", "name of a record, as `history ls` shows it"),),
    most=None,
    flags=(Flag("all", "Remove all build records"),),
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.history import remove_records
    from anyarch.cli.builders import chosen_builder

    every = parsed.switch("all")
    if not parsed.args and not every:
        raise UsageError("rm requires at least one argument", hint="or --all")
    if parsed.args and every:
        raise UsageError("rm requires either --all or at least one argument")
    asyncio.run(remove_records(chosen_builder(parsed), parsed.args, all=every))
    return 0
