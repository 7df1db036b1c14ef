"""A client of OCI distribution registries (distribution-spec 1.1), synchronous and thread-safe.

One `Registry` serves a whole build: it keeps connections, tokens and what it learnt about blobs. Nothing of
the network is imported before the first request. Uploads are in `push`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from anyarch.errors import DigestMismatch, ManifestNotFound, NetworkError, RegistryError, UnsupportedMedia
from anyarch.http.cancel import check
from anyarch.http.client import HttpClient
from anyarch.http.retry import IMPATIENT
from anyarch.registry.download import ACCEPT, BlobSink, Download
from anyarch.registry.failure import Failure, Refused, of_error, summary
from anyarch.registry.novelty import Novelty
from anyarch.registry.transport import Transport
from anyarch.registry.unfinished import UploadRecords
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.number import natural
from anyarch.spec.oci import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.http.response import Response
    from anyarch.http.retry import RetryPolicy
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.hosts import Endpoint, Hosts
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["BlobSink", "Registry"]

_T = TypeVar("_T")

_MANIFEST_LIMIT = 16 << 20  # bytes; the specification asks registries for 4 MiB
_SMALL_LIMIT = 64 << 20
_SHUN_S = 30.0  # how long a mirror that could not be reached is passed by


class Registry:
    """Pull from and push to any registry that `hosts` describes, with what `credentials` has.

    `cancel`, where it is taken, is looked at while waiting and for every chunk; once set, `Canceled` is
    raised within about half a second.
    """

    def __init__(
        self,
        hosts: Hosts,
        credentials: CredentialSource,
        *,
        http: HttpClient | None = None,
        on_retry: Callable[[str], None] | None = None,
        uploads: str = "",
    ) -> None:
        """`on_retry` gets one line of text for every attempt that is repeated (from any thread). `uploads` is
        a directory for what the next process has to know to go on with uploads (empty: it begins them
        anew)."""
        self._hosts = hosts
        self._http = http or HttpClient(on_retry=on_retry)
        self._transport = Transport(credentials, self._http)
        self._lock = threading.Lock()
        self._shunned: dict[str, tuple[float, Failure]] = {}
        self._present: set[tuple[str, str]] = set()  # (repository name, digest) known to be there
        self._novelty = Novelty()
        self._upload_records = UploadRecords(uploads) if uploads else None
        self._push_locks: dict[tuple[str, str], threading.Lock] = {}
        self._referrers_lock = threading.Lock()  # lists under tags are read, changed and written

    def close(self) -> None:
        """Close idle connections. The object can be used again afterwards."""
        self._http.close()

    # pull -----------------------------------------------------------------------------------------

    def resolve(self, ref: Reference, *, cancel: Cancel | None = None) -> tuple[Digest, str, int]:
        """Digest, media type and size in bytes of what `ref` names now.

        Mirrors first, then the registry itself. One HEAD; a GET where the answer lacks something. Raises
        `ManifestNotFound`, `Unauthorized`, `RegistryError`.
        """

        def attempt(endpoint: Endpoint, retry: RetryPolicy | None) -> tuple[Digest, str, int]:
            url = endpoint.url(ref.path, "manifests", ref.object)
            response = self._transport.request(
                endpoint,
                "HEAD",
                url,
                scopes=endpoint.pull_scopes(ref.path),
                headers={"Accept": ACCEPT},
                cancel=cancel,
                retry=retry,
            )
            if response.status == 405 or response.status == 501:
                response.close()
                blob = self._get_manifest(endpoint, ref, ref.object, ref.digest, cancel, retry)
                return blob.digest, blob.media_type, len(blob.raw)
            self._expect(endpoint, response, 200)
            with response:
                digest = _header_digest(response) or ref.digest
                media_type = _media_type(response)
                length = response.headers.get("Content-Length") or ""
            _refuse_schema1(ref, media_type)
            _check_digest(ref, endpoint, digest, ref.digest)
            size = natural(length)
            if digest is None or size is None or media_type not in media.INDEXES | media.MANIFESTS:
                blob = self._get_manifest(endpoint, ref, ref.object, ref.digest, cancel, retry)
                return blob.digest, blob.media_type, len(blob.raw)
            return digest, media_type, size

        return self._somewhere(ref, "resolved", attempt)

    def manifest(self, ref: Reference, digest: Digest | None = None, *, cancel: Cancel | None = None) -> Blob:
        """The manifest or index `ref` (or `digest` in its repository) names; bytes verified.

        Raises as `resolve`, and `DigestMismatch`, `UnsupportedMedia` (schema 1).
        """
        wanted = digest or ref.digest
        return self._somewhere(
            ref if digest is None else ref.with_digest(digest),
            "pulled",
            lambda endpoint, retry: self._get_manifest(
                endpoint, ref, wanted or ref.tag, wanted, cancel, retry
            ),
        )

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
        """Stream one blob into `writer.write`; the caller commits or discards.

        Resumes where the connection broke, at another mirror if need be. Size and digest are checked here
        too; `verify=False` leaves the digest to a writer that computes it anyway (`BlobWriter(expected=…)`).
        With it `start` bytes are left out, which the writer has already.
        `on_progress` gets the number of bytes of each chunk. Raises as `resolve`, and `DigestMismatch`.
        """
        if start and verify:
            raise RegistryError(f"{ref.familiar}: a part of a blob cannot be verified")
        if start == descriptor.size > 0:
            return
        download = Download(
            self._transport, ref, descriptor, writer, on_progress, cancel, verify=verify, start=start
        )
        what = f"{ref.familiar}: layer {Digest(descriptor.digest).short}"
        if descriptor.media_type not in media.LAYERS:
            what = f"{ref.familiar}: blob {Digest(descriptor.digest).short}"
        urls = descriptor.urls
        self._somewhere(
            ref,
            "downloaded",
            download.run,
            what=what,
            elsewhere=download.run_urls if urls else None,
            is_clean=lambda: download.done == start,
        )
        download.finish()

    def read(self, ref: Reference, descriptor: Descriptor, *, cancel: Cancel | None = None) -> bytes:
        """A small blob (a config) in memory, verified."""
        if descriptor.data:
            inline = _inline(descriptor)
            if inline is not None:
                return inline
        if descriptor.size > _SMALL_LIMIT:
            raise RegistryError(
                f"{ref.familiar}: {descriptor.digest} has {descriptor.size} bytes; that is no config"
            )
        parts = _Collector()
        self.fetch(ref, descriptor, parts, cancel=cancel)
        return b"".join(parts.parts)

    def open(
        self, ref: Reference, descriptor: Descriptor, *, cancel: Cancel | None = None, verify: bool = True
    ) -> BinaryIO:
        """A blob as a stream that is read on demand and can be read again; see `BlobStream`. The caller
        closes it. It holds a connection meanwhile: what it is copied to needs a client of its own."""
        from anyarch.registry.stream import BlobStream

        endpoints = self._hosts.endpoints(ref.domain)
        return cast(
            "BinaryIO", BlobStream(self._transport, endpoints, ref, descriptor, cancel, verify=verify)
        )

    def tags(self, ref: Reference, *, cancel: Cancel | None = None) -> list[str]:
        """All tags of the repository, sorted."""
        from anyarch.registry.admin import list_tags

        endpoint = self._hosts.upstream(ref.domain)
        scopes = endpoint.pull_scopes(ref.path)
        return self._at(
            ref,
            "listed",
            endpoint,
            lambda: list_tags(self._transport, endpoint, ref, scopes, cancel),
            what=ref.name,
        )

    # push -----------------------------------------------------------------------------------------

    def blob_size(self, ref: Reference, digest: str, *, cancel: Cancel | None = None) -> int:
        """Bytes of a blob that no manifest was seen of. Raises as `resolve`."""

        def attempt(endpoint: Endpoint, retry: RetryPolicy | None) -> int:
            response = self._transport.request(
                endpoint,
                "HEAD",
                endpoint.url(ref.path, "blobs", digest),
                scopes=endpoint.pull_scopes(ref.path),
                cancel=cancel,
                retry=retry,
            )
            self._expect(endpoint, response, 200)
            with response:
                size = natural(response.headers.get("Content-Length") or "")
            if size is None:
                raise RegistryError(f"{ref.familiar}: {endpoint.label} does not tell the size of {digest}")
            return size

        return self._somewhere(ref, "asked for", attempt)

    def check(self, ref: Reference, descriptor: Descriptor, *, cancel: Cancel | None = None) -> None:
        """Raises as `resolve` unless the repository, or a mirror of it, has the blob. What a manifest says to
        lie elsewhere (`urls`) is fetched from there, and not kept."""
        try:
            self.blob_size(ref, descriptor.digest, cancel=cancel)
        except ManifestNotFound:
            if not descriptor.urls:
                raise
            self.fetch(ref, descriptor, _Nowhere(), cancel=cancel)

    def has_blob(self, ref: Reference, digest: str, *, cancel: Cancel | None = None) -> bool:
        """Whether the repository itself (no mirror) has the blob."""
        from anyarch.registry.push import has_blob

        if (ref.name, digest) in self._present:
            return True
        endpoint = self._hosts.upstream(ref.domain)
        scopes = endpoint.pull_scopes(ref.path)
        found = self._at(
            ref,
            "asked for",
            endpoint,
            lambda: has_blob(self._transport, endpoint, ref, digest, scopes, cancel),
        )
        if found:
            self._present.add((ref.name, digest))
        return found

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_: Callable[[], BinaryIO],
        *,
        mount_from: str | None = None,
        on_progress: Callable[[int], None] | None = None,
        cancel: Cancel | None = None,
    ) -> bool:
        """Make the repository have the blob. True when its bytes were sent; False when it was there or was
        mounted.

        `open_` gives a fresh stream at offset 0 each time it is called (again after a broken connection); it
        is closed here. `mount_from` is a repository path on the same registry that may have the blob.
        `on_progress` gets the bytes of each piece, and a negative number when a try was lost. Two pushes of
        the same blob at once send it once.
        """
        from anyarch.registry.push import Upload

        key = (ref.name, descriptor.digest)
        with self._lock:
            lock = self._push_locks.setdefault(key, threading.Lock())
        with lock:
            check(cancel)
            if key in self._present:
                return False
            endpoint = self._hosts.upstream(ref.domain)
            upload = Upload(
                self._transport,
                endpoint,
                ref,
                descriptor,
                open_,
                on_progress=on_progress,
                cancel=cancel,
                novelty=self._novelty,
                records=self._upload_records,
            )
            what = f"{ref.familiar}: layer {Digest(descriptor.digest).short}"
            sent = self._at(ref, "pushed", endpoint, lambda: upload.run(mount_from), what=what)
            self._present.add(key)
            return sent

    def push_manifest(
        self, ref: Reference, blob: Blob, *, tag: str | None = None, cancel: Cancel | None = None
    ) -> None:
        """Store a manifest or index by its digest, or under `tag`. What it points at must be there
        already. One with a subject is entered in the list of its subject's referrers, where the registry does
        not keep that itself."""
        from anyarch.registry.push import put_manifest

        endpoint = self._hosts.upstream(ref.domain)
        target = ref.with_tag(tag) if tag else ref.with_digest(blob.digest)

        def put() -> None:
            is_listed = put_manifest(self._transport, endpoint, target, blob, tag, cancel)
            if is_listed or b'"subject"' not in blob.raw:
                return
            from anyarch.registry.referrers import descriptor_of_referrer, record_referrer

            if (found := descriptor_of_referrer(blob)) is not None:
                with self._referrers_lock:
                    record_referrer(self._transport, endpoint, ref, *found, cancel)

        self._at(target, "pushed", endpoint, put)

    def has_manifest(self, ref: Reference, digest: Digest, *, cancel: Cancel | None = None) -> bool:
        """Whether the repository itself (no mirror) has the manifest or index."""
        from anyarch.registry.push import has_manifest

        endpoint = self._hosts.upstream(ref.domain)
        found = self._at(
            ref,
            "asked for",
            endpoint,
            lambda: has_manifest(self._transport, endpoint, ref, digest, cancel),
        )
        if found:
            self._novelty.heard(ref.name, found=True)
        return found

    def referrers(
        self,
        ref: Reference,
        digest: Digest,
        artifact_types: Sequence[str] = (),
        *,
        cancel: Cancel | None = None,
    ) -> list[Descriptor]:
        """What refers to a manifest of the repository (signatures, attestations), of these types only when
        any are given; from the registry itself. Raises as `resolve`, but for what nothing refers to."""
        from anyarch.registry.referrers import list_referrers

        endpoint = self._hosts.upstream(ref.domain)
        return self._at(
            ref,
            "asked for",
            endpoint,
            lambda: list_referrers(self._transport, endpoint, ref, digest, artifact_types, cancel),
        )

    def check_login(self, domain: str, *, cancel: Cancel | None = None) -> None:
        """Ask the registry of `domain` whether it takes our credentials. Raises `Unauthorized`,
        `RegistryError`."""
        from anyarch.registry.admin import check_login
        from anyarch.spec.reference import Reference

        endpoint = self._hosts.upstream(domain)
        self._at(
            Reference(domain, ""),
            "logged in to",
            endpoint,
            lambda: check_login(self._transport, endpoint, cancel),
            what=domain,
        )

    def delete(self, ref: Reference, digest: Digest, *, cancel: Cancel | None = None) -> None:
        """Remove a manifest, and with it all its tags, where the registry allows it."""
        from anyarch.registry.admin import delete_manifest

        endpoint = self._hosts.upstream(ref.domain)
        target = ref.with_digest(digest)
        self._at(
            target,
            "deleted",
            endpoint,
            lambda: delete_manifest(self._transport, endpoint, target, digest, cancel),
        )

    # choice of endpoint ---------------------------------------------------------------------------

    def _somewhere(
        self,
        ref: Reference,
        action: str,
        attempt: Callable[[Endpoint, RetryPolicy | None], _T],
        *,
        what: str | None = None,
        elsewhere: Callable[[], _T | None] | None = None,
        is_clean: Callable[[], bool] = lambda: True,
    ) -> _T:
        """The result of the first endpoint that gives one, mirrors first; `elsewhere` is tried when all
        refused.

        Wrong bytes from a mirror are the mirror's failure as long as `is_clean` (nothing was passed on)."""
        failures: list[Failure] = []
        cause: Exception | None = None
        for endpoint in self._hosts.endpoints(ref.domain):
            if endpoint.is_mirror and (failure := self._shun(endpoint)) is not None:
                failures.append(failure)
                continue
            try:
                return attempt(endpoint, IMPATIENT if endpoint.is_mirror else None)
            except Refused as refusal:
                failures.append(refusal.failure)
            except DigestMismatch as mismatch:
                if not (endpoint.is_mirror and is_clean()):
                    raise
                failures.append(Failure("other", f"{endpoint.label}: {mismatch.message}"))
            except (NetworkError, RegistryError) as error:
                if isinstance(error, UnsupportedMedia):
                    raise
                failures.append(of_error(endpoint.label, error))
                cause = error
                if endpoint.is_mirror and isinstance(error, NetworkError):
                    self._shunned[endpoint.label] = (time.monotonic() + _SHUN_S, failures[-1])
        if elsewhere is not None and (found := elsewhere()) is not None:
            return found
        raise summary(what or str(ref), action, failures) from cause

    def _shun(self, endpoint: Endpoint) -> Failure | None:
        found = self._shunned.get(endpoint.label)
        return found[1] if found is not None and time.monotonic() < found[0] else None

    def _at(
        self,
        ref: Reference,
        action: str,
        endpoint: Endpoint,
        attempt: Callable[[], _T],
        *,
        what: str | None = None,
    ) -> _T:
        """One endpoint, with the same words for its refusal."""
        try:
            return attempt()
        except Refused as refusal:
            failure = refusal.failure
        except (NetworkError, RegistryError) as error:
            failure = of_error(endpoint.label, error)
        if action == "pushed" and failure.kind == "missing":
            hint = "the repository may have to be created first, or a part of the image was removed meanwhile"
            failure = Failure("other", failure.reason, hint, failure.codes)
        raise summary(what or str(ref), action, [failure])

    def _expect(self, endpoint: Endpoint, response: Response, status: int) -> None:
        if response.status != status:
            raise Refused(self._transport.failure(endpoint, response))

    def _get_manifest(
        self,
        endpoint: Endpoint,
        ref: Reference,
        name: str,
        wanted: Digest | None,
        cancel: Cancel | None,
        retry: RetryPolicy | None,
    ) -> Blob:
        response = self._transport.request(
            endpoint,
            "GET",
            endpoint.url(ref.path, "manifests", name),
            scopes=endpoint.pull_scopes(ref.path),
            headers={"Accept": ACCEPT},
            cancel=cancel,
            retry=retry,
            whole=_MANIFEST_LIMIT,
        )
        self._expect(endpoint, response, 200)
        with response:
            announced = _header_digest(response)
            media_type = _media_type(response)
            _refuse_schema1(ref, media_type)
            raw = response.read_all(_MANIFEST_LIMIT)
        digest = Digest.of(raw)
        expected = wanted or announced
        if expected is not None and expected.algorithm != "sha256":
            digest = _digest_like(expected, raw)
        _check_digest(ref, endpoint, digest, wanted)
        _check_digest(ref, endpoint, digest, announced)
        from anyarch.registry.document import media_type_of

        return Blob(media_type_of(raw, media_type, name=ref.familiar), raw, digest)


class _Collector:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes | memoryview, /) -> None:
        self.parts.append(bytes(data))


class _Nowhere:
    def write(self, data: bytes | memoryview, /) -> None:
        pass


def _header_digest(response: Response) -> Digest | None:
    from anyarch.errors import InvalidDigest

    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest") or "")
    except InvalidDigest:
        return None


def _media_type(response: Response) -> str:
    return (response.headers.get("Content-Type") or "").partition(";")[0].strip()


def _refuse_schema1(ref: Reference, media_type: str) -> None:
    if media_type in media.DOCKER_SCHEMA1:
        raise UnsupportedMedia(
            f"{ref}: it is in Docker's image format 1 (schema 1), which is not supported",
            hint="pull and push it with a tool of 2017 or later, which writes the current format",
        )


def _check_digest(ref: Reference, endpoint: Endpoint, found: Digest | None, wanted: Digest | None) -> None:
    if found is not None and wanted is not None and found != wanted:
        raise DigestMismatch(
            f"{ref.familiar}: digest mismatch: {wanted} was asked for, {found} came from {endpoint.label}",
            hint="the registry, a mirror or a proxy on the way altered it",
        )


def _digest_like(model: Digest, raw: bytes) -> Digest:
    import hashlib

    return Digest(f"{model.algorithm}:{hashlib.new(model.algorithm, raw).hexdigest()}")


def _inline(descriptor: Descriptor) -> bytes | None:
    """The content that a descriptor carries itself (image-spec, descriptor.md: `data`), if it is what it
    says."""
    from base64 import b64decode

    try:
        raw = b64decode(descriptor.data, validate=True)
    except ValueError:
        return None
    return (
        raw
        if len(raw) == descriptor.size and _digest_like(Digest(descriptor.digest), raw) == descriptor.digest
        else None
    )
