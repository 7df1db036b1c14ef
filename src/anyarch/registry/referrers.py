"""Referrers: manifests that name another as their `subject` (signatures, SBOMs, attestations).

Distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema". Registries without the API keep the
list as an index under a tag made of the subject's digest; it is the client that keeps that index.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

import msgspec

from anyarch.errors import RegistryError
from anyarch.http.cancel import pause
from anyarch.registry.download import ACCEPT
from anyarch.registry.failure import Refused
from anyarch.spec import media
from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import Blob, Index, Manifest, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.registry.hosts import Endpoint
    from anyarch.registry.transport import Transport
    from anyarch.spec.digest import Digest
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.reference import Reference

__all__ = ["descriptor_of_referrer", "list_referrers", "record_referrer", "referrers_tag"]

_LIMIT = 16 << 20
_MAX_PAGES = 1000
_RECORD_TRIES = 20


def referrers_tag(digest: str) -> str:
    """The tag under which a registry without the API has the list: `sha256-<hex>`, cut as the specification
    says."""
    algorithm, _, hexdigits = digest.partition(":")
    return f"{algorithm[:32]}-{hexdigits[:64]}"


def list_referrers(
    transport: Transport,
    endpoint: Endpoint,
    ref: Reference,
    digest: Digest,
    artifact_types: Sequence[str],
    cancel: Cancel | None,
) -> list[Descriptor]:
    """What refers to `digest`, by the API, else by the tag; of `artifact_types` only, when any are given."""
    found = _by_api(transport, endpoint, ref, digest, artifact_types, cancel)
    if found is None:
        found = _by_tag(transport, endpoint, ref, digest, cancel)
    unique = {descriptor.digest: descriptor for descriptor in found}
    # A server that cannot filter says so by leaving out a header; looking ourselves serves both kinds.
    return [d for d in unique.values() if not artifact_types or d.artifact_type in artifact_types]


def _by_api(
    transport: Transport,
    endpoint: Endpoint,
    ref: Reference,
    digest: Digest,
    artifact_types: Sequence[str],
    cancel: Cancel | None,
) -> list[Descriptor] | None:
    """None when the registry does not know the call."""
    url = endpoint.url(ref.path, "referrers", digest)
    if len(artifact_types) == 1:
        url += ("&" if "?" in url else "?") + f"artifactType={quote(artifact_types[0], safe='')}"
    result: list[Descriptor] = []
    for _ in range(_MAX_PAGES):
        response = transport.request(
            endpoint,
            "GET",
            url,
            scopes=endpoint.pull_scopes(ref.path),
            headers={"Accept": media.OCI_INDEX},
            cancel=cancel,
            whole=_LIMIT,
        )
        if response.status in (400, 404, 405, 501):
            response.discard()
            return result or None
        if response.status != 200:
            raise Refused(transport.failure(endpoint, response))
        with response:
            kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
            raw = response.read_all(_LIMIT)
            link = response.headers.get("Link") or ""
        if kind != media.OCI_INDEX:
            return None  # some proxy's or old registry's page for whatever it does not know
        try:
            result.extend(json_decoder(Index).decode(raw).manifests)
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise RegistryError(f"{endpoint.label}: its list of referrers is not understood") from None
        target = link.partition("<")[2].partition(">")[0]
        if 'rel="next"' not in link or not target:
            break
        url = urljoin(url, target)
    return result


def _by_tag(
    transport: Transport, endpoint: Endpoint, ref: Reference, digest: Digest, cancel: Cancel | None
) -> list[Descriptor]:
    response = transport.request(
        endpoint,
        "GET",
        endpoint.url(ref.path, "manifests", referrers_tag(digest)),
        scopes=endpoint.pull_scopes(ref.path),
        headers={"Accept": ACCEPT},
        cancel=cancel,
        whole=_LIMIT,
    )
    if response.status == 404:
        response.discard()
        return []
    if response.status != 200:
        raise Refused(transport.failure(endpoint, response))
    with response:
        raw = response.read_all(_LIMIT)
    try:
        return list(json_decoder(Index).decode(raw).manifests)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []  # somebody's tag that only looks like ours


def descriptor_of_referrer(blob: Blob) -> tuple[str, Descriptor] | None:
    """The digest of the subject of a manifest or index, and the descriptor by which a list of referrers
    names it; None for one without a subject."""
    if blob.media_type in media.MANIFESTS:
        manifest = decode(Manifest, blob.raw)
        subject, notes = manifest.subject, manifest.annotations
        kind = manifest.artifact_type or manifest.config.media_type
    elif blob.media_type in media.INDEXES:
        index = decode(Index, blob.raw)
        subject, notes, kind = index.subject, index.annotations, index.artifact_type
    else:
        return None
    if subject is None:
        return None
    return subject.digest, blob.descriptor(artifact_type=kind, annotations=notes)


def record_referrer(
    transport: Transport,
    endpoint: Endpoint,
    ref: Reference,
    subject: str,
    descriptor: Descriptor,
    cancel: Cancel | None,
) -> None:
    """Keep the list under the tag, for a registry that did not say it keeps one itself.

    There is no conditional PUT: writers that come together are found out by reading again, and the entry that
    got lost is written anew.
    """
    from anyarch.registry.push import put_manifest
    from anyarch.spec.digest import Digest

    tag = referrers_tag(subject)
    for attempt in range(_RECORD_TRIES):
        known = _by_tag(transport, endpoint, ref, Digest(subject), cancel)
        if any(item.digest == descriptor.digest for item in known):
            return
        if attempt:
            pause(0.01 * attempt * (1 + time.monotonic_ns() % 7), cancel)
        index = Index(schema_version=2, media_type=media.OCI_INDEX, manifests=(*known, descriptor))
        put_manifest(
            transport, endpoint, ref.with_tag(tag), Blob.of(media.OCI_INDEX, encode(index)), tag, cancel
        )
    known = _by_tag(transport, endpoint, ref, Digest(subject), cancel)
    if not any(item.digest == descriptor.digest for item in known):
        raise RegistryError(
            f"{endpoint.label}: {descriptor.digest} could not be entered among the referrers of {subject}",
            hint="others write to it all the time; try again",
        )
