"""anyarch's own store as a place that images are copied from and to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.errors import AnyarchError, BlobNotFound, ManifestNotFound
from anyarch.imagetools.pour import pour
from anyarch.registry.document import media_type_of
from anyarch.snapshot.layers import CACHED, LAYOUT
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor
from anyarch.spec.reference import Reference
from anyarch.store.store import Store, default_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.registry.client import Registry

__all__ = ["StoreOrigin", "StoreTarget", "open_store"]

_IMAGES = "image"  # the namespace of names in the store's memo


def open_store(root: str | None = None) -> Store:
    """The user's store, or the one at `root`. The caller closes it."""
    return Store.open(Path(root) if root else default_root())


class StoreOrigin:
    """An image with a name in the store. Layers of base images that were never needed here are read from the
    registry or layout that they came from."""

    def __init__(
        self, store: Store, name: Reference, registry: Callable[[], Registry], cancel: Cancel | None = None
    ) -> None:
        """Closes `store` in the end. Raises `ManifestNotFound` (and closes it) when it has no such name."""
        self._store = store
        self._registry = registry
        self._cancel = cancel
        self.reference = name
        raw = store.cache.get_value(_IMAGES, str(name))
        if raw is None:
            store.close()
            raise ManifestNotFound(
                f"{name.familiar}: no such image in the store", hint="build it with -t, or copy it there"
            )
        self.descriptor = json_decoder(Descriptor).decode(raw)

    @property
    def name(self) -> str:
        return f"store://{self.reference.familiar}"

    def root(self) -> Blob:
        return self.document(self.descriptor)

    def document(self, descriptor: Descriptor) -> Blob:
        raw = self._store.content.read(descriptor.digest)
        kind = media_type_of(raw, descriptor.media_type, name=self.name)
        return Blob(kind, raw, Digest(descriptor.digest))

    def read(self, descriptor: Descriptor) -> bytes:
        with self.open(descriptor) as stream:
            return stream.read()

    def open(self, descriptor: Descriptor, *, verify: bool = True) -> BinaryIO:
        try:
            return self._store.content.open(descriptor.digest)
        except BlobNotFound as missing:
            failure: AnyarchError = missing
        for place in self._places(descriptor.digest):
            try:
                if place.startswith(LAYOUT):
                    from anyarch.imagetools.layout import read_oci_layout

                    return read_oci_layout(place.removeprefix(LAYOUT)).open(descriptor.digest)
                ref = Reference.parse(place.removeprefix(CACHED))
                return self._registry().open(ref, descriptor, cancel=self._cancel, verify=verify)
            except AnyarchError as error:
                failure = error
        raise failure

    def _places(self, digest: str) -> list[str]:
        rows = self._store.meta.query(
            "SELECT reference FROM layer_sources WHERE digest = ? ORDER BY seen_at DESC, reference", (digest,)
        )
        return [str(row[0]) for row in rows]

    def referrers(self, digest: Digest, artifact_types: Sequence[str] = ()) -> list[Descriptor]:
        """The store keeps none."""
        return []

    def name_of(self, digest: str) -> str:
        return f"store://{self.reference.familiar_name}@{digest}"

    def repository(self, domain: str, digest: str) -> str | None:
        for place in self._places(digest):
            if not place.startswith(LAYOUT):
                ref = Reference.parse(place.removeprefix(CACHED))
                if ref.domain == domain:
                    return ref.path
        return None

    def close(self) -> None:
        self._store.close()


class StoreTarget:
    """The store, and the names to give there."""

    def __init__(self, store: Store, names: Sequence[Reference], cancel: Cancel | None = None) -> None:
        """Closes `store` in the end."""
        self._store = store
        self._names = tuple(names)
        self._cancel = cancel

    @property
    def name(self) -> str:
        return "store"

    def has_document(self, descriptor: Descriptor) -> bool:
        """Never: of what the store knows, layers may be absent."""
        return False

    def put_blob(
        self, descriptor: Descriptor, origin: Origin, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        content = self._store.content
        if content.has(descriptor.digest):
            return False
        pour(
            lambda: origin.open(descriptor, verify=False),
            lambda: content.writer(expected=descriptor.digest, size=descriptor.size, resume=True),
            on_progress=on_progress,
            cancel=self._cancel,
        )
        return True

    def put_document(self, blob: Blob) -> None:
        self._store.content.put(blob.raw)

    def put_referrer(self, descriptor: Descriptor) -> None:
        """The store keeps no lists of referrers; the documents themselves are there."""

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        self.put_document(blob)
        raw = msgspec.json.encode(json.loads(msgspec.json.encode(descriptor, enc_hook=str)))
        for name in self._names:
            self._store.cache.set_value(_IMAGES, str(name), raw)
        return tuple(f"store://{name.familiar}" for name in self._names)

    def close(self) -> None:
        self._store.close()
