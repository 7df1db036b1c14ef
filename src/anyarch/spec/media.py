"""Media types of images (OCI image-spec media-types.md; Docker image manifest v2, schema 2) and their
families."""

from __future__ import annotations

__all__ = [
    "CONFIGS",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER_GZIP",
    "DOCKER_LAYER_TAR",
    "DOCKER_MANIFEST",
    "DOCKER_SCHEMA1",
    "EMPTY_JSON",
    "INDEXES",
    "LAYERS",
    "MANIFESTS",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_TAR",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "layer_compression",
    "to_distributable",
    "to_docker",
    "to_oci",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_TAR = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

_DISTRIBUTABLE = {
    "application/vnd.oci.image.layer.nondistributable.v1.tar": OCI_LAYER_TAR,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": OCI_LAYER_ZSTD,
    DOCKER_FOREIGN_TAR: DOCKER_LAYER_TAR,
    DOCKER_FOREIGN_GZIP: DOCKER_LAYER_GZIP,
}
_COMPRESSION = {
    OCI_LAYER_TAR: "uncompressed",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER_TAR: "uncompressed",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_TAR: "uncompressed",
    DOCKER_FOREIGN_GZIP: "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "uncompressed",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
}
LAYERS = frozenset(_COMPRESSION)

_TO_DOCKER = {
    OCI_INDEX: DOCKER_INDEX,
    OCI_MANIFEST: DOCKER_MANIFEST,
    OCI_CONFIG: DOCKER_CONFIG,
    OCI_LAYER_TAR: DOCKER_LAYER_TAR,
    OCI_LAYER_GZIP: DOCKER_LAYER_GZIP,
    OCI_LAYER_ZSTD: DOCKER_LAYER_ZSTD,
}
_TO_DOCKER |= {
    "application/vnd.oci.image.layer.nondistributable.v1.tar": DOCKER_FOREIGN_TAR,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": DOCKER_FOREIGN_GZIP,
}
_TO_OCI = {docker: oci for oci, docker in _TO_DOCKER.items()}


def layer_compression(media_type: str) -> str | None:
    """`uncompressed`, `gzip` or `zstd`; None when `media_type` names no layer that we know."""
    return _COMPRESSION.get(media_type)


def to_docker(media_type: str) -> str:
    """The Docker form of an OCI media type; other types unchanged."""
    return _TO_DOCKER.get(media_type, media_type)


def to_distributable(media_type: str) -> str:
    """The ordinary form of a layer that is not for distribution; other types unchanged."""
    return _DISTRIBUTABLE.get(media_type, media_type)


def to_oci(media_type: str) -> str:
    """The OCI form of a Docker media type; other types unchanged."""
    return _TO_OCI.get(media_type, media_type)
