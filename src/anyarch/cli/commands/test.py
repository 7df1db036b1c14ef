"""`anyarch test`: does a command work on every platform of an image?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.cli.flags import Parsed
    from anyarch.engine.trial import Trial

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "test",
    summary="Run a command on every platform of an image",
    usage="test [OPTIONS] IMAGE -- COMMAND [ARG...]",
    description=(
        "Run a command in the image of each platform, emulated where needed, and show a table of the "
        "results. It takes the place of ENTRYPOINT and CMD. The status is 0 when it succeeded on all "
        "platforms, else 1."
    ),
    arguments=(
        (
            "IMAGE",
            "reference in a registry, name in the local store, oci-layout://PATH[:TAG], or the path "
            "of an OCI layout (directory or tar)",
        ),
        ("COMMAND", "program and arguments; without them the image's own"),
    ),
    least=1,
    most=None,
    interspersed=False,
    flags=(
        Flag(
            "env",
            "Set an environment variable; KEY alone takes the environment's value",
            short="e",
            metavar="KEY[=VALUE]",
            repeat=True,
        ),
        Flag("network", "Network of the command", metavar="MODE", choices=("host", "none")),
        Flag("platform", "These platforms only", metavar="OS/ARCH[/VARIANT],...", repeat=True),
        Flag("progress", "How progress is shown: auto, none, plain, rawjson, tty", metavar="MODE"),
        Flag("pull", "When to ask the registry", metavar="WHEN", choices=("missing", "always", "never")),
        Flag("user", "User, as in USER of a Dockerfile", short="u", metavar="USER[:GROUP]"),
        Flag(
            "volume",
            "Show a directory or file of this machine to the command",
            short="v",
            metavar="SOURCE:DEST[:ro]",
            repeat=True,
        ),
        Flag("workdir", "Working directory", short="w", metavar="DIR"),
    ),
    examples=(("Does it start?", "anyarch test reg.example.com/app:1 -- /app --version"),),
)


def run(parsed: Parsed) -> int:
    """1 when the command failed on a platform. Raises what the engine raises."""
    from anyarch import engine
    from anyarch.cli.commands.run import volume_of
    from anyarch.cli.transfers import transferring
    from anyarch.engine import grammar
    from anyarch.engine.request import RunRequest

    image, *command = parsed.args
    if command[:1] == ["--"]:
        command = command[1:]
    if not image:
        raise UsageError("invalid reference format: no image given")
    platforms, _ = grammar.platforms(parsed.texts("platform"))
    variables = grammar.key_values(parsed.texts("env"), os.environ)
    request = RunRequest(
        image=image,
        command=tuple(command),
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        workdir=parsed.text("workdir"),
        user=parsed.text("user"),
        entrypoint="" if command else None,
        network=parsed.text("network") or "host",
        volumes=tuple(volume_of(text) for text in parsed.texts("volume")),
        pull=parsed.text("pull") or "missing",
    )
    with transferring(parsed) as (emit, cancel):
        trials = engine.try_image(request, platforms, on_event=emit, cancel=cancel)
    print(table(trials), end="")
    return 0 if all(trial.is_passed for trial in trials) else 1


def table(trials: Sequence[Trial]) -> str:
    """One row a platform, and below it what failed in words."""
    rows = [("PLATFORM", "RESULT", "TIME", "HOW")]
    for trial in trials:
        if trial.is_passed:
            result = "passed"
        else:
            result = f"failed ({trial.status})" if trial.status is not None else "not run"
        rows.append((trial.platform, result, f"{trial.seconds:.1f}s", trial.route))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    text = ""
    for row in rows:
        text += "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
    for trial in trials:
        if trial.status is None:
            text += f"{trial.platform}: {trial.error}\n"
            if trial.hint:
                text += f"  hint: {trial.hint}\n"
    return text
