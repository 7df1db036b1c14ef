"""`anyarch completion SHELL`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

_SHELLS = ("bash", "zsh", "tcsh")

COMMAND = Command(
    "completion",
    summary="Print a completion script for a shell",
    usage="completion bash|zsh|tcsh",
    description=(
        "Print a script that completes commands and flags. Load it in the start-up file of the shell."
    ),
    arguments=(("SHELL", ", ".join(_SHELLS)),),
    least=1,
    most=1,
    examples=(
        ("bash", 'eval "$(anyarch completion bash)"'),
        ("zsh", "anyarch completion zsh > ~/.zfunc/_anyarch"),
    ),
)


def run(parsed: Parsed) -> int:
    (shell,) = parsed.args
    if shell not in _SHELLS:
        raise UsageError(f'no completion for shell "{shell}"', hint=f"there is {', '.join(_SHELLS)}")
    import shtab

    from anyarch.cli.argparsers import program_parser

    print(shtab.complete(program_parser(), shell=shell))
    return 0
