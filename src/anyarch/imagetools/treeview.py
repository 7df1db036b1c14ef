"""`imagetools inspect --tree`: an image with all that hangs below it, sizes, and what platforms share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anyarch.spec import media
from anyarch.spec.intoto import PREDICATE_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.imagetools.tree import Image, ImageTree
    from anyarch.spec.oci import Descriptor, Manifest

__all__ = ["tree_text"]


def tree_text(tree: ImageTree, size_text: Callable[[int], str]) -> str:
    """The text; `size_text` writes a number of bytes. Raises as `ImageTree` does."""
    images = list(tree.images().values())
    users = Counter(digest for image in images for digest in {d.digest for d in image.manifest.layers})
    sizes = {d.digest: d.size for image in images for d in image.manifest.layers}
    total = sum(sizes.values())
    shared = sum(size for digest, size in sizes.items() if users[digest] > 1)
    repeated = sum(d.size for image in images for d in image.manifest.layers)
    kind = "index" if tree.index is not None else "image"
    lines = [tree.name, f"{kind} {tree.blob.digest}"]
    if kind == "index":
        text = f"{len(images)} platform{'s' * (len(images) != 1)}, {size_text(total)} of layers"
        if shared:
            text += f", {size_text(shared)} shared between platforms ({size_text(repeated)} without sharing)"
        lines.append(text)
    for number, image in enumerate(images):
        is_last = number == len(images) - 1
        lines += _image(image, users, size_text, "└── " if is_last else "├── ", "    " if is_last else "│   ")
    return "\n".join(lines) + "\n"


def _image(
    image: Image, users: Counter[str], size_text: Callable[[int], str], first: str, rest: str
) -> list[str]:
    layers = image.manifest.layers
    size = sum(layer.size for layer in layers)
    lines = [f"{first}{image.platform.format_all()}  {image.descriptor.digest}  {size_text(size)}"]
    children = [f"config  {image.manifest.config.digest}  {size_text(image.manifest.config.size)}"]
    for number, layer in enumerate(layers, 1):
        children.append(_layer(number, layer, users[layer.digest], size_text))
    for manifest in image.attestations:
        children += _attestation(manifest, size_text)
    for number, child in enumerate(children):
        lines.append(f"{rest}{'└── ' if number == len(children) - 1 else '├── '}{child}")
    return lines


def _layer(number: int, layer: Descriptor, users: int, size_text: Callable[[int], str]) -> str:
    compression = media.layer_compression(layer.media_type) or layer.media_type
    text = f"layer {number}  {layer.digest}  {size_text(layer.size)}  {compression}"
    return text + (f"  shared by {users} platforms" if users > 1 else "")


def _attestation(manifest: Manifest, size_text: Callable[[int], str]) -> list[str]:
    lines = []
    for layer in manifest.layers:
        kind = (layer.annotations or {}).get(PREDICATE_TYPE, "")
        lines.append(f"attestation  {layer.digest}  {size_text(layer.size)}  {kind}".rstrip())
    return lines
