"""The rarer calls of the distribution API: list tags, delete, see whether credentials are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin

import msgspec

from anyarch.errors import RegistryError
from anyarch.registry.failure import Refused
from anyarch.spec.codec import json_decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.registry.hosts import Endpoint
    from anyarch.registry.transport import Transport
    from anyarch.spec.digest import Digest
    from anyarch.spec.reference import Reference

__all__ = ["check_login", "delete_manifest", "list_tags"]

_PAGE_LIMIT = 16 << 20
_MAX_PAGES = 10000


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


def list_tags(
    transport: Transport, endpoint: Endpoint, ref: Reference, scopes: Sequence[str], cancel: Cancel | None
) -> list[str]:
    """Pages are followed (`Link: <…>; rel="next"`)."""
    url = endpoint.url(ref.path, "tags", "list")
    found: set[str] = set()
    for _ in range(_MAX_PAGES):
        response = transport.request(endpoint, "GET", url, scopes=scopes, cancel=cancel, whole=_PAGE_LIMIT)
        if response.status != 200:
            raise Refused(transport.failure(endpoint, response))
        with response:
            raw = response.read_all(_PAGE_LIMIT)
            link = response.headers.get("Link") or ""
        try:
            found.update(json_decoder(_Tags).decode(raw).tags or ())
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise RegistryError(f"{endpoint.label}: its list of tags is not understood") from None
        target = link.partition("<")[2].partition(">")[0]
        if 'rel="next"' not in link or not target:
            break
        url = urljoin(url, target)
    return sorted(found)


def delete_manifest(
    transport: Transport, endpoint: Endpoint, ref: Reference, digest: Digest, cancel: Cancel | None
) -> None:
    scopes = (f"repository:{endpoint.prefix}{ref.path}:pull,push,delete",)
    url = endpoint.url(ref.path, "manifests", digest)
    response = transport.request(endpoint, "DELETE", url, scopes=scopes, cancel=cancel)
    if response.status == 405:
        response.close()
        raise RegistryError(f"{endpoint.label}: it does not allow deletion")
    if response.status not in (200, 202):
        raise Refused(transport.failure(endpoint, response))
    response.close()


def check_login(transport: Transport, endpoint: Endpoint, cancel: Cancel | None) -> None:
    """GET /v2/, which a registry answers with 200 when it knows who asks."""
    url = f"{endpoint.scheme}://{endpoint.netloc}/v2/"
    response = transport.request(endpoint, "GET", url, scopes=(), cancel=cancel)
    if response.status != 200:
        raise Refused(transport.failure(endpoint, response))
    response.discard()
