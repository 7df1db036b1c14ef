"""`anyarch store check`: is the store whole?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "store check",
    summary="Check every digest and reference of the store",
    usage="store check",
    description=(
        "Read the whole store and compare it with its database: every blob and layer must have its digest "
        "and size, every reference must lead to something. Exits with 1 when anything is wrong. Builds may "
        "run meanwhile."
    ),
)


def run(parsed: Parsed) -> int:
    from anyarch.cli.dispatch import stderr
    from anyarch.engine.storage import check

    problems = check()
    if not problems:
        print("the store is whole")
        return 0
    for problem in problems:
        print(problem)
    print(
        f"{len(problems)} problem{'s' * (len(problems) != 1)}; `anyarch prune --all` removes what is damaged "
        "with all the rest, and builds make it anew",
        file=stderr(),
    )
    return 1
