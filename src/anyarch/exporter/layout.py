"""OCI image layouts and docker archives, as a tar stream or a directory (image-spec image-layout.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Descriptor, encode
from anyarch.store.whole_file import clear_leftovers, output_error, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anyarch.spec.reference import Reference
    from anyarch.store.content import ContentStore

__all__ = ["LayoutImage", "write_layout_directory", "write_layout_tar"]

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class LayoutImage(Protocol):
    """What a layout is made of."""

    @property
    def descriptor(self) -> Descriptor: ...

    def blob_digests(self) -> list[str]:
        """All that belongs to it, sorted."""
        ...

    def docker_parts(self) -> tuple[str, tuple[str, ...]]:
        """The digests of the config and of the layers of its first platform."""
        ...


class _LayoutIndex(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str
    manifests: tuple[Descriptor, ...]


class _DockerEntry(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: tuple[str, ...] | None
    layers: tuple[str, ...]


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def layout_index(image: LayoutImage, names: Sequence[Reference], *, created: str | None) -> bytes:
    """The layout's index.json: one descriptor a name."""
    notes = dict(image.descriptor.annotations or {})
    if created:
        notes.setdefault("org.opencontainers.image.created", created)
    descriptors = []
    for name in names or (None,):
        mine = dict(notes)
        if name is not None:
            mine["io.containerd.image.name"] = str(name)
            if name.tag:
                mine["org.opencontainers.image.ref.name"] = name.tag
        descriptors.append(msgspec.structs.replace(image.descriptor, annotations=mine or None))
    return encode(_LayoutIndex(2, "application/vnd.oci.image.index.v1+json", tuple(descriptors)))


def _documents(
    image: LayoutImage, names: Sequence[Reference], *, docker: bool, created: str | None
) -> Iterator[tuple[str, bytes]]:
    yield "index.json", layout_index(image, names, created=created)
    if docker:
        config, layers = image.docker_parts()
        entry = _DockerEntry(
            _blob_path(config),
            tuple(name.familiar for name in names) or None,
            tuple(_blob_path(layer) for layer in layers),
        )
        yield "manifest.json", msgspec.json.encode([entry])
    yield "oci-layout", _LAYOUT


def write_layout_tar(
    content: ContentStore,
    image: LayoutImage,
    names: Sequence[Reference],
    sink: Callable[[bytes | memoryview], object],
    *,
    docker: bool = False,
    created: str | None = None,
) -> None:
    """Write the layout as a tar; the same image gives the same bytes. All blobs must be local."""
    from anyarch.archive.tar import TarWriter

    writer = TarWriter(sink)
    for directory in ("blobs", "blobs/sha256"):
        writer.add(Entry(directory, Kind.DIRECTORY, 0o755))
    for digest in image.blob_digests():
        with content.open(Digest(digest)) as stream:
            size = content.size(Digest(digest))
            writer.add(Entry(_blob_path(digest), Kind.FILE, 0o644, size=size), stream)
    for name, raw in _documents(image, names, docker=docker, created=created):
        writer.add(Entry(name, Kind.FILE, 0o644, size=len(raw)), raw)
    writer.close()


def write_layout_directory(
    content: ContentStore,
    image: LayoutImage,
    names: Sequence[Reference],
    directory: Path,
    *,
    docker: bool = False,
    created: str | None = None,
) -> None:
    """Write the layout into `directory`, beside what other images may have there: blobs first, index.json
    last."""
    try:
        blobs = directory / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for place in (directory, blobs):
            clear_leftovers(place)
        for digest in image.blob_digests():
            target = directory / _blob_path(digest)
            if target.exists() and target.stat().st_size == content.size(Digest(digest)):
                continue
            with content.open(Digest(digest)) as stream:
                _write(target, stream)
        for name, raw in reversed(list(_documents(image, names, docker=docker, created=created))):
            if name == "index.json":
                raw = _merged_index(directory / name, raw)
            _write(directory / name, raw)
    except OSError as error:
        raise output_error(error, directory) from None


def _merged_index(path: Path, raw: bytes) -> bytes:
    """Our descriptors in an index that is there already: those of the same name are replaced, others kept."""
    new = msgspec.json.decode(raw)
    try:
        old = msgspec.json.decode(path.read_bytes())
        kept = [item for item in old["manifests"] if not _replaced(item, new["manifests"])]
    except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError):
        return raw
    if not kept:
        return raw
    new["manifests"] = kept + new["manifests"]
    return msgspec.json.encode(new)


def _replaced(item: dict[str, object], new: list[dict[str, object]]) -> bool:
    def name(descriptor: dict[str, object]) -> object:
        notes = descriptor.get("annotations") or {}
        return notes.get("io.containerd.image.name") if isinstance(notes, dict) else None

    return any(
        name(item) == name(other) or (item.get("digest") == other["digest"] and not name(item))
        for other in new
    )


def _write(path: Path, data: bytes | BinaryIO) -> None:
    with whole_file(path) as out:
        if isinstance(data, bytes):
            out.write(data)
        else:
            while chunk := data.read(1 << 20):
                out.write(chunk)
