"""`anyarch merge`: parts that were built on several machines become one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed
    from anyarch.imagetools.merge import MergeRequest

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "merge",
    summary="Join parts that were built apart to one image",
    usage="merge [OPTIONS] [PART...]",
    description=(
        "Join images of several platforms to one index. Each PART was made by `anyarch build --part DIR`, "
        "or is any layout or reference. The index is the one that a single build of all platforms makes. "
        "With --push it is merged into what NAME has: a platform that is there is replaced, others stay, "
        "and several merges may run at the same time on different machines. Two different images for one "
        "platform are refused."
    ),
    arguments=(
        (
            "PART",
            "directory of `build --part`, OCI layout (directory or tar), reference, or store://NAME",
        ),
    ),
    least=0,
    most=None,
    flags=(
        Flag(
            "annotation",
            "Add an annotation: index:KEY=VALUE or manifest-descriptor[PLATFORM]:KEY=VALUE",
            metavar="TYPE:KEY=VALUE",
            repeat=True,
        ),
        Flag("keep", "How long published parts stay beside the tag (default: 1h)", metavar="DURATION"),
        Flag("metadata-file", "Write what was made to a file, as JSON", metavar="PATH", complete="file"),
        Flag("only", "Keep nothing of what NAME has"),
        Flag(
            "output",
            "Write an OCI layout into a directory",
            short="o",
            metavar="DIR",
            complete="directory",
        ),
        Flag(
            "platform",
            "Take these platforms only, in this order",
            metavar="OS/ARCH[/VARIANT],...",
            repeat=True,
        ),
        Flag("progress", "How progress is shown: auto, none, plain, rawjson, tty", metavar="MODE"),
        Flag("push", "Push to the registries of the names"),
        Flag("remove", "Take a platform out of NAME", metavar="OS/ARCH[/VARIANT],...", repeat=True),
        Flag(
            "tag",
            "Name of the image, in a registry or oci-layout://PATH[:TAG]",
            short="t",
            metavar="NAME",
            repeat=True,
        ),
    ),
    examples=(
        ("Parts of two runners", "anyarch merge out-amd64 out-arm64 -t reg.example.com/app:1 --push"),
        ("On each runner, in any order", "anyarch merge out -t reg.example.com/app:1 --push"),
        ("Without a platform", "anyarch merge -t reg.example.com/app:1 --push --remove linux/s390x"),
    ),
)


def run(parsed: Parsed) -> int:
    """Raises what `anyarch.imagetools.merge` raises."""
    from anyarch.cli.transfers import connecting, transferring
    from anyarch.imagetools.merge import merge

    request = _request(parsed)
    with transferring(parsed) as (emit, cancel):
        result = merge(request, connect=connecting(emit), on_event=emit, cancel=cancel)
    for name, digest in result.tags.items():
        print(f"{name} {digest}")
    path = parsed.text("metadata-file")
    if path:
        import msgspec

        from anyarch.cli.results import write_file

        digests = set(result.tags.values())
        values = {
            "containerimage.digest": digests.pop() if len(digests) == 1 else str(result.blob.digest),
            "image.name": ",".join(result.tags),
        }
        if values["containerimage.digest"] == result.blob.digest:
            values["containerimage.descriptor"] = msgspec.to_builtins(result.blob.descriptor())
        text = msgspec.json.format(msgspec.json.encode(values, order="sorted", enc_hook=str), indent=2)
        write_file(path, text, what="metadata file")
    return 0


def _request(parsed: Parsed) -> MergeRequest:
    from anyarch.engine import grammar
    from anyarch.imagetools.combine import Annotation
    from anyarch.imagetools.merge import MergeRequest
    from anyarch.spec.platform import Platform

    def platforms(name: str) -> tuple[Platform, ...]:
        names, _ = grammar.platforms(parsed.texts(name))
        return tuple(Platform.parse(text) for text in names)

    keep = parsed.text("keep")
    keep_s = 3600.0
    if keep is not None:
        from anyarch.store.policy import parse_duration

        keep_s = parse_duration(keep)
        if keep_s < 60:
            raise UsageError(
                f"--keep {keep}: too short", hint="other merges may still be reading parts; at least 1m"
            )
    return MergeRequest(
        sources=tuple(parsed.args),
        tags=tuple(parsed.texts("tag")),
        output=parsed.text("output") or "",
        push=parsed.switch("push"),
        platforms=platforms("platform"),
        annotations=tuple(
            Annotation(a.key, a.value, a.kind, Platform.parse(a.platform) if a.platform else None)
            for a in grammar.image_annotations(parsed.texts("annotation"))
        ),
        remove=platforms("remove"),
        only=parsed.switch("only"),
        keep_s=keep_s,
    )
