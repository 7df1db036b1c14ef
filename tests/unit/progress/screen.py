"""A terminal as far as the tty display uses one: enough to see what a user would see."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """`rows` x `columns` cells with scroll-back; text is taken as one column a character."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[str] = [""]
        self.x = self.y = 0
        self.cursor_visible = True
        self.sgr: set[str] = set()

    def feed(self, text: str) -> None:
        for match in _TOKEN.finditer(text):
            arguments, command, carriage, newline, chars = match.groups()
            if command == "A":
                top = max(len(self.lines) - self.rows, 0)
                self.y = max(self.y - int(arguments or 1), top)
            elif command == "K":
                self.lines[self.y] = self.lines[self.y][: self.x]
            elif command == "J":
                self.lines[self.y] = self.lines[self.y][: self.x]
                del self.lines[self.y + 1 :]
            elif command == "m":
                self.sgr.add(arguments)
            elif command in ("h", "l"):
                self.cursor_visible = command == "h"
            elif carriage:
                self.x = 0
            elif newline:
                self.x = 0
                self.y += 1
                if self.y == len(self.lines):
                    self.lines.append("")
            elif chars:
                line = self.lines[self.y].ljust(self.x)
                self.lines[self.y] = line[: self.x] + chars + line[self.x + len(chars) :]
                self.x += len(chars)
                assert self.x < self.columns, f"line would wrap: {self.lines[self.y]!r}"

    def resize(self, columns: int) -> None:
        """Make the screen narrower or wider; longer lines wrap, as terminals do."""
        wrapped: list[str] = []
        for number, line in enumerate(self.lines):
            if number == self.y:
                self.y = len(wrapped)
            wrapped += [line[at : at + columns] for at in range(0, len(line), columns)] or [""]
        self.columns, self.lines = columns, wrapped

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")
