"""The daemon's log: lines on standard error, as text or JSON."""

from __future__ import annotations

import json
import sys
import time

__all__ = ["Log"]


class Log:
    """Safe from any thread: a line is one write."""

    def __init__(self, *, debug: bool = False, as_json: bool = False) -> None:
        self._debug = debug
        self._json = as_json

    def debug(self, text: str) -> None:
        if self._debug:
            self._line("debug", text)

    def info(self, text: str) -> None:
        self._line("info", text)

    def warn(self, text: str) -> None:
        self._line("warning", text)

    def error(self, text: str) -> None:
        self._line("error", text)

    def _line(self, level: str, text: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = json.dumps({"level": level, "msg": text, "time": now})
        else:
            line = f"time={json.dumps(now)} level={level} msg={json.dumps(text)}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
