"""Source operations: images, local directories, uploads and URLs. Their results are cheap to make again."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from anyarch.errors import BuildError, ContextError, DigestMismatch, NotSupported
from anyarch.solver.vertex import CacheMap
from anyarch.source.local import LocalFiles
from anyarch.spec.digest import Digest
from anyarch.spec.number import natural
from anyarch.spec.reference import Reference
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.llb.ops import SourceOp
    from anyarch.snapshot.hosttree import HostTree
    from anyarch.solver.vertex import Operation
    from anyarch.source.git import Resolved
    from anyarch.source.image import Image, ImageResolver
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import Result
    from anyarch.worker.url import Download
    from anyarch.worker.worker import Worker

__all__ = ["check_mode", "check_record_type", "make_source"]


def make_source(worker: Worker, op: SourceOp, platform: Platform | None, digest: str) -> Operation:
    """The operation for an identifier. Raises `NotSupported` for a scheme this release does not know."""
    scheme, _, rest = op.identifier.partition("://")
    match scheme:
        case "docker-image":
            check_mode(op.attrs.get("image.resolvemode", ""))
            check_record_type(op.attrs.get("image.recordtype", ""))
            images = worker.images
            return ImageSource(worker, images, op, rest, platform or worker.platform, digest)
        case "oci-layout":
            images = worker.layout_images(op.attrs.get("oci.session", ""), op.attrs.get("oci.store", ""))
            return ImageSource(worker, images, op, rest, platform or worker.platform, digest)
        case "docker-image+blob" | "oci-layout+blob":
            from anyarch.worker.ops.blob import BlobSource

            return BlobSource(worker, op, digest)
        case "local":
            return _LocalSource(worker, op, rest, digest)
        case "http" | "https":
            return _HttpSource(worker, op, digest)
        case "git":
            return _GitSource(worker, op, digest)
    raise NotSupported(f"{op.identifier}: unknown source scheme {scheme!r}")


def check_mode(mode: str) -> None:
    """Raises `BuildError` for a mode of resolving that there is not. There is no store of images by name
    beside the registry, so all of them ask the registry once a build."""
    if mode not in ("", "default", "pull", "local"):
        raise BuildError(f"invalid resolvemode: {mode}")


def check_record_type(kind: str) -> None:
    if kind not in ("", "regular", "internal", "frontend"):
        raise BuildError(f"invalid record type {kind}")


class ImageSource:
    """An image of a registry, or of an OCI layout. `image.layerlimit` and `oci.layerlimit` cut it off above
    that many layers, `image.checksum` is the digest that the name must lead to."""

    def __init__(
        self,
        worker: Worker,
        images: ImageResolver,
        op: SourceOp,
        name: str,
        platform: Platform,
        digest: str,
    ) -> None:
        self._worker = worker
        self._images = images
        self._reference = Reference.parse(name)
        self._platform = platform
        self._vertex = digest
        self.is_layout = op.identifier.startswith("oci-layout:")
        self._checksum = "" if self.is_layout else op.attrs.get("image.checksum", "")
        if self._checksum:
            Digest.parse(self._checksum)
        limit = op.attrs.get("oci.layerlimit" if self.is_layout else "image.layerlimit", "")
        self._limit = natural(limit)
        if limit and not self._limit:
            raise BuildError(f"invalid layer limit {limit}")
        self._image: Image | None = None

    async def find(self) -> Image:
        """The image, looked up once. Raises as `ImageResolver.image`."""
        if self._image is None:
            image = await self._worker.in_network(self._images.image, self._reference, self._platform)
            if self._checksum and image.digest != self._checksum:
                raise DigestMismatch(
                    f"image digest {image.digest} for {self._reference} does not match expected checksum "
                    f"{self._checksum}",
                    hint="the tag has moved, or the checksum is that of another image",
                )
            if self._limit is not None and self._limit > len(image.manifest.layers):
                raise BuildError(
                    f"layer limit {self._limit} is greater than the number of layers in the image "
                    f"{len(image.manifest.layers)}"
                )
            await self._prove(image)
            self._image = image
        return self._image

    async def _prove(self, image: Image) -> None:
        """What is here without having come from this image's repository is used only if that has it too."""
        layers = image.manifest.layers[: self._limit]
        unproven = {layer.digest for layer in self._images.unproven(image, layers)}
        if not unproven:
            return
        # Each diff ID counts that a manifest claims for a blob, which may list it more than once.
        here = {
            layer.digest: layer
            for layer, diff_id in zip(layers, image.diff_ids, strict=False)
            if layer.digest in unproven and self._worker.has_content(layer, diff_id)
        }
        await asyncio.gather(
            *(self._worker.in_network(self._images.prove, image, layer) for layer in here.values())
        )

    def pin(self) -> str:
        """What the name led to; empty before it was looked up."""
        return str(self._image.digest) if self._image is not None else ""

    def blobs(self) -> Sequence[Descriptor]:
        """Its layers as they were pulled; none before it was looked up."""
        return self._image.manifest.layers[: self._limit] if self._image is not None else ()

    async def diff_ids(self) -> Sequence[str]:
        """What the layers of the image are, lowest first."""
        return (await self.find()).diff_ids[: self._limit]

    async def stock_names(self) -> Sequence[str]:
        """What BuildKit's cache keys call this source."""
        from anyarch.source.stockname import image_names

        image = await self.find()
        return image_names(str(image.digest), self._platform, self._limit, image.diff_ids[: self._limit])

    async def cache_map(self) -> CacheMap:
        """By the layers' content: images of equal layers lead to equal keys, whatever they are called."""
        image = await self.find()
        key = "\0".join(("image/1", *image.diff_ids[: self._limit]))
        return CacheMap(hashlib.sha256(key.encode()).hexdigest(), is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        image = await self.find()
        wanted = image.manifest.layers[: self._limit]
        if not wanted:
            return [None]
        layers = self._worker.layers
        fetch_from = ""
        if not self.is_layout:
            fetch_from = str(image.reference.with_digest(image.manifest_digest))
        ids = []
        for descriptor, diff_id in zip(wanted, image.diff_ids, strict=False):
            layer = layers.add_blob(descriptor, diff_id, fetch_from=fetch_from)
            self._worker.layer_vertices.setdefault(layer.id, self._vertex)
            ids.append(layer.id)
        result = SnapshotResult(tuple(ids))
        if self.is_layout:
            # Whoever has the layout may be gone when the layers are needed.
            await self._worker.in_network(self._bring, result)
        return [result]

    def _bring(self, result: SnapshotResult) -> None:
        layers = self._worker.layers
        missing = {layer.id for layer in layers.missing([layers.get(item) for item in result.layers])}
        assert self._image is not None
        pairs = zip(self._image.manifest.layers, result.layers, strict=False)
        for descriptor, layer_id in pairs:
            if layer_id in missing:
                self._images.fetch(self._reference, descriptor)


class _LocalSource:
    works_for_key = True
    is_local = True  # its files are at hand: nothing has to be fetched to look at them

    def __init__(self, worker: Worker, op: SourceOp, name: str, digest: str) -> None:
        self._worker = worker
        self._vertex = digest
        self._wanted = LocalFiles.of(name, op.attrs)
        self._result: asyncio.Future[LocalResult] | None = None

    async def _scan(self) -> LocalResult:
        if self._result is None:
            self._result = asyncio.ensure_future(self._find())
        return await self._result

    async def _find(self) -> LocalResult:
        wanted = self._wanted
        directory = self._worker.locals.get(wanted.name)
        digests = attributes = None
        if directory is None and self._worker.files is not None:
            transferred = await self._worker.files.directory(wanted, self._vertex)
            # What the client filtered need not be filtered again.
            self._wanted = LocalFiles(name=wanted.name)
            if transferred is not None:
                directory, digests = transferred.path, transferred.digests
                attributes = transferred.attributes
        elif directory is not None and wanted.metadata_only:
            raise NotSupported(
                f"local.metadatatransfer of {wanted.name!r}: this directory is read in place, not transferred"
            )
        if directory is None:
            raise ContextError(f"no local directory {wanted.name!r} was offered to this build")
        tree = await asyncio.to_thread(self._read, directory, digests)
        return LocalResult(tree, await asyncio.to_thread(tree.content_digest, ""), attributes)

    def _read(self, directory: str, digests: Mapping[str, bytes] | None) -> HostTree:
        from anyarch.source.local import scan

        return scan(
            directory,
            store=self._worker.store,
            patterns=self._worker.patterns,
            include=self._wanted.include,
            exclude=self._wanted.exclude,
            follow=self._wanted.follow,
            digests=digests,
        )

    async def cache_map(self) -> CacheMap:
        result = await self._scan()
        return CacheMap(hashlib.sha256(f"local/1\0{result.digest}".encode()).hexdigest(), is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        return [await self._scan()]


class _GitSource:
    """A checkout of a repository, known by its commit."""

    def __init__(self, worker: Worker, op: SourceOp, digest: str) -> None:
        from anyarch.worker.git import git_source

        self._worker = worker
        self._op = op
        self._source = git_source(op)
        self._vertex = digest
        self._resolved: Resolved | None = None

    async def _resolve(self) -> Resolved:
        from anyarch.worker.git import lender

        def ask() -> Resolved:
            with lender(self._worker, self._op, self._vertex) as lent:
                resolved = self._worker.repositories.resolve(self._source, lent)
                self._worker.repositories.verify(self._source, resolved, lent)
                return resolved

        if self._resolved is None:
            self._resolved = await asyncio.to_thread(ask)
        return self._resolved

    def pin(self) -> str:
        """The commit; empty before it is known."""
        return self._resolved.commit if self._resolved is not None else ""

    async def cache_map(self) -> CacheMap:
        key = self._source.key(await self._resolve())
        return CacheMap(hashlib.sha256(f"git/1\0{key}".encode()).hexdigest(), is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        from anyarch.worker.git import checkout_layer

        resolved = await self._resolve()
        layer = await asyncio.to_thread(
            checkout_layer, self._worker, self._op, self._source, resolved, self._vertex
        )
        return [SnapshotResult((layer,))]

    async def stock_names(self) -> Sequence[str]:
        from anyarch.source.stockname import git_name

        return [git_name(self._source, await self._resolve())]


class _HttpSource:
    """A URL, or an archive that the client uploads (`http://buildkit-session/ID`): one file."""

    def __init__(self, worker: Worker, op: SourceOp, digest: str) -> None:
        self._worker = worker
        self._op = op
        self._vertex = digest
        self._layer: tuple[str, Download] | None = None

    @property
    def works_for_key(self) -> bool:
        from anyarch.worker.url import static_key

        return static_key(self._op) is None

    async def _fetch(self) -> tuple[str, Download]:
        if self._layer is None:
            from anyarch.worker.url import fetch_file

            self._layer = await self._worker.in_network(fetch_file, self._worker, self._op, self._vertex)
        return self._layer

    def pin(self) -> str:
        """The digest of what the address gave, or has to give; empty before that is known."""
        return self._op.attrs.get("http.checksum", "") or self._worker.fetched.get(self._vertex, "")

    async def cache_map(self) -> CacheMap:
        """By the checksum where there is one: then nothing is fetched until the file is needed."""
        from anyarch.worker.url import static_key

        key = static_key(self._op)
        if key is None:
            key = f"http/1\0{(await self._fetch())[0]}"
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return CacheMap(digest, is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        layer, _ = await self._fetch()
        return [SnapshotResult((layer,))]

    async def stock_names(self) -> Sequence[str]:
        from anyarch.worker.url import static_key, stock_name

        known = None if static_key(self._op) is not None else (await self._fetch())[1]
        return [stock_name(self._op, known)]
