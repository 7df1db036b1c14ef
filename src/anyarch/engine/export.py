"""The outputs of one build: each assembled once, written, loaded or pushed, with progress."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from anyarch.engine.attributes import compression_of, flag
from anyarch.engine.options import annotation_of, annotations_of, epoch_of, image_names
from anyarch.engine.request import BuildResult, Output
from anyarch.engine.request import PlatformResult as PlatformSummary
from anyarch.errors import BuildError, OutputError, UsageError
from anyarch.exporter.assemble import ImageOptions, assemble
from anyarch.exporter.timestamp import format_time
from anyarch.solver.work import Work
from anyarch.spec.digest import Digest
from anyarch.spec.media import layer_compression
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from anyarch.archive.entry import Entry
    from anyarch.engine.request import Annotation, BuildRequest
    from anyarch.exporter.assemble import AssembledImage, InlineCache, PlatformResult
    from anyarch.exporter.files import PlatformTree
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.solver.events import EventSink
    from anyarch.spec.oci import Descriptor
    from anyarch.store.content import ContentStore
    from anyarch.store.store import Store
    from anyarch.worker.worker import Worker

__all__ = ["Exporter", "Receiver", "stored_image", "to_file"]


class Receiver(Protocol):
    """Takes the outputs of a build. Called on threads; `number` is the output's position."""

    def file(
        self, number: int, metadata: dict[str, str], *, may_exist: bool = False
    ) -> AbstractContextManager[Callable[[bytes | memoryview], object]]:
        """Where an archive is written to; leaving by an exception drops it. With `may_exist` a client that
        has it already, and takes nothing, is no error."""
        ...

    def directory(
        self, number: int, files: list[tuple[Entry, TreeView | None, Node]], *, is_split: bool
    ) -> None:
        """Put these files where the client wants them."""
        ...

    def layout(self, number: int, image: AssembledImage, content: ContentStore) -> None:
        """Put an image, whose blobs `content` has, into the client's content store (`tar=false`)."""
        ...


_TITLES = {
    "image": "exporting to image",
    "registry": "exporting to image",
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
}


def stored_image(store: Store, name: Reference) -> dict[str, Any] | None:
    """What the local store has under a name: the OCI descriptor of its index or manifest."""
    raw = store.cache.get_value("image", str(name))
    found = json.loads(raw) if raw is not None else None
    return found if isinstance(found, dict) else None


class Exporter:
    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        worker: Worker,
        emit: EventSink,
        *,
        epoch: int | None = None,
        receiver: Receiver | None = None,
        metadata: Mapping[str, bytes] | None = None,
    ) -> None:
        """`epoch` is SOURCE_DATE_EPOCH in seconds, if there is one. `metadata` is what the frontend says of
        its result. `receiver` takes the files of outputs for
        a client that is not here; without one they go to the output's `dest`."""
        self._receiver = receiver
        self.digests: dict[int, Descriptor] = {}
        """What each image output of the request became, by its position."""
        self._epoch = epoch
        self._metadata = metadata or {}
        self._request = request
        self._store = store
        self._layers = worker.layers
        self._worker = worker
        self._emit = emit
        self.names: list[str] = []
        """Those of the last image output."""
        self._assembled: dict[tuple[ImageOptions, bool], AssembledImage] = {}
        self.inline: InlineCache | None = None
        """Adds a build cache to the configs of images (`--cache-to type=inline`)."""

    async def export(
        self, results: Sequence[PlatformResult], *, multi_platform: bool, warnings: int
    ) -> BuildResult:
        outputs = list(self._request.outputs)
        if not outputs and self._request.tags:
            outputs = [Output("image")]
        image: AssembledImage | None = None
        names: dict[str, None] = {}
        for number, output in enumerate(outputs):
            if output.type == "cacheonly":
                continue
            name = _TITLES.get(output.type, f"exporting to {output.type}")
            progress = Work(self._emit, name, identity=f"export-{number}-{name}")
            try:
                if output.type in ("local", "tar"):
                    await self._files(output, number, results, progress, multi_platform)
                else:
                    image, given = await self._image(output, number, results, progress, multi_platform)
                    self.digests[number] = image.descriptor
                    self.names = [str(name) for name in given]
                    names.update(dict.fromkeys(self.names))
            except BaseException as error:
                progress.done(str(error) or "context canceled")
                raise
            progress.done()
        return self._summary(image, list(names), results, warnings)

    def _summary(
        self,
        image: AssembledImage | None,
        names: list[str],
        results: Sequence[PlatformResult],
        warnings: int,
    ) -> BuildResult:
        if image is None:
            platforms = tuple(PlatformSummary(platform=str(r.platform)) for r in results)
            return BuildResult(platforms=platforms, warnings=warnings)
        platforms = tuple(
            PlatformSummary(
                platform=str(item.platform),
                digest=item.manifest.digest,
                config_digest=item.config.digest,
                size=item.size,
            )
            for item in image.platforms
        )
        return BuildResult(
            digest=image.root.digest,
            config_digest=image.platforms[0].config.digest if image.index is None else None,
            descriptor=msgspec.to_builtins(image.descriptor),
            image_names=tuple(names),
            platforms=platforms,
            warnings=warnings,
        )

    # images ---------------------------------------------------------------------------------------

    def _options(self, output: Output, multi_platform: bool) -> ImageOptions:
        epoch = epoch_of(output.attrs, self._epoch)
        compression = compression_of(output.attrs)
        oci = flag(output.attrs, "oci-mediatypes", default=True)
        return ImageOptions(
            compression,
            force_compression=flag(output.attrs, "force-compression", default=False),
            oci_media_types=oci,
            epoch=epoch,
            rewrite_timestamp=flag(output.attrs, "rewrite-timestamp", default=False),
            multi_platform=multi_platform,
            annotations=annotations_of(self._request, output, _annotations(self._metadata)),
            prefer_nondist_layers=flag(output.attrs, "prefer-nondist-layers", default=False),
        )

    async def _image(
        self,
        output: Output,
        number: int,
        results: Sequence[PlatformResult],
        progress: Work,
        multi_platform: bool,
    ) -> tuple[AssembledImage, list[Reference]]:
        is_part = flag(output.attrs, "part", default=False)
        options = self._options(output, multi_platform or is_part)
        names = image_names(self._request, self._named(output))
        several = len(results) > 1 or multi_platform or is_part
        if any(result.attestations for result in results):
            results = _attested(output, results, is_index=several)
            several = several or any(result.attestations for result in results)
            options = await self._attesting(output, options, results, names)
        if output.type == "docker" and several and output.dest is not None:
            raise OutputError(
                "docker exporter does not currently support exporting manifest lists",
                hint="choose one --platform, and no --provenance or --sbom; or use type=oci or --push",
            )
        key = (options, any(result.attestations for result in results))
        image = self._assembled.get(key)
        if image is None:
            if options.rewrite_timestamp or options.force_compression:
                await self._fetch_remote(results, options)
            image = await assemble(
                self._store,
                self._layers,
                results,
                options,
                on_step=progress.step,
                inline=self.inline,
                on_thread=self._worker.in_cpu,
            )
            self._assembled[key] = image
        push = output.type == "registry" or flag(output.attrs, "push", default=False)
        by_digest = flag(output.attrs, "push-by-digest", default=False)
        if output.type in ("image", "registry"):
            names, is_canonical = _with_dangling(output.attrs, names, image)
            if push:
                if not names:
                    raise UsageError(
                        "tag is needed when pushing to registry", hint="name the image with --tag"
                    )
                await self._push(output, image, names, by_digest, progress)
            if flag(output.attrs, "store", default=True) and not by_digest:
                self._record(image, names, progress, is_canonical=is_canonical)
            if flag(output.attrs, "unpack", default=False):
                await self._unpack(results)
                progress.step("unpacking")
            return image, [name.with_tag("") for name in names] if by_digest else names
        await self._fetch_bases(image)
        created = format_time(options.epoch) if options.epoch is not None else _created(image)
        docker = output.type == "docker"
        if docker and output.dest is None and self._receiver is None:
            from anyarch.exporter.load import load

            await asyncio.to_thread(
                load, self._store.content, image, names, progress.step, is_index=image.index is not None
            )
            return image, names
        await asyncio.to_thread(self._layout, output, number, image, names, docker, created)
        progress.step("sending tarball")
        return image, names

    async def _attesting(
        self,
        output: Output,
        options: ImageOptions,
        results: Sequence[PlatformResult],
        names: Sequence[Reference],
    ) -> ImageOptions:
        """The options for an image with attestations; what they need of it is brought here. Raises
        `BuildError`."""
        found = [item for result in results for item in result.attestations]
        if not found:
            return options
        if not options.oci_media_types:
            raise BuildError(
                'cannot export attestations with "oci-mediatypes=false"',
                hint="leave out oci-mediatypes=false, or build with --provenance=false and without --sbom",
            )
        if any(item.is_core for item in found):
            from anyarch.worker.result import SnapshotResult

            for result in results:
                await self._worker.ensure_local(SnapshotResult(result.layers))
        return msgspec.structs.replace(
            options,
            names=tuple(str(name) for name in names),
            oci_artifact=flag(output.attrs, "oci-artifact", default=True),
        )

    def _named(self, output: Output) -> Output:
        """`name=*` is the name that the frontend gives its result."""
        if output.attrs.get("name") != "*":
            return output
        name = self._metadata.get("image.name", b"").decode("utf-8", "replace")
        return msgspec.structs.replace(output, attrs={**output.attrs, "name": name})

    async def _push(
        self,
        output: Output,
        image: AssembledImage,
        names: list[Reference],
        by_digest: bool,
        progress: Work,
    ) -> None:
        from anyarch.exporter.push import push

        if flag(output.attrs, "registry.insecure", default=False):
            self._worker.allow_insecure({name.domain for name in names})
        await push(self._worker, image, names, by_digest=by_digest, on_step=progress.step)

    def _record(
        self,
        image: AssembledImage,
        names: Sequence[Reference],
        progress: Work,
        *,
        is_canonical: bool,
    ) -> None:
        """Name the image in the store; `is_canonical`: also by name and digest."""
        raw = msgspec.json.encode(image.descriptor)
        for name in names:
            self._store.cache.set_value("image", str(name), raw)
            if is_canonical and name.digest is None:
                self._store.cache.set_value("image", str(name.with_digest(image.root.digest)), raw)
            progress.step(f"naming to {name}")

    async def _unpack(self, results: Sequence[PlatformResult]) -> None:
        """Make the directories that a step or `anyarch run` would mount."""
        from anyarch.worker.result import SnapshotResult

        for result in results:
            chain = SnapshotResult(result.layers)
            await self._worker.ensure_local(chain)
            await asyncio.to_thread(self._worker.directories, chain)

    async def _fetch_remote(self, results: Sequence[PlatformResult], options: ImageOptions) -> None:
        """Layers that are elsewhere and are to be written anew: with a new compression all that have another
        one, with new times those of steps."""
        from anyarch.worker.result import SnapshotResult

        def is_rewritten(layer_id: str) -> bool:
            layer = self._layers.get(layer_id)
            if options.rewrite_timestamp and not self._layers.is_base(layer):
                return True
            places = self._layers.remote(layer) if options.force_compression else []
            kinds = {layer_compression(descriptor.media_type) for descriptor, _ in places}
            return bool(kinds) and options.compression.type not in kinds

        layers = dict.fromkeys(layer for result in results for layer in result.layers)
        wanted = tuple(layer for layer in layers if is_rewritten(layer))
        await self._worker.ensure_local(SnapshotResult(wanted))

    async def _fetch_bases(self, image: AssembledImage) -> None:
        """Layers of base images that so far are only known: an archive has to hold them."""

        def fetch(layer_id: str, digest: str) -> None:
            places = self._layers.remote(self._layers.get(layer_id))
            for descriptor, origin in places:
                if descriptor.digest == digest:
                    self._worker.fetch_from(origin, descriptor, "")
                    return

        wanted = {
            layer.digest: layer_id
            for item in image.platforms
            for layer, layer_id in zip(item.layers, item.layer_ids, strict=True)
            if not self._store.content.has(Digest(layer.digest))
        }
        await asyncio.gather(
            *(self._worker.in_network(fetch, layer, digest) for digest, layer in wanted.items())
        )

    def _layout(
        self,
        output: Output,
        number: int,
        image: AssembledImage,
        names: Sequence[Reference],
        docker: bool,
        created: str | None,
    ) -> None:
        from anyarch.exporter.layout import write_layout_directory, write_layout_tar

        content = self._store.content
        if self._receiver is not None:
            if not flag(output.attrs, "tar", default=True):
                self._receiver.layout(number, image, content)
                return
            metadata: dict[str, str] = {"containerimage.digest": image.root.digest}
            if names:
                metadata["image.name"] = ",".join(str(name) for name in names)
            with self._receiver.file(number, metadata, may_exist=True) as write:
                write_layout_tar(content, image, names, write, docker=docker, created=created)
            return
        if not flag(output.attrs, "tar", default=True):
            if output.dest is None or output.dest == "-":
                raise UsageError(f"output type={output.type},tar=false needs a directory as dest")
            write_layout_directory(content, image, names, Path(output.dest), docker=docker, created=created)
            if flag(output.attrs, "part", default=False):
                from anyarch.exporter.part import write_part_record

                write_part_record(Path(output.dest), image)
            return
        to_file(
            output,
            lambda sink: write_layout_tar(content, image, names, sink, docker=docker, created=created),
        )

    # files ----------------------------------------------------------------------------------------

    async def _files(
        self,
        output: Output,
        number: int,
        results: Sequence[PlatformResult],
        progress: Work,
        multi_platform: bool,
    ) -> None:
        from anyarch.exporter.files import PlatformTree, files_of, write_directory, write_tar
        from anyarch.worker.result import SnapshotResult

        epoch = epoch_of(output.attrs, self._epoch)
        chains = [SnapshotResult(result.layers) for result in results]
        for chain in chains:
            await self._worker.ensure_local(chain)
        if any(result.attestations for result in results):
            from anyarch.exporter.attestedfiles import with_attestations

            is_split = flag(output.attrs, "platform-split", default=True)
            chains = [
                await asyncio.to_thread(
                    with_attestations,
                    self._worker,
                    chain,
                    _written(result),
                    prefix=output.attrs.get("attestation-prefix", ""),
                    by_platform=multi_platform and not is_split,
                )
                for result, chain in zip(results, chains, strict=True)
            ]
        trees = [
            PlatformTree(result.platform, self._worker.view(chain))
            for result, chain in zip(results, chains, strict=True)
        ]
        several = len(results) > 1 or multi_platform
        split = flag(output.attrs, "platform-split", default=several)
        if output.type == "tar":
            split = several  # whatever the attribute says, as in BuildKit
            if self._receiver is not None:
                await asyncio.to_thread(self._send_tar, number, trees, split, epoch)
                progress.step("sending tarball")
                return
            await asyncio.to_thread(
                to_file, output, lambda sink: write_tar(trees, sink, split=split, epoch=epoch)
            )
            progress.step("sending tarball")
            return
        if self._receiver is not None:
            found = await asyncio.to_thread(files_of, trees, split=split, epoch=epoch)
            await asyncio.to_thread(self._receiver.directory, number, found, is_split=split and several)
            progress.step("copying files")
            return
        if output.dest is None:
            raise UsageError("output type=local needs dest")
        delete = output.attrs.get("mode", "").strip().lower() == "delete"
        await asyncio.to_thread(
            write_directory, trees, Path(output.dest), split=split, epoch=epoch, delete=delete
        )
        progress.step("copying files")

    def _send_tar(self, number: int, trees: list[PlatformTree], split: bool, epoch: int | None) -> None:
        from anyarch.exporter.files import write_tar

        assert self._receiver is not None
        with self._receiver.file(number, {}) as write:
            write_tar(trees, write, split=split, epoch=epoch)


def _attested(
    output: Output, results: Sequence[PlatformResult], *, is_index: bool
) -> Sequence[PlatformResult]:
    """The results with the attestations that this output takes: those that are only for images need an index
    that is made anyway, or an output that makes one for them."""
    takes_all = flag(output.attrs, "attestation-inline", default=output.type in ("image", "registry"))
    items = [item for result in results for item in result.attestations]
    if is_index or any(takes_all or not item.inline_only for item in items):
        return results
    return [msgspec.structs.replace(result, attestations=()) for result in results]


def _written(result: PlatformResult) -> PlatformResult:
    """With what its attestations say."""
    written = [
        msgspec.structs.replace(item, predicate=item.content(), make=None)
        for item in result.attestations
        if not item.inline_only
    ]
    return msgspec.structs.replace(result, attestations=tuple(written))


def _annotations(metadata: Mapping[str, bytes]) -> list[Annotation]:
    found = (annotation_of(key, value.decode("utf-8", "replace")) for key, value in sorted(metadata.items()))
    return [item for item in found if item is not None]


def _with_dangling(
    attrs: dict[str, str], names: list[Reference], image: AssembledImage
) -> tuple[list[Reference], bool]:
    """The names of an image with that of `dangling-name-prefix`, and whether they are to be had with the
    digest too."""
    is_canonical = flag(attrs, "name-canonical", default=False)
    prefix = attrs.get("dangling-name-prefix", "")
    if prefix and not (names and flag(attrs, "danging-name-empty-only", default=False)):
        dangling = Reference.parse(f"{prefix}@{image.root.digest}")
        return [*names, dangling], is_canonical and bool(names)
    return names, is_canonical


def _created(image: AssembledImage) -> str | None:
    """The newest creation time of the image's platforms."""
    found = [json.loads(item.config.raw).get("created") for item in image.platforms]
    return max((text for text in found if text), default=None)


def to_file(output: Output, write: Callable[[Callable[[bytes | memoryview], object]], None]) -> None:
    """Write an archive to a file, complete or not at all, or to standard output."""
    from anyarch.store.whole_file import clear_leftovers, output_error, whole_file

    if output.dest is None:
        raise UsageError(f"output type={output.type} needs dest")
    if output.dest == "-":
        write(sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    path = Path(output.dest)
    if path.is_dir():
        raise OutputError(f"destination file {output.dest} is a directory")
    try:
        if path.parent.is_dir():
            clear_leftovers(path.parent)
        with whole_file(path) as out:
            write(out.write)
    except BrokenPipeError:
        raise  # of a pipe that dest names: whoever reads it has had enough
    except OSError as error:
        raise output_error(error, path) from error
