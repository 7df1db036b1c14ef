"""The SBOM of an image, completed by what only its exporter knows: which layer each file came with."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.archive.entry import Kind
from anyarch.spec.intoto import SPDX
from anyarch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.exporter.attestation import Attestation
    from anyarch.snapshot.layers import LayerStore

__all__ = ["supplemented"]


def supplemented(
    attestation: Attestation, layers: LayerStore, chain: Sequence[tuple[str, str]]
) -> Attestation:
    """The SBOM of the image itself with the layer of each file that says nothing else in its comment; others
    as they are, and documents that are not SPDX. `chain` are ids of layers, whose content is here, and the
    digests of their blobs."""
    if attestation.predicate_type != SPDX or not attestation.is_core:
        return attestation
    try:
        document = msgspec.json.decode(attestation.content())
    except msgspec.DecodeError:
        return attestation
    if not isinstance(document, dict) or not str(document.get("spdxVersion", "")).startswith("SPDX-"):
        return attestation
    finder = _Finder(layers, chain)
    for file in document.get("files") or ():
        if not isinstance(file, dict) or file.get("comment"):
            continue
        digest = finder.find(str(file.get("fileName", "")))
        if digest:
            file["comment"] = f"layerID: {digest}"
    creation: dict[str, Any] = document.get("creationInfo") or {}
    document["creationInfo"] = creation
    creation["creators"] = [*(creation.get("creators") or ()), f"Tool: anyarch-{__version__}"]
    return msgspec.structs.replace(attestation, predicate=msgspec.json.encode(document), make=None)


class _Finder:
    """Looks through the layers from the top, no further down than it has to."""

    def __init__(self, layers: LayerStore, chain: Sequence[tuple[str, str]]) -> None:
        self._layers = layers
        self._left = list(chain)
        self._known: dict[str, str] = {}

    def find(self, name: str) -> str:
        path = posixpath.normpath(posixpath.join("/", name)).lstrip("/")
        while path not in self._known and self._left:
            layer, digest = self._left.pop()
            for entry in self._layers.index(self._layers.get(layer)):
                if entry.kind is not Kind.WHITEOUT:
                    self._known.setdefault(entry.path, digest)
        return self._known.get(path, "")
