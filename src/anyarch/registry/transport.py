"""Requests to one endpoint: authorization, the way down from TLS where that is allowed, retries."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyarch.errors import NetworkError
from anyarch.registry.auth import Authorizer
from anyarch.registry.failure import of_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.http.client import FileBody, HttpClient
    from anyarch.http.response import Response
    from anyarch.http.retry import RetryPolicy
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.failure import Failure
    from anyarch.registry.hosts import Endpoint

__all__ = ["Transport"]

_PORTS = {"http": 80, "https": 443}
_ERROR_LIMIT = 1 << 20
_MAX_RENEWALS = 3  # of tokens for one request; more that expire at once are a refusal


class Transport:
    """Thread-safe. Every method raises `NetworkError`, `RegistryError` (token service) and `Canceled`."""

    def __init__(self, credentials: CredentialSource, http: HttpClient) -> None:
        self.http = http
        self._authorizer = Authorizer(credentials, http)
        self._downgraded: set[str] = set()

    def request(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        *,
        scopes: Sequence[str],
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody | None = None,
        cancel: Cancel | None = None,
        retry: RetryPolicy | None = None,
        answer_timeout_s: float | None = None,
        whole: int = 0,
    ) -> Response:
        """An answer of whatever status; a 401 only after the endpoint's challenge was answered as well as we
        can.

        `url` is one of the endpoint's (`Endpoint.url`), or one that it named for an upload. `whole` as for
        `HttpClient.request`.
        """
        is_own = _is_within(endpoint, url)
        if endpoint.netloc in self._downgraded:
            url = url.replace("https://", "http://", 1) if is_own else url
        renewals = 0
        while True:
            sent = dict(headers or {})
            authorization = self._authorizer.header(endpoint, scopes, cancel=cancel) if is_own else None
            if authorization is not None:
                sent["Authorization"] = authorization
            try:
                response = self.http.request(
                    method,
                    url,
                    headers=sent,
                    body=body,
                    tls=endpoint.tls,
                    cancel=cancel,
                    retry=retry,
                    answer_timeout_s=answer_timeout_s,
                    whole=whole,
                )
            except NetworkError as error:
                if error.kind == "not_tls" and endpoint.may_downgrade and url.startswith("https://"):
                    self._downgraded.add(endpoint.netloc)
                    url = "http://" + url.removeprefix("https://")
                    continue
                raise
            if response.status != 401 or not is_own or renewals >= _MAX_RENEWALS:
                return response
            challenges = response.headers.get_all("WWW-Authenticate") or []
            if not self._authorizer.answer(endpoint, challenges, authorization):
                return response
            response.discard()
            renewals += authorization is not None

    def failure(self, endpoint: Endpoint, response: Response) -> Failure:
        """What an answer that is no success means. Reads its body and closes it."""
        with response:
            raw = b""
            try:
                raw = response.read_all(_ERROR_LIMIT)
            except NetworkError:
                raw = b""  # the status says enough
            return of_status(
                endpoint.label,
                response.status,
                response.reason,
                raw,
                retry_after=response.headers.get("Retry-After"),
                login=self._authorizer.hint(endpoint),
            )


def _is_within(endpoint: Endpoint, url: str) -> bool:
    """Whether `url` is at the endpoint's server; no credential goes elsewhere."""
    if url.startswith(f"{endpoint.scheme}://{endpoint.netloc}/"):
        return True
    mine, other = urlsplit(f"{endpoint.scheme}://{endpoint.netloc}"), urlsplit(url)
    if other.scheme != mine.scheme and not (endpoint.may_downgrade and other.scheme == "http"):
        return False
    try:
        ports = {parts.port or _PORTS.get(parts.scheme) for parts in (mine, other)}
    except ValueError:
        return False
    return mine.hostname == other.hostname and len(ports) == 1
