"""A client of OCI distribution registries (distribution-spec 1.1), synchronous and thread-safe.

One `Registry` serves a whole build: it keeps connections, tokens and what it learnt about blobs. Nothing of
the network is imported before the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from anyarch.registry.credentials import Credentials
    from anyarch.registry.hosts import Hosts
    from anyarch.spec.digest import Digest
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["BlobSink", "Registry"]


class BlobSink(Protocol):
    """Where a fetched blob goes. `write` takes all of `data` and keeps no view of it (the buffer is used
    again)."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Registry:
    """Pull from and push to any registry that `hosts` describes, with what `credentials` has.

    `cancel`, where it is taken, is looked at while waiting and for every chunk; once set, `Canceled` is
    raised within about half a second.
    """

    def __init__(
        self, hosts: Hosts, credentials: Credentials, *, on_retry: Callable[[str], None] | None = None
    ) -> None:
        """`on_retry` gets one line of text for every attempt that is repeated (from any thread)."""
        self._hosts = hosts
        self._credentials = credentials
        self._on_retry = on_retry

    def close(self) -> None:
        """Close idle connections. The object can be used again afterwards."""

    def resolve(self, ref: Reference, *, cancel: threading.Event | None = None) -> tuple[Digest, str, int]:
        """Digest, media type and size in bytes of what `ref` names now.

        Mirrors first, then the registry itself. One HEAD; a GET where the answer lacks the digest.
        Raises `ManifestNotFound`, `Unauthorized`, `RegistryError`.
        """
        raise NotSupported("registry access")

    def manifest(
        self, ref: Reference, digest: Digest | None = None, *, cancel: threading.Event | None = None
    ) -> Blob:
        """The manifest or index `ref` (or `digest` in its repository) names; bytes verified.

        Raises as `resolve`, and `DigestMismatch`, `UnsupportedMedia` (schema 1).
        """
        raise NotSupported("registry access")

    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        writer: BlobSink,
        *,
        on_progress: Callable[[int], None] | None = None,
        cancel: threading.Event | None = None,
        verify: bool = True,
    ) -> None:
        """Stream one blob into `writer.write`; the caller commits or discards.

        Resumes where the connection broke, at another mirror if need be. Size and digest are checked here
        too; `verify=False` leaves the digest to a writer that computes it anyway (`BlobWriter(expected=…)`).
        `on_progress` gets the number of bytes of each chunk.
        """
        raise NotSupported("registry access")

    def read(self, ref: Reference, descriptor: Descriptor, *, cancel: threading.Event | None = None) -> bytes:
        """A small blob (a config) in memory, verified."""
        raise NotSupported("registry access")

    def has_blob(self, ref: Reference, digest: str, *, cancel: threading.Event | None = None) -> bool:
        """Whether the repository itself (no mirror) has the blob."""
        raise NotSupported("registry access")

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_: Callable[[], BinaryIO],
        *,
        mount_from: str | None = None,
        on_progress: Callable[[int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> bool:
        """Make the repository have the blob. True when its bytes were sent; False when it was there or was
        mounted.

        `open_` gives a fresh stream at offset 0 each time it is called (again after a broken connection); it
        is closed here. `mount_from` is a repository path on the same registry that may have the blob.
        """
        raise NotSupported("registry access")

    def push_manifest(
        self, ref: Reference, blob: Blob, *, tag: str | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Store a manifest or index by its digest, or under `tag`. What it points at must be there
        already."""
        raise NotSupported("registry access")

    def tags(self, ref: Reference, *, cancel: threading.Event | None = None) -> list[str]:
        """All tags of the repository, sorted."""
        raise NotSupported("registry access")

    def delete(self, ref: Reference, digest: Digest, *, cancel: threading.Event | None = None) -> None:
        """Remove a manifest, and with it all its tags, where the registry allows it."""
        raise NotSupported("registry access")
