"""`--cache-from` and `--cache-to`: which caches a build reads before it starts and writes when it is done."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine.attributes import compression_of, flag
from anyarch.errors import AnyarchError, UsageError
from anyarch.solver.events import WarningEvent
from anyarch.solver.work import Work
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.cache.client import ClientCaches
    from anyarch.cache.exporter import CacheOptions, ExportedCache
    from anyarch.cache.importer import ImportedCache
    from anyarch.cache.objects import Objects
    from anyarch.engine.request import BuildRequest, CacheOption
    from anyarch.engine.stock import StockKeys
    from anyarch.exporter.assemble import InlineCache
    from anyarch.solver.solved import Solved
    from anyarch.worker.worker import Worker

__all__ = ["check_caches", "export_caches", "import_caches", "inline_cache"]

_TYPES = ("registry", "local", "s3", "azblob", "gha")
_OPTIONS = ("mode", "ignore-error", "compression", "compression-level", "force-compression")
_MANIFEST = ("image-manifest", "oci-mediatypes")
_NAMES = ("name", "prefix", "blobs_prefix", "manifests_prefix")
_ATTRS: dict[str, tuple[str, ...]] = {
    "inline": (),
    "registry": ("ref", "registry.insecure", *_MANIFEST),
    "local": ("src", "dest", "digest", "tag", "reset", *_MANIFEST),
    "gha": ("scope", "url", "url_v2", "token", "version", "timeout", "repository", "ghtoken"),
    "s3": (
        *("bucket", "region", *_NAMES, "endpoint_url", "use_path_style", "access_key_id"),
        *("secret_access_key", "session_token", "touch_refresh", "upload_parallelism"),
        *("disable_accept_encoding", "retry_mode", "retry_max_attempts"),
    ),
    "azblob": ("account_url", "account_name", "container", *_NAMES, "secret_access_key"),
}


def check_caches(request: BuildRequest) -> None:
    """What can be known to be wrong before any work. Raises `UsageError`, `BadReference`."""
    for option in _wanted(request.cache_from):
        _check(option, "--cache-from", _TYPES)
    for option in _wanted(request.cache_to):
        _check(option, "--cache-to", (*_TYPES, "inline"))
        if option.type != "inline":
            _options(option)


def _wanted(options: Sequence[CacheOption]) -> list[CacheOption]:
    """`type=gha` with what a workflow's environment says; where there is no such service it is nothing, as
    for buildx."""
    wanted = []
    for option in options:
        if option.type == "gha":
            from anyarch.cache.gha import is_active, with_environment

            option = msgspec.structs.replace(option, attrs=with_environment(option.attrs))
            if not is_active(option.attrs):
                continue
        wanted.append(option)
    return wanted


def _check(option: CacheOption, name: str, known: tuple[str, ...]) -> None:
    if option.type not in known:
        raise UsageError(
            f"{name}: unknown cache type {option.type!r}", hint=f"it is one of {', '.join(known)}"
        )
    attrs = (*_ATTRS[option.type], *_OPTIONS)
    for key in option.attrs:
        if key not in attrs:
            raise UsageError(
                f"unknown attribute {key!r} of {name} type={option.type}",
                hint=f"it takes type, {', '.join(attrs)}",
            )
    for key in ("ignore-error", "registry.insecure", "reset"):
        flag(option.attrs, key, default=False)
    if option.type == "registry":
        if not option.attrs.get("ref"):
            raise UsageError(
                f"{name} type=registry needs ref=", hint="for example ref=registry.example/app:cache"
            )
        Reference.parse(option.attrs["ref"])
    place = "src" if name == "--cache-from" else "dest"
    if option.type == "local" and not option.attrs.get(place):
        raise UsageError(f"{name} type=local needs {place}=")
    _objects(option, None)


def _objects(option: CacheOption, worker: Worker | None) -> Objects | None:
    """The place that an option names; without a worker only its attributes are checked."""
    match option.type:
        case "s3":
            from anyarch.cache.s3 import S3, S3Config

            s3 = S3Config.of(option.attrs)
            return S3(s3, worker.http, worker.network_cancel) if worker is not None else None
        case "azblob":
            from anyarch.cache.azblob import AzBlob, AzBlobConfig

            azblob = AzBlobConfig.of(option.attrs)
            return AzBlob(azblob, worker.http, worker.network_cancel) if worker is not None else None
        case "gha":
            from anyarch.cache.gha import Gha, GhaConfig

            gha = GhaConfig.of(option.attrs)
            return Gha(gha, worker.http, worker.network_cancel) if worker is not None else None
    return None


def _options(option: CacheOption) -> CacheOptions:
    from anyarch.cache.exporter import CacheOptions

    attrs = option.attrs
    mode = attrs.get("mode", "min")
    if mode not in ("min", "max"):
        raise UsageError(f"--cache-to: invalid mode {mode!r}", hint="it is min or max")
    oci = flag(attrs, "oci-mediatypes", default=True)
    image_manifest = flag(attrs, "image-manifest", default=oci)
    if image_manifest and not oci:
        raise UsageError(
            "invalid configuration for remote cache,"
            " OCI mediatypes are required for image-manifest cache format",
            hint="add image-manifest=false, or leave out oci-mediatypes=false",
        )
    return CacheOptions(
        compression_of(attrs),
        force_compression=flag(attrs, "force-compression", default=False),
        is_max=mode == "max",
        image_manifest=image_manifest,
        oci_media_types=oci,
    )


# reading ------------------------------------------------------------------------------------------


async def import_caches(
    request: BuildRequest,
    worker: Worker,
    warn: Callable[[WarningEvent], None],
    client: ClientCaches | None = None,
) -> list[ImportedCache]:
    """What `--cache-from` names, as far as it can be read; the rest is a warning. Directories are those of
    `client`, if there is one."""

    async def one(option: CacheOption) -> ImportedCache | None:
        place = option.attrs.get("ref") or option.attrs.get("src") or option.type
        step = Work(worker.emit, f"importing cache manifest from {place}")
        try:
            found = await worker.in_network(_read, worker, option, client)
        except AnyarchError as error:
            step.done()
            text = f"failed to import the build cache from {place}: {error.message}"
            warn(WarningEvent(step.digest, text, detail=(error.hint,) if error.hint else ()))
            return None
        except BaseException:
            step.done("context canceled")
            raise
        step.done()
        return found

    found = await asyncio.gather(*(one(option) for option in _wanted(request.cache_from)))
    return [cache for cache in found if cache is not None]


def _read(worker: Worker, option: CacheOption, client: ClientCaches | None) -> ImportedCache:
    from anyarch.cache.importer import read_local, read_registry

    attrs = option.attrs
    if option.type == "local" and client is not None:
        from anyarch.cache.client import read_client

        return read_client(worker, client, _place(option, "src"), attrs.get("digest", ""))
    if option.type == "local":
        return read_local(
            worker, attrs["src"], digest=attrs.get("digest", ""), tag=attrs.get("tag") or "latest"
        )
    objects = _objects(option, worker)
    if objects is not None:
        from anyarch.cache.objects import read_objects

        return read_objects(worker, objects)
    reference = Reference.parse(attrs["ref"])
    if flag(attrs, "registry.insecure", default=False):
        worker.allow_insecure({reference.domain})
    return read_registry(worker, reference)


def _place(option: CacheOption, name: str) -> str:
    """The directory of a client's option, which nobody has checked."""
    if not option.attrs.get(name):
        role = "importer" if name == "src" else "exporter"
        raise UsageError(f"local cache {role} requires {name}")
    return option.attrs[name]


# writing ------------------------------------------------------------------------------------------


def inline_cache(request: BuildRequest, solved: Sequence[Solved], stock: StockKeys) -> InlineCache | None:
    """What `--cache-to type=inline` adds to an image's config, None without it."""
    if not any(option.type == "inline" for option in request.cache_to):
        return None
    from anyarch.cache.config import INLINE_KEY, OWN_INLINE_KEY, encode_records, write
    from anyarch.cache.exporter import foreign, keyed

    def member(layers: Sequence[str], digests: Sequence[str]) -> bytes:
        of_layer = dict(zip(layers, digests, strict=True))
        results = keyed(solved, [layers], of_layer.__getitem__, is_max=False)
        present = [digest for digest in digests if digest]
        config = write(results, present=present, foreign=foreign(results, stock.keys))
        members = {INLINE_KEY: config.records, OWN_INLINE_KEY: config.own}
        return b",".join(
            b'"%b":"%b"' % (name.encode(), base64.b64encode(encode_records(records)))
            for name, records in members.items()
        )

    return member


async def export_caches(
    request: BuildRequest,
    worker: Worker,
    solved: Sequence[Solved],
    chains: Sequence[Sequence[str]],
    warn: Callable[[WarningEvent], None],
    stock: StockKeys,
    client: ClientCaches | None = None,
) -> dict[str, object]:
    """Write what `--cache-to` names; answers metadata about it. A failure is one of the build, unless the
    cache has `ignore-error`. Directories are those of `client`, if there is one."""
    metadata: dict[str, object] = {}
    for option in _wanted(request.cache_to):
        if option.type == "inline":
            continue
        step = Work(worker.emit, f"exporting cache to {_TITLES[option.type]}")
        try:
            descriptor = await _write(
                option, worker, solved, chains, step.step, slot=_slot(request), stock=stock, client=client
            )
        except AnyarchError as error:
            step.done(error.message)
            if not flag(option.attrs, "ignore-error", default=False):
                raise
            warn(WarningEvent(step.digest, f"failed to export the build cache: {error.message}"))
            continue
        except BaseException as error:
            step.done(str(error) or "context canceled")
            raise
        step.done()
        if descriptor is not None:
            metadata["cache.manifest"] = descriptor
    return metadata


_TITLES = {
    "registry": "registry",
    "local": "client directory",
    "s3": "Amazon S3",
    "azblob": "Azure Blob Storage",
    "gha": "GitHub Actions Cache",
}


def _slot(request: BuildRequest) -> str:
    """The same for builds of one kind: what a later one writes takes the place of what an earlier one did."""
    parts = (request.target, *sorted(request.platforms), request.dockerfile or "")
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


async def _write(
    option: CacheOption,
    worker: Worker,
    solved: Sequence[Solved],
    chains: Sequence[Sequence[str]],
    on_step: Callable[[str], None],
    *,
    slot: str,
    stock: StockKeys,
    client: ClientCaches | None,
) -> object:
    from anyarch.cache.exporter import BlobsGone, gather, without

    cache = await gather(worker, solved, chains, _options(option), slot=slot, stock=stock.keys)
    on_step("preparing build cache for export")
    while cache is not None:
        try:
            return await _send(option, worker, cache, on_step, client)
        except BlobsGone as gone:
            # Results that another cache named, and nobody wanted the bytes of: no reason to fail.
            on_step(f"leaving out {len(gone.digests)} layers that are nowhere any more")
            cache = await asyncio.to_thread(without, cache, gone.digests)
    on_step("skipping cache export for empty result")
    return None


async def _send(
    option: CacheOption,
    worker: Worker,
    cache: ExportedCache,
    on_step: Callable[[str], None],
    client: ClientCaches | None,
) -> object:
    attrs = option.attrs
    match option.type:
        case "local" if client is not None:
            from anyarch.cache.client import to_client

            manifest = await asyncio.to_thread(
                to_client, worker, client, cache, _place(option, "dest"), on_step=on_step
            )
        case "local":
            from anyarch.cache.local import to_directory

            tag = attrs.get("tag") or "latest"
            if flag(attrs, "reset", default=False):
                await asyncio.to_thread(_reset, attrs["dest"])
            manifest = await asyncio.to_thread(
                to_directory, worker, cache, attrs["dest"], tag=tag, on_step=on_step
            )
        case "registry":
            from anyarch.cache.registry import to_registry

            reference = Reference.parse(attrs["ref"])
            if flag(attrs, "registry.insecure", default=False):
                worker.allow_insecure({reference.domain})
            manifest = await to_registry(worker, cache, reference, on_step=on_step)
        case _:
            from anyarch.cache.objects import to_objects

            objects = _objects(option, worker)
            assert objects is not None
            await to_objects(worker, cache, objects, on_step=on_step)
            return None
    return msgspec.to_builtins(manifest.descriptor())


def _reset(dest: str) -> None:
    """Remove an older cache in `dest`; nothing that is no layout."""
    from anyarch.cache.local import errors_of
    from anyarch.store.tree import remove_tree

    if os.path.isfile(os.path.join(dest, "oci-layout")):
        with errors_of(dest):
            for name in ("index.json", "oci-layout", "blobs", "ingest"):
                remove_tree(os.path.join(dest, name))
