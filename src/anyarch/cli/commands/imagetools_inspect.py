"""`anyarch imagetools inspect`: what a registry or an OCI layout has under a name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag

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
    arguments=(("IMAGE", "reference in a registry, or oci-layout://PATH[:TAG]"),),
    least=1,
    most=1,
    flags=(
        Flag("format", "Go template, or {{json .Manifest}} and the like", metavar="TEMPLATE"),
        Flag("raw", "Print the exact bytes"),
    ),
    examples=(("The platforms of an image", "anyarch imagetools inspect busybox"),),
)


def run(parsed: Parsed) -> int:
    from anyarch import imagetools

    (name,) = parsed.args
    if parsed.switch("raw"):
        sys.stdout.buffer.write(imagetools.raw(name))
        return 0
    print(imagetools.describe(name), end="")
    return 0
