"""`anyarch history inspect attachment`: one of the documents that a build left with its node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.cli.history import REF_HELP
from anyarch.errors import BuilderError, UsageError
from anyarch.spec.intoto import SLSA_PROVENANCE, SPDX

if TYPE_CHECKING:
    from anyarch.builder.history import Entry
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "history inspect attachment",
    summary="Inspect a build record attachment",
    usage="history inspect attachment [OPTIONS] [REF [DIGEST]]",
    description="Print a document of a build: an index, a manifest, provenance, an SBOM.",
    arguments=(REF_HELP, ("DIGEST", "digest of the document, as `history inspect` shows it")),
    most=2,
    flags=(
        Flag("platform", "Platform of attachment", metavar="OS/ARCH[/VARIANT]"),
        Flag(
            "type",
            "Type of attachment: index, manifest, image, provenance, sbom, a media type or a predicate type",
            metavar="TYPE",
        ),
    ),
)

_TYPES = {
    "index": ("application/vnd.oci.image.index.v1+json",),
    "manifest": ("application/vnd.oci.image.manifest.v1+json",),
    "image": ("application/vnd.oci.image.config.v1+json",),
    "provenance": (f"{SLSA_PROVENANCE}v1", f"{SLSA_PROVENANCE}v0.2"),
    "sbom": (SPDX,),
}


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.history import read_attachment
    from anyarch.cli.history import chosen_record
    from anyarch.spec.digest import Digest

    digest = str(Digest(parsed.args[1])) if len(parsed.args) > 1 else ""
    platform, kind = parsed.text("platform") or "", parsed.text("type") or ""
    if not (digest or platform or kind):
        raise UsageError("at least one of --type, --platform or DIGEST must be specified")
    entry = chosen_record(parsed)
    raw = asyncio.run(read_attachment(entry, digest or _find(entry, platform, kind)))
    sys.stdout.buffer.write(raw)
    return 0


def _find(entry: Entry, platform: str, kind: str) -> str:
    import asyncio

    from anyarch.builder.history import inspect_record
    from anyarch.spec.platform import Platform

    wanted = str(Platform.parse(platform)) if platform else ""
    types = _TYPES.get(kind, (kind,))
    found = asyncio.run(inspect_record(entry)).attachments
    for item in found:
        if (not wanted or item.platform == wanted) and (not kind or item.type in types):
            return item.digest
    listed = ", ".join(dict.fromkeys(f"{item.type} {item.platform}".strip() for item in found))
    raise BuilderError(
        f'no matching attachment found for ref "{entry.record.ref}"', hint=f"there is {listed or 'none'}"
    )
