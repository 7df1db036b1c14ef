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

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, DigestMismatch, NetworkError
from anyarch.solver.events import StatusEvent
from anyarch.source.giturl import redacted
from anyarch.spec.codec import msgpack_decoder
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from anyarch.llb.ops import SourceOp
    from anyarch.worker.worker import Worker

__all__ = ["fetch_file"]

UPLOAD_HOST = "buildkit-session"
_HEADERS = ("Accept", "User-Agent")


class _Known(msgspec.Struct, frozen=True):
    digest: str
    etag: str
    last_modified: str
    filename: str


def fetch_file(worker: Worker, op: SourceOp, vertex: str) -> str:
    """The id of a layer that holds the file.

    Attributes: `http.filename`, `http.perm`, `http.uid`, `http.gid`, `http.checksum`,
    `http.authheadersecret`, `http.header.accept` and `http.header.user-agent`. Raises `DigestMismatch`,
    `NetworkError`, `BuildError` on an HTTP error.
    """
    url = op.identifier
    parts = urlsplit(url)
    if parts.hostname == UPLOAD_HOST:
        known = _upload(worker, parts.path.strip("/"))
    else:
        try:
            known = _download(worker, op, vertex)
        except NetworkError as error:
            error.hint = error.hint or f"this machine fetches {redacted(url)}: check address and network"
            raise
    checksum = op.attrs.get("http.checksum", "")
    if checksum and checksum != known.digest:
        raise DigestMismatch(
            f"digest mismatch {known.digest}: {checksum}", hint=f"{url} has changed, or the checksum is wrong"
        )
    name = op.attrs.get("http.filename", "") or known.filename or "download"
    mtime_ns = 0
    if known.last_modified:
        try:
            mtime_ns = int(parsedate_to_datetime(known.last_modified).timestamp()) * 1_000_000_000
        except (ValueError, TypeError):
            mtime_ns = 0
    digest = Digest.parse(known.digest)
    entry = Entry(
        posixpath.basename(name) or "download",
        Kind.FILE,
        int(op.attrs.get("http.perm", "") or "0600", 8),
        int(op.attrs.get("http.uid", "") or 0),
        int(op.attrs.get("http.gid", "") or 0),
        mtime_ns,
        worker.store.content.size(digest),
        digest=bytes.fromhex(digest.hex),
    )
    with worker.layers.new_tar(description=url) as layer, worker.store.content.open(digest) as stream:
        layer.add(entry, stream)
        return layer.commit().id


def _upload(worker: Worker, name: str) -> _Known:
    stream = worker.uploads.pop(name, None)
    if stream is None:
        raise BuildError("the uploaded build context is not there any more")
    with worker.store.content.writer() as writer:
        while chunk := stream.read(1 << 20):
            writer.write(chunk)
        digest = writer.commit()
    worker.uploaded = digest
    return _Known(str(digest), "", "", "context")


def _headers(worker: Worker, op: SourceOp) -> dict[str, str]:
    """What a request says besides its URL: headers of the op, and credentials if any were lent."""
    headers = {name: value for name in _HEADERS if (value := op.attrs.get(f"http.header.{name.lower()}", ""))}
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


def _download(worker: Worker, op: SourceOp, vertex: str) -> _Known:
    import time

    url = op.identifier
    key = hashlib.sha256(url.encode()).hexdigest()
    raw = worker.store.cache.get_value("http", key)
    known = msgpack_decoder(_Known).decode(raw) if raw is not None else None
    headers = _headers(worker, op)
    if known is not None and worker.store.content.has(Digest(known.digest)):
        if known.digest == op.attrs.get("http.checksum", ""):
            return known  # nothing that the server says could change it
        if known.etag:
            headers["If-None-Match"] = known.etag
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
        result = _Known(
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


def _filename(disposition: str) -> str:
    if not disposition:
        return ""
    from email.message import EmailMessage

    message = EmailMessage()
    message["Content-Disposition"] = disposition
    return posixpath.basename(message.get_filename() or "")
