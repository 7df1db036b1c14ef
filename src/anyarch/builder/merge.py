"""What several nodes have to give, so that their results become one, and how they do: pure about the
requests, the writing is `engine.combine`'s.

An image that is pushed is pushed by every node under its digest only, then one index under the names.
Archives come as one OCI archive a node, files as one directory a platform.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.attributes import flag
from anyarch.engine.options import annotation_of, annotations_of, image_names
from anyarch.engine.request import BuildResult, Output, PlatformResult
from anyarch.errors import OutputError, UsageError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.engine.request import BuildRequest
    from anyarch.spec.oci import Blob, Descriptor

__all__ = ["Part", "check", "merge", "part_request"]


class Part(msgspec.Struct, frozen=True):
    """What one node built: the platforms, the directory of its archives, and what it answered."""

    platforms: tuple[Platform, ...]
    directory: str
    result: BuildResult


def _is_push(output: Output) -> bool:
    return output.type == "registry" or (output.type == "image" and flag(output.attrs, "push", default=False))


def check(request: BuildRequest) -> None:
    """Raises `UsageError` or `OutputError` for outputs that several platforms on several nodes cannot
    give."""
    for output in request.outputs:
        if _is_push(output) and not image_names(request, output):
            raise UsageError("tag is needed when pushing to registry", hint="name the image with --tag")
        if output.type == "docker":
            _check_docker(output)
        if output.type == "local" and output.attrs.get("mode", "copy") != "copy":
            raise UsageError(
                "mode=delete of output type=local is not for builds on several nodes",
                hint="each of them would remove what the others made; build on one with --builder",
            )


def _check_docker(output: Output) -> None:
    from anyarch.source.engines import find_engine

    if output.dest is None and find_engine().takes_indexes:
        return
    raise OutputError(
        "docker exporter does not currently support exporting manifest lists",
        hint="choose one --platform, use type=oci or --push for several, or let docker use the image store "
        "of containerd",
    )


def part_request(request: BuildRequest, platforms: Sequence[Platform], directory: str) -> BuildRequest:
    """What one node is asked for; its archives go into `directory`."""
    outputs = [
        _part_output(request, _for_platforms(output, platforms), directory, number)
        for number, output in enumerate(request.outputs)
    ]
    return msgspec.structs.replace(
        request,
        annotations=tuple(
            item for item in request.annotations if _is_for(item.kind, item.platform, platforms)
        ),
        platforms=tuple(str(platform) for platform in platforms),
        multi_platform=True,
        outputs=tuple(outputs),
        tags=() if request.outputs else request.tags,
    )


def _is_for(kind: str, platform: str, platforms: Sequence[Platform]) -> bool:
    """Whether an annotation is one that the builds for `platforms` make: those of the index come with the
    merge."""
    return not kind.startswith("index") and (not platform or Platform.parse(platform) in platforms)


def _for_platforms(output: Output, platforms: Sequence[Platform]) -> Output:
    attrs = {}
    for name, value in output.attrs.items():
        note = annotation_of(name, value) if name.startswith("annotation") else None
        if note is None or _is_for(note.kind, note.platform, platforms):
            attrs[name] = value
    return Output(output.type, output.dest, attrs)


def _archive(directory: str, number: int) -> str:
    return os.path.join(directory, f"{number}.tar")


def _part_output(request: BuildRequest, output: Output, directory: str, number: int) -> Output:
    attrs = dict(output.attrs)
    if _is_push(output):
        names = [name.with_tag("") for name in image_names(request, output)]
        repositories = dict.fromkeys(name.name for name in names)
        attrs |= {"name": ",".join(repositories), "push": "true", "push-by-digest": "true"}
        return Output("image", None, attrs)
    if output.type in ("oci", "docker"):
        for name in ("tar", "name", "context"):
            attrs.pop(name, None)
        return Output("oci", _archive(directory, number), attrs)
    if output.type == "tar":
        return Output("tar", _archive(directory, number), attrs)
    if output.type == "local":
        return Output("local", output.dest, {"platform-split": "true", **attrs})
    return output


def merge(
    request: BuildRequest,
    parts: Sequence[Part],
    wanted: Sequence[Platform],
    *,
    on_step: Callable[[str], None],
) -> BuildResult:
    """Make every output of `request` out of `parts`. Blocking. Raises `AnyarchError`."""
    from anyarch.engine.combine import combine_files, combine_layouts

    names: dict[str, None] = {}
    descriptor: Descriptor | None = None
    digests: dict[Platform, str] = {}
    for number, output in enumerate(request.outputs):
        given = image_names(request, output) if output.type not in ("local", "tar", "cacheonly") else []
        archives = [(part.platforms, _archive(part.directory, number)) for part in parts]
        if _is_push(output):
            descriptor, digests = _push(request, output, parts, wanted, on_step)
        elif output.type in ("oci", "docker"):
            descriptor, index = combine_layouts(
                output,
                archives,
                wanted,
                annotations=annotations_of(request, output),
                names=given,
                on_step=on_step,
            )
            digests = _digests_of(index)
        elif output.type == "tar":
            combine_files(output, archives)
            on_step("sending tarball")
        names.update(dict.fromkeys(str(name) for name in given))
    return _result(parts, wanted, descriptor, digests, list(names))


def _push(
    request: BuildRequest,
    output: Output,
    parts: Sequence[Part],
    wanted: Sequence[Platform],
    on_step: Callable[[str], None],
) -> tuple[Descriptor, dict[Platform, str]]:
    """Push the index of what the nodes have pushed under every name, unless only digests are wanted."""
    from anyarch.engine.combine import merged_index
    from anyarch.registry.client import Registry
    from anyarch.registry.credentials import Credentials
    from anyarch.registry.hosts import Hosts
    from anyarch.spec.digest import Digest

    names = image_names(request, output)
    hosts = Hosts.load()
    if flag(output.attrs, "registry.insecure", default=False):
        for name in names:
            hosts = hosts.with_insecure(name.domain)
    registry = Registry(hosts, Credentials())
    try:
        made: list[tuple[tuple[Platform, ...], Blob]] = []
        for part in parts:
            if not part.result.digest:
                raise OutputError("a node did not tell the digest of what it pushed")
            made.append((part.platforms, registry.manifest(names[0], Digest(part.result.digest))))
        index, descriptor = merged_index(made, wanted, annotations_of(request, output))
        on_step(f"exporting manifest list {index.digest}")
        by_digest = flag(output.attrs, "push-by-digest", default=False)
        for name in names:
            registry.push_manifest(name, index, tag=None if by_digest else name.tag)
            on_step(f"pushing manifest for {name.name}:{name.tag}@{index.digest}")
        return descriptor, _digests_of(index)
    finally:
        registry.close()


def _digests_of(index: Blob) -> dict[Platform, str]:
    """The manifest of each platform."""
    from anyarch.spec.oci import Index, decode

    manifests = decode(Index, index.raw).manifests
    return {Platform.of_spec(item.platform): item.digest for item in manifests if item.platform is not None}


def _result(
    parts: Sequence[Part],
    wanted: Sequence[Platform],
    descriptor: Descriptor | None,
    digests: dict[Platform, str],
    names: list[str],
) -> BuildResult:
    told = {item.platform: item for part in parts for item in part.result.platforms}
    platforms = []
    for platform in wanted:
        item = told.get(str(platform)) or PlatformResult(platform=str(platform))
        platforms.append(msgspec.structs.replace(item, digest=digests.get(platform) or item.digest))
    metadata = {
        key: value
        for part in reversed(parts)  # of what several tell, that of the first is kept
        for key, value in part.result.metadata.items()
        if not key.startswith("containerimage.")
    }
    return BuildResult(
        digest=descriptor.digest if descriptor is not None else None,
        descriptor=msgspec.to_builtins(descriptor) if descriptor is not None else None,
        image_names=tuple(names),
        platforms=tuple(platforms),
        metadata=metadata,
        warnings=sum(part.result.warnings for part in parts),
        emulated_s=sum(part.result.emulated_s for part in parts),
        movable_stages=tuple(dict.fromkeys(name for part in parts for name in part.result.movable_stages)),
    )
