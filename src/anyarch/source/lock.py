"""Lock files: which image each name of a recipe stands for, and a bundle with their content.

    {"version": 1, "platforms": ["linux/amd64"], "images": {"docker.io/library/busybox:latest": "sha256:…"},
     "bundle": "anyarch.lock.bundle"}

The digests are those of indexes, so they pin all platforms. The bundle is an OCI layout beside the file, with
the platforms that were fetched. `LockedRegistry` answers from both; offline it never opens a socket.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.errors import ManifestNotFound, NetworkError, UsageError
from anyarch.http.client import HttpClient
from anyarch.registry.client import Registry
from anyarch.registry.document import media_type_of
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob
from anyarch.store.layout import change_index, close_layout, locked, open_layout, write_file
from anyarch.store.whole_file import clear_leftovers, output_error, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anyarch.http.cancel import Cancel
    from anyarch.http.client import FileBody, Tls
    from anyarch.http.response import Response
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.download import BlobSink
    from anyarch.registry.hosts import Hosts
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["Bundle", "Lock", "LockedRegistry", "OfflineHttp", "read_lock", "write_lock"]

_PIECE = 1 << 20
_NAME = "io.containerd.image.name"


class Lock(msgspec.Struct, frozen=True):
    """`images` are digests by normalised reference; `bundle` is relative to the lock file, empty for none."""

    version: int = 1
    platforms: tuple[str, ...] = ()
    images: dict[str, str] = {}
    bundle: str = ""


def read_lock(path: str) -> Lock:
    """Raises `UsageError`."""
    try:
        with open(path, "rb") as file:
            lock = json_decoder(Lock).decode(file.read())
    except OSError as error:
        raise UsageError(
            f"cannot read the lock file {path}: {(error.strerror or '').lower()}",
            hint="it is written by `anyarch fetch --lock FILE`",
        ) from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no lock file: {error}") from None
    if lock.version != 1:
        raise UsageError(f"{path}: version {lock.version} of lock files is not known to this release")
    for name, digest in lock.images.items():
        if not digest.startswith("sha256:") or len(digest) != 71:
            raise UsageError(f"{path}: {name} has no digest, but {digest!r}")
    return lock


def write_lock(path: str, lock: Lock) -> None:
    """Replace the file as a whole. Raises `OutputError`."""
    images = dict(sorted(lock.images.items()))
    raw = msgspec.json.encode(msgspec.structs.replace(lock, images=images))
    with _disk_errors(path):
        clear_leftovers(Path(os.path.abspath(path)).parent)
        with whole_file(Path(path)) as file:
            file.write(msgspec.json.format(raw, indent=2) + b"\n")


class Bundle:
    """An OCI layout with the content of locked images. Safe for threads."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _file(self, digest: str) -> str:
        checked = Digest.parse(digest)
        return f"{self.path}/blobs/{checked.algorithm}/{checked.hex}"

    def has(self, digest: str) -> bool:
        return os.path.isfile(self._file(digest))

    def open(self, digest: str) -> BinaryIO:
        return open(self._file(digest), "rb")

    def add(self, digest: str, open_: Callable[[], BinaryIO]) -> None:
        """Copy a blob, which the caller vouches for. Raises `OutputError`."""
        if not self.has(digest):
            name = f"blobs/{Digest.parse(digest).replace(':', '/')}"
            with _disk_errors(self.path), open_() as stream:
                write_file(self.path, name, iter(partial(stream.read, _PIECE), b""))

    def finish(self, images: Mapping[str, Blob]) -> None:
        """Write the index of the layout: the images by their names, and no others. Raises
        `OutputError`."""
        entries = [blob.descriptor(annotations={_NAME: name}) for name, blob in sorted(images.items())]
        with _disk_errors(self.path):
            open_layout(self.path)
            with locked(self.path):
                change_index(self.path, lambda known: entries)
            close_layout(self.path)


@contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from None


class OfflineHttp(HttpClient):
    """A client that asks nobody."""

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        tls: Tls | None = None,
        cancel: Cancel | None = None,
        answer_timeout_s: float | None = None,
    ) -> Response:
        raise NetworkError(
            f"--offline: {url} is not asked for",
            kind="offline",
            hint="fetch it before with `anyarch fetch --lock FILE`, or leave out --offline",
        )


class LockedRegistry(Registry):
    """A registry client that knows names by a lock file, and content by its bundle before it asks."""

    def __init__(
        self,
        hosts: Hosts,
        credentials: CredentialSource,
        *,
        path: str = "",
        lock: Lock | None = None,
        offline: bool = False,
    ) -> None:
        """`path` and `lock` are the lock file (None: nothing is locked)."""
        super().__init__(hosts, credentials, http=OfflineHttp() if offline else None)
        self._path = path
        self._lock_file = lock
        self._offline = offline
        self._bundle: Bundle | None = None
        if lock is not None and lock.bundle:
            self._bundle = Bundle(os.path.join(os.path.dirname(path), lock.bundle))

    def resolve(self, ref: Reference, *, cancel: Cancel | None = None) -> tuple[Digest, str, int]:
        locked = self._lock_file.images.get(str(ref)) if self._lock_file is not None else None
        if locked is not None:
            return Digest.parse(locked), "", 0
        if self._lock_file is not None:
            known = ", ".join(sorted(self._lock_file.images)) or "no image"
            raise ManifestNotFound(
                f"{ref.familiar}: it is not in the lock file {self._path}",
                hint=f"run `anyarch fetch --lock {self._path}` again; it has {known}",
            )
        if self._offline and ref.digest is None:
            raise ManifestNotFound(
                f"{ref.familiar}: --offline, and no lock file says what it stands for",
                hint="give --lock FILE, or name the image by its digest",
            )
        return super().resolve(ref, cancel=cancel)

    def manifest(self, ref: Reference, digest: Digest | None = None, *, cancel: Cancel | None = None) -> Blob:
        wanted = digest or ref.digest
        if wanted is not None and self._bundle is not None and self._bundle.has(wanted):
            with self._bundle.open(wanted) as stream:
                raw = stream.read()
            _check(ref, wanted, raw)
            return Blob(media_type_of(raw, name=ref.familiar), raw, wanted)
        self._refuse(ref, wanted)
        return super().manifest(ref, digest, cancel=cancel)

    def read(self, ref: Reference, descriptor: Descriptor, *, cancel: Cancel | None = None) -> bytes:
        if self._bundle is not None and self._bundle.has(descriptor.digest):
            with self._bundle.open(descriptor.digest) as stream:
                raw = stream.read()
            _check(ref, descriptor.digest, raw)
            return raw
        self._refuse(ref, descriptor.digest)
        return super().read(ref, descriptor, cancel=cancel)

    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        writer: BlobSink,
        *,
        on_progress: Callable[[int], None] | None = None,
        cancel: Cancel | None = None,
        verify: bool = True,
        start: int = 0,
    ) -> None:
        if self._bundle is None or not self._bundle.has(descriptor.digest):
            self._refuse(ref, descriptor.digest)
            super().fetch(
                ref,
                descriptor,
                writer,
                on_progress=on_progress,
                cancel=cancel,
                verify=verify,
                start=start,
            )
            return
        import hashlib

        digest = Digest.parse(descriptor.digest)
        hasher = hashlib.new(digest.algorithm)
        with self._bundle.open(digest) as stream:
            stream.seek(start)
            while piece := stream.read(_PIECE):
                hasher.update(piece)
                writer.write(piece)
                if on_progress is not None:
                    on_progress(len(piece))
        if not start and hasher.hexdigest() != digest.hex:
            raise _damaged(ref, digest)

    def _refuse(self, ref: Reference, digest: str | None) -> None:
        if self._offline:
            where = f"the bundle of {self._path}" if self._bundle is not None else "the store"
            raise ManifestNotFound(
                f"{ref.familiar}: --offline, and {where} lacks {digest}",
                hint="run `anyarch fetch --lock FILE` for the same platforms where there is a network",
            )


def _check(ref: Reference, digest: str, raw: bytes) -> None:
    import hashlib

    checked = Digest.parse(digest)
    if hashlib.new(checked.algorithm, raw).hexdigest() != checked.hex:
        raise _damaged(ref, digest)


def _damaged(ref: Reference, digest: str) -> Exception:
    from anyarch.errors import DigestMismatch

    return DigestMismatch(
        f"{ref.familiar}: the bundle's copy of {digest} is damaged", hint="fetch the bundle again"
    )
