"""Where content goes to: blobs first, documents after what they lead to, names last."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.errors import DigestMismatch, NoSpace, OutputError, UsageError
from anyarch.imagetools.layout import NAME, REF_NAME, LayoutReference
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Index, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.origin import Origin
    from anyarch.registry.client import Registry
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["LayoutTarget", "RegistryTarget", "Target", "disk_errors", "whole", "write_layout_index"]

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_PIECE = 1 << 20


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
        self._names = tuple(names)
        self._cancel = cancel
        self._lock = threading.Lock()
        self._blob_locks: dict[str, threading.Lock] = {}
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{path}: it is not a directory", hint="an OCI layout is made as a directory")
        with disk_errors(path):
            os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
            if not os.path.exists(f"{path}/oci-layout"):
                _replace(f"{path}/oci-layout", LAYOUT)

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
        from anyarch.http.cancel import check

        file = self._file(descriptor.digest)
        with self._lock:
            lock = self._blob_locks.setdefault(descriptor.digest, threading.Lock())
        with lock:
            if _has_size(file, descriptor.size):
                return False
            hasher = hashlib.new(Digest.parse(descriptor.digest).algorithm)
            with origin.open(descriptor, verify=False) as stream, disk_errors(file), whole(file) as out:
                done = 0
                while piece := stream.read(_PIECE):
                    check(self._cancel)
                    hasher.update(piece)
                    out.write(piece)
                    done += len(piece)
                    if on_progress is not None:
                        on_progress(len(piece))
                found = f"{hasher.name}:{hasher.hexdigest()}"
                if found != descriptor.digest or done != descriptor.size:
                    raise DigestMismatch(
                        f"{origin.name}: {descriptor.digest} has other bytes ({found}, {done} bytes)",
                        hint="its copy there is damaged; make or fetch it again",
                    )
        return True

    def put_document(self, blob: Blob) -> None:
        file = self._file(blob.digest)
        if not _has_size(file, len(blob.raw)):
            with disk_errors(file), whole(file) as out:
                out.write(blob.raw)

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
        """Nothing is kept open."""


def write_layout_index(path: str, entries: Sequence[Descriptor]) -> None:
    """Add entries to a layout's index.json. One with the same name (or, without a name, digest) is
    replaced."""
    with disk_errors(path), _locked(path):
        try:
            with open(f"{path}/index.json", "rb") as file:
                index = decode(Index, file.read())
        except FileNotFoundError:
            index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=())
        kept = {_key(entry): entry for entry in index.manifests}
        for entry in entries:
            kept.pop(_key(entry), None)
            kept[_key(entry)] = entry
        changed = msgspec.structs.replace(index, manifests=tuple(kept.values()))
        _replace(f"{path}/index.json", encode(changed))


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


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _replace(file: str, raw: bytes) -> None:
    with whole(file) as out:
        out.write(raw)


class _Out(Protocol):
    def write(self, data: bytes, /) -> int: ...


@contextmanager
def whole(file: str) -> Iterator[_Out]:
    """A new file that has its name once it is complete."""
    temporary = f"{file}.{os.getpid()}.{threading.get_ident()}.part"
    os.makedirs(os.path.dirname(file), exist_ok=True)
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


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
