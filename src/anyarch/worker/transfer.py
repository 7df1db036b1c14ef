"""Sending blobs of the store to a registry, and no byte more than it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from anyarch.snapshot.layers import BLOBS, LAYOUT
from anyarch.spec.digest import Digest
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    import threading

    from anyarch.spec.oci import Descriptor
    from anyarch.worker.worker import Worker

__all__ = ["push_blob"]


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
        if not content.has(digest) and origins:
            worker.fetch_from(origins[0], descriptor, "")
        return content.open(digest)

    registry.push_blob(name, descriptor, opened, mount_from=mount_from, cancel=cancel)
