"""`type=gha`: a build cache in the cache service of GitHub Actions, by its first or second protocol.

Keys are BuildKit's: `buildkit-blob-1-<digest>`, and for the index `index-<scope>-1-<hash>#<number>`. A key is
written once and for all, so the index gets a new number with every change; reserving a number that somebody
else has taken fails, which is how writers at the same time see one another.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from anyarch.cache.azblob import upload_blob
from anyarch.cache.objects import DOCUMENT_LIMIT, Http, failure
from anyarch.errors import CacheError, UsageError
from anyarch.http.cancel import pause
from anyarch.http.client import FileBody
from anyarch.http.retry import RetryPolicy
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from anyarch.http.cancel import Cancel
    from anyarch.http.client import HttpClient
    from anyarch.http.response import Response
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import BlobWriter

__all__ = ["Gha", "GhaConfig", "is_active", "with_environment"]

_WHAT = "gha cache"
_VERSION = hashlib.sha256(b"|go-actionscache-1.0").hexdigest()
"""Namespace of the keys in the service; that of BuildKit."""
_CHUNK = 32 << 20
_BLOCKED_S = 15.0
_TRIES = 200
_READ, _WRITE = 1, 2
_API = "https://api.github.com"


class GhaConfig(msgspec.Struct, frozen=True):
    """The attributes; see `of`. `scopes` are (scope, permissions) as the token says them."""

    scope: str
    url: str
    token: str
    version: int
    timeout_s: float
    repository: str
    ghtoken: str
    scopes: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, attrs: Mapping[str, str], *, now: float | None = None) -> GhaConfig:
        """Raises `UsageError`."""
        from anyarch.store.policy import parse_duration

        token = attrs.get("token", "")
        if not token:
            raise UsageError("token not set for github actions cache")
        text = attrs.get("version", "0")
        if text not in ("0", "1", "2"):
            raise UsageError(f'failed to parse api version "{text}", expected positive integer')
        version, url = int(text), ""
        if version != 1 and attrs.get("url_v2"):
            version, url = 2, attrs["url_v2"]
        url = url or attrs.get("url", "")
        if not url:
            raise UsageError("url not set for github actions cache")
        if not version:
            version = 2 if "results-receiver.actions.githubusercontent.com" in url else 1
        return cls(
            attrs.get("scope") or "buildkit",
            url.rstrip("/"),
            token,
            version,
            parse_duration(attrs.get("timeout") or "10m"),
            attrs.get("repository", ""),
            attrs.get("ghtoken", ""),
            _scopes(token, time.time() if now is None else now),
        )


def with_environment(attrs: Mapping[str, str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """`attrs` with what the variables of a workflow's step say, as buildx takes them."""
    env = os.environ if env is None else env
    found = dict(attrs)
    version = found.get("version", "")
    if not version and env.get("ACTIONS_CACHE_SERVICE_V2", "").lower() in ("1", "t", "true"):
        version = "2"
    if "token" not in found and env.get("ACTIONS_RUNTIME_TOKEN"):
        found["token"] = env["ACTIONS_RUNTIME_TOKEN"]
    if "url_v2" not in found and version == "2" and env.get("ACTIONS_RESULTS_URL"):
        found["url_v2"] = env["ACTIONS_RESULTS_URL"]
    if "url" not in found:
        url = env.get("ACTIONS_CACHE_URL") or env.get("ACTIONS_RESULTS_URL")
        if url:
            found["url"] = url
    return found


def is_active(attrs: Mapping[str, str]) -> bool:
    """Whether there is a service to talk to; without, `type=gha` is nothing, as for buildx."""
    return bool(attrs.get("token") and (attrs.get("url") or attrs.get("url_v2")))


def _scopes(token: str, now: float) -> tuple[tuple[str, int], ...]:
    """What the token allows (its claim `ac`); its signature is the service's to check."""
    try:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        scopes = tuple((str(item["Scope"]), int(item["Permission"])) for item in json.loads(claims["ac"]))
        expires = float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        raise UsageError(
            "invalid token without access controls for github actions cache",
            hint="it is $ACTIONS_RUNTIME_TOKEN of the workflow's run",
        ) from None
    if now > expires:
        raise UsageError(f"cache token expired at {time.strftime('%FT%TZ', time.gmtime(expires))}")
    return scopes


class _Entry(msgspec.Struct, frozen=True):
    key: str
    url: str


class Gha:
    """Implements `cache.objects.Objects`."""

    parallel = 4

    def __init__(self, config: GhaConfig, client: HttpClient, cancel: Cancel | None = None) -> None:
        self._config = config
        self._cancel = cancel
        retry = RetryPolicy(attempts=1000, budget_s=config.timeout_s)
        self._http = Http(_WHAT, client, cancel, retry)
        self._keys: frozenset[str] | None = None

    @property
    def place(self) -> str:
        return f"gha:{self._config.url}"

    def indexes(self) -> list[bytes]:
        entries = [self._load(f"{self._index(scope)}#") for scope, _ in self._config.scopes]
        return [self._read(entry) for entry in entries if entry is not None]

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """As BuildKit does it: the number after the newest; one that was reserved and never written (its
        writer died) is passed over after a while."""
        writable = [scope for scope, permission in self._config.scopes if permission & _WRITE]
        if not writable:
            raise CacheError(f"{_WHAT}: the token allows no writing", hint="runs for forks may only read")
        prefix = f"{self._index(writable[-1])}#"
        blocked = 0.0
        for _ in range(_TRIES):
            entry = self._load(prefix)
            new = change(self._read(entry) if entry is not None else None)
            if new is None:
                return
            number = _number(entry.key, prefix) if entry is not None else 0
            while True:
                number += 1
                target = self._reserve(f"{prefix}{number}")
                if target is not None:
                    break
                if blocked < _BLOCKED_S:
                    break
            if target is None:
                blocked += 1.0
                pause(1.0, self._cancel)
                continue
            self._upload(target, len(new), partial(io.BytesIO, new))
            self._commit(f"{prefix}{number}", target, len(new))
            blocked = 0.0
        raise CacheError(f"{_WHAT}: others write {prefix} all the time; gave up")

    def has(self, digest: str) -> bool:
        key = _blob(digest)
        if self._config.repository and self._config.ghtoken:
            if self._keys is None:
                self._keys = self._list_keys()
            return key in self._keys
        return self._load(key) is not None

    def put(self, descriptor: Descriptor, open_: Callable[[], BinaryIO]) -> None:
        key = _blob(descriptor.digest)
        target = self._reserve(key)
        if target is None:
            return  # somebody else has written it, or is at it
        self._upload(target, descriptor.size, open_)
        self._commit(key, target, descriptor.size)

    def get(self, descriptor: Descriptor, writer: BlobWriter) -> None:
        key = _blob(descriptor.digest)
        entry = self._load(key)
        if entry is None:
            raise CacheError(
                f"{_WHAT}: blob {descriptor.digest} is no longer there",
                hint="the service removes what was not used for a week; build without --cache-from once",
            )
        url = entry.url

        def ask(offset: int) -> Response:
            # The address is signed for a while only: one that has become invalid is asked for again.
            nonlocal url
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            response = self._http.request("GET", url, headers=headers)
            if response.status in (401, 403):
                response.discard()
                again = self._load(key)
                if again is not None:
                    url = again.url
                response = self._http.request("GET", url, headers=headers)
            return response

        self._http.download(ask, descriptor, writer)

    # the service ----------------------------------------------------------------------------------

    def _index(self, scope: str) -> str:
        return f"index-{self._config.scope}-1-{hashlib.sha256(scope.encode()).hexdigest()[:8]}"

    def _load(self, key: str) -> _Entry | None:
        """The newest entry whose key begins with `key`."""
        if self._config.version == 2:
            answer = self._call("GetCacheEntryDownloadURL", {"key": key, "restore_keys": [key]})
            if not answer.get("ok"):
                return None
            return _Entry(str(answer.get("matched_key") or ""), str(answer.get("signed_download_url") or ""))
        url = f"{self._v1('cache')}?{urlencode({'keys': key, 'version': _VERSION})}"
        response = self._http.request("GET", url, headers=self._headers(), whole=1 << 16)
        if response.status not in (200, 204):
            raise failure(_WHAT, response, f"looking for {key}")
        with response:
            raw = response.read_all(1 << 16)
        found = json.loads(raw) if raw else {}
        if not found.get("cacheKey"):
            return None
        return _Entry(found["cacheKey"], found["archiveLocation"])

    def _read(self, entry: _Entry) -> bytes:
        response = self._http.request("GET", entry.url, headers={}, whole=DOCUMENT_LIMIT)
        if response.status != 200:
            raise failure(_WHAT, response, f"reading {entry.key}")
        with response:
            return response.read_all(DOCUMENT_LIMIT)

    def _reserve(self, key: str) -> str | None:
        """Where the entry is to be uploaded; None when the key is taken."""
        if self._config.version == 2:
            answer = self._call("CreateCacheEntry", {"key": key}, taken=True)
            return str(answer["signed_upload_url"]) if answer.get("ok") else None
        body = json.dumps({"key": key, "version": _VERSION}).encode()
        headers = {**self._headers(), "Content-Type": "application/json"}
        response = self._http.request("POST", self._v1("caches"), headers=headers, body=body, whole=1 << 16)
        if response.status == 409:
            response.discard()
            return None
        if response.status not in (200, 201):
            raise failure(_WHAT, response, f"reserving {key}")
        with response:
            found = json.loads(response.read_all(1 << 16))
        return str(found.get("cacheId") or found.get("cacheID") or "")

    def _upload(self, target: str, size: int, open_: Callable[[], BinaryIO]) -> None:
        if self._config.version == 2:
            upload_blob(
                lambda query, headers, body: self._http.request(
                    "PUT", f"{target}&{query}" if query else target, headers=headers, body=body
                ),
                size,
                open_,
                what=_WHAT,
                about="uploading",
            )
            return
        for begin in range(0, size, _CHUNK):
            part = min(_CHUNK, size - begin)
            headers = {
                **self._headers(),
                "Content-Type": "application/octet-stream",
                "Content-Range": f"bytes {begin}-{begin + part - 1}/*",
            }
            url = self._v1(f"caches/{quote(target)}")
            response = self._http.request("PATCH", url, headers=headers, body=FileBody(open_, part, begin))
            if response.status not in (200, 204):
                raise failure(_WHAT, response, "uploading")
            response.discard()

    def _commit(self, key: str, target: str, size: int) -> None:
        if self._config.version == 2:
            answer = self._call("FinalizeCacheEntryUpload", {"key": key, "size_bytes": size})
            if not answer.get("ok"):
                raise CacheError(f"{_WHAT}: {key} was not taken")
            return
        headers = {**self._headers(), "Content-Type": "application/json"}
        body = json.dumps({"size": size}).encode()
        url = self._v1(f"caches/{quote(target)}")
        response = self._http.request("POST", url, headers=headers, body=body)
        if response.status not in (200, 201, 204):
            raise failure(_WHAT, response, f"completing {key}")
        response.discard()

    def _call(self, method: str, body: dict[str, Any], *, taken: bool = False) -> dict[str, Any]:
        """One call of the second protocol (Twirp). With `taken` an existing entry answers `{}`."""
        url = f"{self._config.url}/twirp/github.actions.results.api.v1.CacheService/{method}"
        headers = {"Authorization": f"Bearer {self._config.token}", "Content-Type": "application/json"}
        raw = json.dumps({**body, "version": _VERSION}).encode()
        response = self._http.request("POST", url, headers=headers, body=raw, whole=1 << 20)
        if taken and response.status == 409:
            response.discard()
            return {}
        if response.status != 200:
            raise failure(_WHAT, response, method)
        with response:
            answer: dict[str, Any] = json.loads(response.read_all(1 << 20))
        return answer

    def _list_keys(self) -> frozenset[str]:
        """The keys of all blobs, by GitHub's REST API: fewer requests than one a blob."""
        found: set[str] = set()
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._config.ghtoken}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        base = os.environ.get("GITHUB_API_URL") or _API
        for scope, _ in self._config.scopes:
            page = 1
            while True:
                query = urlencode({"per_page": 100, "page": page, "key": "buildkit-blob-1-", "ref": scope})
                url = f"{base}/repos/{self._config.repository}/actions/caches?{query}"
                response = self._http.request("GET", url, headers=headers, whole=16 << 20)
                if response.status != 200:
                    raise failure(_WHAT, response, "listing the caches")
                with response:
                    answer = json.loads(response.read_all(16 << 20))
                found.update(str(item["key"]) for item in answer.get("actions_caches", ()))
                if int(answer.get("total_count", 0)) <= page * 100:
                    break
                page += 1
        return frozenset(found)

    def _v1(self, path: str) -> str:
        return f"{self._config.url}/_apis/artifactcache/{path}"

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._config.token}",
            "Accept": "application/json;api-version=6.0-preview.1",
        }


def _blob(digest: str) -> str:
    return f"buildkit-blob-1-{digest}"


def _number(key: str, prefix: str) -> int:
    text = key.removeprefix(prefix)
    number = natural(text)
    if number is None:
        raise CacheError(f"{_WHAT}: the index {key} has no number")
    return number
