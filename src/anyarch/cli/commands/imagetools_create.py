"""`anyarch imagetools create`: one image out of others, without building."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed
    from anyarch.imagetools.combine import Combined
    from anyarch.imagetools.create import CreateRequest
    from anyarch.solver.events import EventSink

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "imagetools create",
    summary="Make an index out of images that are there already",
    usage="imagetools create [OPTIONS] [SOURCE...]",
    description=(
        "Join images and indexes to one index and push it under every tag. What the tags' repositories lack "
        "is copied there, attestations and signatures included; nothing is downloaded that need not be."
    ),
    arguments=(
        (
            "SOURCE",
            "reference, digest in the tag's repository, descriptor as JSON, or oci-layout://PATH[:TAG][@DIGEST]",
        ),
    ),
    least=0,
    most=None,
    flags=(
        Flag(
            "annotation",
            "Add an annotation to the index or the entries of manifests",
            metavar="[TYPE:]KEY=VALUE",
            repeat=True,
        ),
        Flag("append", "Keep what the first tag names now, and add the sources"),
        Flag("dry-run", "Print the index, push nothing"),
        Flag(
            "file",
            "Read a source's descriptor from a file",
            short="f",
            metavar="PATH",
            repeat=True,
            complete="file",
        ),
        Flag("metadata-file", "Write what was made to a file, as JSON", metavar="PATH", complete="file"),
        Flag(
            "platform", "Keep only these platforms", short="p", metavar="OS/ARCH[/VARIANT],...", repeat=True
        ),
        Flag(
            "prefer-index",
            "Make an index of a single manifest too (default: true; false: copy it)",
        ),
        Flag("progress", "How progress is shown: auto, none, plain, rawjson, tty", metavar="MODE"),
        Flag(
            "tag",
            "Name of the result, in a registry or oci-layout://PATH[:TAG]",
            short="t",
            metavar="NAME",
            repeat=True,
        ),
    ),
    examples=(
        (
            "Two platforms that were built apart",
            "anyarch imagetools create -t reg.example.com/app:1 reg.example.com/app:amd64 "
            "reg.example.com/app:arm64",
        ),
        ("Another name", "anyarch imagetools create -t reg.example.com/app:stable reg.example.com/app:1"),
    ),
)


def run(parsed: Parsed) -> int:
    """Raises what `anyarch.imagetools.create` raises."""
    from anyarch.cli.dispatch import stderr

    request = _request(parsed)
    if request.dry_run:
        result = _create(request, None)
        sys.stdout.write(result.blob.raw.decode() + "\n")
        return 0
    from anyarch.cli.transfers import connecting, transferring

    with transferring(parsed) as (emit, cancel):
        from anyarch.imagetools.create import create

        result = create(request, connect=connecting(emit), on_event=emit, cancel=cancel)
    for line in result.warnings:
        print(f"WARNING: {line}", file=stderr())
    path = parsed.text("metadata-file")
    if path:
        _write_metadata(path, result, request)
    return 0


def _create(request: CreateRequest, emit: EventSink | None) -> Combined:
    from anyarch.imagetools.create import create

    return create(request, on_event=emit)


def _request(parsed: Parsed) -> CreateRequest:
    from anyarch.engine import grammar
    from anyarch.imagetools.combine import Annotation
    from anyarch.imagetools.create import CreateRequest
    from anyarch.spec.platform import Platform

    files = []
    for path in parsed.texts("file"):
        try:
            with open(path, encoding="utf-8") as file:
                files.append(file.read())
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or "").lower() if isinstance(error, OSError) else "it is no text"
            raise UsageError(f"open {path}: {reason}") from None
    names, _ = grammar.platforms(parsed.texts("platform"))
    return CreateRequest(
        sources=(*files, *parsed.args),
        tags=tuple(parsed.texts("tag")),
        annotations=tuple(
            Annotation(a.key, a.value, a.kind, Platform.parse(a.platform) if a.platform else None)
            for a in grammar.image_annotations(parsed.texts("annotation"))
        ),
        platforms=tuple(Platform.parse(name) for name in names),
        append=parsed.switch("append"),
        prefer_index="prefer-index" not in parsed.given or parsed.switch("prefer-index"),
        dry_run=parsed.switch("dry-run"),
    )


def _write_metadata(path: str, result: Combined, request: CreateRequest) -> None:
    import msgspec

    from anyarch.cli.results import write_file
    from anyarch.imagetools.places import parse_place
    from anyarch.spec.reference import Reference

    places = [parse_place(text) for text in request.tags]
    names = {p.name if isinstance(p, Reference) else os.fspath(str(p)) for p in places}
    values = {
        "containerimage.descriptor": msgspec.to_builtins(result.descriptor),
        "image.name": ",".join(sorted(names)),
    }
    text = msgspec.json.format(msgspec.json.encode(values, order="sorted", enc_hook=str), indent=2)
    write_file(path, text, what="metadata file")
