"""OCI image layouts (directory or tar) as a source: their blobs go into the content store.

Image-spec image-layout.md. Every blob is verified on the way in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from anyarch.archive.entry import Kind
from anyarch.errors import BlobNotFound, DigestMismatch, ManifestNotFound, UnsupportedMedia
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Index, Manifest, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.archive.tar_reader import ContentReader
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference
    from anyarch.store.content import BlobWriter, ContentStore

__all__ = [
    "AskedOrigins",
    "LayoutBlobs",
    "LayoutRegistry",
    "choose",
    "import_blob",
    "import_layout",
    "is_layout",
    "split_layout_name",
]

_TAG = "org.opencontainers.image.ref.name"
_NAME = "io.containerd.image.name"


class LayoutBlobs(Protocol):
    """Blobs of OCI layouts that a client has. Called in any thread."""

    def open(self, session: str, store: str, digest: str) -> BinaryIO:
        """The content of a blob of the layout `store`; the caller closes it. `session` is empty where any
        client of the build will do. Raises `BlobNotFound`."""
        ...

    def check(self, session: str, store: str, digest: str) -> None:
        """Raises `BlobNotFound` unless the layout has the blob."""
        ...


_MAX_DOCUMENT = 16 << 20


class AskedOrigins:
    """Implements `source.image.OriginRecords` for a client's layouts: what one of them holds is known for one
    build, for the next client may call another one the same. Not to be shared by builds."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def unknown(self, repository: str, digests: Iterable[str]) -> list[str]:
        return [digest for digest in dict.fromkeys(digests) if (repository, digest) not in self._known]

    def add(self, repository: str, digests: Iterable[str]) -> None:
        self._known.update((repository, digest) for digest in digests)


class LayoutRegistry:
    """Implements `source.image.ImageSource` by a layout: one of a client (`blobs`), or none: then all that is
    asked for must have been brought into the store before."""

    def __init__(self, blobs: LayoutBlobs | None, session: str, store: str) -> None:
        self._blobs = blobs
        self._session = session
        self._store = store

    def resolve(self, ref: Reference) -> tuple[Digest, str, int]:
        """A layout knows its images by digest only."""
        if ref.digest is None:
            raise ManifestNotFound(f'reference "{ref}" must have digest', hint="name it NAME@sha256:…")
        blob = self.manifest(ref, ref.digest)
        return blob.digest, blob.media_type, len(blob.raw)

    def manifest(self, ref: Reference, digest: Digest | None = None) -> Blob:
        wanted = digest or ref.digest
        assert wanted is not None
        with self.open(ref, wanted) as stream:
            raw = stream.read(_MAX_DOCUMENT + 1)
        if len(raw) > _MAX_DOCUMENT:
            raise UnsupportedMedia(f"{ref}: {wanted} is too large for a manifest")
        return Blob("", raw, Digest.of(raw))

    def read(self, ref: Reference, descriptor: Descriptor) -> bytes:
        if descriptor.size > _MAX_DOCUMENT:
            raise UnsupportedMedia(f"{ref}: {descriptor.digest} is too large for a config")
        with self.open(ref, Digest.parse(descriptor.digest)) as stream:
            raw = stream.read(descriptor.size + 1)
        if Digest.of(raw) != descriptor.digest:
            raise DigestMismatch(f"{ref}: the layout has other bytes for {descriptor.digest}")
        return raw

    def fetch(self, ref: Reference, descriptor: Descriptor, writer: BlobWriter) -> None:
        with self.open(ref, Digest.parse(descriptor.digest)) as stream:
            while chunk := stream.read(1 << 20):
                writer.write(chunk)

    def check(self, ref: Reference, descriptor: Descriptor) -> None:
        self._client().check(self._session, self._store or ref.name, descriptor.digest)

    def open(self, ref: Reference, digest: Digest) -> BinaryIO:
        """The content of a blob."""
        # The store that `oci.store` names, else the one called as the reference is.
        return self._client().open(self._session, self._store or ref.name, digest)

    def _client(self) -> LayoutBlobs:
        if self._blobs is None:
            raise BlobNotFound(
                "the OCI layout lacks a part of the image",
                hint="it may hold other platforms only; copy the image into it again, whole",
            )
        return self._blobs


def is_layout(path: str) -> bool:
    """Whether `path` looks like a layout: a directory with `oci-layout`, or a file."""
    return os.path.isfile(os.path.join(path, "oci-layout")) or os.path.isfile(path)


def split_layout_name(name: str) -> tuple[str, str, str]:
    """`PATH[:TAG][@DIGEST]` → path, tag, digest. A path that exists as it stands is taken whole."""
    if os.path.exists(name):
        return name, "", ""
    path, _, digest = name.partition("@")
    if not os.path.exists(path) and ":" in path.rpartition("/")[2]:
        path, _, tag = path.rpartition(":")
        return path, tag, digest
    return path, "", digest


def import_layout(content: ContentStore, name: str) -> Descriptor:
    """Bring the image that `name` (`PATH[:TAG][@DIGEST]`) selects into `content`; its descriptor.

    Raises `ManifestNotFound`, `DigestMismatch`, `UnsupportedMedia`, `MalformedArchive`.
    """
    path, tag, digest = split_layout_name(name)
    if os.path.isdir(path):
        root = Path(path)
        try:
            raw = (root / "index.json").read_bytes()
        except FileNotFoundError:
            raise ManifestNotFound(f"{path} is not an OCI image layout: it has no index.json") from None
        chosen = choose(decode(Index, raw), name, tag, digest)
        _import_directory(content, root, chosen)
        return chosen
    if not os.path.isfile(path):
        raise ManifestNotFound(f"{path}: no such file or directory")
    return choose(_import_tar(content, path), name, tag, digest)


def choose(index: Index, name: str, tag: str, digest: str) -> Descriptor:
    """The entry that a tag or digest selects. Raises `ManifestNotFound`; `name` is for its text."""
    found = [
        item
        for item in index.manifests
        if (not digest or item.digest == digest) and (not tag or tag in _names_of(item))
    ]
    if not found:
        known = sorted({text for item in index.manifests for text in _names_of(item)})
        raise ManifestNotFound(
            f"{name}: the layout has no such image", hint=f"it has: {', '.join(known)}" if known else None
        )
    if len({item.digest for item in found}) > 1:
        known = sorted(
            {text for item in found for text in _names_of(item)} or {item.digest for item in found}
        )
        raise ManifestNotFound(
            f"{name}: the layout has several images",
            hint=f"name one: {name}:TAG or {name}@DIGEST ({', '.join(known)})",
        )
    return found[0]


def _names_of(descriptor: Descriptor) -> list[str]:
    notes = descriptor.annotations or {}
    return [notes[key] for key in (_TAG, _NAME) if key in notes]


def _import_directory(content: ContentStore, root: Path, descriptor: Descriptor) -> None:
    """The blob and all it leads to; entries of an index that are not in the layout are passed over."""
    digest = _import_file(content, root, descriptor)
    if descriptor.media_type in media.INDEXES:
        for item in decode(Index, content.read(digest)).manifests:
            if (root / "blobs" / item.digest.replace(":", "/")).exists():
                _import_directory(content, root, item)
    elif descriptor.media_type in media.MANIFESTS:
        manifest = decode(Manifest, content.read(digest))
        for item in (manifest.config, *manifest.layers):
            _import_directory(content, root, item)


def _import_file(content: ContentStore, root: Path, descriptor: Descriptor) -> Digest:
    digest = Digest.parse(descriptor.digest)
    if not content.has(digest):
        try:
            with (
                (root / "blobs" / digest.algorithm / digest.hex).open("rb") as stream,
                content.writer(expected=digest, size=descriptor.size) as writer,
            ):
                while chunk := stream.read(1 << 20):
                    writer.write(chunk)
                writer.commit()
        except FileNotFoundError:
            raise BlobNotFound(f"the layout {root} lacks the blob {digest}") from None
    return digest


def import_blob(content: ContentStore, path: str, descriptor: Descriptor) -> None:
    """One blob of the layout directory `path` into `content`, verified. `BlobNotFound`, `DigestMismatch`."""
    _import_file(content, Path(path), descriptor)


def _import_tar(content: ContentStore, path: str) -> Index:
    from anyarch.archive.compression import open_decompressed
    from anyarch.archive.tar_reader import read_tar

    index: Index | None = None
    with open(path, "rb") as packed, open_decompressed(packed) as plain:
        for entry, stream in read_tar(plain, whiteouts=False):
            if entry.kind is not Kind.FILE:
                continue
            if entry.path == "index.json":
                index = decode(Index, _read(stream))
            elif entry.path.startswith("blobs/sha256/"):
                digest = Digest.parse(entry.path.removeprefix("blobs/").replace("/", ":"))
                if content.has(digest):
                    continue
                with content.writer(expected=digest, size=entry.size) as writer:
                    while chunk := stream.read(1 << 20):
                        writer.write(chunk)
                    writer.commit()
    if index is None:
        raise UnsupportedMedia(f"{path} is not an OCI image layout: it has no index.json")
    return index


def _read(stream: ContentReader) -> bytes:
    out = bytearray()
    while chunk := stream.read(1 << 20):
        out += chunk
    return bytes(out)
