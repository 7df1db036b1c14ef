"""One blob on its way down: a stream that survives broken connections, and is checked while it passes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from anyarch.errors import DigestMismatch, NetworkError
from anyarch.http.cancel import pause
from anyarch.http.retry import IMPATIENT
from anyarch.registry.failure import Refused
from anyarch.spec import media
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.http.cancel import Cancel
    from anyarch.http.response import Response
    from anyarch.http.retry import RetryPolicy
    from anyarch.registry.hosts import Endpoint
    from anyarch.registry.transport import Transport
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["ACCEPT", "BlobSink", "Download"]

ACCEPT = ", ".join((media.OCI_INDEX, media.DOCKER_INDEX, media.OCI_MANIFEST, media.DOCKER_MANIFEST, "*/*"))
_MIN_PIECE = 1 << 16
_MAX_PIECE = 1 << 20


class BlobSink(Protocol):
    """Where a fetched blob goes. `write` takes all of `data` and keeps no view of it (the buffer is used
    again)."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Download:
    """One blob on its way; keeps its place across connections and endpoints."""

    def __init__(
        self,
        transport: Transport,
        ref: Reference,
        descriptor: Descriptor,
        writer: BlobSink,
        on_progress: Callable[[int], None] | None,
        cancel: Cancel | None,
        *,
        verify: bool,
        start: int,
    ) -> None:
        import hashlib

        digest = Digest.parse(descriptor.digest)
        self._transport = transport
        self._ref = ref
        self._descriptor = descriptor
        self._writer = writer
        self._on_progress = on_progress
        self._cancel = cancel
        self._hash = hashlib.new(digest.algorithm) if verify else None
        self.done = start
        self._buffer = bytearray(min(_MAX_PIECE, max(descriptor.size, 1)))
        self._piece = _MIN_PIECE

    def run(self, endpoint: Endpoint, retry: RetryPolicy | None) -> None:
        is_manifest = self._descriptor.media_type in media.INDEXES | media.MANIFESTS
        url = endpoint.url(self._ref.path, "manifests" if is_manifest else "blobs", self._descriptor.digest)
        headers = {"Accept": ACCEPT} if is_manifest else {}

        def ask(extra: dict[str, str]) -> Response:
            return self._transport.request(
                endpoint,
                "GET",
                url,
                scopes=endpoint.pull_scopes(self._ref.path),
                headers={**headers, **extra},
                cancel=self._cancel,
                retry=retry,
            )

        def refuse(response: Response) -> None:
            raise Refused(self._transport.failure(endpoint, response))

        self._persevere(ask, refuse, retry or self._transport.http.retry, endpoint.label)

    def run_urls(self) -> bool | None:
        """A foreign layer: from the places its descriptor names."""
        for url in self._descriptor.urls:

            def ask(extra: dict[str, str], url: str = url) -> Response:
                return self._transport.http.request("GET", url, headers=extra, cancel=self._cancel)

            def refuse(response: Response) -> None:
                response.close()
                raise NetworkError(f"{response.url}: {response.status} {response.reason}", kind="protocol")

            try:
                self._persevere(ask, refuse, IMPATIENT, url)
            except NetworkError:
                continue
            return True
        return None

    def _persevere(
        self,
        ask: Callable[[dict[str, str]], Response],
        refuse: Callable[[Response], None],
        policy: RetryPolicy,
        label: str,
    ) -> None:
        """Ask until all bytes are there; the patience is renewed by every byte that comes."""
        failures = 0
        first_failure = 0.0
        while True:
            before = self.done
            with ask({"Range": f"bytes={self.done}-"} if self.done else {}) as response:
                if response.status not in (200, 206):
                    refuse(response)
                try:
                    self._receive(response, label)
                    return
                except NetworkError as error:
                    now = time.monotonic()
                    if self.done > before or not failures:
                        failures, first_failure = 0, now
                    failures += 1
                    delay = policy.delay(failures, now - first_failure, kind=error.kind)
                    if delay is None:
                        raise
            pause(delay, self._cancel)

    def _receive(self, response: Response, label: str) -> None:
        size = self._descriptor.size
        skip = 0
        if response.status == 200:
            skip = self.done  # the server does not know ranges: what we have comes again
            start = 0
        else:
            start = _range_start(response)
            if start != self.done:
                raise NetworkError(f"{label}: another range than the one asked for", kind="protocol")
        length = response.remaining
        if length is not None and start + length != size:
            raise DigestMismatch(
                f"{self._ref.familiar}: {self._descriptor.digest} has {start + length} bytes at {label}, "
                f"{size} were announced",
                hint="the registry's copy is damaged; push the image again",
            )
        view = memoryview(self._buffer)
        while True:
            started = time.monotonic()
            count = response.readinto(view[: self._piece])
            if count == 0:
                break
            piece = view[:count]
            if skip:
                dropped = min(skip, count)
                skip -= dropped
                piece = piece[dropped:]
                if not piece:
                    continue
            self.done += len(piece)
            if self.done > size:
                raise DigestMismatch(
                    f"{self._ref.familiar}: {self._descriptor.digest} is longer than {size} bytes"
                )
            if self._hash is not None:
                self._hash.update(piece)
            self._writer.write(piece)
            if self._on_progress is not None:
                self._on_progress(len(piece))
            # Large pieces are fast, small ones show progress (and see `cancel`) on a slow line.
            took = time.monotonic() - started
            if took < 0.05:
                self._piece = min(self._piece * 2, _MAX_PIECE)
            elif took > 0.5:
                self._piece = max(self._piece // 2, _MIN_PIECE)
        if self.done < size:
            raise NetworkError(f"{label}: connection closed after {self.done} of {size} bytes", kind="closed")

    def finish(self) -> None:
        if self._hash is not None:
            found = f"{self._hash.name}:{self._hash.hexdigest()}"
            if found != self._descriptor.digest:
                raise DigestMismatch(
                    f"{self._ref.familiar}: digest mismatch: {self._descriptor.digest} was asked for, "
                    f"{found} came",
                    hint="the registry, a mirror or a proxy altered it; try again, or push it again",
                )


def _range_start(response: Response) -> int:
    import re

    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return int(match[1]) if match else -1
