"""One image of what several builds made, each for some of the platforms: the index, and the outputs that hold
it. What comes out is what one build of all platforms would have made, to the byte.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.engine.attributes import flag
from anyarch.engine.export import to_file
from anyarch.errors import BuildError, UsageError
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.intoto import REFERENCE_DIGEST, REFERENCE_TYPE
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, decode, encode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.engine.request import Output
    from anyarch.exporter.assemble import Annotations
    from anyarch.spec.reference import Reference
    from anyarch.store.content import ContentStore

__all__ = ["CombinedImage", "combine_files", "combine_layouts", "merged_index"]

_CREATED = "org.opencontainers.image.created"


def merged_index(
    parts: Sequence[tuple[Sequence[Platform], Blob]], wanted: Sequence[Platform], annotations: Annotations
) -> tuple[Blob, Descriptor]:
    """The index of all `wanted` platforms, in their order, attestations after them; and its descriptor.

    Each of `parts` is what one build made (an index, or a manifest alone) and the platforms it was asked
    for. Of its own annotations those of manifests and their descriptors are there already. Raises
    `BuildError` where a platform is missing.
    """
    found: dict[tuple[str, str, str], Descriptor] = {}
    attestations: dict[str, list[Descriptor]] = {}
    kinds = set()
    for platforms, blob in parts:
        if blob.media_type not in (media.OCI_INDEX, media.DOCKER_INDEX):
            (only,) = platforms
            found[_key(only)] = blob.descriptor(platform=only.spec())
            kinds.add(media.DOCKER_INDEX if blob.media_type == media.DOCKER_MANIFEST else media.OCI_INDEX)
            continue
        kinds.add(blob.media_type)
        for item in decode(Index, blob.raw).manifests:
            notes = item.annotations or {}
            if REFERENCE_TYPE in notes:
                attestations.setdefault(notes.get(REFERENCE_DIGEST, ""), []).append(item)
            elif item.platform is not None:
                found.setdefault(_key(Platform.of_spec(item.platform)), item)
    manifests = []
    for platform in wanted:
        manifest = found.get(_key(platform))
        if manifest is None:
            raise BuildError(f"no node gave a result for {platform}")
        manifests.append(manifest)
    for item in list(manifests):
        manifests += attestations.get(item.digest, [])
    kind = media.OCI_INDEX if media.OCI_INDEX in kinds else media.DOCKER_INDEX
    index = Index(
        schema_version=2,
        media_type=kind,
        manifests=tuple(manifests),
        annotations=dict(annotations.index) or None,
    )
    merged = Blob.of(kind, encode(index))
    return merged, merged.descriptor(annotations=dict(annotations.index_descriptor) or None)


def _key(platform: Platform) -> tuple[str, str, str]:
    return (platform.os, platform.architecture, platform.variant)


class CombinedImage(msgspec.Struct, frozen=True):
    """A merged index with all that it leads to in a content store."""

    descriptor: Descriptor
    digests: tuple[str, ...]

    def blob_digests(self) -> list[str]:
        return list(self.digests)

    def docker_parts(self) -> tuple[str, tuple[str, ...]]:
        raise UsageError("docker exporter does not currently support exporting manifest lists")


def combine_layouts(
    output: Output,
    archives: Sequence[tuple[Sequence[Platform], str]],
    wanted: Sequence[Platform],
    *,
    annotations: Annotations,
    names: Sequence[Reference],
    on_step: Callable[[str], None],
) -> tuple[Descriptor, Blob]:
    """Write the output (type=oci, or type=docker into an engine) from OCI archives of the parts; the index
    and its descriptor. Raises `OutputError` and what reading the archives raises."""
    from anyarch.exporter.layout import write_layout_directory, write_layout_tar
    from anyarch.exporter.load import load
    from anyarch.source.layout import import_layout
    from anyarch.store.store import Store

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="anyarch-combine-"))
        content = stack.enter_context(Store.open(Path(directory) / "store")).content
        parts, created = [], []
        for platforms, path in archives:
            root = import_layout(content, path)
            created.append((root.annotations or {}).get(_CREATED, ""))
            parts.append((platforms, Blob(root.media_type, _read(content, root.digest), Digest(root.digest))))
        index, descriptor = merged_index(parts, wanted, annotations)
        content.put(index.raw)
        on_step(f"exporting manifest list {index.digest}")
        image = CombinedImage(descriptor, tuple(_all_digests(content, index)))
        newest = max(created, default="") or None
        if output.type == "docker":
            load(content, image, names, on_step, is_index=True)
        elif flag(output.attrs, "tar", default=True):
            to_file(output, lambda sink: write_layout_tar(content, image, names, sink, created=newest))
        else:
            if output.dest is None or output.dest == "-":
                raise UsageError(f"output type={output.type},tar=false needs a directory as dest")
            write_layout_directory(content, image, names, Path(output.dest), created=newest)
        on_step("sending tarball")
        return descriptor, index


def _read(content: ContentStore, digest: str) -> bytes:
    with content.open(Digest(digest)) as stream:
        return stream.read()


def _all_digests(content: ContentStore, index: Blob) -> list[str]:
    found = {str(index.digest)}
    for item in decode(Index, index.raw).manifests:
        manifest = decode(Manifest, _read(content, item.digest))
        found |= {item.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    return sorted(found)


def combine_files(output: Output, archives: Sequence[tuple[Sequence[Platform], str]]) -> None:
    """Write a tar (type=tar) from tars of the parts, in each of which every platform has its directory.
    Raises `MalformedArchive`, `OutputError`."""
    from anyarch.archive.tar import TarWriter
    from anyarch.archive.tar_reader import read_tar

    where = {platform.directory: path for platforms, path in archives for platform in platforms}

    def write(sink: Callable[[bytes | memoryview], object]) -> None:
        writer = TarWriter(sink, whiteouts=False)
        for directory, path in sorted(where.items()):
            with open(path, "rb") as file:
                for entry, stream in read_tar(file, whiteouts=False):
                    if entry.path == directory or entry.path.startswith(f"{directory}/"):
                        clean = msgspec.structs.replace(entry, offset=-1)
                        writer.add(clean, stream if entry.kind is Kind.FILE else None)
        writer.close()

    to_file(output, write)
