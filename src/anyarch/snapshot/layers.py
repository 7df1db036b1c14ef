"""Layers of the store and their forms (index, tar, directory, compressed blobs), made from one another on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from anyarch.archive.compression import Compression
    from anyarch.archive.entry import Entry
    from anyarch.snapshot.index import LayerIndex
    from anyarch.spec.digest import Digest
    from anyarch.spec.oci import Descriptor
    from anyarch.store.store import Store


class Layer(msgspec.Struct, frozen=True):
    """`id` is the diff ID when it was known at birth, else `x-<random hex>`. `size` in bytes."""

    id: str
    size: int
    created_at: float


def open_layers(store: Store, *, dirops: object | None = None) -> LayerStore:
    """The layers of `store`. Composed by whoever opens the store (store imports nothing of snapshot)."""


class TarLayer:
    """A layer being written. Context manager; leaving without commit() discards."""

    def add(self, entry: Entry, content: BinaryIO | bytes | None = None) -> Entry:
        """Like TarWriter.add. A `content` from a HostTree whose bytes are not those that were digested: ContextError."""

    def commit(self) -> Layer:
        """id = diff ID. A layer that is there already is returned instead."""

    def __enter__(self) -> TarLayer: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None: ...


class LayerStore:
    def new_tar(self, *, description: str = "") -> TarLayer: ...

    def add_blob(self, descriptor: Descriptor, diff_id: str, *, fetch_from: str = "") -> Layer:
        """Lazy: bytes may be absent. `fetch_from` is the reference where they can be had (several add up)."""

    def adopt_upper(self, upper: Path, *, overlay: str, unchanged: Callable[[Entry], bool] | None, description: str = "") -> Layer | None:
        """Rename an overlay upper directory into the store. None when nothing changed (upper is then left to the caller)."""

    def get(self, layer_id: str) -> Layer:
        """StoreError when there is none."""

    def missing(self, layer_ids: Iterable[str]) -> list[Layer]:
        """Those whose content is only remote: fetch a blob of `remote(layer)` into store.content first."""

    def index(self, layer: Layer) -> LayerIndex:
        """BlobNotFound when only remote."""

    def open_file(self, layer: Layer, entry: Entry) -> BinaryIO:
        """Content of a FILE (or HARDLINK within the layer)."""

    def directory(self, layer: Layer) -> Path:
        """Overlay lower directory, unpacked on demand."""

    def diff_id(self, layer: Layer) -> Digest: ...

    def blob(self, layer: Layer, compression: Compression, *, force: bool = False) -> Descriptor:
        """Descriptor of a compressed blob. A pulled layer keeps the blob it came with (possibly not local) unless `force`."""

    def remote(self, layer: Layer) -> list[tuple[Descriptor, str]]:
        """Blobs of the layer and references from which they can be fetched."""
