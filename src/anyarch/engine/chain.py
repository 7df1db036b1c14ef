"""What attests an image of a registry, and what signs that: for clients whose policy wants to see it before
the image is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError
from anyarch.registry.platforms import select_manifest
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.intoto import (
    MANIFEST_KIND,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    SLSA_PROVENANCE,
)
from anyarch.spec.oci import Descriptor, Index, Manifest, decode

if TYPE_CHECKING:
    from collections.abc import Collection

    from anyarch.spec.oci import Blob
    from anyarch.spec.platform import Platform
    from anyarch.spec.reference import Reference
    from anyarch.worker.worker import Worker

__all__ = ["AttestationChain", "attestation_chain"]

_SIGNATURES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
)
"""The better first."""
_PROVENANCE = (f"{SLSA_PROVENANCE}v0.2", f"{SLSA_PROVENANCE}v1")
_MOST_BYTES = 40 << 20


class AttestationChain(msgspec.Struct, frozen=True):
    """Digests: of the index, the platform's image in it, what attests that, and what signs the attestation.
    `blobs` are the documents, without the image's own, and what was wanted of the statements."""

    root: str
    image: str
    attestation: str = ""
    signatures: tuple[str, ...] = ()
    blobs: dict[str, tuple[Descriptor, bytes]] = {}


def attestation_chain(
    worker: Worker, reference: Reference, platform: Platform, predicate_types: Collection[str]
) -> AttestationChain | None:
    """None for an image that is no index. Blocks. Raises what a registry raises, and `NoMatchingPlatform`."""
    images = worker.images
    blob = images.document(reference, images.resolve(reference))
    if blob.media_type != media.OCI_INDEX:
        return None
    index = decode(Index, blob.raw)
    image = select_manifest(index, platform, name=reference.familiar, platform_of=lambda entry: None)
    blobs = {str(blob.digest): (blob.descriptor(), blob.raw)}
    if _is_hardened(index):
        attestation: Descriptor | None = _referring(worker, reference, image)
    else:
        attestation = next(
            (
                entry
                for entry in index.manifests
                if (entry.annotations or {}).get(REFERENCE_TYPE) == MANIFEST_KIND
                and (entry.annotations or {}).get(REFERENCE_DIGEST) == image.digest
            ),
            None,
        )
    found = AttestationChain(str(blob.digest), image.digest, blobs=blobs)
    if attestation is None:
        return found
    manifest = _document(worker, reference, attestation)
    blobs[attestation.digest] = (attestation, manifest.raw)
    signatures = _signature(worker, reference, Digest.parse(attestation.digest), blobs)
    for layer in decode(Manifest, manifest.raw).layers:
        if (layer.annotations or {}).get(PREDICATE_TYPE) in predicate_types and layer.digest not in blobs:
            blobs[layer.digest] = (layer, _read(worker, reference, layer))
    return msgspec.structs.replace(found, attestation=attestation.digest, signatures=signatures)


def _is_hardened(index: Index) -> bool:
    """Whether it is one of Docker Hardened Images, whose attestations are no entries of the index: they refer
    to the image."""
    title = (index.annotations or {}).get("org.opencontainers.image.title", "")
    return title.startswith("dhi/") and all(
        (entry.annotations or {}).get("com.docker.dhi.build.id") for entry in index.manifests
    )


def _referring(worker: Worker, reference: Reference, image: Descriptor) -> Descriptor:
    """The provenance that refers to an image. Raises `BuildError` where none does."""
    listed = worker.registry.referrers(
        reference, Digest.parse(image.digest), (PAYLOAD_TYPE,), cancel=worker.network_cancel
    )
    for item in listed:
        if (item.annotations or {}).get(PREDICATE_TYPE) in _PROVENANCE:
            return item
    raise BuildError(
        f"no attestation referrers found for DHI manifest {image.digest}",
        hint="a mirror has to have what refers to an image as well",
    )


def _signature(
    worker: Worker, reference: Reference, subject: Digest, blobs: dict[str, tuple[Descriptor, bytes]]
) -> tuple[str, ...]:
    """Of what signs an attestation the best, with its layers."""
    listed = worker.registry.referrers(reference, subject, cancel=worker.network_cancel)
    known = [item for item in listed if item.artifact_type in _SIGNATURES]
    if not known:
        return ()
    chosen = min(known, key=lambda item: _SIGNATURES.index(item.artifact_type))
    manifest = _document(worker, reference, chosen)
    blobs[chosen.digest] = (chosen, manifest.raw)
    for layer in decode(Manifest, manifest.raw).layers:
        blobs[layer.digest] = (layer, _read(worker, reference, layer))
    return (chosen.digest,)


def _document(worker: Worker, reference: Reference, descriptor: Descriptor) -> Blob:
    return worker.images.document(reference, Digest.parse(descriptor.digest))


def _read(worker: Worker, reference: Reference, descriptor: Descriptor) -> bytes:
    if descriptor.size > _MOST_BYTES:
        raise BuildError(
            f"{reference.familiar}: {descriptor.digest} has {descriptor.size} bytes, more than {_MOST_BYTES}",
            hint="attestations and signatures are small; this is none",
        )
    worker.images.fetch(reference, descriptor)
    return worker.store.content.read(Digest.parse(descriptor.digest))
