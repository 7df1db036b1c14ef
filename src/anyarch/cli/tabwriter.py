"""Columns as Go's text/tabwriter makes them: Docker's tools print with it, and scripts cut what they print.

A cell is text that a tab ends. A column is a run of consecutive lines that have a cell at that place; it is
as wide as its widest cell and `padding` more, at least `least` (but for nothing when all its cells are empty
and `padding` alone would make it so). What follows the last tab of a line belongs to no column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.spec.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["align"]


def align(rows: Sequence[Sequence[str]], *, least: int = 0, padding: int = 1, tabs: int = 0) -> str:
    """`rows` are the cells of each line, the last of them what is not followed by a tab. With `tabs`
    cells are filled with tabs that lead to multiples of it, instead of spaces. What a terminal would act on
    is made visible: much of it is a daemon's word."""
    rows = [[cell if cell.isprintable() else visible(cell) for cell in row] for row in rows]
    widths: list[list[int]] = [[] for _ in rows]
    _measure(rows, widths, 0, len(rows), 0, least, padding)
    lines = []
    for row, columns in zip(rows, widths, strict=True):
        cells = [_filled(cell, width, tabs) for cell, width in zip(row, columns, strict=False)]
        lines.append("".join(cells) + (row[-1] if row else ""))
    return "".join(f"{line}\n" for line in lines)


def _filled(cell: str, width: int, tabs: int) -> str:
    if not tabs:
        return cell.ljust(width)
    stops = -(-width // tabs) * tabs
    return cell + "\t" * -(-(stops - len(cell)) // tabs)


def _measure(
    rows: Sequence[Sequence[str]],
    widths: list[list[int]],
    start: int,
    end: int,
    column: int,
    least: int,
    padding: int,
) -> None:
    """Find the widths of `column` and those right of it for the lines `start` to `end`."""
    line = start
    while line < end:
        if len(rows[line]) - 1 <= column:
            line += 1
            continue
        last = line
        width = least
        while last < end and len(rows[last]) - 1 > column:
            width = max(width, len(rows[last][column]) + padding)
            last += 1
        for number in range(line, last):
            widths[number].append(width)
        _measure(rows, widths, line, last, column + 1, least, padding)
        line = last
