"""An image or index with what hangs below it, from a registry or a layout, read as far as it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UnsupportedMedia
from anyarch.imagetools.transfer import in_parallel
from anyarch.spec import media
from anyarch.spec.intoto import PREDICATE_TYPE, REFERENCE_DIGEST, SLSA_PROVENANCE, SPDX
from anyarch.spec.oci import Descriptor, Index, Manifest, decode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.registry.client import Registry
    from anyarch.spec.oci import Blob

__all__ = ["Image", "ImageTree", "load"]

_SUBJECTS = ("com.docker.reference.digest", REFERENCE_DIGEST)
_MAX_DEPTH = 8


class Image(msgspec.Struct, frozen=True):
    """One platform's image. `attestations` are the manifests that describe it."""

    platform: Platform
    descriptor: Descriptor
    manifest: Manifest
    attestations: tuple[Manifest, ...] = ()


class ImageTree:
    """`name` is the full reference, `given` what the user wrote, `blob` the manifest or index itself.

    Methods raise as `inspect` does.
    """

    def __init__(self, given: str, name: str, blob: Blob, source: Origin) -> None:
        self.given = given
        self.name = name
        self.blob = blob
        self._source = source
        self._images: dict[str, Image] | None = None

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> ImageTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptor(self) -> Descriptor:
        return self.blob.descriptor()

    @property
    def index(self) -> Index | None:
        """Parsed, when it is an index."""
        return decode(Index, self.blob.raw) if self.blob.media_type in media.INDEXES else None

    def name_of(self, digest: str) -> str:
        """The reference of a part of it."""
        return self._source.name_of(digest)

    def images(self) -> dict[str, Image]:
        """The images by platform (`linux/arm64`), sorted; the last of several for the same platform."""
        if self._images is None:
            found: list[tuple[Descriptor, Manifest]] = []
            self._prefetch()
            self._collect(self.descriptor, self.blob, found, 0)
            self._images = self._pair(found)
        return self._images

    def config(self, image: Image) -> dict[str, Any]:
        """The config document as JSON values."""
        return self._json(image.manifest.config)

    def provenance(self, image: Image) -> Any:
        """The SLSA predicate of an image, None if it has none."""
        found = self._statements(image, lambda kind: kind.startswith(SLSA_PROVENANCE))
        return found[0] if found else None

    def sboms(self, image: Image) -> list[Any]:
        """The SPDX predicates of an image."""
        return self._statements(image, lambda kind: kind == SPDX)

    def _prefetch(self) -> None:
        """Ask for the documents of an index side by side; the place keeps them."""
        index = self.index
        if index is not None:
            kinds = media.INDEXES | media.MANIFESTS
            in_parallel(self._source.document, [e for e in index.manifests if e.media_type in kinds])

    def _collect(
        self, descriptor: Descriptor, blob: Blob, found: list[tuple[Descriptor, Manifest]], depth: int
    ) -> None:
        if blob.media_type in media.MANIFESTS:
            found.append((descriptor, decode(Manifest, blob.raw)))
        elif blob.media_type in media.INDEXES:
            if depth > _MAX_DEPTH:
                raise UnsupportedMedia(f"{self.name}: its indexes are nested more than {_MAX_DEPTH} deep")
            for entry in decode(Index, blob.raw).manifests:
                if entry.media_type in media.INDEXES | media.MANIFESTS:
                    self._collect(entry, self._source.document(entry), found, depth + 1)

    def _pair(self, found: list[tuple[Descriptor, Manifest]]) -> dict[str, Image]:
        attestations: dict[str, list[Manifest]] = {}
        images: dict[str, Image] = {}
        for descriptor, manifest in found:
            notes = descriptor.annotations or {}
            subject = next((notes[key] for key in _SUBJECTS if key in notes), None)
            if subject is not None:
                attestations.setdefault(subject, []).append(manifest)
                continue
            platform = self._platform(descriptor, manifest)
            if platform is not None:
                images[str(platform)] = Image(platform, descriptor, manifest)
        return {
            name: msgspec.structs.replace(
                image, attestations=tuple(attestations.get(image.descriptor.digest, ()))
            )
            for name, image in sorted(images.items())
        }

    def _platform(self, descriptor: Descriptor, manifest: Manifest) -> Platform | None:
        if descriptor.platform is not None:
            return Platform.of_spec(descriptor.platform)
        if manifest.config.media_type not in media.CONFIGS:
            return None
        config = self._json(manifest.config)

        def text(key: str) -> str:
            value = config.get(key)
            return value if isinstance(value, str) else ""

        return Platform.make(text("os"), text("architecture"), text("variant"))

    def _statements(self, image: Image, wanted: Any) -> list[Any]:
        result = []
        for manifest in image.attestations:
            for layer in manifest.layers:
                kind = (layer.annotations or {}).get(PREDICATE_TYPE, "")
                if layer.media_type.startswith("application/vnd.in-toto") and wanted(kind):
                    document = self._json(layer)
                    if layer.media_type.endswith("+dsse"):
                        document = _open_envelope(document)
                    result.append(document.get("predicate"))
        return result

    def _json(self, descriptor: Descriptor) -> dict[str, Any]:
        try:
            document = msgspec.json.decode(self._source.read(descriptor))
        except (msgspec.DecodeError, UnicodeDecodeError):
            document = None
        if not isinstance(document, dict):
            raise UnsupportedMedia(f"{self.name}: {descriptor.digest} is not a JSON document")
        return document


def _open_envelope(document: dict[str, Any]) -> dict[str, Any]:
    """The payload of a DSSE envelope (signed statement); the signature is not looked at."""
    from base64 import b64decode

    try:
        opened = msgspec.json.decode(b64decode(document.get("payload") or ""))
    except (msgspec.DecodeError, ValueError, TypeError):
        return {}
    return opened if isinstance(opened, dict) else {}


def load(name: str, *, registry: Registry | None = None, cancel: Cancel | None = None) -> ImageTree:
    """See `imagetools.inspect`."""
    from anyarch.imagetools.origin import open_origin
    from anyarch.imagetools.places import parse_place

    origin = open_origin(parse_place(name), registry=registry, cancel=cancel)
    try:
        return ImageTree(name, origin.name, origin.root(), origin)
    except BaseException:
        origin.close()
        raise
