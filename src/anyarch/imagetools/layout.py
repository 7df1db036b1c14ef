"""OCI image layouts (image-spec, image-layout.md): a directory, or a tar of one, on disk.

`docker save` and BuildKit's `type=docker` archives carry a layout too and can be read as well. Blobs in a
compressed archive would have to be unpacked to be found, so only uncompressed tars are taken.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.errors import (
    BlobNotFound,
    DigestMismatch,
    MalformedArchive,
    ManifestNotFound,
    UnsupportedMedia,
    UsageError,
)
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor, Index, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NAME", "REF_NAME", "LayoutReference", "OciLayout", "TarFiles", "read_oci_layout"]

SCHEME = "oci-layout://"
NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_SMALL_LIMIT = 64 << 20


class LayoutReference(msgspec.Struct, frozen=True):
    """`oci-layout://PATH[:TAG][@DIGEST]`. Without tag and digest the tag is `latest`."""

    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> LayoutReference | None:
        """None when `text` is no such reference."""
        import re

        if not text.startswith(SCHEME):
            return None
        path = text.removeprefix(SCHEME)
        digest = None
        head, at, tail = path.rpartition("@")
        if at and re.fullmatch(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,}", tail):
            path, digest = head, Digest.parse(tail)
        tag = ""
        head, colon, tail = path.rpartition(":")
        if colon and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tail):
            path, tag = head, tail
        if not tag and digest is None:
            tag = "latest"
        return cls(path, tag, digest)

    def __str__(self) -> str:
        return (
            SCHEME
            + self.path
            + (f":{self.tag}" if self.tag else "")
            + (f"@{self.digest}" if self.digest else "")
        )


def read_oci_layout(path: str | os.PathLike[str]) -> OciLayout:
    """Open a layout (directory or tar). Raises `UsageError` when there is none at `path`."""
    path = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}", hint=_HINT) from None
    return OciLayout(path, _Directory(path) if stat.S_ISDIR(mode) else TarFiles(path))


_HINT = "an OCI layout is a directory or an uncompressed tar with the files oci-layout and index.json"


class OciLayout:
    """An open layout. `index` is its index.json. Use as a context manager, or call `close`."""

    def __init__(self, path: str, files: _Directory | TarFiles) -> None:
        self.path = path
        self._files = files
        try:
            stream = files.open("index.json")
        except FileNotFoundError:
            files.close()
            raise UsageError(f"{path} is not an OCI layout: it has no index.json", hint=_HINT) from None
        with stream:
            raw = stream.read(_SMALL_LIMIT)
        try:
            self.index = decode(Index, raw)
        except UnsupportedMedia as error:
            files.close()
            raise UsageError(
                f"{path} is not an OCI layout: index.json: {error.message}", hint=_HINT
            ) from None

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> OciLayout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """What its entries are called, for people: image names, else tags, else digests."""
        return [_name_of(descriptor) for descriptor in self.index.manifests]

    def select(self, tag: str = "", digest: str | None = None) -> Descriptor:
        """The entry that a tag or a digest names. Raises `ManifestNotFound` with what there is.

        A tag fits an entry's ref.name, its whole image name, or the tag of its image name. A tag of `latest`
        or none also takes the only entry. A digest that is no entry must be a blob of the layout.
        """
        entries = self.index.manifests
        if digest is not None:
            for descriptor in entries:
                if descriptor.digest == digest:
                    return descriptor
            return self._of_blob(Digest.parse(digest))
        found = [d for d in entries if tag and tag in _tags_of(d)]
        if not found and tag in ("", "latest") and len({d.digest for d in entries}) == 1:
            found = list(entries)
        if not found:
            names = self.names()
            raise ManifestNotFound(
                f"{self.path}: it has no image {tag!r}"
                if tag
                else f"{self.path}: which of its {len(names)} images?",
                hint=f"it has {', '.join(names)}" if names else "the layout is empty",
            )
        return found[-1]  # the newest of several under the same name, as buildx writes them

    def _of_blob(self, digest: Digest) -> Descriptor:
        from anyarch.registry.document import media_type_of

        if not self.has(digest):
            raise ManifestNotFound(
                f"{self.path}: it has no {digest}", hint=f"it has {', '.join(self.names())}"
            )
        raw = self.read(digest)
        return Descriptor(media_type_of(raw, name=f"{self.path}@{digest}"), digest, len(raw))

    def has(self, digest: str) -> bool:
        return self._files.has(_blob_path(digest))

    def open(self, digest: str) -> BinaryIO:
        """A blob as a stream; its bytes are not verified. Raises `BlobNotFound`."""
        try:
            return self._files.open(_blob_path(digest))
        except FileNotFoundError:
            raise BlobNotFound(
                f"{self.path}: blob {digest} is missing", hint="the layout is incomplete; make it again"
            ) from None

    def read(self, digest: str) -> bytes:
        """A small blob, verified. Raises `BlobNotFound`, `DigestMismatch`."""
        import hashlib

        with self.open(digest) as stream:
            raw = stream.read(_SMALL_LIMIT + 1)
        checked = Digest.parse(digest)
        if len(raw) > _SMALL_LIMIT or hashlib.new(checked.algorithm, raw).hexdigest() != checked.hex:
            raise DigestMismatch(f"{self.path}: blob {digest} is damaged", hint="make the layout again")
        return raw


def _name_of(descriptor: Descriptor) -> str:
    notes = descriptor.annotations or {}
    return notes.get(NAME) or notes.get(REF_NAME) or descriptor.digest


def _tags_of(descriptor: Descriptor) -> Sequence[str]:
    notes = descriptor.annotations or {}
    name = notes.get(NAME, "")
    ref_name = notes.get(REF_NAME, "")
    tags = [text.rpartition(":")[2] for text in (name, ref_name) if ":" in posixpath.basename(text)]
    return [name, ref_name, *tags]


def _blob_path(digest: str) -> str:
    checked = Digest.parse(digest)
    return f"blobs/{checked.algorithm}/{checked.hex}"


class _Directory:
    def __init__(self, path: str) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self._path, name))

    def open(self, name: str) -> BinaryIO:
        try:
            return open(os.path.join(self._path, name), "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UsageError(f"cannot read {self._path}/{name}: {(error.strerror or '').lower()}") from None

    def close(self) -> None:
        """Nothing is kept open."""


class TarFiles:
    """The regular files of an uncompressed tar by their path. Raises `UsageError`."""

    def __init__(self, path: str) -> None:
        from anyarch.archive.entry import Kind
        from anyarch.archive.tar_reader import read_tar

        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}  # `docker save` of old points at equal layers by links
        try:
            with open(path, "rb") as file:
                for entry, _ in read_tar(file, whiteouts=False):
                    if entry.kind is Kind.FILE and entry.offset >= 0:
                        self._places[posixpath.normpath(entry.path)] = (entry.offset, entry.size)
                    elif entry.kind is Kind.SYMLINK:
                        base = posixpath.dirname(entry.path)
                        links[entry.path] = posixpath.normpath(posixpath.join(base, entry.linkname))
        except MalformedArchive as error:
            raise UsageError(f"{path} is not an OCI layout: {error.message}", hint=_HINT) from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {(error.strerror or '').lower()}") from None
        for name, target in links.items():
            if target in self._places:
                self._places.setdefault(posixpath.normpath(name), self._places[target])

    def has(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int:
        return self._places[name][1]

    def open(self, name: str) -> BinaryIO:
        place = self._places.get(name)
        if place is None:
            raise FileNotFoundError(name)
        return _Section.open(self._path, *place)

    def close(self) -> None:
        """Each stream has a file of its own."""


class _Section:
    """A part of a file as a stream."""

    @staticmethod
    def open(path: str, offset: int, size: int) -> BinaryIO:
        import io

        class Raw(io.RawIOBase):
            def __init__(self) -> None:
                self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._position = 0

            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
                base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
                self._position = max(0, base + position)
                return self._position

            def tell(self) -> int:
                return self._position

            def readinto(self, buffer: object) -> int:
                view = memoryview(buffer)[: max(0, size - self._position)]  # type: ignore[arg-type]  # a Buffer
                count = os.preadv(self._number, [view], offset + self._position) if view else 0
                self._position += count
                return count

            def close(self) -> None:
                if not self.closed:
                    os.close(self._number)
                super().close()

        return io.BufferedReader(Raw())
