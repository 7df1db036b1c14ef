"""Blobs between the store and a registry, and no byte more than either lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from anyarch.errors import BlobNotFound, DigestMismatch, ManifestNotFound
from anyarch.snapshot.layers import BLOBS, LAYOUT
from anyarch.spec.digest import Digest
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from anyarch.errors import AnyarchError
    from anyarch.registry.client import Registry
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import ContentStore
    from anyarch.worker.worker import Worker

__all__ = ["bring_blob", "fetch_blob", "push_blob"]


def push_blob(
    worker: Worker, name: Reference, descriptor: Descriptor, layer_id: str, cancel: threading.Event
) -> None:
    """Make the repository of `name` have a blob; `layer_id` is the layer it belongs to, "" for none. What is
    only remote is mounted where that can be, else fetched."""
    registry, content = worker.registry, worker.store.content
    digest = Digest(descriptor.digest)
    places = worker.layers.remote(worker.layers.get(layer_id)) if layer_id else []
    origins = [place for known, place in places if known.digest == digest]
    references = [Reference.parse(place) for place in origins if not place.startswith((LAYOUT, BLOBS))]
    mount_from = next((r.path for r in references if r.domain == name.domain and r.path != name.path), None)

    def opened() -> BinaryIO:
        # Asked for only when the bytes have to be sent: what the registry has, or can mount, is fetched from
        # nowhere.
        bring_blob(worker, descriptor, layer_id)
        return content.open(digest)

    registry.push_blob(name, descriptor, opened, mount_from=mount_from, cancel=cancel)


def bring_blob(worker: Worker, descriptor: Descriptor, layer_id: str) -> None:
    """Have the bytes of a blob in the store, from the first of the places that are known to have it which
    does; `layer_id` is the layer it belongs to, "" for none. `BlobNotFound` when none has it any more."""
    if worker.store.content.has(descriptor.digest):
        return
    places = worker.layers.remote(worker.layers.get(layer_id)) if layer_id else []
    missing: AnyarchError | None = None
    for known, place in places:
        if known.digest != descriptor.digest:
            continue
        try:
            worker.fetch_from(place, known, "")
            return
        except (BlobNotFound, ManifestNotFound) as error:
            missing = error
    if missing is not None:
        raise BlobNotFound(missing.message, hint=missing.hint) from missing
    raise BlobNotFound(
        f"blob {descriptor.digest} is not here, and no place is known that has it",
        hint="run the build again: it is made anew",
    )


def fetch_blob(
    registry: Registry,
    content: ContentStore,
    name: Reference,
    descriptor: Descriptor,
    *,
    on_progress: Callable[[int], None],
    cancel: threading.Event,
) -> None:
    """Bring a blob into the store. What an earlier fetch has left of it is gone on with; should the whole
    turn out wrong then, it is fetched from its start once more. `on_progress` gets numbers of bytes, a
    negative one for what was lost."""
    while True:
        with content.writer(expected=descriptor.digest, size=descriptor.size, resume=True) as writer:
            had = writer.offset
            if had:
                on_progress(had)
            try:
                registry.fetch(
                    name,
                    descriptor,
                    writer,
                    on_progress=on_progress,
                    cancel=cancel,
                    verify=False,
                    start=had,
                )
                writer.commit()
                return
            except DigestMismatch:
                writer.discard()
                if not had:
                    raise
                on_progress(-writer.offset)
