"""`anyarch imagetools inspect`: what a registry or an OCI layout has under a name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "imagetools inspect",
    summary="Show an image or index of a registry",
    usage="imagetools inspect [OPTIONS] IMAGE",
    description=(
        "Show the image or index that a registry has under a name: its media type and digest, and "
        "for an index its "
        "manifests with their platforms."
    ),
    arguments=(("IMAGE", "reference in a registry, or oci-layout://PATH[:TAG][@DIGEST] (directory or tar)"),),
    least=1,
    most=1,
    flags=(
        Flag("format", "Go template, for example {{json .Manifest}}", metavar="TEMPLATE"),
        Flag("raw", "Print the exact bytes"),
        Flag("tree", "Show platforms, layers and attestations with their sizes, and what platforms share"),
    ),
    examples=(
        ("The platforms of an image", "anyarch imagetools inspect busybox"),
        ("Sizes, and what platforms share", "anyarch imagetools inspect --tree busybox"),
    ),
)


def run(parsed: Parsed) -> int:
    """Raises what `anyarch.imagetools` raises."""
    from anyarch import imagetools

    (name,) = parsed.args
    template = parsed.text("format")
    if parsed.switch("tree"):
        if template or parsed.switch("raw"):
            raise UsageError("tree cannot be used together with format or raw")
        from anyarch.progress.trace import format_bytes

        sys.stdout.write(imagetools.show_tree(name, format_bytes))
        return 0
    if parsed.switch("raw"):
        if template:
            raise UsageError("format and raw cannot be used together")
        sys.stdout.buffer.write(imagetools.raw(name))
        sys.stdout.buffer.flush()
        return 0
    sys.stdout.write(imagetools.describe(name, template or ""))
    return 0
