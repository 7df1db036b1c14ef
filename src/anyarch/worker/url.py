"""Files from URLs, and archives that the client uploads. Bytes go to the content store; the result is a
layer of one file."""

from __future__ import annotations

import hashlib
import os
import posixpath
import time
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from anyarch.errors import BuildError, DigestMismatch, NetworkError, SignatureInvalid
from anyarch.solver.events import StatusEvent
from anyarch.source.giturl import redacted
from anyarch.source.stockname import http_name
from anyarch.spec.codec import msgpack_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.number import natural
from anyarch.version import __version__
from anyarch.worker.onefile import OneFile, number, safe_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.llb.ops import SourceOp
    from anyarch.worker.worker import Worker

__all__ = ["Download", "download", "fetch_file", "static_key", "stock_name"]

UPLOAD_HOST = "buildkit-session"
_HEADERS = ("Accept", "User-Agent")
_ASKED = ("http.header.accept", "http.header.user-agent", "http.authheadersecret")
_FORM = ("http.filename", "http.perm", "http.uid", "http.gid")
_KEPT_FORMS = 16


class Download(msgspec.Struct, frozen=True):
    """What a URL gave: the digest of its content, which is in the store, and what the server said of it.
    `forms` are the names, modes and owners (as attributes tell them) under which it was asked for."""

    digest: str
    etag: str
    last_modified: str
    filename: str
    forms: tuple[str, ...] = ()


def fetch_file(worker: Worker, op: SourceOp, vertex: str) -> tuple[str, Download]:
    """The id of a layer that holds the file, and what is known of it.

    Attributes: `http.filename`, `http.perm`, `http.uid`, `http.gid`, `http.checksum`,
    `http.authheadersecret`, `http.header.accept`, `http.header.user-agent`, `http.sig.pubkey` and
    `http.sig.signature` (OpenPGP, armored, detached). Raises `DigestMismatch`, `SignatureInvalid`,
    `NetworkError`, `BuildError` on an HTTP error.
    """
    url = op.identifier
    parts = urlsplit(url)
    if parts.hostname == UPLOAD_HOST:
        known = _upload(worker, parts.path.strip("/"))
    else:
        try:
            known = download(worker, op, vertex)
        except NetworkError as error:
            error.hint = error.hint or f"this machine fetches {redacted(url)}: check address and network"
            raise
    worker.fetched[vertex] = known.digest
    checksum = op.attrs.get("http.checksum", "")
    found = known.digest if not checksum else _digest_as(worker, Digest.parse(checksum), known.digest)
    if checksum and checksum != found:
        raise DigestMismatch(
            f"digest mismatch {found}: {checksum}", hint=f"{url} has changed, or the checksum is wrong"
        )
    mtime_ns = 0
    if known.last_modified:
        try:
            mtime_ns = int(parsedate_to_datetime(known.last_modified).timestamp()) * 1_000_000_000
        except (ValueError, TypeError):
            mtime_ns = 0
    digest = Digest.parse(known.digest)
    _check_signature(worker, op, digest)
    file = OneFile.of(op.attrs, default=known.filename)
    return file.layer(worker, digest, mtime_ns=mtime_ns, description=url), known


def static_key(op: SourceOp) -> str | None:
    """What the file will be known by, told without fetching it; None where that cannot be told."""
    checksum = op.attrs.get("http.checksum", "")
    if not checksum or any(op.attrs.get(f"http.sig.{name}") for name in ("pubkey", "signature")):
        return None
    file = OneFile.of(op.attrs, default=posixpath.basename(unquote(urlsplit(op.identifier).path)))
    return f"http/2\0{Digest.parse(checksum)}\0{file.key}"


def stock_name(op: SourceOp, known: Download | None) -> str:
    """What BuildKit's cache keys call the file; without a checksum `known` has to tell."""
    checksum = op.attrs.get("http.checksum", "")
    default = posixpath.basename(unquote(urlsplit(op.identifier).path))
    if not checksum and known is not None:
        default = known.filename
    return http_name(
        op.attrs,
        name=safe_name(op.attrs.get("http.filename", "") or default),
        owner=(number(op.attrs, "http.uid"), number(op.attrs, "http.gid")),
        perm=number(op.attrs, "http.perm"),
        digest=checksum or (known.digest if known is not None else ""),
        last_modified="" if checksum or known is None else known.last_modified,
    )


def _digest_as(worker: Worker, wanted: Digest, digest: str) -> str:
    """The digest of a blob by the algorithm of another digest."""
    if wanted.algorithm == "sha256":
        return digest
    with worker.store.content.open(digest) as stream:
        return f"{wanted.algorithm}:{hashlib.file_digest(stream, wanted.algorithm).hexdigest()}"  # type: ignore[arg-type]


def _check_signature(worker: Worker, op: SourceOp, digest: Digest) -> None:
    """Raises `SignatureInvalid` unless the file is signed as `http.sig.*` demand."""
    key, signature = (op.attrs.get(f"http.sig.{name}", "") for name in ("pubkey", "signature"))
    if not key and not signature:
        return
    if not key or not signature:
        missing = "public key" if not key else "signature"
        raise BuildError(f"{op.identifier}: a signature can only be checked with a {missing}")
    from anyarch.source.signature import verify_pgp

    try:
        verify_pgp(
            str(worker.store.content.path(digest)),
            signature.encode(),
            key.encode(),
            what=op.identifier,
            directory=worker.store.work_dir,
        )
    except SignatureInvalid as error:
        raise SignatureInvalid(f"failed to verify pgp signature: {error.message}", hint=error.hint) from None


def _upload(worker: Worker, name: str) -> Download:
    stream = worker.uploads.pop(name, None)
    if stream is None:
        raise BuildError("the uploaded build context is not there any more")
    with worker.store.content.writer() as writer:
        while chunk := stream.read(1 << 20):
            writer.write(chunk)
        digest = writer.commit()
    worker.uploaded = digest
    return Download(str(digest), "", "", "context")


def _headers(worker: Worker, op: SourceOp) -> dict[str, str]:
    """What a request says besides its URL: headers of the op, and credentials if any were lent."""
    headers = {name: value for name in _HEADERS if (value := op.attrs.get(f"http.header.{name.lower()}", ""))}
    headers["Accept-Encoding"] = "gzip"
    # Servers that treat build tools specially know BuildKit by its name.
    headers.setdefault("User-Agent", f"anyarch/{__version__} buildkit/v0.32")
    own = op.attrs.get("http.authheadersecret", "")
    host = urlsplit(op.identifier).hostname or ""
    names = (
        ((own, ""),) if own else ((f"HTTP_AUTH_HEADER_{host}", ""), (f"HTTP_AUTH_TOKEN_{host}", "Bearer "))
    )
    for name, scheme in names:
        secret = worker.lent.secret(name)
        if secret is not None:
            headers["Authorization"] = scheme + os.fsdecode(secret.rstrip(b"\r\n"))
        elif own:
            raise BuildError(
                f"failed to retrieve HTTP auth secret {own}", hint=f"lend it: --secret id={own},…"
            )
    return headers


def download(worker: Worker, op: SourceOp, vertex: str) -> Download:
    """What the URL gives. Within a build it is asked once: what was told of a source is what is built."""
    url = op.identifier
    # What a server sends may depend on what it is asked with.
    asked = [f"{name}={value}" for name, value in sorted(op.attrs.items()) if name.startswith(_ASKED)]
    key = hashlib.sha256("\0".join([url, *asked]).encode("utf-8", "surrogateescape")).hexdigest()
    own = worker.downloads.get(key)
    if own is not None and worker.store.content.has(Digest(own.digest)):
        return own
    raw = worker.store.cache.get_value("http", key)
    known = msgpack_decoder(Download).decode(raw) if raw is not None else None
    headers = _headers(worker, op)
    form = "\0".join(op.attrs.get(name, "") for name in _FORM)
    if known is not None and worker.store.content.has(Digest(known.digest)):
        if known.digest == op.attrs.get("http.checksum", ""):
            return known  # nothing that the server says could change it
        if _is_unchanged(worker, url, headers, known, is_new_form=form not in known.forms):
            if form not in known.forms:
                known = msgspec.structs.replace(known, forms=(*known.forms, form)[-_KEPT_FORMS:])
                worker.store.cache.set_value("http", key, msgspec.msgpack.encode(known))
            worker.downloads[key] = known
            return known
    result = msgspec.structs.replace(_fetch(worker, url, headers, vertex), forms=(form,))
    worker.store.cache.set_value("http", key, msgspec.msgpack.encode(result))
    worker.downloads[key] = result
    return result


def _is_unchanged(
    worker: Worker, url: str, headers: dict[str, str], known: Download, *, is_new_form: bool
) -> bool:
    """Whether the server still has what is known. Asked by HEAD, as BuildKit does: some servers tell ETags
    and yet answer a conditional GET with everything. Under a new name, mode or owner BuildKit asks without a
    condition and for all of it; the ETag is enough to know that it need not come again."""
    asked = dict(headers)
    if known.etag:
        if not is_new_form:
            asked["If-None-Match"] = known.etag
    elif known.last_modified:
        asked["If-Modified-Since"] = known.last_modified
    else:
        return False
    try:
        with worker.http.request("HEAD", url, headers=asked, cancel=worker.network_cancel) as response:
            told = response.headers.get("ETag")
            if response.status == 304:
                return told is None or not known.etag or told == known.etag
            return response.status == 200 and bool(known.etag) and told == known.etag
    except NetworkError:
        return False  # it may not know the method; what is wrong is told when the content is asked for


def _fetch(worker: Worker, url: str, headers: dict[str, str], vertex: str) -> Download:
    started = time.time()

    def told(current: int, total: int, completed: float | None = None) -> None:
        text = f"downloading {url}"
        now = time.time()
        worker.emit(StatusEvent(vertex, text, "downloading", current, total, now, started, completed))

    with worker.http.request("GET", url, headers=headers, cancel=worker.network_cancel) as response:
        if response.status >= 400:
            raise BuildError(
                f"invalid response status {response.status} from {redacted(url)}",
                hint=f"lend the build a token: --secret id=HTTP_AUTH_TOKEN_{urlsplit(url).hostname},…"
                if response.status in (401, 403)
                else "check the address",
            )
        total = natural(response.headers.get("Content-Length") or "") or 0
        current = 0
        encoding = (response.headers.get("Content-Encoding") or "").strip().lower()
        plain = _Gunzip(url) if encoding == "gzip" else None
        with worker.store.content.writer() as writer:
            while chunk := response.read(1 << 20):
                current += len(chunk)
                if plain is None:
                    writer.write(chunk)
                else:
                    plain.feed(chunk, writer.write)
                told(current, total)
            if plain is not None:
                plain.end()
            digest = writer.commit()
        disposition = response.headers.get("Content-Disposition") or ""
        result = Download(
            str(digest),
            response.headers.get("ETag") or "",
            response.headers.get("Last-Modified") or "",
            _filename(disposition) or posixpath.basename(unquote(urlsplit(url).path)),
        )
    told(current, total or current, time.time())
    return result


class _Gunzip:
    """A body that the server compressed for the way only."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stream = zlib.decompressobj(31)

    def feed(self, data: bytes, write: Callable[[bytes], object]) -> None:
        try:
            while data:
                write(self._stream.decompress(data, 1 << 20))
                data = self._stream.unconsumed_tail
                if self._stream.eof and self._stream.unused_data:
                    data, self._stream = self._stream.unused_data, zlib.decompressobj(31)
        except zlib.error as error:
            raise NetworkError(
                f"{redacted(self._url)}: damaged gzip encoding: {error}", kind="protocol"
            ) from None

    def end(self) -> None:
        if not self._stream.eof:
            raise NetworkError(f"{redacted(self._url)}: the gzip encoding is cut short", kind="closed")


def _filename(disposition: str) -> str:
    if not disposition:
        return ""
    from email.message import EmailMessage

    message = EmailMessage()
    message["Content-Disposition"] = disposition
    return posixpath.basename(message.get_filename() or "")
