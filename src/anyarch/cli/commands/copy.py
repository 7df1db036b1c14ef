"""`anyarch copy`: images between registries, layouts, archives and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "copy",
    summary="Copy images between registries, layouts, archives and stores",
    usage="copy [OPTIONS] SOURCE... TARGET",
    description=(
        "Copy images with all their platforms, attestations and signatures. What the target has is not moved "
        "again, so a copy that broke off is simply repeated. A place is a reference in a registry, "
        "oci-layout://PATH[:TAG], docker-archive://PATH[:NAME], store://NAME (anyarch's own), "
        "docker-daemon://NAME, podman://NAME, containerd://NAME, or a path. A TARGET that ends in / is a "
        "prefix below which images keep their names."
    ),
    arguments=(("SOURCE", "image to copy"), ("TARGET", "where it goes")),
    least=2,
    most=None,
    flags=(
        Flag("platform", "These platforms only", short="p", metavar="OS/ARCH[/VARIANT],...", repeat=True),
        Flag("progress", "How progress is shown: auto, none, plain, rawjson, tty", metavar="MODE"),
        Flag("quiet", "Show no progress, print the digests", short="q"),
        Flag("referrers", "Copy what refers to the images (default; =false leaves it)"),
    ),
    examples=(
        ("To another registry", "anyarch copy busybox:1 reg.example.com/mirror/busybox:1"),
        ("Several, names kept", "anyarch copy busybox:1 alpine:3 reg.example.com/mirror/"),
        (
            "One platform for docker load",
            "anyarch copy -p linux/arm64 busybox docker-archive://b.tar:busybox",
        ),
        ("Into this machine's docker", "anyarch copy store://app:1 docker-daemon://app:1"),
    ),
)


def run(parsed: Parsed) -> int:
    """Raises what `anyarch.imagetools.copy` raises."""
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.transfers import connecting, transferring
    from anyarch.engine import grammar
    from anyarch.imagetools.copy import CopyRequest, copy
    from anyarch.progress.trace import format_bytes
    from anyarch.spec.platform import Platform

    *sources, target = parsed.args
    names, _ = grammar.platforms(parsed.texts("platform"))
    request = CopyRequest(
        sources=tuple(sources),
        target=target,
        platforms=tuple(Platform.parse(name) for name in names),
        referrers="referrers" not in parsed.given or parsed.switch("referrers"),
    )
    quiet = parsed.switch("quiet")
    with transferring(parsed, quiet=quiet) as (emit, cancel):
        copied = copy(request, connect=connecting(emit), on_event=emit, cancel=cancel)
    for item in copied:
        print(item.digest)
        if not quiet:
            totals = item.totals
            print(
                f"{', '.join(item.names)}: {totals.moved_blobs} of {totals.blobs} blobs moved "
                f"({format_bytes(totals.moved_bytes)}), {totals.documents} manifests",
                file=stderr(),
            )
    return 0
