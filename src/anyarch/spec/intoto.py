"""Names by which images carry in-toto statements, as BuildKit gives them
(docs/attestations/attestation-storage.md of its sources)."""

from __future__ import annotations

__all__ = [
    "ARTIFACT_TYPE",
    "MANIFEST_KIND",
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "REFERENCE_DIGEST",
    "REFERENCE_TYPE",
    "SLSA_PROVENANCE",
    "SPDX",
    "STATEMENT",
]

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
ARTIFACT_TYPE = "application/vnd.docker.attestation.manifest.v1+json"

PREDICATE_TYPE = "in-toto.io/predicate-type"
"""The annotation of a layer that is a statement; its values begin with `SLSA_PROVENANCE`, or are `SPDX`."""
SLSA_PROVENANCE = "https://slsa.dev/provenance/"
SPDX = "https://spdx.dev/Document"

REFERENCE_TYPE = "vnd.docker.reference.type"
"""The annotation of an index's entry that describes another entry; `MANIFEST_KIND` where that is by
statements. `REFERENCE_DIGEST` names the other one."""
REFERENCE_DIGEST = "vnd.docker.reference.digest"
MANIFEST_KIND = "attestation-manifest"
