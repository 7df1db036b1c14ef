"""`type=azblob`: a build cache in a container of Azure Blob Storage.

Blobs are named as by BuildKit: `<prefix>/<blobs_prefix>/<digest>`, `<prefix>/<manifests_prefix>/<name>`. The
index is written by conditional requests, so that writers at the same time see one another.
"""

from __future__ import annotations

import base64
import hmac
import os
import posixpath
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from anyarch.cache.objects import DOCUMENT_LIMIT, Http, failure
from anyarch.errors import CacheError, UsageError
from anyarch.http.client import FileBody

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from anyarch.http.cancel import Cancel
    from anyarch.http.client import HttpClient
    from anyarch.http.response import Response
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import BlobWriter

__all__ = ["API_VERSION", "AzBlob", "AzBlobConfig", "upload_blob"]

API_VERSION = "2021-12-02"
_WHAT = "azblob cache"
_MOST_AT_ONCE = 256 << 20
_BLOCK_SIZE = 64 << 20
_TRIES = 50


class AzBlobConfig(msgspec.Struct, frozen=True):
    """The attributes; see `of`."""

    account_url: str
    account_name: str
    container: str
    prefix: str
    manifests_prefix: str
    blobs_prefix: str
    names: tuple[str, ...]
    secret_access_key: str

    @classmethod
    def of(cls, attrs: Mapping[str, str], env: Mapping[str, str] | None = None) -> AzBlobConfig:
        """With BuildKit's names, defaults and environment variables. Raises `UsageError`."""
        env = os.environ if env is None else env
        url = attrs.get("account_url") or env.get("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL", "")
        if not url:
            raise UsageError(
                "either ${BUILDKIT_AZURE_STORAGE_ACCOUNT_URL} or account_url attribute is required for azblob"
                " cache"
            )
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("azure storage account url provided is not a valid url")
        name = attrs.get("account_name") or env.get("BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME", "")
        return cls(
            url.rstrip("/"),
            name or parts.hostname.split(".")[0],
            attrs.get("container") or env.get("BUILDKIT_AZURE_STORAGE_CONTAINER") or "buildkit-cache",
            attrs.get("prefix", env.get("BUILDKIT_AZURE_STORAGE_PREFIX", "")),
            attrs.get("manifests_prefix", "manifests"),
            attrs.get("blobs_prefix", "blobs"),
            tuple(part for part in attrs.get("name", "buildkit").split(";") if part) or ("buildkit",),
            attrs.get("secret_access_key", ""),
        )


class AzBlob:
    """Implements `cache.objects.Objects`."""

    parallel = 4

    def __init__(self, config: AzBlobConfig, client: HttpClient, cancel: Cancel | None = None) -> None:
        self._config = config
        self._http = Http(_WHAT, client, cancel)
        self._base = f"{config.account_url}/{config.container}"
        self._has_container = False
        self._token = ""
        self._token_until = 0.0

    @property
    def place(self) -> str:
        return f"azblob:{self._base}/{self._config.prefix}"

    def indexes(self) -> list[bytes]:
        found = [self._index(name)[0] for name in self._config.names]
        return [raw for raw in found if raw is not None]

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        self._make_container()
        for name in self._config.names:
            for _ in range(_TRIES):
                raw, tag = self._index(name)
                new = change(raw)
                if new is None:
                    break
                headers = {"If-Match": tag} if tag else {"If-None-Match": "*"}
                headers |= {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
                response = self._request("PUT", self._url(self._manifest(name)), headers=headers, body=new)
                if response.status not in (201, 409, 412):
                    raise failure(_WHAT, response, f"writing {self._manifest(name)}")
                response.discard()
            else:
                raise CacheError(f"{_WHAT}: others write {name} all the time; gave up after {_TRIES} tries")

    def has(self, digest: str) -> bool:
        response = self._request("HEAD", self._url(self._blob(digest)))
        if response.status not in (200, 404):
            raise failure(_WHAT, response, f"looking for {self._blob(digest)}")
        response.discard()
        return response.status == 200

    def put(self, descriptor: Descriptor, open_: Callable[[], BinaryIO]) -> None:
        self._make_container()
        key = self._blob(descriptor.digest)
        upload_blob(
            lambda query, headers, body: self._request(
                "PUT", self._url(key, query), headers=headers, body=body
            ),
            descriptor.size,
            open_,
            what=_WHAT,
            about=f"writing {key}",
            once=True,
        )

    def get(self, descriptor: Descriptor, writer: BlobWriter) -> None:
        url = self._url(self._blob(descriptor.digest))

        def ask(offset: int) -> Response:
            return self._request("GET", url, headers={"x-ms-range": f"bytes={offset}-"} if offset else {})

        self._http.download(ask, descriptor, writer)

    # inside ---------------------------------------------------------------------------------------

    def _blob(self, digest: str) -> str:
        return posixpath.join(self._config.prefix, self._config.blobs_prefix, digest).lstrip("/")

    def _manifest(self, name: str) -> str:
        return posixpath.join(self._config.prefix, self._config.manifests_prefix, name).lstrip("/")

    def _url(self, key: str, query: str = "") -> str:
        return f"{self._base}/{quote(key)}" + (f"?{query}" if query else "")

    def _index(self, name: str) -> tuple[bytes | None, str]:
        response = self._request("GET", self._url(self._manifest(name)), whole=DOCUMENT_LIMIT)
        if response.status == 404:
            response.discard()
            return None, ""
        if response.status != 200:
            raise failure(_WHAT, response, f"reading {self._manifest(name)}")
        with response:
            return response.read_all(DOCUMENT_LIMIT), response.headers.get("ETag") or ""

    def _make_container(self) -> None:
        if self._has_container:
            return
        url = f"{self._base}?restype=container"
        response = self._request("GET", url)
        if response.status == 404:
            response.discard()
            response = self._request("PUT", url, body=b"")
            if response.status not in (201, 409):
                raise failure(_WHAT, response, f"creating the container {self._config.container}")
        elif response.status != 200:
            raise failure(_WHAT, response, f"looking for the container {self._config.container}")
        response.discard()
        self._has_container = True

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        whole: int = 0,
    ) -> Response:
        sent = {
            **(headers or {}),
            "x-ms-version": API_VERSION,
            "x-ms-date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        }
        if self._config.secret_access_key:
            size = body.size if isinstance(body, FileBody) else len(body or b"")
            key = self._config.secret_access_key
            sent["Authorization"] = shared_key(method, url, sent, size, self._config.account_name, key)
        else:
            if time.time() > self._token_until:
                from anyarch.cache.azure import find_token

                self._token, self._token_until = find_token(self._http)
            sent["Authorization"] = f"Bearer {self._token}"
        return self._http.request(method, url, headers=sent, body=body, whole=whole)


def shared_key(
    method: str, url: str, headers: Mapping[str, str], size: int, account: str, secret: str
) -> str:
    """The `Authorization` of a request ("Authorize with Shared Key" of Azure Storage's documentation)."""
    lower = {name.lower(): value for name, value in headers.items()}
    parts = urlsplit(url)
    own = sorted((name, value) for name, value in lower.items() if name.startswith("x-ms-"))
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query.setdefault(name.lower(), []).append(value)
    plain = (
        *("content-encoding", "content-language", "", "content-md5", "content-type", "date"),
        *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
    )
    lines = [method]
    lines += [(str(size) if size else "") if not name else lower.get(name, "") for name in plain]
    lines += [f"{name}:{value}" for name, value in own]
    resource = f"/{account}{parts.path or '/'}"
    lines.append(
        "\n".join([resource, *(f"{name}:{','.join(sorted(query[name]))}" for name in sorted(query))])
    )
    try:
        key = base64.b64decode(secret, validate=True)
    except ValueError:
        raise CacheError(
            f"{_WHAT}: secret_access_key is not base64", hint="it is the account's key"
        ) from None
    digest = hmac.digest(key, "\n".join(lines).encode(), "sha256")
    return f"SharedKey {account}:{base64.b64encode(digest).decode()}"


def upload_blob(
    send: Callable[[str, dict[str, str], bytes | FileBody], Response],
    size: int,
    open_: Callable[[], BinaryIO],
    *,
    what: str,
    about: str,
    once: bool = False,
) -> None:
    """Write a block blob by `send(query, headers, body)`, in blocks when it is large. With `once` one that
    is there already stays."""
    condition = {"If-None-Match": "*"} if once else {}
    if size <= _MOST_AT_ONCE:
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream", **condition}
        _written(send("", headers, FileBody(open_, size)), what, about)
        return
    ids = []
    for number, begin in enumerate(range(0, size, _BLOCK_SIZE)):
        name = base64.b64encode(f"{number:08d}".encode()).decode()
        ids.append(name)
        body = FileBody(open_, min(_BLOCK_SIZE, size - begin), begin)
        query = f"comp=block&blockid={quote(name, safe='')}"
        _written(send(query, {"Content-Type": "application/octet-stream"}, body), what, about)
    blocks = "".join(f"<Latest>{name}</Latest>" for name in ids)
    listing = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
    _written(send("comp=blocklist", {"Content-Type": "text/plain", **condition}, listing), what, about)


def _written(response: Response, what: str, about: str) -> None:
    if response.status == 409:
        with response:
            raw = response.read_all(1 << 16)
        if (
            re.search(rb"BlobAlreadyExists", raw)
            or b"BlobAlreadyExists" in (response.headers.get("x-ms-error-code") or "").encode()
        ):
            return
        raise CacheError(f"{what}: {about}: 409 {response.reason}")
    if response.status not in (201, 412):
        raise failure(what, response, about)
    response.discard()
