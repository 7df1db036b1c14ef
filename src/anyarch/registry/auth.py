"""Authorization to registries: the challenge of a 401 answer, bearer tokens, basic authentication.

RFC 9110, 11.6.1 (challenges); distribution's token specification (docs/spec/auth/token.md, oauth.md). A
registry's challenge is remembered, so that later requests come with a token at once. One token is fetched at
a time for the same realm, service and scope, and shared by all threads.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from anyarch.errors import NetworkError, RegistryError, Unauthorized
from anyarch.http.proxy import is_loopback
from anyarch.spec.codec import json_decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.http.cancel import Cancel
    from anyarch.http.client import HttpClient
    from anyarch.registry.credentials import Credential, CredentialSource
    from anyarch.registry.hosts import Endpoint

__all__ = ["Authorizer", "Challenge", "merge_scopes", "parse_challenges"]

_CLIENT_ID = "anyarch"
_DEFAULT_LIFE_S = 60.0  # token.md: when expires_in is missing
_MARGIN_S = 5.0
_ANSWER_LIMIT = 1 << 20


class Challenge(msgspec.Struct, frozen=True):
    """One challenge. `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers; what cannot be read is left out."""
    import re

    token = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    parameter = re.compile(rf'\s*,?\s*({token})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
    scheme = re.compile(rf"[\s,]*({token})(?=\s|,|$)")
    result: list[Challenge] = []
    for text in headers:
        position = 0
        parameters: dict[str, str] = {}
        while position < len(text):
            if (found := parameter.match(text, position)) and result:
                quoted = found[2]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found[3]
                parameters.setdefault(found[1].lower(), value)
            elif found := scheme.match(text, position):
                parameters = {}
                result.append(Challenge(found[1].lower(), parameters))
            else:
                break
            position = found.end()
    return result


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Scopes with the actions of the same resource joined, sorted: `repository:a:pull,push`."""
    actions: dict[str, set[str]] = {}
    for text in scopes:
        for scope in text.split():
            resource, colon, names = scope.rpartition(":")
            if not colon:
                resource, names = scope, ""
            actions.setdefault(resource, set()).update(n for n in names.split(",") if n)
    return tuple(
        f"{name}:{','.join(sorted(found))}" if found else name for name, found in sorted(actions.items())
    )


class _Token(msgspec.Struct, frozen=True):
    header: str
    expires_at: float


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class Authorizer:
    """Gives requests their Authorization header. Thread-safe."""

    def __init__(self, credentials: CredentialSource, http: HttpClient) -> None:
        self._credentials = credentials
        self._http = http
        self._lock = threading.Lock()
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[Any, ...], _Token] = {}
        self._locks: dict[tuple[Any, ...], threading.Lock] = {}

    def header(self, endpoint: Endpoint, scopes: Iterable[str], *, cancel: Cancel | None) -> str | None:
        """The header to send; None as long as the endpoint has not asked for one.

        Raises `Unauthorized` when the token service refuses, `RegistryError` when it does not work.
        """
        challenge = self._challenges.get(_key(endpoint))
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            credential = self._credentials.get(endpoint.name)
            return credential.basic() if credential is not None and credential.username else None
        return self._bearer(endpoint, challenge, merge_scopes(scopes), cancel).header

    def answer(self, endpoint: Endpoint, headers: Iterable[str], used: str | None) -> bool:
        """Learn from a 401. True when another try with a new `header` can go better.

        `headers` are its WWW-Authenticate headers, `used` the Authorization header that was refused.
        """
        challenges = {c.scheme: c for c in reversed(parse_challenges(headers))}
        chosen = challenges.get("bearer")
        if chosen is None or not chosen.parameters.get("realm"):
            chosen = challenges.get("basic")
        if chosen is None:
            return False
        if chosen.scheme == "basic" and self._credentials.get(endpoint.name) is None:
            return False
        with self._lock:
            self._challenges[_key(endpoint)] = chosen
            stale = [key for key, token in self._tokens.items() if token.header == used]
            for key in stale:  # it may have been revoked before its time
                del self._tokens[key]
        # None may be left because another thread was told the same and has a new one already.
        return used is None or chosen.scheme == "bearer"

    def _bearer(
        self, endpoint: Endpoint, challenge: Challenge, scopes: tuple[str, ...], cancel: Cancel | None
    ) -> _Token:
        parameters = challenge.parameters
        realm, service = parameters["realm"], parameters.get("service", "")
        if not scopes and parameters.get("scope"):
            scopes = merge_scopes([parameters["scope"]])
        key = (endpoint.name, realm, service, scopes)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            token = self._tokens.get(key)
            if token is None or time.monotonic() > token.expires_at:
                token = self._fetch(endpoint, realm, service, scopes, cancel)
                with self._lock:
                    self._tokens[key] = token
        return token

    def _fetch(
        self, endpoint: Endpoint, realm: str, service: str, scopes: tuple[str, ...], cancel: Cancel | None
    ) -> _Token:
        repository = scopes[0].split(":")[1] if scopes and scopes[0].count(":") >= 2 else ""
        credential = self._credentials.get(endpoint.name, repository)
        started = time.monotonic()
        lent = self._credentials.token(endpoint.name, realm, service, scopes)
        if lent is not None:
            return _Token(f"Bearer {lent[0]}", started + max(lent[1] - _MARGIN_S, lent[1] / 2))
        if credential is not None and credential.registry_token:
            return _Token(f"Bearer {credential.registry_token}", started + 3600)
        if credential is not None and endpoint.scheme == "https":
            parts = urlsplit(realm)
            if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                raise RegistryError(
                    f"{endpoint.label}: its token service {realm} is not reached by HTTPS",
                    hint="credentials are not sent in the clear; tell the registry's operator",
                )
        answer = self._exchange(endpoint, realm, service, scopes, credential, cancel)
        value = answer.token or answer.access_token
        if not value:
            raise RegistryError(f"{endpoint.label}: its token service {realm} gave no token")
        life = _DEFAULT_LIFE_S if answer.expires_in is None else max(answer.expires_in, 0.0)
        return _Token(f"Bearer {value}", started + max(life - _MARGIN_S, life / 2))

    def _exchange(
        self,
        endpoint: Endpoint,
        realm: str,
        service: str,
        scopes: tuple[str, ...],
        credential: Credential | None,
        cancel: Cancel | None,
    ) -> _TokenAnswer:
        headers: dict[str, str] = {}
        body: bytes | None = None
        method, url = "GET", realm
        if credential is not None and credential.identity_token:
            method = "POST"
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": _CLIENT_ID,
                "scope": " ".join(scopes),
                "refresh_token": credential.identity_token,
            }
            body = urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            pairs = [("service", service)] if service else []
            pairs += [("scope", scope) for scope in scopes]
            query = "&".join(f"{name}={quote(value, safe=':,/')}" for name, value in pairs)
            if query:
                url += ("&" if urlsplit(realm).query else "?") + query
            if credential is not None and credential.username:
                headers["Authorization"] = credential.basic()
        try:
            with self._http.request(
                method,
                url,
                headers=headers,
                body=body,
                tls=endpoint.tls,
                cancel=cancel,
                whole=_ANSWER_LIMIT,
            ) as response:
                raw = response.read_all(_ANSWER_LIMIT)
                status, reason = response.status, response.reason
        except NetworkError as error:
            raise RegistryError(
                f"{endpoint.label}: no token from {realm}: {error.message}", hint=error.hint
            ) from None
        if status in (400, 401, 403):
            raise self._refused(endpoint, credential)
        if status != 200:
            raise RegistryError(f"{endpoint.label}: no token from {realm}: {status} {reason}")
        try:
            return json_decoder(_TokenAnswer).decode(raw)
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise RegistryError(
                f"{endpoint.label}: no token from {realm}: the answer is not understood"
            ) from None

    def _refused(self, endpoint: Endpoint, credential: Credential | None) -> Unauthorized:
        if credential is None:
            return Unauthorized(
                f"{endpoint.label}: access denied without credentials", hint=self.hint(endpoint)
            )
        who = f" of {credential.username}" if credential.username else ""
        return Unauthorized(f"{endpoint.label}: the credentials{who} were refused", hint=self.hint(endpoint))

    def hint(self, endpoint: Endpoint) -> str:
        """What to do when access is denied."""
        host = "" if endpoint.name == "docker.io" else f" {endpoint.name}"
        text = f"log in with `anyarch login{host}`"
        if self._credentials.complaints:
            text += f" ({'; '.join(self._credentials.complaints)})"
        return text


def _key(endpoint: Endpoint) -> str:
    return f"{endpoint.scheme}://{endpoint.netloc}"
