"""`--load`: give an image to the docker engine or to podman on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import OutputError
from anyarch.exporter.layout import write_layout_tar
from anyarch.source.engines import find_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.exporter.layout import LayoutImage
    from anyarch.spec.reference import Reference
    from anyarch.store.content import ContentStore

__all__ = ["load"]


def load(
    content: ContentStore,
    image: LayoutImage,
    names: Sequence[Reference],
    on_step: Callable[[str], None],
    *,
    is_index: bool = False,
) -> None:
    """Load an image; one of several platforms goes as the index it is to an engine that holds such. Raises
    `OutputError`."""
    engine = find_engine()
    if is_index and not engine.takes_indexes:
        raise OutputError(
            "docker exporter does not currently support exporting manifest lists",
            hint="choose one --platform, use type=oci or --push for several, or let docker use the image "
            "store of containerd",
        )
    # An engine with containerd's store reads index.json; the others manifest.json.
    engine.load(lambda sink: write_layout_tar(content, image, names, sink, docker=not is_index))
    on_step(f"loading into {engine.kind}")
