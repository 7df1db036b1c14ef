"""Files from URLs, and archives that the client uploads. Bytes go to the content store; the result is a
layer of one file."""

from __future__ import annotations

import hashlib
import os
import posixpath
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from anyarch.errors import BuildError, DigestMismatch, NetworkError
from anyarch.solver.events import StatusEvent
from anyarch.source.giturl import redacted
from anyarch.spec.codec import msgpack_decoder
from anyarch.spec.digest import Digest
from anyarch.version import __version__
from anyarch.worker.onefile import OneFile

if TYPE_CHECKING:
    from anyarch.llb.ops import SourceOp
    from anyarch.worker.worker import Worker

__all__ = ["Download", "download", "fetch_file"]

UPLOAD_HOST = "buildkit-session"
_HEADERS = ("Accept", "User-Agent")
_ASKED = ("http.header.accept", "http.header.user-agent", "http.authheadersecret")


class Download(msgspec.Struct, frozen=True):
    """What a URL gave: the digest of its content, which is in the store, and what the server said of it."""

    digest: str
    etag: str
    last_modified: str
    filename: str


def fetch_file(worker: Worker, op: SourceOp, vertex: str) -> str:
    """The id of a layer that holds the file.

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
    return file.layer(worker, digest, mtime_ns=mtime_ns, description=url)


def static_key(op: SourceOp) -> str | None:
    """What the file will be known by, told without fetching it; None where that cannot be told."""
    checksum = op.attrs.get("http.checksum", "")
    if not checksum or any(op.attrs.get(f"http.sig.{name}") for name in ("pubkey", "signature")):
        return None
    file = OneFile.of(op.attrs, default=posixpath.basename(unquote(urlsplit(op.identifier).path)))
    return f"http/2\0{Digest.parse(checksum)}\0{file.key}"


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

    verify_pgp(
        str(worker.store.content.path(digest)),
        signature.encode(),
        key.encode(),
        what=op.identifier,
        directory=worker.store.work_dir,
    )


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
    import time

    url = op.identifier
    # What a server sends may depend on what it is asked with.
    asked = [f"{name}={value}" for name, value in sorted(op.attrs.items()) if name.startswith(_ASKED)]
    key = hashlib.sha256("\0".join([url, *asked]).encode("utf-8", "surrogateescape")).hexdigest()
    raw = worker.store.cache.get_value("http", key)
    known = msgpack_decoder(Download).decode(raw) if raw is not None else None
    headers = _headers(worker, op)
    if known is not None and worker.store.content.has(Digest(known.digest)):
        if known.digest == op.attrs.get("http.checksum", ""):
            return known  # nothing that the server says could change it
        if known.etag:
            headers["If-None-Match"] = known.etag
            # Servers that do not heed the condition would send all of it again.
            if _is_unchanged(worker, url, headers, known.etag):
                return known
        elif known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
    started = time.time()
    with worker.http.request("GET", url, headers=headers, cancel=worker.network_cancel) as response:
        if response.status == 304 and known is not None:
            return known
        if response.status >= 400:
            raise BuildError(
                f"invalid response status {response.status} from {redacted(url)}",
                hint=f"lend the build a token: --secret id=HTTP_AUTH_TOKEN_{urlsplit(url).hostname},…"
                if response.status in (401, 403)
                else "check the address",
            )
        total = int(response.headers.get("Content-Length") or 0)
        current = 0
        with worker.store.content.writer() as writer:
            while chunk := response.read(1 << 20):
                writer.write(chunk)
                current += len(chunk)
                worker.emit(
                    StatusEvent(
                        vertex, f"downloading {url}", "downloading", current, total, time.time(), started
                    )
                )
            digest = writer.commit()
        disposition = response.headers.get("Content-Disposition") or ""
        result = Download(
            str(digest),
            response.headers.get("ETag") or "",
            response.headers.get("Last-Modified") or "",
            _filename(disposition) or posixpath.basename(unquote(urlsplit(url).path)),
        )
    worker.emit(
        StatusEvent(
            vertex,
            f"downloading {url}",
            "downloading",
            current,
            total or current,
            time.time(),
            started,
            time.time(),
        )
    )
    worker.store.cache.set_value("http", key, msgspec.msgpack.encode(result))
    return result


def _is_unchanged(worker: Worker, url: str, headers: dict[str, str], etag: str) -> bool:
    """Whether the server says so without being asked for the content."""
    try:
        with worker.http.request("HEAD", url, headers=headers, cancel=worker.network_cancel) as response:
            if response.status == 304:
                return response.headers.get("ETag") in (None, etag)
            return response.status == 200 and response.headers.get("ETag") == etag
    except NetworkError:
        return False  # it may not know the method; what is wrong is told when the content is asked for


def _filename(disposition: str) -> str:
    if not disposition:
        return ""
    from email.message import EmailMessage

    message = EmailMessage()
    message["Content-Disposition"] = disposition
    return posixpath.basename(message.get_filename() or "")
