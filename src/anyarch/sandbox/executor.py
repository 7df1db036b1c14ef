"""Run steps in sandboxes: the side of the supervisor that lives in our process.

One small supervisor process is started on the first step that has to run, and forks a child for each step. All of
it ends with this process, however that ends. What the child does is in `anyarch.sandbox.supervisor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyarch.sandbox.plan import CancelToken, ExecRequest

__all__ = ["Executor"]


class Executor:
    """Runs `ExecRequest`s. Thread-safe; several requests run at once. Close it (or use it as a context manager)."""

    def __init__(self, state_dir: Path | str) -> None:
        """`state_dir` is an existing or creatable directory that serves as a private mountpoint; it stays empty."""
        self.state_dir = str(state_dir)

    @property
    def overlay(self) -> str:
        """Whose overlay attributes the steps' upper directories carry: `trusted` (as root) or `user`."""
        raise SandboxError("the sandbox is not complete yet")

    def run(
        self,
        request: ExecRequest,
        *,
        on_output: Callable[[int, bytes], None],
        cancel: threading.Event | CancelToken | None = None,
        stdio: tuple[int, int, int] | None = None,
    ) -> int:
        """Run to the end and return the exit code (128+N when signal N ended it, so 137 when cancelled).

        `on_output(stream, data)` is called in this thread with what the process writes to stream 1 or 2. `stdio`
        hands these descriptors to the process instead. Raises `SandboxError` when the sandbox cannot be set up or
        the program cannot be executed.
        """
        raise SandboxError("the sandbox is not complete yet")

    def run_in_userns(self, argv: Sequence[str], stdin: bytes = b"", *, env: Sequence[str] = ()) -> bytes:
        """Run a host program as the owner of all ids a step can have, and return what it writes to its output.

        For an ordinary user that is inside the user namespace of the steps, so directories they left can be read
        and removed. Raises `SandboxError` with the program's error output when it does not end with 0.
        """
        raise SandboxError("the sandbox is not complete yet")

    def close(self) -> None:
        """End the supervisor and every step that still runs."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
