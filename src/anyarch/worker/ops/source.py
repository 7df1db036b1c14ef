"""Source operations: images, local directories, uploads and URLs. Their results are cheap to make again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

from anyarch.errors import ContextError, NotSupported
from anyarch.solver.vertex import CacheMap
from anyarch.spec.reference import Reference
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import SourceOp
    from anyarch.solver.vertex import Operation
    from anyarch.source.git import Resolved
    from anyarch.source.image import Image, ImageResolver
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["make_source"]


def make_source(worker: Worker, op: SourceOp, platform: Platform | None, digest: str) -> Operation:
    """The operation for an identifier. Raises `NotSupported` for a scheme this release does not know."""
    scheme, _, rest = op.identifier.partition("://")
    match scheme:
        case "docker-image":
            return _ImageSource(worker, worker.images, rest, platform or worker.platform, digest)
        case "oci-layout":
            return _ImageSource(worker, worker.layouts, rest, platform or worker.platform, digest)
        case "local":
            return _LocalSource(worker, op, rest)
        case "http" | "https":
            return _HttpSource(worker, op, digest)
        case "git":
            return _GitSource(worker, op, digest)
    raise NotSupported(f"{op.identifier}: unknown source scheme {scheme!r}")


class _ImageSource:
    """An image of a registry, or of an OCI layout whose blobs are in the content store already."""

    def __init__(
        self, worker: Worker, images: ImageResolver, name: str, platform: Platform, digest: str
    ) -> None:
        self._worker = worker
        self._images = images
        self._reference = Reference.parse(name)
        self._platform = platform
        self._vertex = digest
        self._image: Image | None = None

    async def _find(self) -> Image:
        if self._image is None:
            self._image = await self._worker.in_network(self._images.image, self._reference, self._platform)
        return self._image

    async def cache_map(self) -> CacheMap:
        """By the layers' content: images of equal layers lead to equal keys, whatever they are called."""
        image = await self._find()
        key = "\0".join(("image/1", *image.diff_ids))
        return CacheMap(hashlib.sha256(key.encode()).hexdigest(), is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        image = await self._find()
        if not image.manifest.layers:
            return [None]
        layers = self._worker.layers
        fetch_from = ""
        if self._images is not self._worker.layouts:
            fetch_from = str(image.reference.with_digest(image.manifest_digest))
        ids = []
        for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True):
            layer = layers.add_blob(descriptor, diff_id, fetch_from=fetch_from)
            self._worker.layer_vertices.setdefault(layer.id, self._vertex)
            ids.append(layer.id)
        return [SnapshotResult(tuple(ids))]


class _LocalSource:
    is_local = True  # its files are at hand: nothing has to be fetched to look at them

    def __init__(self, worker: Worker, op: SourceOp, name: str) -> None:
        self._worker = worker
        self._name = name
        self._include = tuple(json.loads(op.attrs.get("local.includepattern", "[]")))
        self._exclude = tuple(json.loads(op.attrs.get("local.excludepatterns", "[]")))
        self._follow = tuple(json.loads(op.attrs.get("local.followpaths", "[]")))
        self._result: asyncio.Future[LocalResult] | None = None

    async def _scan(self) -> LocalResult:
        if self._result is None:
            self._result = asyncio.ensure_future(asyncio.to_thread(self._read))
        return await self._result

    def _read(self) -> LocalResult:
        from anyarch.source.local import scan

        directory = self._worker.locals.get(self._name)
        if directory is None:
            raise ContextError(f"no local directory {self._name!r} was offered to this build")
        tree = scan(
            directory,
            store=self._worker.store,
            patterns=self._worker.patterns,
            include=self._include,
            exclude=self._exclude,
            follow=self._follow,
        )
        return LocalResult(tree, tree.content_digest(""))

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
                return self._worker.repositories.resolve(self._source, lent)

        if self._resolved is None:
            self._resolved = await asyncio.to_thread(ask)
        return self._resolved

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


class _HttpSource:
    """A URL, or an archive that the client uploads (`http://buildkit-session/ID`): one file."""

    def __init__(self, worker: Worker, op: SourceOp, digest: str) -> None:
        self._worker = worker
        self._op = op
        self._vertex = digest
        self._layer: str | None = None

    async def _fetch(self) -> str:
        if self._layer is None:
            from anyarch.worker.url import fetch_file

            self._layer = await self._worker.in_network(fetch_file, self._worker, self._op, self._vertex)
        return self._layer

    async def cache_map(self) -> CacheMap:
        layer = await self._fetch()
        return CacheMap(hashlib.sha256(f"http/1\0{layer}".encode()).hexdigest(), is_source=True)

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        return [SnapshotResult((await self._fetch(),))]
