"""`anyarch fetch --lock FILE`: pin and bundle the base images of a recipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "fetch",
    summary="Pin the base images of a Dockerfile and bundle them for builds offline",
    usage="fetch [OPTIONS] --lock FILE PATH | URL | -",
    description=(
        "Write down which image each name of a Dockerfile stands for now, and put these images, for all "
        "platforms asked for, into an OCI layout beside the file. `anyarch build --offline --lock FILE` then "
        "needs no network, and `anyarch build --lock FILE` builds on the same images again. Nothing is run."
    ),
    arguments=(("PATH", "the build context, as for `anyarch build`"),),
    least=1,
    most=1,
    flags=(
        Flag("build-arg", "Set a build argument", metavar="KEY[=VALUE]", repeat=True),
        Flag("build-context", "Name a further build context", metavar="NAME=VALUE", repeat=True),
        Flag(
            "bundle", "Directory for the images (default: FILE.bundle)", metavar="DIR", complete="directory"
        ),
        Flag("file", "Dockerfile", short="f", metavar="PATH", complete="file"),
        Flag("lock", "The file to write", metavar="FILE", complete="file"),
        Flag("pin-only", "Write the file, bundle nothing"),
        Flag("platform", "Platforms to fetch for", metavar="OS/ARCH[/VARIANT],...", repeat=True),
        Flag("progress", "How progress is shown: auto, none, plain, rawjson, tty", metavar="MODE"),
        Flag("target", "Stage to build", metavar="STAGE"),
    ),
    examples=(
        (
            "For two platforms",
            "anyarch fetch --lock anyarch.lock --platform linux/amd64,linux/arm64 .",
        ),
    ),
)


def run(parsed: Parsed) -> int:
    """Raises what a build raises before its first step, and `OutputError`."""
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.request import build_request
    from anyarch.cli.transfers import transferring
    from anyarch.engine.fetch import fetch_bases
    from anyarch.engine.validate import prepare
    from anyarch.progress.trace import format_bytes

    lock = parsed.text("lock")
    if not lock:
        raise UsageError(
            "--lock is needed", hint="name the file to write: anyarch fetch --lock anyarch.lock ."
        )
    request = prepare(build_request(parsed, os.environ, _stdin))
    bundle = "" if parsed.switch("pin-only") else parsed.text("bundle")
    with transferring(parsed) as (emit, cancel):
        fetched = fetch_bases(request, lock, bundle=bundle, on_event=emit, cancel=cancel)
    for name, digest in fetched.images.items():
        print(name if name.endswith(digest) else f"{name}@{digest}")
    if fetched.size:
        print(f"bundled {format_bytes(fetched.size)}", file=stderr())
    for other in fetched.others:
        print(f"WARNING: not bundled: {other}", file=stderr())
    return 0


def _stdin() -> BinaryIO | None:
    return sys.stdin.buffer if sys.stdin is not None else None
