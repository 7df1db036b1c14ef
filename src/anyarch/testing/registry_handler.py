"""The HTTP side of FakeRegistry: one instance a connection."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from anyarch.spec import media
from anyarch.spec.oci import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.testing.registry import FakeRegistry, Fault, Request

__all__ = ["Handler"]

_NAME = r"(?P<name>[a-z0-9._/-]+?)"


class _Gone(Exception):
    """The connection is to be closed without (more of) an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered, so that header and small bodies go out as one segment.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    @property
    def registry(self) -> FakeRegistry:
        return self.server.registry  # type: ignore[attr-defined,no-any-return]  # _Server of registry.py

    def log_message(self, format: str, *args: Any) -> None:
        """The registry keeps its own log."""

    def do_GET(self) -> None:
        from anyarch.testing.registry import Request

        parts = urlsplit(self.path)
        self._query = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        self._record: Request = Request(
            self.command, self.path, {k.lower(): v for k, v in self.headers.items()}
        )
        self._body_left = int(self.headers.get("Content-Length") or 0)
        with self.registry.lock:
            self.registry.log.append(self._record)
            self._fault: Fault | None = self.registry.take_fault(self.command, self.path)
        try:
            self._serve(parts.path)
            self.wfile.flush()
            if self._body_left:
                self.close_connection = True
        except (_Gone, OSError):
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

    def _serve(self, path: str) -> None:
        fault = self._fault
        if fault is not None:
            if fault.delay_s:
                time.sleep(fault.delay_s)
            if fault.expire_tokens:
                self.registry.revoke_tokens()
            if fault.drop:
                raise _Gone
            if fault.status:
                self._read()
                self._answer(fault.status, fault.body, fault.headers)
                return
        if path == "/token":
            self._token()
            return
        if path.startswith("/storage/"):
            self._storage(path)
            return
        if not self._is_allowed(path):
            return
        for pattern, method in self._ROUTES:
            if match := re.fullmatch(pattern, path):
                method(self, **match.groupdict())
                return
        self._error(404, "UNSUPPORTED", "no such page")

    # authorization
    # --------------------------------------------------------------------------------------------

    def _is_allowed(self, path: str) -> bool:
        registry = self.registry
        if registry.auth == "none":
            return True
        given = self.headers.get("Authorization") or ""
        if registry.auth == "basic":
            if self._user(given) is not None:
                return True
            self._error(
                401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="fake"'}
            )
            return False
        needed = self._needed_scopes(path)
        with registry.lock:
            scopes, until = registry.tokens.get(given.removeprefix("Bearer "), (frozenset(), 0.0))
        if given.startswith("Bearer ") and time.monotonic() < until and needed <= scopes:
            return True
        challenge = f'Bearer realm="{registry.url}/token",service="fake-service"'
        if needed:
            resource = sorted({s.rpartition(":")[0] for s in needed})[0]
            actions = ",".join(sorted(s.rpartition(":")[2] for s in needed if s.startswith(resource + ":")))
            challenge += f',scope="{resource}:{actions}"'
        self._error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return False

    def _needed_scopes(self, path: str) -> frozenset[str]:
        match = re.fullmatch(rf"/v2/{_NAME}/(manifests|blobs|tags|referrers)/.*", path)
        if match is None:
            return frozenset()
        actions = {"GET": ["pull"], "HEAD": ["pull"], "DELETE": ["delete"]}.get(
            self.command, ["pull", "push"]
        )
        if "/blobs/uploads/" in path:
            actions = ["pull", "push"]
        return frozenset(f"repository:{match['name']}:{action}" for action in actions)

    def _user(self, given: str) -> str | None:
        if not given.startswith("Basic "):
            return None
        user, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return user if self.registry.users.get(user) == password else None

    def _token(self) -> None:
        registry = self.registry
        if self.command == "POST":
            form = {k: v[-1] for k, v in parse_qs(self._read().decode()).items()}
            user = registry.identity_tokens.get(form.get("refresh_token", ""))
            scopes = form.get("scope", "").split()
        else:
            given = self.headers.get("Authorization") or ""
            user = self._user(given)
            if given and user is None:
                self._error(401, "UNAUTHORIZED", "incorrect username or password")
                return
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        granted = set()
        for scope in " ".join(scopes).split():
            resource, _, actions = scope.rpartition(":")
            for action in actions.split(","):
                if user is not None or (registry.anonymous_pull and action == "pull"):
                    granted.add(f"{resource}:{action}")
        if user is None and not registry.anonymous_pull:
            self._error(401, "UNAUTHORIZED", "who are you?")
            return
        token = registry.issue_token(frozenset(granted))
        self._answer_json(200, {"token": token, "expires_in": registry.token_life_s})

    # manifests, tags
    # ------------------------------------------------------------------------------------------

    def _base(self) -> None:
        self._answer_json(200, {})

    def _manifest(self, name: str, reference: str) -> None:
        registry = self.registry
        with registry.lock:
            digest = reference if ":" in reference else registry.tags.get((name, reference), "")
            found = registry.manifests.get((name, digest))
        match self.command:
            case "PUT":
                self._put_manifest(name, reference)
            case "DELETE" if not registry.supports_delete:
                self._error(405, "UNSUPPORTED", "deletion is off")
            case "DELETE":
                if found is None:
                    self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
                    return
                with registry.lock:
                    del registry.manifests[name, digest]
                    for key in [k for k, v in registry.tags.items() if k[0] == name and v == digest]:
                        del registry.tags[key]
                self._answer(202)
            case "HEAD" if not registry.supports_head:
                self._error(405, "UNSUPPORTED", "no HEAD here")
            case _ if found is None:
                self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            case _:
                headers = {"Content-Type": found.media_type}
                if registry.sends_digest_header:
                    headers["Docker-Content-Digest"] = found.digest
                self._answer(200, found.raw, headers)

    def _put_manifest(self, name: str, reference: str) -> None:
        registry = self.registry
        raw = self._read()
        blob = Blob.of(self.headers.get("Content-Type") or "", raw)
        if ":" in reference and reference != blob.digest:
            self._error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        missing = [d for d in self._referred(blob) if not self._has(name, d)]
        if missing:
            self._error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", detail=missing[0])
            return
        registry.add_manifest(name, blob, tag=None if ":" in reference else reference)
        headers = {"Docker-Content-Digest": blob.digest, "Location": self.path}
        subject = json.loads(raw).get("subject")
        if subject and registry.supports_referrers:
            headers["OCI-Subject"] = subject["digest"]
        self._answer(201, b"", headers)

    def _referrers(self, name: str, digest: str) -> None:
        registry = self.registry
        if not registry.supports_referrers:
            self._error(404, "UNSUPPORTED", "no such page")
            return
        with registry.lock:
            known = [blob for (repository, _), blob in registry.manifests.items() if repository == name]
        entries: list[dict[str, Any]] = []
        for blob in known:
            document = json.loads(blob.raw)
            if (document.get("subject") or {}).get("digest") != digest:
                continue
            kind = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
            entry = {"mediaType": blob.media_type, "digest": blob.digest, "size": len(blob.raw)}
            entry |= {"artifactType": kind, "annotations": document.get("annotations") or {}}
            entries.append(entry)
        headers = {"Content-Type": media.OCI_INDEX}
        if wanted := self._query.get("artifactType"):
            entries = [entry for entry in entries if entry["artifactType"] == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        entries.sort(key=lambda entry: str(entry["digest"]))
        start = int(self._query.get("start", 0))
        page = entries[start : start + registry.page_size]
        if start + len(page) < len(entries):
            more = f"start={start + len(page)}" + (f"&artifactType={wanted}" if wanted else "")
            headers["Link"] = f'</v2/{name}/referrers/{digest}?{more}>; rel="next"'
        self._answer_json(200, {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": page}, headers)

    def _referred(self, blob: Blob) -> list[str]:
        document = json.loads(blob.raw)
        if blob.media_type in media.INDEXES:
            return [entry["digest"] for entry in document["manifests"]]
        layers = [layer for layer in document["layers"] if not layer.get("urls")]
        return [entry["digest"] for entry in [document["config"], *layers]]

    def _has(self, name: str, digest: str) -> bool:
        with self.registry.lock:
            return (name, digest) in self.registry.blobs or (name, digest) in self.registry.manifests

    def _tags(self, name: str) -> None:
        registry = self.registry
        with registry.lock:
            tags = sorted(tag for repository, tag in registry.tags if repository == name)
            is_known = any(repository == name for repository, _ in registry.manifests)
        if not is_known:  # as distribution has it, whatever blobs there are
            self._error(404, "NAME_UNKNOWN", "repository name not known to registry")
            return
        tags = [tag for tag in tags if tag > self._query.get("last", "")]
        page = tags[: registry.page_size]
        headers = {}
        if len(tags) > len(page):
            headers["Link"] = f'</v2/{name}/tags/list?last={page[-1]}>; rel="next"'
        self._answer_json(200, {"name": name, "tags": page}, headers)

    # blobs
    # ----------------------------------------------------------------------------------------------------

    def _blob(self, name: str, digest: str) -> None:
        registry = self.registry
        with registry.lock:
            found = registry.blobs.get((name, digest))
        if found is None:
            self._error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif registry.redirect_blobs and self.command == "GET":
            scheme = "https" if registry.tls_context else "http"
            where = f"{scheme}://{registry.redirect_blobs}:{registry.port}/storage/{digest}"
            self._answer(307, b"", {"Location": where})
        else:
            self._send_blob(found, digest)

    def _storage(self, path: str) -> None:
        if self.headers.get("Authorization"):
            self._error(400, "UNSUPPORTED", "only one auth mechanism allowed")  # as S3 has it
            return
        digest = path.removeprefix("/storage/")
        with self.registry.lock:
            found = next((raw for (_, d), raw in self.registry.blobs.items() if d == digest), b"")
        self._send_blob(found, digest)

    def _send_blob(self, raw: bytes, digest: str) -> None:
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None or not self.registry.supports_ranges:
            self._answer(200, raw, headers)
            return
        start = int(match[1])
        end = min(int(match[2]) if match[2] else len(raw) - 1, len(raw) - 1)
        if start > end:
            self._answer(416, b"", {"Content-Range": f"bytes */{len(raw)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(raw)}"
        self._answer(206, raw[start : end + 1], headers)

    def _start_upload(self, name: str) -> None:
        registry = self.registry
        self._read()
        digest, source = self._query.get("mount"), self._query.get("from")
        if digest and registry.supports_mounts:
            with registry.lock:
                raw = registry.blobs.get((source or name, digest))
            if raw is not None:
                registry.add_blob(name, raw)
                self._answer(
                    201, b"", {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
                )
                return
        with registry.lock:
            number = f"u{len(registry.uploads)}-{time.monotonic_ns()}"
            registry.uploads[number] = bytearray()
        self._answer(202, b"", {"Location": f"/v2/{name}/blobs/uploads/{number}?state=1", "Range": "0-0"})

    def _upload(self, name: str, number: str) -> None:
        registry = self.registry
        with registry.lock:
            data = registry.uploads.get(number)
        if data is None:
            self._error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
            return
        place = {"Location": f"/v2/{name}/blobs/uploads/{number}?state={len(data)}"}
        if self.command == "GET":
            self._answer(204, b"", {**place, "Range": f"0-{max(0, len(data) - 1)}"})
        elif registry.max_body is not None and self._body_left > registry.max_body:
            self._answer(413, b"<html>too large</html>", {"Content-Type": "text/html"})
        elif self.command == "PATCH":
            first = re.match(r"(\d+)-", self.headers.get("Content-Range") or "")
            if first is not None and int(first[1]) != len(data):
                self._answer(416, b"", {**place, "Range": f"0-{max(0, len(data) - 1)}"})
                return
            self._read_into(data)
            place["Location"] = f"/v2/{name}/blobs/uploads/{number}?state={len(data)}"
            self._answer(202, b"", {**place, "Range": f"0-{max(0, len(data) - 1)}"})
        elif self._body_left and not registry.supports_whole_put:
            self._error(405, "UNSUPPORTED", "send pieces")
        else:
            self._read_into(data)
            digest = self._query.get("digest", "")
            if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
                self._error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                return
            with registry.lock:
                del registry.uploads[number]
            registry.add_blob(name, bytes(data))
            self._answer(
                201, b"", {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
            )

    # bytes
    # ----------------------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        data = bytearray()
        self._read_into(data)
        return bytes(data)

    def _read_into(self, data: bytearray) -> None:
        limit = self._fault.drop_body_after if self._fault is not None else None
        while self._body_left:
            size = min(self._body_left, 1 << 18)
            if limit is not None:
                size = min(size, limit - self._record.received)
                if size <= 0:
                    raise _Gone
            if self._fault is not None and self._fault.bytes_per_s:
                size = min(size, max(1, int(self._fault.bytes_per_s / 20)))
                time.sleep(0.05)
            piece = self.rfile.read(size)
            if not piece:
                raise _Gone
            data += piece
            self._body_left -= len(piece)
            self._record.received += len(piece)

    def _answer_json(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        raw = json.dumps(document).encode()
        self._answer(status, raw, {"Content-Type": "application/json", **(headers or {})})

    def _error(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        detail: str | None = None,
    ) -> None:
        error = {"code": code, "message": message, **({"detail": detail} if detail else {})}
        self._answer_json(status, {"errors": [error]}, headers)

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        fault = self._fault
        sent = dict(headers or {})
        if fault is not None and fault.digest_header is not None:
            sent["Docker-Content-Digest"] = fault.digest_header
        if fault is not None and fault.corrupt and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        self._record.status = status
        if fault is not None and fault.lose_answer:
            raise _Gone
        if self._body_left:  # whoever answers before he heard all cannot go on with the connection
            sent["Connection"] = "close"
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.truncate is not None and len(body) > fault.truncate:
            self.wfile.write(body[: fault.truncate])
            self._record.sent += fault.truncate
            self.wfile.flush()
            raise _Gone
        if fault is not None and fault.bytes_per_s:
            step = max(1, int(fault.bytes_per_s / 20))
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(body)
        self._record.sent += len(body)

    _ROUTES: ClassVar[tuple[tuple[str, Callable[..., None]], ...]] = (
        (r"/v2/", _base),
        (rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)", _manifest),
        (rf"/v2/{_NAME}/tags/list", _tags),
        (rf"/v2/{_NAME}/referrers/(?P<digest>[a-z0-9]+:[0-9a-f]+)", _referrers),
        (rf"/v2/{_NAME}/blobs/uploads/", _start_upload),
        (rf"/v2/{_NAME}/blobs/uploads/(?P<number>[^/]+)", _upload),
        (rf"/v2/{_NAME}/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)", _blob),
    )
