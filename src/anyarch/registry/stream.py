"""A blob of a registry as a file that is read on demand: what a copy to another place reads from.

It keeps its place across broken connections, asks mirrors first, and can be read again from any offset (an
upload that starts over). Read once from the start to its end, it is verified: the last `read` raises when the
bytes had not the digest. With `verify` false that is left to whoever takes them.
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import TYPE_CHECKING

from anyarch.errors import DigestMismatch, NetworkError
from anyarch.http.cancel import check, pause
from anyarch.http.retry import IMPATIENT
from anyarch.registry.failure import Refused, of_error, summary
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.http.response import Response
    from anyarch.registry.failure import Failure
    from anyarch.registry.hosts import Endpoint
    from anyarch.registry.transport import Transport
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["BlobStream"]


class BlobStream(io.RawIOBase):
    """Raises as `Registry.fetch`. Close it; one thread at a time."""

    def __init__(
        self,
        transport: Transport,
        endpoints: Sequence[Endpoint],
        ref: Reference,
        descriptor: Descriptor,
        cancel: Cancel | None,
        *,
        verify: bool = True,
    ) -> None:
        super().__init__()
        self._verify = verify
        self._transport = transport
        self._endpoints = list(endpoints)
        self._ref = ref
        self._descriptor = descriptor
        self._cancel = cancel
        self._position = 0
        self._hash = hashlib.new(Digest.parse(descriptor.digest).algorithm)
        self._hashed = 0  # bytes from the start that went into the hash
        self._response: Response | None = None
        self._label = ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._descriptor.size}[whence]
        target = max(0, base + position)
        if target != self._position:
            self._drop()
            self._position = target
        return target

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # a Buffer
        size = self._descriptor.size
        left = size - self._position
        if left <= 0:
            return 0
        view = view[:left]
        failures = 0
        started = time.monotonic()
        while True:
            check(self._cancel)
            try:
                if self._response is None:
                    self._response = self._open()
                count = self._response.readinto(view)
                if count == 0:
                    raise NetworkError(
                        f"{self._label}: connection closed after {self._position} of {size} bytes",
                        kind="closed",
                    )
                break
            except NetworkError as error:
                self._drop()
                failures += 1
                elapsed = time.monotonic() - started
                delay = self._transport.http.retry.delay(failures, elapsed, kind=error.kind)
                if delay is None:
                    raise summary(self._what, "downloaded", [of_error(self._label, error)]) from None
                pause(delay, self._cancel)
        if self._verify and self._hashed == self._position:
            self._hash.update(view[:count])
            self._hashed += count
        self._position += count
        if self._position == size:
            self._finish()
        return count

    @property
    def _what(self) -> str:
        return f"{self._ref.familiar}: blob {Digest(self._descriptor.digest).short}"

    def _finish(self) -> None:
        if self._response is not None:
            self._response.discard()
            self._response = None
        if self._verify and self._hashed == self._descriptor.size:
            found = f"{self._hash.name}:{self._hash.hexdigest()}"
            if found != self._descriptor.digest:
                raise DigestMismatch(
                    f"{self._ref.familiar}: digest mismatch: {self._descriptor.digest} was asked for, "
                    f"{found} came from {self._label}",
                    hint="the registry, a mirror or a proxy altered it; try again, or push it again",
                )

    def _open(self) -> Response:
        """An answer that stands at our position, from the first endpoint that gives one."""
        failures: list[Failure] = []
        for endpoint in list(self._endpoints):
            try:
                response = self._ask(endpoint)
            except Refused as refusal:
                failures.append(refusal.failure)
            except NetworkError as error:
                if not endpoint.is_mirror:
                    raise
                failures.append(of_error(endpoint.label, error))
            else:
                self._label = endpoint.label
                return response
            if endpoint.is_mirror:
                self._endpoints.remove(endpoint)
        raise summary(self._what, "downloaded", failures)

    def _ask(self, endpoint: Endpoint) -> Response:
        self._label = endpoint.label
        response = self._transport.request(
            endpoint,
            "GET",
            endpoint.url(self._ref.path, "blobs", self._descriptor.digest),
            scopes=endpoint.pull_scopes(self._ref.path),
            headers={"Range": f"bytes={self._position}-"} if self._position else {},
            cancel=self._cancel,
            retry=IMPATIENT if endpoint.is_mirror else None,
        )
        if response.status not in (200, 206):
            raise Refused(self._transport.failure(endpoint, response))
        skip = self._position if response.status == 200 else 0
        length = response.remaining
        expected = self._descriptor.size - (0 if skip else self._position)
        if length is not None and length != expected:
            response.close()
            raise DigestMismatch(
                f"{self._ref.familiar}: {self._descriptor.digest} has {length} bytes at {endpoint.label} "
                f"where {expected} were announced",
                hint="the registry's copy is damaged; push the image again",
            )
        while skip:  # the server does not know ranges: what we have comes again
            piece = response.read(min(skip, 1 << 20))
            if not piece:
                response.close()
                raise NetworkError(f"{endpoint.label}: the answer is too short", kind="closed")
            skip -= len(piece)
        return response
