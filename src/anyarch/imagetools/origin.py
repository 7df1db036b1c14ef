"""Where content is read from: documents, small blobs, and streams of large ones, all by descriptor."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, BinaryIO, Protocol

from anyarch.imagetools.layout import LayoutReference, read_oci_layout
from anyarch.imagetools.places import ArchivePlace, EnginePlace, StorePlace
from anyarch.registry.document import media_type_of
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Index, Manifest, decode
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.layout import OciLayout
    from anyarch.imagetools.places import Place
    from anyarch.registry.client import Registry
    from anyarch.spec.oci import Descriptor

__all__ = ["LayoutOrigin", "Origin", "RegistryOrigin", "make_registry", "open_origin"]


class Origin(Protocol):
    """One image and what belongs to it, at one place. `name` is how the place is written. Safe for threads.

    Methods raise `AnyarchError`: `ManifestNotFound`, `BlobNotFound`, `DigestMismatch` and what the place has.
    """

    @property
    def name(self) -> str: ...

    def root(self) -> Blob:
        """The manifest or index that the place names."""

    def document(self, descriptor: Descriptor) -> Blob:
        """A manifest or index, verified."""

    def read(self, descriptor: Descriptor) -> bytes:
        """A small blob, verified."""

    def open(self, descriptor: Descriptor, *, verify: bool = True) -> BinaryIO:
        """A blob as a seekable stream at its start. With `verify` what came over a network is checked when it
        is read to its end; without, whoever takes the bytes does that."""

    def referrers(self, digest: Digest, artifact_types: Sequence[str] = ()) -> list[Descriptor]:
        """What refers to a manifest, of these types only when any are given."""

    def name_of(self, digest: str) -> str:
        """How a part of the image is written."""

    def repository(self, domain: str, digest: str) -> str | None:
        """The repository path, where a blob is in the registry `domain`: it can be mounted from there."""

    def close(self) -> None: ...


def make_registry(on_retry: Callable[[str], None] | None = None) -> Registry:
    """A client with the user's settings; `on_retry` gets a line of text for every attempt that is
    repeated."""
    from anyarch.registry.client import Registry
    from anyarch.registry.credentials import Credentials
    from anyarch.registry.hosts import Hosts
    from anyarch.store.store import default_root

    return Registry(Hosts.load(), Credentials(), on_retry=on_retry, uploads=f"{default_root()}/uploads")


def open_origin(
    place: Place, *, registry: Registry | None = None, root: str | None = None, cancel: Cancel | None = None
) -> Origin:
    """The image at `place`. `registry` is the client to use, else one is made; `root` the store's directory
    (None: the usual place). Raises `UsageError`,
    `ManifestNotFound` where the place is not there."""
    match place:
        case Reference():
            return RegistryOrigin(registry or make_registry(), place, cancel, owned=registry is None)
        case LayoutReference():
            layout = read_oci_layout(place.path)
            return LayoutOrigin(layout, place)
        case StorePlace():
            from anyarch.imagetools.local import StoreOrigin, open_store

            store = open_store(root)
            return StoreOrigin(store, place.name, lambda: registry or make_registry(), cancel)
        case ArchivePlace():
            from anyarch.imagetools.archive import open_archive

            return open_archive(place)
        case EnginePlace():
            from anyarch.imagetools.archive import open_engine

            return open_engine(place)


class RegistryOrigin:
    """An image of a registry. Documents are asked for once."""

    def __init__(
        self, registry: Registry, ref: Reference, cancel: Cancel | None = None, *, owned: bool = False
    ) -> None:
        """With `owned` closing this closes the client."""
        self.ref = ref
        self._registry = registry
        self._cancel = cancel
        self._owned = owned
        self._lock = threading.Lock()
        self._documents: dict[str, Blob] = {}

    @property
    def name(self) -> str:
        return str(self.ref)

    def root(self) -> Blob:
        return self._keep(self._registry.manifest(self.ref, cancel=self._cancel))

    def document(self, descriptor: Descriptor) -> Blob:
        found = self._documents.get(descriptor.digest)
        if found is None:
            digest = Digest.parse(descriptor.digest)
            found = self._keep(self._registry.manifest(self.ref, digest, cancel=self._cancel))
        return found

    def _keep(self, blob: Blob) -> Blob:
        with self._lock:
            self._documents[blob.digest] = blob
        return blob

    def read(self, descriptor: Descriptor) -> bytes:
        return self._registry.read(self.ref, descriptor, cancel=self._cancel)

    def open(self, descriptor: Descriptor, *, verify: bool = True) -> BinaryIO:
        return self._registry.open(self.ref, descriptor, cancel=self._cancel, verify=verify)

    def referrers(self, digest: Digest, artifact_types: Sequence[str] = ()) -> list[Descriptor]:
        return self._registry.referrers(self.ref, digest, artifact_types, cancel=self._cancel)

    def name_of(self, digest: str) -> str:
        return str(self.ref.with_digest(Digest(digest)))

    def repository(self, domain: str, digest: str) -> str | None:
        return self.ref.path if self.ref.domain == domain else None

    def close(self) -> None:
        if self._owned:
            self._registry.close()


class LayoutOrigin:
    """An image of an OCI layout."""

    def __init__(self, layout: OciLayout, place: LayoutReference) -> None:
        """Closes `layout` in the end. Raises `ManifestNotFound` (and closes it) when it has no such image."""
        self._layout = layout
        self.place = place
        try:
            self.descriptor = layout.select(place.tag, place.digest)
        except BaseException:
            layout.close()
            raise

    @property
    def name(self) -> str:
        return str(self.place)

    def root(self) -> Blob:
        return self.document(self.descriptor)

    def document(self, descriptor: Descriptor) -> Blob:
        raw = self._layout.read(descriptor.digest)
        name = self.name_of(descriptor.digest)
        return Blob(media_type_of(raw, descriptor.media_type, name=name), raw, Digest(descriptor.digest))

    def read(self, descriptor: Descriptor) -> bytes:
        return self._layout.read(descriptor.digest)

    def open(self, descriptor: Descriptor, *, verify: bool = True) -> BinaryIO:
        return self._layout.open(descriptor.digest)

    def referrers(self, digest: Digest, artifact_types: Sequence[str] = ()) -> list[Descriptor]:
        """Those that the layout's index.json lists, as image-spec has it for layouts."""
        found = []
        for entry in self._layout.index.manifests:
            if artifact_types and entry.artifact_type not in artifact_types:
                continue
            if entry.media_type in media.MANIFESTS | media.INDEXES and self._layout.has(entry.digest):
                blob = self.document(entry)
                is_manifest = blob.media_type in media.MANIFESTS
                subject = (decode(Manifest, blob.raw) if is_manifest else decode(Index, blob.raw)).subject
                if subject is not None and subject.digest == digest:
                    found.append(entry)
        return found

    def name_of(self, digest: str) -> str:
        return str(LayoutReference(self._layout.path, "", Digest(digest)))

    def repository(self, domain: str, digest: str) -> str | None:
        return None

    def close(self) -> None:
        self._layout.close()
