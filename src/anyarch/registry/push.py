"""Uploads (distribution-spec, "Push"): mount, one PUT for the whole blob, pieces where the registry wants
pieces.

A single PUT after POST is the fastest and what containerd does. Where it does not go through (a proxy that
limits bodies, a registry that knows PATCH only), the blob goes as PATCH pieces, smaller and smaller. A broken
connection is followed by the question how much arrived; the rest goes on from there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from anyarch.errors import DigestMismatch, NetworkError, RegistryError
from anyarch.http.cancel import pause
from anyarch.http.client import FileBody
from anyarch.http.retry import RETRY_STATUSES, RetryPolicy, retry_after_s
from anyarch.registry.download import ACCEPT
from anyarch.registry.failure import Failure, Refused
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.http.response import Response
    from anyarch.registry.hosts import Endpoint
    from anyarch.registry.novelty import Novelty
    from anyarch.registry.transport import Transport
    from anyarch.registry.unfinished import UploadRecord, UploadRecords
    from anyarch.spec.oci import Blob, Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["Upload", "has_blob", "has_manifest", "put_manifest"]

_ANSWER_TIMEOUT_S = 600.0  # a registry on an object store copies and hashes the whole blob before it answers
_PIECES = (1 << 62, 64 << 20, 16 << 20, 5 << 20)  # S3 and its kin refuse parts under 5 MiB
# Answers to a whole-blob PUT after which pieces may still work. 400 and 404 are seen from registries and
# proxies that do not know the form; 413 says that the body is too large for something on the way.
_TRY_PIECES = frozenset({400, 404, 405, 411, 413, 415, 416, 501})
_FINAL_CODES = frozenset({"DIGEST_INVALID", "NAME_INVALID", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED"})
_ONE_TRY = RetryPolicy(attempts=1, refusals=2)


def has_blob(
    transport: Transport,
    endpoint: Endpoint,
    ref: Reference,
    digest: str,
    scopes: Sequence[str],
    cancel: Cancel | None,
) -> bool:
    """HEAD; False on 404."""
    url = endpoint.url(ref.path, "blobs", digest)
    response = transport.request(endpoint, "HEAD", url, scopes=scopes, cancel=cancel)
    if response.status == 404:
        response.discard()
        return False
    if response.status != 200:
        raise Refused(transport.failure(endpoint, response))
    response.discard()
    return True


def has_manifest(
    transport: Transport, endpoint: Endpoint, ref: Reference, digest: str, cancel: Cancel | None
) -> bool:
    """HEAD; False on 404, and where the registry does not answer such questions."""
    response = transport.request(
        endpoint,
        "HEAD",
        endpoint.url(ref.path, "manifests", digest),
        scopes=endpoint.push_scopes(ref.path),
        headers={"Accept": ACCEPT},
        cancel=cancel,
    )
    if response.status not in (200, 404, 405, 501):
        raise Refused(transport.failure(endpoint, response))
    response.discard()
    return response.status == 200


def put_manifest(
    transport: Transport,
    endpoint: Endpoint,
    ref: Reference,
    blob: Blob,
    tag: str | None,
    cancel: Cancel | None,
) -> bool:
    """PUT under `tag`, or under the digest. Whether the registry says that it keeps the list of referrers of
    the manifest's subject."""
    response = transport.request(
        endpoint,
        "PUT",
        endpoint.url(ref.path, "manifests", tag or blob.digest),
        scopes=endpoint.push_scopes(ref.path),
        headers={"Content-Type": blob.media_type},
        body=blob.raw,
        cancel=cancel,
        answer_timeout_s=_ANSWER_TIMEOUT_S,
    )
    if not 200 <= response.status < 300:
        raise Refused(transport.failure(endpoint, response))
    with response:
        stored = response.headers.get("Docker-Content-Digest")
        lists_referrers = response.headers.get("OCI-Subject") is not None
    # Other algorithms than ours are the registry's right; another value of ours is not.
    if (
        stored
        and stored.startswith("sha256:")
        and blob.digest.startswith("sha256:")
        and stored != blob.digest
    ):
        raise RegistryError(
            f"{endpoint.label}: it stored {stored} instead of {blob.digest}",
            hint="the registry altered the manifest",
        )
    return lists_referrers


class Upload:
    """One blob on its way up."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        ref: Reference,
        descriptor: Descriptor,
        open_: Callable[[], BinaryIO],
        *,
        on_progress: Callable[[int], None] | None,
        cancel: Cancel | None,
        novelty: Novelty,
        records: UploadRecords | None = None,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._ref = ref
        self._descriptor = descriptor
        self._open = open_
        self._on_progress = on_progress
        self._cancel = cancel
        self._novelty = novelty
        self._records = records
        self._scopes: tuple[str, ...] = endpoint.push_scopes(ref.path)
        self._credited = 0  # bytes reported to on_progress
        self._min_piece = 0

    def run(self, mount_from: str | None) -> bool:
        """False when nothing had to be sent."""
        location: str | None = None
        if mount_from and mount_from != self._ref.path:
            # A mount succeeds whether the blob is there or not, so the question is saved where it is likely.
            location = self._begin(mount_from)
            if location is None:
                return False
        if not self._novelty.spares(self._ref.name, self._descriptor.size, self._is_unknown):
            found = self._is_there()
            self._novelty.heard(self._ref.name, found=found)
            if found:
                if location is not None:
                    self._abandon(location)
                return False
        record = self._record()
        is_sent = False
        try:
            self._send(location, record)
            is_sent = True
        finally:
            record.close(finished=is_sent)
        return True

    def _record(self) -> UploadRecord:
        from anyarch.registry.unfinished import UploadRecord

        if self._records is None:
            return UploadRecord()
        repository = self._endpoint.url(self._ref.path, "blobs")
        return self._records.take(repository, self._descriptor.digest, self._descriptor.size)

    def _is_there(self) -> bool:
        digest = self._descriptor.digest
        return has_blob(self._transport, self._endpoint, self._ref, digest, self._scopes, self._cancel)

    def _is_unknown(self) -> bool:
        """Whether the registry says that it has no such repository."""
        url = self._endpoint.url(self._ref.path, "tags", "list") + "?n=1"
        response = self._transport.request(
            self._endpoint, "GET", url, scopes=self._scopes, cancel=self._cancel
        )
        if response.status != 404:
            response.discard()
            return False
        return "NAME_UNKNOWN" in self._transport.failure(self._endpoint, response).codes

    def _begin(self, mount_from: str | None = None) -> str | None:
        """The place of a new upload; None when the blob was mounted."""
        endpoint, path = self._endpoint, self._ref.path
        url = endpoint.url(path, "blobs", "uploads/")
        if mount_from:
            scopes = endpoint.push_scopes(path, mount_from)
            query = f"mount={self._descriptor.digest}&from={endpoint.prefix}{mount_from}"
            response = self._transport.request(
                endpoint, "POST", f"{url}?{query}", scopes=scopes, cancel=self._cancel
            )
            if response.status == 201:
                response.discard()
                return None
            if response.status != 202:
                # No right to read the other repository, or a registry that does not mount: then it is sent.
                response.discard()
                return self._begin()
        else:
            response = self._transport.request(
                endpoint, "POST", url, scopes=self._scopes, cancel=self._cancel
            )
            if response.status != 202:
                raise Refused(self._transport.failure(endpoint, response))
        with response:
            self._min_piece = natural(response.headers.get("OCI-Chunk-Min-Length") or "") or 0
            return self._location(response, url)

    def _abandon(self, location: str) -> None:
        """Tell the registry that an upload is not wanted; it forgets it in time if it does not hear."""
        request = self._transport.request
        try:
            request(
                self._endpoint, "DELETE", location, scopes=self._scopes, cancel=self._cancel, retry=_ONE_TRY
            ).discard()
        except NetworkError:
            return

    def _send(self, location: str | None, record: UploadRecord) -> None:
        """Whole first, then in pieces; a new upload whenever the old one is lost. One that an earlier process
        began is gone on with, where the registry still has it."""
        policy = self._transport.http.retry
        failures = 0
        first_failure = 0.0
        form = 0  # 0: whole; n: pieces of _PIECES[n - 1]
        offset = 0  # what the registry has of the upload at `location`
        is_old = False  # whether an earlier process began it
        if record.location:
            offset, place = self._status(record.location)
            if offset:
                if location is not None:
                    self._abandon(location)
                location, is_old = place, True
                self._credit(offset)
        while True:
            trouble: Exception
            kind = ""
            after_s: float | None = None
            try:
                if location is None:
                    offset = 0
                    location = self._begin()
                    assert location is not None  # only a mount has none
                record.note(location)
                if form == 0 and offset == 0:
                    refusal = self._put_whole(location)
                else:
                    offset, location, refusal = self._patch(location, offset, form, record)
                if refusal is None:
                    return
            except NetworkError as error:
                if error.kind == "body":
                    raise DigestMismatch(
                        f"{self._ref.familiar}: {self._descriptor.digest} is shorter than its "
                        f"{self._descriptor.size} bytes in the local store",
                        hint="remove the store's copy with `anyarch prune` and build again",
                    ) from None
                trouble, kind = error, error.kind
            else:
                trouble = Refused(refusal.failure)
                if refusal.status not in RETRY_STATUSES:
                    if refusal.status == 404 and self._is_there():
                        return  # a try of which the answer was lost has ended the upload
                    if is_old:
                        # What the earlier process sent may be the trouble.
                        location, offset, is_old = None, 0, False
                        self._credit(0)
                        continue
                    # Pieces, then smaller pieces, then give up.
                    form += 1
                    is_final = refusal.status not in _TRY_PIECES or refusal.failure.codes & _FINAL_CODES
                    if form > len(_PIECES) or is_final:
                        raise trouble
                    if refusal.status != 413:
                        location = None  # it may be spoilt
                        offset = 0
                    self._credit(offset)
                    continue
                after_s = refusal.after_s
            had = offset
            # What arrived is lost when the registry does not say, or has forgotten the upload.
            offset, location = self._status(location) if location is not None else (0, None)
            if location is None and kind and self._is_there():
                return  # the answer was lost, not the blob
            self._credit(offset)
            now = time.monotonic()
            if offset > had or not failures:
                failures, first_failure = 0, now
            failures += 1
            delay = policy.delay(failures, now - first_failure, kind=kind, after_s=after_s)
            if delay is None:
                raise trouble
            pause(delay, self._cancel)

    def _put_whole(self, location: str) -> _Refusal | None:
        response = self._request("PUT", self._with_digest(location), 0, self._descriptor.size)
        return self._finished(response)

    def _finished(self, response: Response) -> _Refusal | None:
        status = response.status
        if not 200 <= status < 300:
            return self._refusal(response)
        with response:
            stored = response.headers.get("Docker-Content-Digest") or self._descriptor.digest
        if stored != self._descriptor.digest and stored.startswith("sha256:"):
            raise RegistryError(
                f"{self._endpoint.label}: it stored {stored} instead of {self._descriptor.digest}"
            )
        return None

    def _refusal(self, response: Response) -> _Refusal:
        after_s = retry_after_s(response.headers.get("Retry-After"), time.time())
        return _Refusal(response.status, self._transport.failure(self._endpoint, response), after_s)

    def _patch(
        self, location: str, offset: int, form: int, record: UploadRecord
    ) -> tuple[int, str | None, _Refusal | None]:
        """Send from `offset` in pieces and finish: where it stands, the upload's place, what refused."""
        size = self._descriptor.size
        piece = max(_PIECES[max(form, 1) - 1], self._min_piece)
        while offset < size:
            count = min(piece, size - offset)
            response = self._request("PATCH", location, offset, count, is_piece=True)
            if response.status == 416:
                response.discard()
                at, place = self._status(location)
                if at == offset:
                    return 0, None, _Refusal(416, Failure("other", f"{self._endpoint.label}: 416 for PATCH"))
                offset, location = at, place or location
                continue
            if not 200 <= response.status < 300:
                return offset, location, self._refusal(response)
            with response:
                location = self._location(response, location)
            record.note(location)
            offset += count
        response = self._transport.request(
            self._endpoint,
            "PUT",
            self._with_digest(location),
            scopes=self._scopes,
            headers={"Content-Type": "application/octet-stream"},
            cancel=self._cancel,
            answer_timeout_s=_ANSWER_TIMEOUT_S,
        )
        return offset, location, self._finished(response)

    def _request(self, method: str, url: str, offset: int, count: int, *, is_piece: bool = False) -> Response:
        headers = {"Content-Type": "application/octet-stream"}
        if is_piece:
            headers["Content-Range"] = f"{offset}-{offset + count - 1}"
        return self._transport.request(
            self._endpoint,
            method,
            url,
            scopes=self._scopes,
            headers=headers,
            body=FileBody(self._open, count, offset, self._progress),
            cancel=self._cancel,
            retry=_ONE_TRY,
            answer_timeout_s=_ANSWER_TIMEOUT_S,
        )

    def _status(self, location: str) -> tuple[int, str | None]:
        """How many bytes the upload has, and where it goes on; (0, None) when it has to begin anew."""
        response = self._transport.request(
            self._endpoint, "GET", location, scopes=self._scopes, cancel=self._cancel
        )
        with response:
            if response.status not in (200, 204):
                return 0, None
            first, dash, last = (response.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            place = self._location(response, location)
            end = natural(last)
            if not dash or first != "0" or end is None:
                return 0, None
            # `0-0` is what docker-registry says of an upload that has nothing yet (and of one byte).
            return (end + 1 if end else 0), place

    def _location(self, response: Response, base: str) -> str:
        found = response.headers.get("Location") or response.headers.get("Docker-Upload-Location")
        if not found:
            if response.status in (200, 204):
                return base
            raise RegistryError(f"{self._endpoint.label}: it gave no place for an upload")
        url = urljoin(base, found)
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.netloc == self._endpoint.netloc and base.startswith("https://"):
            # A registry behind a proxy that ends TLS often names itself with http.
            url = "https://" + url.removeprefix("http://")
        return url

    def _with_digest(self, location: str) -> str:
        return location + ("&" if urlsplit(location).query else "?") + f"digest={self._descriptor.digest}"

    def _progress(self, count: int) -> None:
        self._credited += count
        if self._on_progress is not None:
            self._on_progress(count)

    def _credit(self, offset: int) -> None:
        """Make the bytes reported agree with what the registry has."""
        if offset != self._credited:
            self._progress(offset - self._credited)


class _Refusal:
    __slots__ = ("after_s", "failure", "status")

    def __init__(self, status: int, failure: Failure, after_s: float | None = None) -> None:
        self.status = status
        self.failure = failure
        self.after_s = after_s
