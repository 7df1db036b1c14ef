"""A daemon of anyarch on a Unix socket, for what needs no machine of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["SocketDaemon"]

_START_S = 60.0


class SocketDaemon:
    """A running `anyarchd` (or what `argv` is the beginning of) whose store is below `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        argv: Sequence[str] = (),
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = directory / "daemon.sock"
        self.endpoint = f"unix://{self.socket}"
        self._log = directory / "daemon.log"
        program = "import sys; from anyarch.daemon.main import main; sys.exit(main())"
        words = [*argv] if argv else [sys.executable, "-c", program]
        words += ["--root", str(directory / "root"), "--addr", self.endpoint, *flags]
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        deadline = time.monotonic() + _START_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"the daemon did not start: {self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> SocketDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
