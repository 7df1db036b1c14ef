"""`anyarch build --plan`: the plan of a build as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.results import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.builder.builder import Builder
    from anyarch.engine.plan import PlanRow
    from anyarch.engine.request import BuildRequest

__all__ = ["plan_table", "run_plan"]


def run_plan(request: BuildRequest, mode: str, *, debug: bool, builder: Builder | None = None) -> int:
    """Print the plan; 1 when a stage could not run."""
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.errors import EXIT_CANCELED, EXIT_INTERNAL, broken_pipe, report
    from anyarch.cli.signals import stopping
    from anyarch.engine.plan import plan_build
    from anyarch.engine.request import CancelToken
    from anyarch.progress import open_display

    cancel = CancelToken()
    display = open_display(mode, stderr())
    try:
        with stopping(cancel, notice=mode == "plain"), display:
            if builder is not None:
                from anyarch.builder.plan import plan_on

                rows = plan_on(builder, request, display.sink, cancel)
            else:
                rows = plan_build(request, on_event=display.sink, cancel=cancel)
    except BaseException as error:
        display.close()
        pipe = broken_pipe(error)
        if pipe is not None:
            raise pipe from None
        status = report(
            error,
            stderr(),
            prefix="failed to plan: ",
            debug=debug,
            command="build",
            canceled=cancel.is_set(),
        )
        return status if status in (EXIT_CANCELED, EXIT_INTERNAL) else 1
    print(plan_table(rows), end="")
    return 1 if any(row.how == "impossible" for row in rows) else 0


_HEADER = ("STAGE", "FOR", "NODE", "RUNS ON", "HOW", "STEPS", "CACHED", "LAST TIME", "EMULATOR")


def plan_table(rows: Sequence[PlanRow]) -> str:
    """One row a stage and platform, then what is impossible and why."""
    if not rows:
        return "nothing has to be done: no stage has a step\n"
    cells: list[tuple[str, ...]] = [
        ("STAGE", "FOR", "NODE", "RUNS ON", "HOW", "STEPS", "CACHED", "LAST TIME", "EMULATOR")
    ]
    cells += [
        (
            row.stage,
            ", ".join(row.targets),
            row.node,
            row.runs_on if row.how != "files" else "-",
            row.how,
            str(row.steps),
            "?" if row.cached is None else str(row.cached),
            _last(row),
            row.emulator or "-",
        )
        for row in rows
    ]
    if not any(row.node for row in rows):
        cells = [(*line[:2], *line[3:]) for line in cells]
    elif not any(row.emulator for row in rows):
        cells = [line[:-1] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    for row in rows:
        if row.problem:
            lines += ["", f"{row.stage} for {', '.join(row.targets)}: {row.problem}"]
    return "\n".join(lines) + "\n"


def _last(row: PlanRow) -> str:
    """What the steps that are left took last time."""
    if row.steps == row.cached or (row.cached is None and not row.names):
        return "-"
    if row.seconds is None:
        return "unknown"
    text = format_seconds(row.seconds)
    return f"{text} + {row.unknown} unknown" if row.unknown else text
