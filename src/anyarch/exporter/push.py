"""Push an image: blobs in parallel, then manifests, the index, and the tag last of all."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from anyarch.worker.transfer import push_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.exporter.assemble import AssembledImage
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference
    from anyarch.worker.worker import Worker

__all__ = ["push"]


async def push(
    worker: Worker,
    image: AssembledImage,
    names: Sequence[Reference],
    *,
    by_digest: bool = False,
    on_step: Callable[[str], None] = lambda text: None,
) -> None:
    """Push `image` under every name. What a registry has already is not sent, nor fetched from elsewhere
    first.

    The tag is written when all it leads to is there, so it names either what it did before or all of the new
    image.
    """
    cancel = threading.Event()
    try:
        for name in names:
            await _push_blobs(worker, image, name, cancel)
            on_step("pushing layers")
            await _push_documents(worker, image, name, by_digest, cancel)
            await asyncio.to_thread(worker.store.origins.add, name.name, _digests(image))
            tag = f":{name.tag}" if name.tag and not by_digest else ""
            on_step(f"pushing manifest for {name.name}{tag}@{image.root.digest}")
    except asyncio.CancelledError:
        cancel.set()
        raise


async def _push_blobs(
    worker: Worker, image: AssembledImage, name: Reference, cancel: threading.Event
) -> None:
    blobs: dict[str, tuple[Descriptor, str]] = {}
    for item in image.platforms:
        for descriptor, layer_id in zip(item.layers, item.layer_ids, strict=True):
            if descriptor.urls:
                continue  # not for distribution: it stays where its addresses say
            blobs[descriptor.digest] = (descriptor, layer_id)
        blobs[item.config.digest] = (item.config.descriptor(), "")
    for extra in image.attestations:
        blobs.update({blob.digest: (blob.descriptor(), "") for blob in extra.blobs})
    await asyncio.gather(
        *(
            worker.in_network(push_blob, worker, name, descriptor, layer, cancel)
            for descriptor, layer in blobs.values()
        )
    )


async def _push_documents(
    worker: Worker, image: AssembledImage, name: Reference, by_digest: bool, cancel: threading.Event
) -> None:
    registry = worker.registry
    documents = [item.manifest for item in image.platforms]
    documents += [extra.manifest for extra in image.attestations]
    if image.index is not None:
        await asyncio.gather(
            *(worker.in_network(registry.push_manifest, name, blob, cancel=cancel) for blob in documents)
        )
    tag = None if by_digest else name.tag
    await asyncio.to_thread(registry.push_manifest, name, image.root, tag=tag, cancel=cancel)


def _digests(image: AssembledImage) -> list[str]:
    """All that a repository has after a push. Layers that are not for distribution it has not."""
    found: list[str] = [image.root.digest]
    for item in image.platforms:
        found += [item.manifest.digest, item.config.digest]
        found += [layer.digest for layer in item.layers if not layer.urls]
    for extra in image.attestations:
        found += [extra.manifest.digest, *(blob.digest for blob in extra.blobs)]
    return found
