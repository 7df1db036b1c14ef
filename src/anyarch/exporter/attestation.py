"""Attestations of an image: in-toto statements about its manifests, each kept as a layer of a manifest of
their own beside the image in its index.

<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>; the form of the manifests is
BuildKit's (docs/attestations/attestation-storage.md there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError
from anyarch.spec import media
from anyarch.spec.intoto import (
    ARTIFACT_TYPE,
    MANIFEST_KIND,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    STATEMENT,
)
from anyarch.spec.oci import Blob, Descriptor, PlatformSpec, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.exporter.assemble import AssembledPlatform
    from anyarch.spec.platform import Platform
    from anyarch.spec.reference import Reference
    from anyarch.store.content import ContentStore

__all__ = [
    "AssembledAttestations",
    "Attestation",
    "Subject",
    "attach",
    "image_subjects",
    "statement",
    "unbundled",
]

_EMPTY = b"{}"
MOST_BYTES = 40 << 20
"""Of one attestation."""


class Subject(msgspec.Struct, frozen=True):
    """What a statement is about: the things with `digests`, or without any the image or files themselves.
    `name` may be empty."""

    name: str = ""
    digests: tuple[str, ...] = ()


class Attestation(msgspec.Struct, frozen=True):
    """`predicate` is JSON, empty for none; `path` is where its file lay, whose name it keeps among files."""

    predicate_type: str
    predicate: bytes
    path: str
    subjects: tuple[Subject, ...] = ()
    inline_only: bool = False
    """Of no use beside files."""
    make: Callable[[], bytes] | None = None
    """Gives the predicate where it is not known before the layers are."""
    is_core: bool = False
    """Whether it is the SBOM of the image itself, not of what was scanned beside it."""
    tells_names: bool = True
    """Whether its subject is the image under each of its names, or just the image."""

    def content(self) -> bytes:
        return self.make() if self.make is not None else self.predicate


class AssembledAttestations(msgspec.Struct, frozen=True):
    """The manifest for one platform's manifest, and the blobs it names. All are in the content store."""

    manifest: Blob
    blobs: tuple[Blob, ...]
    descriptor: Descriptor


def unbundled(raw: bytes, path: str, predicate_type: str) -> Attestation:
    """The attestation that a whole statement is. Raises `BuildError`."""
    try:
        document = msgspec.json.decode(raw)
        kind = document["predicateType"]
        subjects = tuple(
            Subject(str(item.get("name", "")), tuple(f"{a}:{d}" for a, d in sorted(item["digest"].items())))
            for item in document.get("subject") or ()
        )
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"cannot decode in-toto statement: {path}: {error}") from None
    if predicate_type and kind != predicate_type:
        raise BuildError(f"bundle entry {kind} does not match required predicate type {predicate_type}")
    return Attestation(str(kind), msgspec.json.encode(document.get("predicate")), path, subjects)


def _digest_map(digests: Sequence[str]) -> dict[str, str]:
    return {algorithm: value for algorithm, _, value in (text.partition(":") for text in digests)}


def statement(attestation: Attestation, own: Sequence[Subject]) -> bytes:
    """The JSON of a statement; `own` is what it is about by itself. Raises `BuildError`."""
    subjects = []
    for subject in attestation.subjects or (Subject(),):
        if subject.digests:
            subjects.append({"name": subject.name or "_", "digest": _digest_map(subject.digests)})
            continue
        for item in own:
            names = [item.name, *([subject.name] if subject.name not in ("", "_") else [])]
            subjects += [{"name": name, "digest": _digest_map(item.digests)} for name in names]
    try:
        raw = attestation.content()
        predicate = msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError as error:
        raise BuildError(f"attestation {attestation.path} is not JSON: {error}") from None
    return msgspec.json.encode(
        {
            "_type": STATEMENT,
            "predicateType": attestation.predicate_type,
            "subject": subjects,
            "predicate": predicate,
        }
    )


def image_subjects(names: Sequence[Reference], platform: Platform, digest: str) -> list[Subject]:
    """The image under each of its names (package URLs)."""
    from anyarch.spec.purl import image_purl  # most images are attested nothing

    return [Subject(image_purl("docker", name, platform), (digest,)) for name in names]


def attach(
    content: ContentStore,
    platform: AssembledPlatform,
    attestations: Sequence[Attestation],
    names: Sequence[Reference],
    *,
    oci_media_types: bool,
    as_artifact: bool,
) -> AssembledAttestations:
    """Make and store the manifest of attestations. Raises `BuildError`."""
    named = image_subjects(names, platform.platform, platform.manifest.digest)
    unnamed = [Subject("_", (platform.manifest.digest,))]
    blobs, layers = [], []
    for item in attestations:
        blob = Blob.of(PAYLOAD_TYPE, statement(item, named if item.tells_names else unnamed))
        blobs.append(blob)
        layers.append(blob.descriptor(annotations={PREDICATE_TYPE: item.predicate_type}))
    manifest_type = media.OCI_MANIFEST if oci_media_types else media.DOCKER_MANIFEST
    document: dict[str, object] = {"schemaVersion": 2, "mediaType": manifest_type}
    if as_artifact:
        config = Blob.of(media.EMPTY_JSON, _EMPTY)
        document["artifactType"] = ARTIFACT_TYPE
        document["config"] = {**_plain(config.descriptor()), "data": "e30="}
    else:
        raw = msgspec.json.encode(
            {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [str(blob.digest) for blob in blobs]},
            }
        )
        config = Blob.of(media.OCI_CONFIG if oci_media_types else media.DOCKER_CONFIG, raw)
        document["config"] = _plain(config.descriptor())
    document["layers"] = [_plain(layer) for layer in layers]
    if as_artifact:
        target = platform.manifest
        document["subject"] = _plain(target.descriptor())
    manifest = Blob.of(manifest_type, msgspec.json.encode(document))
    for blob in (*blobs, config, manifest):
        content.put(blob.raw)
    descriptor = manifest.descriptor(
        platform=PlatformSpec(architecture="unknown", os="unknown"),
        annotations={REFERENCE_DIGEST: platform.manifest.digest, REFERENCE_TYPE: MANIFEST_KIND},
    )
    return AssembledAttestations(manifest, (*blobs, config), descriptor)


def _plain(descriptor: Descriptor) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(encode(descriptor))
    return found
