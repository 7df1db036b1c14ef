"""`anyarch history logs`: the output of a build that a node has recorded, or that still runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.cli.history import REF_HELP

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "history logs",
    summary="Print the logs of a build record",
    usage="history logs [OPTIONS] [REF]",
    description="Print the output of a build, as `build` shows it and where; a build that runs is followed.",
    arguments=(REF_HELP,),
    most=1,
    flags=(Flag("progress", "How it is shown: plain, rawjson, tty (default: plain)", metavar="MODE"),),
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.history import follow_record
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.history import chosen_record
    from anyarch.progress import choose_mode, open_display

    wanted = parsed.text("progress") or "plain"
    mode = choose_mode("plain" if wanted == "auto" else wanted, stderr(), os.environ)
    entry = chosen_record(parsed)
    with open_display(mode, stderr()) as display:
        asyncio.run(follow_record(entry, display.sink))
    return 0
