"""Look at images by reference: registries and OCI layouts, as text, as JSON, as they are.

tree = inspect("ghcr.io/me/app:1")
describe("oci-layout:///tmp/out:1")              # what `imagetools inspect` prints
describe("busybox", "{{json .Manifest}}")        # its --format
raw("busybox")                                   # its --raw
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.tree import ImageTree
    from anyarch.registry.client import Registry

__all__ = ["describe", "inspect", "raw", "show_tree"]


def inspect(name: str, *, registry: Registry | None = None, cancel: Cancel | None = None) -> ImageTree:
    """What `name` stands for: a registry reference, or `oci-layout://PATH[:TAG][@DIGEST]` (directory or tar).

    Only the manifest or index itself is read; the rest when it is asked for. Close the tree, or use it in a
    `with`. `registry` is the client to use (else one with the user's settings). Raises `BadReference`,
    `ManifestNotFound`, `Unauthorized`, `RegistryError`, `UnsupportedMedia`, `UsageError`.
    """
    from anyarch.imagetools.tree import load

    return load(name, registry=registry, cancel=cancel)


def describe(name: str, template: str = "", *, registry: Registry | None = None) -> str:
    """The text for people, or what the Go template makes (`json` alone is `{{json .}}`); ends with a newline.

    Raises as `inspect`, and `UsageError` on a template that cannot be used.
    """
    from anyarch.imagetools.render import render

    with inspect(name, registry=registry) as tree:
        return render(tree, template)


def show_tree(name: str, size_text: Callable[[int], str], *, registry: Registry | None = None) -> str:
    """The image with its platforms, layers and attestations; `size_text` writes a number of bytes. Raises as
    `inspect`."""
    from anyarch.imagetools.treeview import tree_text

    with inspect(name, registry=registry) as tree:
        return tree_text(tree, size_text)


def raw(name: str, *, registry: Registry | None = None) -> bytes:
    """The exact bytes of the manifest or index. Raises as `inspect`."""
    with inspect(name, registry=registry) as tree:
        return tree.blob.raw
