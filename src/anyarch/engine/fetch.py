"""`fetch --lock FILE`: pin the images that a recipe needs, and bundle them for builds without a network."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import UsageError
from anyarch.source.lock import Bundle, Lock, write_lock
from anyarch.spec import media
from anyarch.worker.graph import load
from anyarch.worker.ops.source import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.engine.request import BuildRequest, CancelToken
    from anyarch.engine.solve import Prepared
    from anyarch.solver.events import EventSink
    from anyarch.source.image import Image
    from anyarch.spec.oci import Blob

__all__ = ["Fetched", "fetch_bases"]


class Fetched(msgspec.Struct, frozen=True):
    """`images` are the digests by name; `size` the bytes of the bundle's blobs; `others` what the recipe
    fetches besides images, which is not bundled."""

    images: dict[str, str]
    platforms: tuple[str, ...]
    size: int = 0
    others: tuple[str, ...] = ()


def fetch_bases(
    request: BuildRequest,
    lock: str,
    *,
    bundle: str | None = None,
    on_event: EventSink | None = None,
    cancel: CancelToken | None = None,
) -> Fetched:
    """Write the file `lock`, and unless `bundle` is empty (None: a name beside `lock`) the images of all
    platforms of the request. Nothing is run. Raises as a build does up to its first step, and
    `OutputError`."""
    from anyarch.engine.running import run_async
    from anyarch.engine.solve import prepared

    where = f"{lock}.bundle" if bundle is None else bundle
    relative = os.path.relpath(where, os.path.dirname(os.path.abspath(lock))) if where else ""

    async def work(emit: EventSink) -> Fetched:
        async with prepared(request, emit) as found:
            return await _fetch(found, lock, where, relative)

    return asyncio.run(run_async(work, on_event, cancel))


async def _fetch(found: Prepared, lock: str, bundle: str, relative: str) -> Fetched:
    worker = found.worker
    for name, _ in found.frontend.platforms:
        definition = found.frontend.refs.get(name)
        if definition is not None:
            load(found.solver, worker, definition)
    others = []
    for vertex in found.solver.vertices:
        if isinstance(vertex.operation, ImageSource):
            if not vertex.operation.is_layout:
                await vertex.operation.find()
        elif not vertex.inputs and vertex.name.startswith(("http://", "https://", "git://")):
            others.append(vertex.name)
    images = worker.images.known()
    pinned = {str(image.reference): str(image.digest) for image in images if image.reference.digest is None}
    size = 0
    if bundle:
        size = await _bundle(found, images, bundle)
    platforms = tuple(name for name, _ in found.frontend.platforms)
    if not images:
        raise UsageError("the recipe needs no image", hint="there is nothing to lock")
    write_lock(lock, Lock(platforms=platforms, images=pinned, bundle=relative))
    every = {str(image.reference): str(image.digest) for image in images}
    return Fetched(every, platforms, size, tuple(dict.fromkeys(others)))


async def _bundle(found: Prepared, images: Iterable[Image], path: str) -> int:
    """Fetch what is missing and copy all of it into the layout; the bytes of its blobs."""
    worker, content = found.worker, found.store.content
    bundle = Bundle(path)
    layers = {}
    roots: dict[str, Blob] = {}
    small: dict[str, None] = {}
    for image in images:
        pinned = image.reference.with_digest(image.digest)
        roots[str(image.reference)] = worker.images.document(image.reference, image.digest)
        small[image.digest] = small[image.manifest_digest] = None
        small[image.manifest.config.digest] = None
        for layer in image.manifest.layers:
            layers[layer.digest] = (pinned, layer)

    def copy(digest: str) -> None:
        bundle.add(digest, lambda: content.open(digest))

    async def fetch(digest: str) -> None:
        reference, layer = layers[digest]
        await worker.in_network(worker.fetch_blob, reference, layer, "")
        await asyncio.to_thread(copy, digest)

    async with asyncio.TaskGroup() as group:
        for digest in layers:
            group.create_task(fetch(digest))
    for digest in small:
        await asyncio.to_thread(copy, digest)
    kinds = media.INDEXES | media.MANIFESTS
    await asyncio.to_thread(bundle.finish, {n: blob for n, blob in roots.items() if blob.media_type in kinds})
    return sum(content.size(digest) for digest in (*layers, *small))
