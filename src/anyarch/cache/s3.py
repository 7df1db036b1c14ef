"""`type=s3`: a build cache in a bucket of Amazon S3, or of what speaks its protocol.

Objects are named as by BuildKit: `<prefix><blobs_prefix><digest>`, `<prefix><manifests_prefix><name>`. The
index is written by a conditional request (If-Match), so that writers at the same time see one another.
"""

from __future__ import annotations

import hashlib
import os
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import msgspec

from anyarch.cache.aws import find_credentials, sign, xml_element
from anyarch.cache.objects import DOCUMENT_LIMIT, Http, failure
from anyarch.errors import CacheError, UsageError
from anyarch.http.client import FileBody
from anyarch.http.retry import RetryPolicy
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from anyarch.cache.aws import Credentials
    from anyarch.http.cancel import Cancel
    from anyarch.http.client import HttpClient
    from anyarch.http.response import Response
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import BlobWriter

__all__ = ["S3", "S3Config"]

_WHAT = "s3 cache"
_EMPTY = hashlib.sha256().hexdigest()
_MOST_AT_ONCE = 5 << 30
_PART_SIZE = 512 << 20
_TRIES = 50


class S3Config(msgspec.Struct, frozen=True):
    """The attributes; see `of`."""

    bucket: str
    region: str
    prefix: str
    manifests_prefix: str
    blobs_prefix: str
    names: tuple[str, ...]
    touch_refresh_s: float
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    session_token: str
    use_path_style: bool
    upload_parallelism: int
    attempts: int

    @classmethod
    def of(cls, attrs: Mapping[str, str], env: Mapping[str, str] | None = None) -> S3Config:
        """With BuildKit's names, defaults and environment variables. Raises `UsageError`."""
        env = os.environ if env is None else env
        bucket = attrs.get("bucket") or env.get("AWS_BUCKET", "")
        if not bucket:
            raise UsageError("bucket ($AWS_BUCKET) not set for s3 cache")
        region = attrs.get("region") or env.get("AWS_REGION", "")
        if not region:
            raise UsageError("region ($AWS_REGION) not set for s3 cache")
        if attrs.get("retry_mode", "standard") not in ("standard", "adaptive"):
            raise UsageError('retry_mode must be "standard" or "adaptive"')
        endpoint = attrs.get("endpoint_url", "").rstrip("/")
        if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
            raise UsageError(
                f"invalid endpoint_url {endpoint!r} of s3 cache", hint="for example https://host"
            )
        from anyarch.store.policy import parse_duration

        return cls(
            bucket,
            region,
            attrs.get("prefix", ""),
            attrs.get("manifests_prefix", "manifests/"),
            attrs.get("blobs_prefix", "blobs/"),
            tuple(name for name in attrs.get("name", "buildkit").split(";") if name) or ("buildkit",),
            parse_duration(attrs.get("touch_refresh") or "24h"),
            endpoint,
            attrs.get("access_key_id", ""),
            attrs.get("secret_access_key", ""),
            attrs.get("session_token", ""),
            attrs.get("use_path_style", "").lower() in ("1", "t", "true"),
            _positive(attrs, "upload_parallelism", 4),
            _positive(attrs, "retry_max_attempts", RetryPolicy().attempts),
        )


def _positive(attrs: Mapping[str, str], name: str, default: int) -> int:
    text = attrs.get(name)
    if text is None:
        return default
    number = natural(text)
    if not number:
        raise UsageError(f"{name} must be a positive integer")
    return number


class S3:
    """Implements `cache.objects.Objects`."""

    def __init__(self, config: S3Config, client: HttpClient, cancel: Cancel | None = None) -> None:
        self._config = config
        self._http = Http(_WHAT, client, cancel, RetryPolicy(attempts=config.attempts))
        self._credentials: Credentials | None = None
        self._base = _base(config)

    @property
    def place(self) -> str:
        return f"s3:{self._base}{quote(self._config.prefix)}"

    @property
    def parallel(self) -> int:
        return self._config.upload_parallelism

    def indexes(self) -> list[bytes]:
        raw, _ = self._index(self._config.names[0])
        return [] if raw is None else [raw]

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        for name in self._config.names:
            self._update(name, change)

    def _update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        conditional = True
        for _ in range(_TRIES):
            raw, tag = self._index(name)
            new = change(raw)
            if new is None:
                return
            headers = {}
            if conditional:
                headers = {"If-Match": tag} if tag else {"If-None-Match": "*"}
            response = self._request("PUT", self._manifest(name), headers=headers, body=new)
            if response.status in (409, 412):
                response.discard()
            elif response.status == 501 and conditional:
                conditional = (
                    False  # a store that does not know conditions; what it has is read again, though
                )
                response.discard()
            elif response.status == 200:
                response.discard()
            else:
                raise failure(_WHAT, response, f"writing {self._manifest(name)}")
        raise CacheError(f"{_WHAT}: others write {name} all the time; gave up after {_TRIES} tries")

    def has(self, digest: str) -> bool:
        key = self._blob(digest)
        response = self._request("HEAD", key)
        if response.status == 404:
            response.discard()
            return False
        if response.status != 200:
            raise failure(_WHAT, response, f"looking for {key}")
        response.discard()
        modified = response.headers.get("Last-Modified")
        size = int(response.headers.get("Content-Length") or 0)
        if modified:
            age = time.time() - parsedate_to_datetime(modified).timestamp()
            if age > self._config.touch_refresh_s:
                self._touch(key, size)
        return True

    def _touch(self, key: str, size: int) -> None:
        """Copy an object onto itself: rules that remove old objects go by the time of that."""
        source = quote(f"{self._config.bucket}/{key}")
        if size < _MOST_AT_ONCE:
            headers = {
                "x-amz-copy-source": source,
                "x-amz-metadata-directive": "REPLACE",
                "x-amz-meta-updated-at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            self._done(self._request("PUT", key, headers=headers), f"touching {key}")
            return
        with self._upload(key) as (upload, tags):
            for number, begin in enumerate(range(0, size, _MOST_AT_ONCE), 1):
                end = min(begin + _MOST_AT_ONCE, size) - 1
                headers = {
                    "x-amz-copy-source": source,
                    "x-amz-copy-source-range": f"bytes={begin}-{end}",
                }
                raw = self._done(
                    self._request(
                        "PUT", key, query=f"partNumber={number}&uploadId={upload}", headers=headers
                    ),
                    f"touching {key}",
                )
                tags.append(xml_element(raw, "ETag"))

    def put(self, descriptor: Descriptor, open_: Callable[[], BinaryIO]) -> None:
        key = self._blob(descriptor.digest)
        what = f"writing {key}"
        if descriptor.size < _MOST_AT_ONCE:
            body = FileBody(open_, descriptor.size)
            digest = descriptor.digest.removeprefix("sha256:")
            self._done(self._request("PUT", key, body=body, digest=digest), what)
            return
        with self._upload(key) as (upload, tags):
            for number, begin in enumerate(range(0, descriptor.size, _PART_SIZE), 1):
                size = min(_PART_SIZE, descriptor.size - begin)
                body = FileBody(open_, size, begin)
                query = f"partNumber={number}&uploadId={upload}"
                response = self._request("PUT", key, query=query, body=body, digest=_hash(open_, begin, size))
                tags.append(response.headers.get("ETag") or "")
                self._done(response, what)

    def get(self, descriptor: Descriptor, writer: BlobWriter) -> None:
        key = self._blob(descriptor.digest)

        def ask(offset: int) -> Response:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            return self._request("GET", key, headers=headers)

        self._http.download(ask, descriptor, writer)

    # inside ---------------------------------------------------------------------------------------

    def _blob(self, digest: str) -> str:
        return f"{self._config.prefix}{self._config.blobs_prefix}{digest}"

    def _manifest(self, name: str) -> str:
        return f"{self._config.prefix}{self._config.manifests_prefix}{name}"

    def _index(self, name: str) -> tuple[bytes | None, str]:
        """The document and its entity tag."""
        response = self._request("GET", self._manifest(name), whole=DOCUMENT_LIMIT)
        if response.status == 404:
            code = xml_element(response.read_all(1 << 16), "Code")
            response.close()
            if code == "NoSuchBucket":
                raise CacheError(f"{_WHAT}: there is no bucket {self._config.bucket}", hint="create it first")
            return None, ""
        if response.status != 200:
            raise failure(_WHAT, response, f"reading {self._manifest(name)}")
        with response:
            return response.read_all(DOCUMENT_LIMIT), response.headers.get("ETag") or ""

    def _upload(self, key: str) -> _Upload:
        return _Upload(self, key)

    def _done(self, response: Response, what: str) -> bytes:
        if response.status not in (200, 204):
            raise failure(_WHAT, response, what)
        with response:
            raw = response.read_all(1 << 20)
        if b"<Error>" in raw:  # copies and completions answer 200 before they know
            raise CacheError(f"{_WHAT}: {what}: {xml_element(raw, 'Code')}: {xml_element(raw, 'Message')}")
        return raw

    def _request(
        self,
        method: str,
        key: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        digest: str = "",
        whole: int = 0,
    ) -> Response:
        if self._credentials is None or self._credentials.is_old():
            config = self._config
            self._credentials = find_credentials(
                config.access_key_id,
                config.secret_access_key,
                config.session_token,
                region=config.region,
                http=self._http,
            )
        url = f"{self._base}{quote(key)}" + (f"?{query}" if query else "")
        if not digest:
            digest = hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else _EMPTY
        signed = sign(
            method,
            url,
            dict(headers or {}),
            digest,
            self._credentials,
            region=self._config.region,
            now=time.time(),
        )
        return self._http.request(method, url, headers=signed, body=body, whole=whole)


class _Upload:
    """A multipart upload: completed when the block is left, dropped when it fails."""

    def __init__(self, s3: S3, key: str) -> None:
        self._s3 = s3
        self._key = key
        self._id = ""
        self._tags: list[str] = []

    def __enter__(self) -> tuple[str, list[str]]:
        response = self._s3._request("POST", self._key, query="uploads=", body=b"")
        self._id = xml_element(self._s3._done(response, f"writing {self._key}"), "UploadId")
        return quote(self._id, safe=""), self._tags

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        query = f"uploadId={quote(self._id, safe='')}"
        if kind is not None:
            self._s3._request("DELETE", self._key, query=query).discard()
            return
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            for number, tag in enumerate(self._tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        self._s3._done(self._s3._request("POST", self._key, query=query, body=body), f"writing {self._key}")


def _base(config: S3Config) -> str:
    """The URL of the bucket, with a slash at its end."""
    if config.endpoint_url:
        parts = urlsplit(config.endpoint_url)
        if config.use_path_style:
            return f"{config.endpoint_url}/{config.bucket}/"
        return f"{parts.scheme}://{config.bucket}.{parts.netloc}{parts.path}/"
    domain = "amazonaws.com.cn" if config.region.startswith("cn-") else "amazonaws.com"
    if "." in config.bucket:  # no certificate covers it as a host name
        return f"https://s3.{config.region}.{domain}/{config.bucket}/"
    return f"https://{config.bucket}.s3.{config.region}.{domain}/"


def _hash(open_: Callable[[], BinaryIO], begin: int, size: int) -> str:
    digest = hashlib.sha256()
    with open_() as stream:
        stream.seek(begin)
        while size and (data := stream.read(min(size, 1 << 20))):
            digest.update(data)
            size -= len(data)
    return digest.hexdigest()
