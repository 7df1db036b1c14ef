"""Object stores on loopback: a bucket of S3, a container of Azure Blob Storage, GitHub's cache service.

They do what a build cache needs of the real ones and refuse what those refuse: signatures over other headers
than those that arrive, conditions that do not hold, keys that are taken. Each keeps a log of requests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from anyarch.cache.aws import Credentials, sign
from anyarch.cache.azblob import shared_key

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FakeAzure", "FakeGha", "FakeS3", "ObjectServer"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """The store keeps its own log."""

    def do_GET(self) -> None:
        owner: ObjectServer = self.server.owner  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with owner.lock:
            owner.log.append((self.command, self.path))
            failing = owner.failures.pop(0) if owner.failures else None
            if failing is not None:
                status, answer, extra = owner.failed(failing)
            else:
                status, answer, extra = owner.serve(self.command, parts.path, query, headers, body)
        begin = re.fullmatch(r"bytes=(\d+)-", headers.get("range") or headers.get("x-ms-range") or "")
        if begin is not None and status == 200 and self.command == "GET":
            status, answer = 206, answer[int(begin[1]) :]
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        if "Content-Length" not in extra:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            cut = owner.cut_after
            if cut is not None and self.command == "GET" and len(answer) > cut:
                owner.cut_after = None
                self.wfile.write(answer[:cut])
                self.close_connection = True
                return
            self.wfile.write(answer)

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: ObjectServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no matter."""


class ObjectServer:
    """Base of the fakes; use as a context manager. `failures` are statuses that the next requests get;
    `cut_after` breaks off the next longer answer after so many bytes."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}
        self.log: list[tuple[str, str]] = []
        self.failures: list[int] = []
        self.cut_after: int | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, method: str, pattern: str = "") -> int:
        return sum(1 for done, path in self.log if done == method and re.search(pattern, unquote(path)))

    def serve(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        raise NotImplementedError

    def failed(self, status: int) -> tuple[int, bytes, dict[str, str]]:
        return status, b"", {}

    def _store(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self.modified[key] = time.time()

    def _condition(self, key: str, headers: Mapping[str, str]) -> bool:
        """Whether If-Match and If-None-Match hold."""
        there = self.objects.get(key)
        if headers.get("if-none-match") == "*" and there is not None:
            return False
        wanted = headers.get("if-match")
        return wanted is None or (there is not None and wanted == _tag(there))


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _xml(code: str, message: str = "") -> bytes:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message or code}</Message></Error>"
    return text.encode()


class FakeS3(ObjectServer):
    """One bucket, by path. `conditions=False` is a store that ignores If-Match, as some do."""

    KEY_ID = "AKIDEXAMPLE"
    SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

    def __init__(self, bucket: str = "bucket", region: str = "eu-west-3", *, token: str = "") -> None:
        super().__init__()
        self.bucket = bucket
        self.region = region
        self.token = token
        self.uploads: dict[str, dict[int, bytes]] = {}

    def serve(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if not self._is_signed(method, path, query, headers, body):
            return 403, _xml("SignatureDoesNotMatch"), {}
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket != self.bucket:
            return 404, _xml("NoSuchBucket"), {}
        if method in ("GET", "HEAD"):
            data = self.objects.get(key)
            if data is None:
                return 404, _xml("NoSuchKey"), {}
            facts = {"ETag": _tag(data), "Last-Modified": formatdate(self.modified[key], usegmt=True)}
            return 200, data, facts | ({"Content-Length": str(len(data))} if method == "HEAD" else {})
        if method == "POST":
            return self._post(key, query, body)
        if method == "DELETE":
            self.uploads.pop(query.get("uploadId", ""), None)
            return 204, b"", {}
        source = headers.get("x-amz-copy-source")
        if source is not None:
            body = self.objects[unquote(source).lstrip("/").partition("/")[2]]
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("x-amz-copy-source-range") or "")
            if span is not None:
                body = body[int(span[1]) : int(span[2]) + 1]
        if "uploadId" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return 200, f"<CopyPartResult><ETag>{_tag(body)}</ETag></CopyPartResult>".encode(), {}
        if not self._condition(key, headers):
            return 412, _xml("PreconditionFailed"), {}
        self._store(key, body)
        return 200, b"", {"ETag": _tag(body)}

    def _post(self, key: str, query: Mapping[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if "uploads" in query:
            name = f"upload+{len(self.uploads)}/="
            self.uploads[name] = {}
            return 200, f"<R><UploadId>{name}</UploadId></R>".encode(), {}
        parts = self.uploads.pop(query["uploadId"])
        named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)<", body)]
        if named != sorted(parts):
            return 400, _xml("InvalidPart"), {}
        self._store(key, b"".join(parts[number] for number in named))
        return 200, b"<CompleteMultipartUploadResult/>", {}

    def _is_signed(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> bool:
        given = headers.get("authorization", "")
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        digest = headers.get("x-amz-content-sha256", "")
        if (
            digest != hashlib.sha256(body).hexdigest()
            or headers.get("x-amz-security-token", "") != self.token
        ):
            return False
        stamp = time.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
        import calendar

        kept = {
            name: headers[name]
            for name in names
            if name not in ("host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")
        }
        from urllib.parse import urlencode

        expected = sign(
            method,
            f"http://{headers['host']}{path}" + (f"?{urlencode(query)}" if query else ""),
            kept,
            digest,
            Credentials(self.KEY_ID, self.SECRET, self.token),
            region=self.region,
            now=calendar.timegm(stamp),
        )
        return expected["Authorization"] == given


class FakeAzure(ObjectServer):
    """An account with path-style addresses, as the emulator has them: `URL/ACCOUNT/CONTAINER/BLOB`."""

    ACCOUNT = "devaccount"
    SECRET = base64.b64encode(b"a secret of the account").decode()

    def __init__(self) -> None:
        super().__init__()
        self.containers: set[str] = set()
        self.blocks: dict[str, dict[str, bytes]] = {}

    @property
    def account_url(self) -> str:
        return f"{self.url}/{self.ACCOUNT}"

    def serve(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        from urllib.parse import urlencode

        sent = {name: value for name, value in headers.items() if name not in ("authorization", "host")}
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        expected = shared_key(method, url, sent, len(body), self.ACCOUNT, self.SECRET)
        if headers.get("authorization") != expected:
            return 403, _xml("AuthenticationFailed"), {}
        _, container, key = [*unquote(path).lstrip("/").split("/", 2), ""][:3]
        if query.get("restype") == "container":
            if method == "PUT":
                self.containers.add(container)
                return 201, b"", {}
            return (200 if container in self.containers else 404), b"", {}
        if container not in self.containers:
            return 404, _xml("ContainerNotFound"), {}
        return self.blob(method, f"{container}/{key}", query, headers, body)

    def blob(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if method in ("GET", "HEAD"):
            data = self.objects.get(key)
            if data is None:
                return 404, _xml("BlobNotFound"), {}
            return 200, data, {"ETag": _tag(data)}
        if query.get("comp") == "block":
            self.blocks.setdefault(key, {})[query["blockid"]] = body
            return 201, b"", {}
        if headers.get("x-ms-blob-type") != "BlockBlob" and query.get("comp") != "blocklist":
            return 400, _xml("MissingRequiredHeader"), {}
        if not self._condition(key, headers):
            if headers.get("if-none-match"):
                return 409, _xml("BlobAlreadyExists"), {"x-ms-error-code": "BlobAlreadyExists"}
            return 412, _xml("ConditionNotMet"), {}
        if query.get("comp") == "blocklist":
            named = re.findall(r"<Latest>([^<]*)</Latest>", body.decode())
            body = b"".join(self.blocks[key][name] for name in named)
        self._store(key, body)
        return 201, b"", {"ETag": _tag(body)}


class FakeGha(FakeAzure):
    """The cache service of one repository: both protocols, on one set of entries. Uploads and downloads of
    the second go to addresses that carry their own signature, as Azure's do."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}  # committed key to the blob
        self.reserved: dict[str, str] = {}  # key to the blob
        self.order: list[str] = []

    def token(self, *scopes: tuple[str, int], expires_in_s: float = 3600) -> str:
        """What `$ACTIONS_RUNTIME_TOKEN` would be: (scope, 1 for reading + 2 for writing), last the own."""
        access = [
            {"Scope": scope, "Permission": permission}
            for scope, permission in scopes or (("refs/heads/main", 3),)
        ]
        now = time.time()
        claims = {"ac": json.dumps(access), "exp": int(now + expires_in_s), "nbf": int(now) - 10}
        parts = [{"alg": "none"}, claims]
        return ".".join(
            [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
            + ["x"]
        )

    def serve(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/blob/"):
            if query.get("sig") != "ok":
                return 403, _xml("AuthenticationFailed"), {}
            return self.blob(method, path, query, headers, body)
        if not headers.get("authorization", "").startswith("Bearer "):
            return 401, b'{"message":"no token"}', {}
        twirp = "/twirp/github.actions.results.api.v1.CacheService/"
        if path.startswith(twirp):
            return self._twirp(path.removeprefix(twirp), json.loads(body))
        if path.startswith("/_apis/artifactcache/"):
            return self._v1(method, path.removeprefix("/_apis/artifactcache/"), query, headers, body)
        return 404, b"{}", {}

    def _find(self, prefix: str) -> str | None:
        return next((key for key in reversed(self.order) if key.startswith(prefix)), None)

    def _reserve(self, key: str) -> str | None:
        if key in self.reserved:
            return None
        self.reserved[key] = f"/blob/{len(self.reserved) + 1}"
        return self.reserved[key]

    def _commit(self, key: str, size: int) -> bool:
        blob = self.reserved.get(key)
        if blob is None or len(self.objects.get(blob, b"")) != size:
            return False
        self.entries[key] = blob
        self.order.append(key)
        return True

    def _twirp(self, name: str, body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        answer: dict[str, Any] = {"ok": False}
        if len(body.get("version", "")) != 64:
            return 400, b'{"code":"invalid_argument","msg":"version"}', {}
        if name == "CreateCacheEntry":
            blob = self._reserve(body["key"])
            if blob is None:
                return 409, b'{"code":"already_exists","msg":"cache entry already exists"}', {}
            answer = {"ok": True, "signed_upload_url": f"{self.url}{blob}?sig=ok"}
        elif name == "FinalizeCacheEntryUpload":
            answer = {"ok": self._commit(body["key"], int(body["size_bytes"])), "entry_id": "1"}
        elif name == "GetCacheEntryDownloadURL":
            key = self._find(body["key"])
            if key is not None:
                url = f"{self.url}{self.entries[key]}?sig=ok"
                answer = {"ok": True, "signed_download_url": url, "matched_key": key}
        else:
            return 404, b'{"code":"bad_route"}', {}
        return 200, json.dumps(answer).encode(), {}

    def _v1(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if method == "GET" and path == "cache":
            key = self._find(query["keys"])
            if key is None:
                return 204, b"", {}
            url = f"{self.url}{self.entries[key]}?sig=ok"
            return 200, json.dumps({"cacheKey": key, "scope": "s", "archiveLocation": url}).encode(), {}
        if method == "POST" and path == "caches":
            blob = self._reserve(json.loads(body)["key"])
            if blob is None:
                return 409, b'{"typeKey":"ArtifactCacheItemAlreadyExistsException","message":"taken"}', {}
            return 201, json.dumps({"cacheId": int(blob.rpartition("/")[2])}).encode(), {}
        blob = f"/blob/{path.rpartition('/')[2]}"
        if method == "PATCH":
            span = re.fullmatch(r"bytes (\d+)-(\d+)/\*", headers.get("content-range", ""))
            if span is None or int(span[2]) - int(span[1]) + 1 != len(body):
                return 400, b"{}", {}
            old = self.objects.get(blob, b"").ljust(int(span[1]), b"\0")
            self._store(blob, old[: int(span[1])] + body + old[int(span[2]) + 1 :])
            return 204, b"", {}
        key = next((name for name, place in self.reserved.items() if place == blob), "")
        done = self._commit(key, int(json.loads(body)["size"]))
        return (204 if done else 400), b"", {}
