"""Docker archives: what `docker save` writes and `docker load` reads.

Newer ones are OCI layouts with a `manifest.json` beside; older ones (docker before 25, skopeo) name a config
and uncompressed layers there, from which the manifest is made here. What is written is both, for one
platform.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from anyarch.errors import BlobNotFound, ManifestNotFound, UnsupportedMedia, UsageError
from anyarch.imagetools.layout import LayoutReference, TarFiles, read_oci_layout
from anyarch.imagetools.origin import LayoutOrigin
from anyarch.imagetools.scratch import scratch_directory
from anyarch.imagetools.target import LayoutTarget, disk_errors
from anyarch.spec import media
from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import Blob, Descriptor, ImageConfig, Index, Manifest, decode, encode
from anyarch.spec.reference import Reference
from anyarch.store.whole_file import clear_leftovers, whole_file

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.imagetools.places import ArchivePlace, EnginePlace
    from anyarch.spec.digest import Digest

__all__ = ["ArchiveTarget", "DockerArchiveOrigin", "EngineTarget", "TarTarget", "open_archive", "open_engine"]

_SMALL = 64 << 20


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of manifest.json."""

    config: str
    layers: tuple[str, ...] = ()
    repo_tags: tuple[str, ...] | None = None


def open_archive(place: ArchivePlace) -> Origin:
    """The image of an archive. Raises `UsageError`, `ManifestNotFound`."""
    files = TarFiles(place.path)
    if files.has("index.json"):
        files.close()
        layout = read_oci_layout(place.path)
        tag = str(place.name) if place.name is not None else ""
        try:
            return LayoutOrigin(layout, LayoutReference(place.path, tag))
        except ManifestNotFound:
            if place.name is None:
                raise
        return LayoutOrigin(read_oci_layout(place.path), LayoutReference(place.path, place.name.tag))
    return DockerArchiveOrigin(files, place)


class DockerArchiveOrigin:
    """An image of an archive that has only manifest.json."""

    def __init__(self, files: TarFiles, place: ArchivePlace) -> None:
        self._files = files
        self.place = place
        try:
            with files.open("manifest.json") as stream:
                images = json_decoder(list[_Saved]).decode(stream.read(_SMALL))
        except FileNotFoundError:
            raise UsageError(
                f"{place.path} is no docker archive: it has neither manifest.json nor index.json"
            ) from None
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise UsageError(f"{place.path}: manifest.json: {error}") from None
        self._paths: dict[str, str] = {}
        self._blob = self._manifest(self._choose(images))

    def _choose(self, images: Sequence[_Saved]) -> _Saved:
        wanted = self.place.name
        names = [name for image in images for name in image.repo_tags or ()]
        if wanted is None:
            if len(images) == 1:
                return images[0]
            raise ManifestNotFound(
                f"{self.place.path}: which of its {len(images)} images?", hint=f"it has {', '.join(names)}"
            )
        for image in images:
            if any(Reference.parse(name) == wanted for name in image.repo_tags or ()):
                return image
        raise ManifestNotFound(
            f"{self.place.path}: it has no image {wanted.familiar}",
            hint=f"it has {', '.join(names)}" if names else None,
        )

    def _manifest(self, image: _Saved) -> Blob:
        with self._file(image.config) as stream:
            raw = stream.read(_SMALL)
        config = Blob.of(media.OCI_CONFIG, raw)
        self._paths[config.digest] = image.config
        diff_ids = decode(ImageConfig, raw).rootfs.diff_ids or ()
        if len(diff_ids) != len(image.layers):
            raise UnsupportedMedia(
                f"{self.name}: the config names {len(diff_ids)} layers, manifest.json {len(image.layers)}"
            )
        layers = []
        for path, diff_id in zip(image.layers, diff_ids, strict=True):
            layers.append(self._layer(path, diff_id))
        manifest = Manifest(
            schema_version=2,
            media_type=media.OCI_MANIFEST,
            config=config.descriptor(),
            layers=tuple(layers),
        )
        return Blob.of(media.OCI_MANIFEST, encode(manifest))

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        import hashlib

        with self._file(path) as stream:
            head = stream.read(4)
            kind = media.OCI_LAYER_TAR
            digest = diff_id
            if head[:2] == b"\x1f\x8b" or head == b"\x28\xb5\x2f\xfd":
                kind = media.OCI_LAYER_GZIP if head[:2] == b"\x1f\x8b" else media.OCI_LAYER_ZSTD
                stream.seek(0)
                digest = (
                    f"sha256:{hashlib.file_digest(cast('io.BufferedReader', stream), 'sha256').hexdigest()}"
                )
        self._paths[digest] = path
        return Descriptor(kind, digest, self._files.size(path))

    def _file(self, path: str) -> BinaryIO:
        try:
            return self._files.open(path)
        except FileNotFoundError:
            raise BlobNotFound(
                f"{self.place.path}: {path} is missing", hint="the archive is incomplete; make it again"
            ) from None

    @property
    def name(self) -> str:
        return str(self.place)

    def root(self) -> Blob:
        return self._blob

    def document(self, descriptor: Descriptor) -> Blob:
        if descriptor.digest != self._blob.digest:
            raise BlobNotFound(f"{self.name}: it has no {descriptor.digest}")
        return self._blob

    def read(self, descriptor: Descriptor) -> bytes:
        with self.open(descriptor) as stream:
            return stream.read()

    def open(self, descriptor: Descriptor, *, verify: bool = True) -> BinaryIO:
        return self._file(self._paths.get(descriptor.digest, descriptor.digest))

    def referrers(self, digest: Digest, artifact_types: Sequence[str] = ()) -> list[Descriptor]:
        return []

    def name_of(self, digest: str) -> str:
        return f"{self.place}@{digest}"

    def repository(self, domain: str, digest: str) -> str | None:
        return None

    def close(self) -> None:
        self._files.close()


def open_engine(place: EnginePlace) -> Origin:
    """An image of an engine, by its `save`. Raises `OutputError`, `ManifestNotFound`."""
    from anyarch.imagetools.places import ArchivePlace
    from anyarch.source.engines import find_engine

    engine = find_engine((place.engine,))
    directory, lock = scratch_directory(tempfile.gettempdir())
    path = os.path.join(directory, "image.tar")
    try:
        engine.save(str(place.name) if place.engine == "containerd" else place.name.familiar, path)
        origin = open_archive(ArchivePlace(path))
        # The file is open or read by name; it goes with the origin.
        return _Removing(origin, directory, lock, str(place))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
        raise


class _Removing:
    """An origin whose directory goes with it."""

    def __init__(self, origin: Origin, directory: str, lock: int, name: str) -> None:
        self.name = name
        self._lock = lock
        self._origin = origin
        self._directory = directory
        self.root = origin.root
        self.document = origin.document
        self.read = origin.read
        self.open = origin.open
        self.referrers = origin.referrers
        self.name_of = origin.name_of
        self.repository = origin.repository

    def close(self) -> None:
        self._origin.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


class TarTarget(LayoutTarget):
    """A tar with an OCI layout, written when the name is. `docker` adds manifest.json, for one image."""

    def __init__(
        self,
        path: str,
        names: Sequence[Reference],
        *,
        tags: Sequence[str] = (),
        docker: bool,
        cancel: Cancel | None = None,
    ) -> None:
        """`tags` are names within the layout only. Raises `OutputError`."""
        self._path = path
        self._references = tuple(names)
        self._docker = docker
        parent = os.path.dirname(os.path.abspath(path)) if path else None
        with disk_errors(path or "the directory for temporary files"):
            self._scratch, self._lock_fd = scratch_directory(parent or tempfile.gettempdir())
        # One level down: this one is locked while it is in use, and writing an index locks the layout's.
        self._directory = f"{self._scratch}/layout"
        pairs = [(str(name), name.tag) for name in names] + [("", tag) for tag in tags]
        super().__init__(self._directory, pairs, cancel=cancel)

    @property
    def name(self) -> str:
        return f"{'docker-archive' if self._docker else 'oci-layout'}://{self._path}"

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        super().put_name(blob, descriptor)
        with disk_errors(self._path):
            clear_leftovers(Path(os.path.abspath(self._path)).parent)
            with whole_file(Path(self._path)) as out:
                self.write_tar(blob, out.write)
        names = [name.familiar for name in self._references] or [tag for _, tag in self._names]
        return tuple(f"{self.name}:{name}" for name in names) or (self.name,)

    def write_tar(self, blob: Blob, sink: Callable[[bytes], object]) -> None:
        """The archive; the same image gives the same bytes."""
        from anyarch.archive.entry import Entry, Kind
        from anyarch.archive.tar import TarWriter

        writer = TarWriter(sink)
        for directory in ("blobs", "blobs/sha256"):
            writer.add(Entry(directory, Kind.DIRECTORY, 0o755))
        for name in sorted(os.listdir(f"{self._directory}/blobs/sha256")):
            path = f"blobs/sha256/{name}"
            with open(f"{self._directory}/{path}", "rb") as stream:
                writer.add(Entry(path, Kind.FILE, 0o644, size=os.fstat(stream.fileno()).st_size), stream)
        documents = ["index.json", "oci-layout"]
        if self._docker:
            self._write_docker(blob)
            documents.insert(1, "manifest.json")
        for name in documents:
            with open(f"{self._directory}/{name}", "rb") as stream:
                raw = stream.read()
            writer.add(Entry(name, Kind.FILE, 0o644, size=len(raw)), raw)
        writer.close()

    def _write_docker(self, blob: Blob) -> None:
        if blob.media_type in media.INDEXES:
            known = [e.digest for e in decode(Index, blob.raw).manifests]
            raise UsageError(
                f"a docker archive holds one image, this is an index of {len(known)}",
                hint="choose one with --platform",
            )
        manifest = decode(Manifest, blob.raw)

        def path(digest: str) -> str:
            return "blobs/" + digest.replace(":", "/")

        saved = _Saved(
            path(manifest.config.digest),
            tuple(path(layer.digest) for layer in manifest.layers),
            tuple(name.familiar for name in self._references) or None,
        )
        with open(f"{self._directory}/manifest.json", "wb") as file:
            file.write(msgspec.json.encode([saved]))

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        os.close(self._lock_fd)


class ArchiveTarget(TarTarget):
    """A docker archive."""

    def __init__(self, place: ArchivePlace, *, cancel: Cancel | None = None) -> None:
        super().__init__(place.path, [place.name] if place.name else [], docker=True, cancel=cancel)


class EngineTarget(TarTarget):
    """The store of an engine on this machine, by its `load`."""

    def __init__(self, place: EnginePlace, *, cancel: Cancel | None = None) -> None:
        """Raises `OutputError` when the engine does not answer."""
        from anyarch.source.engines import find_engine

        self._place = place
        self._engine = find_engine((place.engine,))
        super().__init__("", [place.name], docker=not self._engine.takes_indexes, cancel=cancel)

    @property
    def name(self) -> str:
        return self._place.kind

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        LayoutTarget.put_name(self, blob, descriptor)
        self._engine.load(lambda sink: self.write_tar(blob, sink))
        return (str(self._place),)
