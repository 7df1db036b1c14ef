"""The engine's part in `anyarch emulators`: this machine's platforms, tried and told."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.emulation.survey import Status

__all__ = ["list_emulators"]


def list_emulators(platforms: Sequence[str] = (), *, probe: bool = True) -> list[Status]:
    """How each of `platforms` (all that are of interest when empty) would run here; with `probe` after
    running a tiny program of it. Raises `InvalidPlatform`, and `SandboxError` where nothing can be run."""
    from tempfile import TemporaryDirectory

    from anyarch.emulation import Host
    from anyarch.emulation.survey import platforms_of_interest, survey
    from anyarch.sandbox.executor import Executor
    from anyarch.spec.platform import parse_list

    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="anyarch-"))
        executor = stack.enter_context(Executor(directory))
        host = Host(executor=executor)
        wanted = parse_list(list(platforms)) if platforms else platforms_of_interest(host)
        return survey(dict.fromkeys(wanted), host, executor if probe else None, is_root=os.geteuid() == 0)
