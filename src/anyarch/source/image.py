"""Images as sources: resolve a name once, pick the platform's manifest, know the layers without fetching
them.

Manifests and configs are kept in the content store by digest, so a digest that was seen in a repository
before needs no network; a tag is asked for once a build. What came from another repository is asked for
again, so that nobody gets by a digest what the repository that he names does not have, or not
for him (`store.origins`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from anyarch.errors import InvalidDigest, RegistryError, UnsupportedMedia
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, ImageConfig, Index, Manifest, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import BlobWriter, ContentStore

__all__ = ["Image", "ImageResolver", "ImageSource", "OriginRecords"]


_MAX_DEPTH = 8


class ImageSource(Protocol):
    """Where images come from: a registry client, or an OCI layout. Raises what a registry client raises."""

    def resolve(self, ref: Reference, /) -> tuple[Digest, str, int]:
        """Digest, media type and size of what `ref` names now."""
        ...

    def manifest(self, ref: Reference, digest: Digest | None = None, /) -> Blob:
        """A document; its media type is empty where only the document itself tells it."""
        ...

    def read(self, ref: Reference, descriptor: Descriptor, /) -> bytes: ...

    def fetch(self, ref: Reference, descriptor: Descriptor, writer: BlobWriter, /) -> None:
        """Write one blob."""
        ...

    def check(self, ref: Reference, descriptor: Descriptor, /) -> None:
        """Raises unless the blob can be had."""
        ...


class OriginRecords(Protocol):
    """What is known of where content comes from; implemented by `store.origins`."""

    def unknown(self, repository: str, digests: Iterable[str], /) -> list[str]: ...

    def add(self, repository: str, digests: Iterable[str], /) -> None: ...


class Image(msgspec.Struct, frozen=True):
    """One platform's image. `digest` is what the reference named (the index, if there is one)."""

    reference: Reference
    digest: Digest
    manifest_digest: Digest
    manifest: Manifest
    config: bytes
    platform: Platform

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return decode(ImageConfig, self.config).rootfs.diff_ids or ()


class ImageResolver:
    """Resolves images for one build; safe for threads; every name and every image is asked for once.

    `origins` tells what came from which repository, and learns it. Without it the content store may answer
    for every name: then who builds has brought in himself, or pinned, what he names.
    """

    def __init__(
        self,
        content: ContentStore,
        registry: Callable[[], ImageSource],
        *,
        origins: OriginRecords | None = None,
    ) -> None:
        self._content = content
        self._registry = registry
        self._origins = origins
        self._lock = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}
        self._digests: dict[str, Digest] = {}
        self._images: dict[tuple[str, Platform], Image] = {}

    def _lock_of(self, key: object) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def resolve(self, reference: Reference) -> Digest:
        """The digest that `reference` names now (its own when it has one)."""
        if reference.digest is not None:
            return reference.digest
        name = str(reference)
        with self._lock_of(name):
            digest = self._digests.get(name)
            if digest is None:
                digest, _, _ = self._registry().resolve(reference)
                self._digests[name] = digest
        return digest

    def known(self) -> list[Image]:
        """The images that were found so far, in the order of their names and platforms."""
        with self._lock:
            found = list(self._images.items())
        return [image for _, image in sorted(found, key=lambda item: (item[0][0], str(item[0][1])))]

    def document(self, reference: Reference, digest: Digest) -> Blob:
        """A manifest or index, from the content store or the registry (then kept)."""
        with self._lock_of(digest):
            if self._content.has(digest) and self._is_of(reference, digest):
                raw = self._content.read(digest)
                return Blob(_media_type(raw), raw, digest)
            blob = self._registry().manifest(reference, digest)
            if blob.digest != digest:
                raise RegistryError(f"{reference.familiar}: the registry sent {blob.digest} for {digest}")
            self._keep(reference, digest, blob.raw)
            return blob if blob.media_type else Blob(_media_type(blob.raw), blob.raw, digest)

    def _config(self, reference: Reference, descriptor: Descriptor) -> bytes:
        digest = Digest.parse(descriptor.digest)
        with self._lock_of(digest):
            if self._content.has(digest) and self._is_of(reference, digest):
                return self._content.read(digest)
            raw = self._registry().read(reference, descriptor)
            self._keep(reference, digest, raw)
            return raw

    def _is_of(self, reference: Reference, digest: Digest) -> bool:
        return self._origins is None or not self._origins.unknown(reference.name, (digest,))

    def _keep(self, reference: Reference, digest: Digest, raw: bytes) -> None:
        self._content.put(raw)
        if self._origins is not None:
            self._origins.add(reference.name, (digest,))

    def unproven(self, image: Image, layers: Iterable[Descriptor]) -> list[Descriptor]:
        """Those of `layers` that nobody saw in the repository of `image`."""
        if self._origins is None:
            return []
        by_digest = {layer.digest: layer for layer in layers}
        return [by_digest[digest] for digest in self._origins.unknown(image.reference.name, by_digest)]

    def prove(self, image: Image, layer: Descriptor) -> None:
        """Ask where the image comes from for one of its layers. Raises as a registry client."""
        self._registry().check(image.reference, layer)
        if self._origins is not None:
            self._origins.add(image.reference.name, (layer.digest,))

    def fetch(self, reference: Reference, descriptor: Descriptor) -> None:
        """One blob into the content store, unless it is there."""
        digest = Digest.parse(descriptor.digest)
        with self._lock_of(digest):
            if not self._content.has(digest):
                with self._content.writer(expected=digest, size=descriptor.size) as writer:
                    self._registry().fetch(reference, descriptor, writer)
                    writer.commit()

    def image(self, reference: Reference, platform: Platform) -> Image:
        """The image that serves `platform`. Raises `NoMatchingPlatform`, listing what there is."""
        key = (str(reference), platform)
        known = self._images.get(key)
        if known is None:
            known = self._images[key] = self._find(reference, platform)
        return known

    def _find(self, reference: Reference, platform: Platform) -> Image:
        digest = self.resolve(reference)
        blob = self.document(reference, digest)
        manifest_digest = digest
        if blob.media_type in media.INDEXES:
            from anyarch.registry.platforms import select_manifest

            index = self._flattened(reference, decode(Index, blob.raw))
            chosen = select_manifest(
                index, platform, name=reference.familiar, platform_of=self._platform_in(reference)
            )
            manifest_digest = Digest.parse(chosen.digest)
            blob = self.document(reference, manifest_digest)
        if blob.media_type not in media.MANIFESTS:
            raise UnsupportedMedia(
                f"{reference.familiar}: {blob.media_type or 'a nameless document'} is not an image manifest"
            )
        manifest = decode(Manifest, blob.raw)
        if manifest.config.media_type not in media.CONFIGS:
            raise UnsupportedMedia(
                f"{reference.familiar}: {manifest.config.media_type or 'no config'} is not an image config",
                hint="artifacts such as signatures, charts or attestations cannot be a base image",
            )
        config = self._config(reference, manifest.config)
        parsed = decode(ImageConfig, config)
        if len(parsed.rootfs.diff_ids or ()) != len(manifest.layers):
            raise UnsupportedMedia(
                f"{reference.familiar}: the config names {len(parsed.rootfs.diff_ids or ())} layers, "
                f"the manifest {len(manifest.layers)}"
            )
        _check_digests(reference, manifest, parsed)
        found = Platform.make(
            parsed.os, parsed.architecture, parsed.variant, parsed.os_version, parsed.os_features or ()
        )
        return Image(reference, digest, manifest_digest, manifest, config, found)

    def _flattened(self, reference: Reference, index: Index, depth: int = 0) -> Index:
        """The index with what the indexes in it list in their places, as containerd looks through them."""
        if depth > _MAX_DEPTH:
            raise UnsupportedMedia(
                f"{reference.familiar}: its indexes are nested more than {_MAX_DEPTH} deep"
            )
        if not any(entry.media_type in media.INDEXES for entry in index.manifests):
            return index
        entries: list[Descriptor] = []
        for entry in index.manifests:
            if entry.media_type in media.INDEXES:
                inner = decode(Index, self.document(reference, Digest.parse(entry.digest)).raw)
                entries += self._flattened(reference, inner, depth + 1).manifests
            else:
                entries.append(entry)
        return msgspec.structs.replace(index, manifests=tuple(entries))

    def _platform_in(self, reference: Reference) -> Callable[[Descriptor], Platform | None]:
        def platform_of(descriptor: Descriptor) -> Platform | None:
            if descriptor.media_type not in media.MANIFESTS:
                return None
            blob = self.document(reference, Digest.parse(descriptor.digest))
            manifest = decode(Manifest, blob.raw)
            if manifest.config.media_type not in media.CONFIGS:
                return None
            config = decode(ImageConfig, self._config(reference, manifest.config))
            return Platform.make(config.os, config.architecture, config.variant) if config.os else None

        return platform_of


def _check_digests(reference: Reference, manifest: Manifest, config: ImageConfig) -> None:
    """What the documents refer to names files of the store: nothing but digests may."""
    for place, texts in (
        ("manifest", [layer.digest for layer in manifest.layers]),
        ("config", config.rootfs.diff_ids or ()),
    ):
        for text in texts:
            try:
                Digest.parse(text)
            except InvalidDigest as error:
                raise UnsupportedMedia(
                    f"{reference.familiar}: the {place} of the image names a layer by an {error.message}",
                    hint="the image is damaged: push it again, or use another",
                ) from None


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    manifests: Any = None


def _media_type(raw: bytes) -> str:
    """The media type of a manifest or index that was kept; documents may leave it out of themselves."""
    head = decode(_Head, raw)
    if head.media_type:
        return head.media_type
    return media.OCI_INDEX if head.manifests is not None else media.OCI_MANIFEST
