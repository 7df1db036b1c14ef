"""The engine's facade: all that the command line, the builders and the API know of it.

`build` and `run_image` run an event loop of their own; inside one, use `build_async`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken, RunRequest
    from anyarch.engine.trial import Trial
    from anyarch.solver.events import EventSink

__all__ = ["build", "run_image", "try_image"]


def build(
    request: BuildRequest, on_event: EventSink | None = None, cancel: CancelToken | None = None
) -> BuildResult:
    """Build to the end. Raises `AnyarchError`; `Canceled` when `cancel` was set."""
    import asyncio

    from anyarch.engine.solve import build_async

    return asyncio.run(build_async(request, on_event, cancel))


def try_image(
    request: RunRequest,
    platforms: Sequence[str] = (),
    on_event: EventSink | None = None,
    cancel: CancelToken | None = None,
) -> list[Trial]:
    """Run a command on every platform of an image, or on `platforms`. Raises `AnyarchError` where the image
    is not there."""
    from anyarch.engine.tryimage import try_image as work

    return work(request, platforms, on_event, cancel)


def run_image(
    request: RunRequest, on_event: EventSink | None = None, cancel: CancelToken | None = None
) -> int:
    """Run a program of an image and return its exit status. Raises `AnyarchError` where it could not be
    started."""
    from anyarch.engine.run import run

    return run(request, on_event, cancel)
