"""Where content goes to: blobs first, documents after what they lead to, names last."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.errors import DigestMismatch, NoSpace, OutputError, UsageError
from anyarch.imagetools.layout import NAME, REF_NAME, LayoutReference
from anyarch.imagetools.pour import pour
from anyarch.spec.digest import Digest
from anyarch.store.layout import (
    change_index,
    close_layout,
    ingest_of,
    locked,
    open_layout,
    unique_name,
    write_file,
)
from anyarch.store.partial import ingest_file, partial_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.registry.client import Registry
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["LayoutTarget", "RegistryTarget", "Target", "disk_errors", "write_layout_index"]


class Target(Protocol):
    """One place that images are put to. Safe for threads. Methods raise `AnyarchError`."""

    @property
    def name(self) -> str:
        """How the place is written, without a tag."""

    def has_document(self, descriptor: Descriptor) -> bool:
        """Whether a manifest or index is there, and with it all that it leads to."""

    def put_blob(
        self, descriptor: Descriptor, origin: Origin, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        """Make the place have a blob; whether bytes had to be moved."""

    def put_document(self, blob: Blob) -> None:
        """Store a manifest or index by its digest."""

    def put_referrer(self, descriptor: Descriptor) -> None:
        """Make a stored document findable by its subject, where `put_document` alone does not do that."""

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        """Store the outermost document under the place's names; answers them."""

    def close(self) -> None: ...


class RegistryTarget:
    """A repository of a registry, and the tags to write there (none: by digest only)."""

    def __init__(
        self, registry: Registry, repository: Reference, tags: Sequence[str], cancel: Cancel | None = None
    ) -> None:
        self._registry = registry
        self.repository = repository
        self._tags = tuple(tags)
        self._cancel = cancel

    @property
    def name(self) -> str:
        return self.repository.name

    def has_document(self, descriptor: Descriptor) -> bool:
        digest = Digest.parse(descriptor.digest)
        return self._registry.has_manifest(self.repository, digest, cancel=self._cancel)

    def put_blob(
        self, descriptor: Descriptor, origin: Origin, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        return self._registry.push_blob(
            self.repository,
            descriptor,
            lambda: origin.open(descriptor),
            mount_from=origin.repository(self.repository.domain, descriptor.digest),
            on_progress=on_progress,
            cancel=self._cancel,
        )

    def put_document(self, blob: Blob) -> None:
        self._registry.push_manifest(self.repository, blob, cancel=self._cancel)

    def put_referrer(self, descriptor: Descriptor) -> None:
        """The registry, or `Registry.push_manifest` for it, has seen to that."""

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        if not self._tags:
            self.put_document(blob)
            return (str(self.repository.with_digest(blob.digest)),)
        for tag in self._tags:
            self._registry.push_manifest(self.repository, blob, tag=tag, cancel=self._cancel)
        return tuple(str(self.repository.with_tag(tag)) for tag in self._tags)

    def close(self) -> None:
        """The client is the caller's."""


class LayoutTarget:
    """A directory that is or becomes an OCI layout; other images in it stay. Several processes may write to
    it at the same time."""

    def __init__(
        self, path: str, names: Sequence[tuple[str, str]] = (), *, cancel: Cancel | None = None
    ) -> None:
        """`names` are pairs of an image name (may be empty) and a tag. Raises `OutputError`."""
        self.path = path
        self._ingest = ingest_of(path)
        self._names = tuple(names)
        self._cancel = cancel
        self._lock = threading.Lock()
        self._blob_locks: dict[str, threading.Lock] = {}
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{path}: it is not a directory", hint="an OCI layout is made as a directory")
        with disk_errors(path):
            open_layout(path)

    @property
    def name(self) -> str:
        return f"oci-layout://{self.path}"

    def _file(self, digest: str) -> str:
        checked = Digest.parse(digest)
        return f"{self.path}/blobs/{checked.algorithm}/{checked.hex}"

    def has_document(self, descriptor: Descriptor) -> bool:
        """Never: what a layout has of an image may be a part of it, and looking costs little."""
        return False

    def put_blob(
        self, descriptor: Descriptor, origin: Origin, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        file = self._file(descriptor.digest)
        with self._lock:
            lock = self._blob_locks.setdefault(descriptor.digest, threading.Lock())
        with lock:
            if _has_size(file, descriptor.size):
                return False
            with disk_errors(file):
                pour(
                    lambda: origin.open(descriptor, verify=False),
                    lambda: _LayoutWriter(self._ingest, file, descriptor, origin.name),
                    on_progress=on_progress,
                    cancel=self._cancel,
                )
        return True

    def put_document(self, blob: Blob) -> None:
        file = self._file(blob.digest)
        if not _has_size(file, len(blob.raw)):
            with disk_errors(file):
                write_file(self.path, f"blobs/{blob.digest.replace(':', '/')}", (blob.raw,))

    def put_referrer(self, descriptor: Descriptor) -> None:
        write_layout_index(self.path, [descriptor])

    def put_name(self, blob: Blob, descriptor: Descriptor) -> Sequence[str]:
        self.put_document(blob)
        entries = []
        for name, tag in self._names or (("", ""),):
            notes = dict(descriptor.annotations or {})
            for key, value in ((NAME, name), (REF_NAME, tag)):
                notes.pop(key, None)
                if value:
                    notes[key] = value
            entries.append(msgspec.structs.replace(descriptor, annotations=notes or None))
        write_layout_index(self.path, entries)
        return tuple(
            str(LayoutReference(self.path, tag, None if tag else blob.digest))
            for _, tag in self._names or (("", ""),)
        )

    def close(self) -> None:
        """Takes away the directory of unfinished files, if there are none."""
        close_layout(self.path)


def write_layout_index(path: str, entries: Sequence[Descriptor]) -> None:
    """Add entries to a layout's index.json. One with the same name (or, without a name, digest) is
    replaced."""

    def change(known: Sequence[Descriptor]) -> Iterable[Descriptor]:
        kept = {_key(entry): entry for entry in known}
        for entry in entries:
            kept.pop(_key(entry), None)
            kept[_key(entry)] = entry
        return kept.values()

    with disk_errors(path), locked(path):
        change_index(path, change)


def _key(entry: Descriptor) -> tuple[str, str]:
    notes = entry.annotations or {}
    name = notes.get(NAME) or ""
    tag = notes.get(REF_NAME) or ""
    return (name, tag) if name or tag else ("", entry.digest)


def _has_size(file: str, size: int) -> bool:
    try:
        return os.stat(file).st_size == size
    except FileNotFoundError:
        return False


class _LayoutWriter:
    """A blob of a layout: the part that is there, and the rest."""

    def __init__(self, ingest: str, file: str, descriptor: Descriptor, source: str) -> None:
        self._file = file
        self._descriptor = descriptor
        self._source = source
        part = partial_of(ingest, descriptor.digest, descriptor.size)
        if part is None:
            part = ingest_file(ingest, unique_name(file), Digest.parse(descriptor.digest).algorithm)
        self._part = part

    @property
    def offset(self) -> int:
        return self._part.offset

    def write(self, data: bytes, /) -> None:
        self._part.write(data)

    def commit(self) -> None:
        found, done = self._part.digest, self._part.offset
        if found != self._descriptor.digest or done != self._descriptor.size:
            raise DigestMismatch(
                f"{self._source}: {self._descriptor.digest} has other bytes ({found}, {done} bytes)",
                hint="its copy there is damaged; make or fetch it again",
            )
        self._part.publish(self._file)

    def discard(self) -> None:
        self._part.discard()

    def __enter__(self) -> _LayoutWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, OSError):
            self._part.discard()  # a full disk is not to be kept full
        self._part.keep()


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turns an `OSError` of writing into `OutputError` or `NoSpace`."""
    try:
        yield
    except OSError as error:
        import errno

        reason = f"cannot write {os.fsdecode(error.filename or path)}: {(error.strerror or '').lower()}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(reason, hint="free some space there or choose another place") from None
        raise OutputError(reason) from None
