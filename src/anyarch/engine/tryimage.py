"""`test IMAGE -- CMD`: one command on every platform of an image."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.run import add_layers, find_image
from anyarch.engine.running import run_async
from anyarch.engine.trial import Trial, run_trial
from anyarch.errors import AnyarchError, NoMatchingPlatform
from anyarch.registry.platforms import available_platforms
from anyarch.spec import media
from anyarch.spec.oci import Index, decode
from anyarch.spec.platform import Platform
from anyarch.store.store import Store, default_root
from anyarch.worker.result import SnapshotResult
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.request import CancelToken, RunRequest
    from anyarch.solver.events import EventSink

__all__ = ["try_image"]


def try_image(
    request: RunRequest,
    platforms: Sequence[str] = (),
    on_event: EventSink | None = None,
    cancel: CancelToken | None = None,
) -> list[Trial]:
    """One result a platform, in the order of the index (or of `platforms`). Raises `AnyarchError` where the
    image is not there; what is wrong with a platform is its result."""
    return asyncio.run(run_async(lambda emit: _test(request, platforms, emit), on_event, cancel))


async def _test(request: RunRequest, platforms: Sequence[str], emit: EventSink) -> list[Trial]:
    root = Path(request.root) if request.root else default_root()
    with Store.open(root) as store:
        async with Worker(store, emit, emulators=request.emulators) as worker:
            wanted = [Platform.parse(name) for name in platforms]
            if not wanted:
                wanted = await asyncio.to_thread(_all_platforms, worker, request)

            async def one(platform: Platform) -> Trial:
                try:
                    image = await asyncio.to_thread(find_image, worker, request, platform)
                    snapshot = SnapshotResult(tuple(add_layers(worker.layers, image)))
                except AnyarchError as error:
                    return Trial(str(platform), None, 0.0, error=error.message, hint=error.hint)
                found = image.platform if image.platform.os else platform
                return await run_trial(worker, request, image.config, found, snapshot, emit)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(platform)) for platform in wanted]
            return [
                msgspec.structs.replace(task.result(), platform=str(platform))
                for task, platform in zip(tasks, wanted, strict=True)
            ]


def _all_platforms(worker: Worker, request: RunRequest) -> list[Platform]:
    reference = find_image(worker, request, None)
    blob = worker.images.document(reference, worker.images.resolve(reference))
    if blob.media_type not in media.INDEXES:
        image = worker.images.image(reference, worker.platform)
        return [image.platform]
    found = list(dict.fromkeys(platform for platform, _ in available_platforms(decode(Index, blob.raw))))
    if not found:
        raise NoMatchingPlatform(f"{request.image}: the index holds no image")
    return found
