"""Named contexts (`--build-context name=value`): files or images that stand in for a stage, an image, a
`--from`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BadReference, NotAnImage, PathNotFound, UsageError
from anyarch.llb.source import http, image, local, oci_layout
from anyarch.llb.state import Constraints, State
from anyarch.llb.vertex import Deferred, output_of
from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

from .ignore import parse_ignore
from .image import Image
from .remote import git_state, is_git, parse_git_ref

if TYPE_CHECKING:
    from .context import Loader

__all__ = ["LoadedContext", "NamedContext", "find_named", "load_named"]


class NamedContext(msgspec.Struct, frozen=True):
    """One that was asked for: `key` is the name it was found under, maybe with `::platform`.

    `platform` is None where it makes no difference; `name` is what it was asked for as.
    """

    key: str
    value: str
    platform: Platform | None
    name: str = ""


class LoadedContext:
    """What it gives: a filesystem, and the config if it is an image.

    A local directory is `deferred` until the `paths` that are needed of it are known.
    """

    __slots__ = (
        "config",
        "deferred",
        "excludes",
        "image",
        "local_name",
        "paths",
        "session_id",
        "shared_key",
        "state",
    )

    def __init__(self, state: State, image: Image | None = None, config: bytes = b"") -> None:
        self.state = state
        self.image = image
        self.config = config
        self.deferred: Deferred | None = None
        self.local_name = self.session_id = self.shared_key = ""
        self.excludes: tuple[str, ...] = ()
        self.paths: set[str] = set()

    def settle(self, key: str, paths: list[str]) -> None:
        """Decide what a local directory has to transfer."""
        if self.deferred is None:
            return
        state = local(
            self.local_name,
            session_id=self.session_id,
            follow_paths=paths,
            exclude=self.excludes,
            shared_key_hint=f"context:{key}-{self.shared_key}",
            constraints=Constraints.named(f"[context {key}] load from client"),
        )
        self.deferred.resolve(state.output)


def find_named(contexts: dict[str, str], name: str, platform: Platform) -> NamedContext | None:
    """The context of that name; one for just this platform wins. Raises `BadReference` for an impossible
    name."""
    if not contexts or name.lower() in ("scratch", "context"):
        return None
    try:
        name = Reference.parse(name).familiar.removesuffix(":latest")
    except BadReference as error:
        raise BadReference(f"invalid context name {name}: {error.message}", hint=error.hint) from None
    for key in (f"{name}::{platform.format_all()}", name):
        value = contexts.get(key)
        if value is not None:
            is_image = value.startswith(("docker-image:", "oci-layout:"))
            return NamedContext(key, value, platform if is_image else None, name)
    return None


async def load_named(context: NamedContext, loader: Loader) -> LoadedContext:
    """Raises `UsageError`, `NotSupported`, and what the gateway raises."""
    scheme, colon, rest = context.value.partition(":")
    if not colon:
        raise UsageError(f"invalid context specifier {context.value} for {context.key}")
    repository = parse_git_ref(context.value) if is_git(context.value) else None
    if repository is not None:
        constraints = Constraints.named(f"[internal] load git source {context.value}")
        return LoadedContext(
            git_state(
                repository,
                constraints,
                keep_git_dir=bool(repository.keep_git_dir),
                checksum=repository.checksum,
                mtime=repository.mtime,
            )
        )
    match scheme:
        case "docker-image":
            return await _image(context, rest.removeprefix("//"), loader)
        case "http" | "https":
            constraints = Constraints.named(f"[context {context.key}] {context.value}")
            return LoadedContext(http(context.value, filename="context", constraints=constraints))
        case "local":
            return await _local(context, rest, loader)
        case "oci-layout":
            return await _layout(context, rest.removeprefix("//"), loader)
        case "input":
            return _input(context, rest, loader)
        case _:
            hint = "target:NAME is for bake files" if scheme == "target" else None
            raise UsageError(f"unsupported context source {scheme} for {context.key}", hint=hint)


def _input(context: NamedContext, name: str, loader: Loader) -> LoadedContext:
    """A graph of the client, with the image config that came with it, if any."""
    opts = loader.gateway.build_opts
    definition = opts.inputs.get(name)
    if definition is None:
        raise UsageError(f"invalid input {name} for {context.key}")
    state = State(output_of(definition))
    raw = opts.opts.get(f"input-metadata:{name}")
    if raw is None:
        return LoadedContext(state)

    try:
        metadata = json_decoder(dict[str, bytes]).decode(raw)  # bytes are in base64, as Go has them
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise UsageError(f"failed to parse input metadata {raw}") from None
    config = metadata.get("containerimage.config")
    return _configured(state, config) if config else LoadedContext(state)


async def _image(context: NamedContext, text: str, loader: Loader) -> LoadedContext:
    if text == "scratch" or context.platform is None:
        return LoadedContext(State())
    reference = str(Reference.parse(text))
    name = f"[context {context.key}] load metadata for {text}"
    try:
        resolved = await loader.resolve_image(reference, context.platform, name)
    except NotAnImage as error:
        return await _converted(context, error, loader)
    state = image(
        resolved.reference,
        platform=context.platform,
        constraints=Constraints.named(f"[context {context.key}] {text}"),
    )
    return _configured(state, resolved.config)


async def _converted(context: NamedContext, error: NotAnImage, loader: Loader) -> LoadedContext:
    """What a policy made of an image: the context is that, as if it had been named so."""
    scheme, separator, rest = error.identifier.partition("://")
    if not separator or scheme == "docker-image":
        raise error
    value = error.identifier if scheme in ("git", "http", "https") else f"{scheme}:{rest}"
    return await load_named(msgspec.structs.replace(context, value=value), loader)


async def _layout(context: NamedContext, text: str, loader: Loader) -> LoadedContext:
    """An image of an OCI layout: `NAME@DIGEST`, where NAME says which layout of the client it is."""
    store_id, at, digest = text.partition("@")
    if not store_id:
        raise UsageError(f'oci-layout reference "{text}" has no name')
    if not at:
        raise UsageError(f'oci-layout reference "{text}" has no digest')
    assert context.platform is not None
    # The layout has no name for it that would mean anything to whoever reads the log.
    reference = str(Reference.parse(f"{context.name}@{digest}"))
    name = f"[context {context.key}] load metadata for {reference}"
    resolved = await loader.resolve_image(reference, context.platform, name, layout=store_id)
    state = oci_layout(
        reference,
        platform=context.platform,
        session_id=loader.gateway.build_opts.session_id,
        store_id=store_id,
        constraints=Constraints.named(f"[context {context.key}] OCI load from client"),
    )
    return _configured(state, resolved.config)


def _configured(state: State, raw: bytes) -> LoadedContext:
    """The filesystem of an image with the environment, directory and platform that its config gives."""
    config = decode(ImageConfig, raw)
    for item in config.config.env or ():
        key, _, value = item.partition("=")
        if key:
            state = state.add_env(key, value)
    state = state.set_dir(config.config.working_dir or "/")
    found = Image(config)
    platform = found.platform()
    if platform is not None:
        state = state.set_platform(platform)
    return LoadedContext(state, found, raw)


async def _local(context: NamedContext, name: str, loader: Loader) -> LoadedContext:
    session_id = loader.session_id(name)
    state = local(
        name,
        session_id=session_id,
        follow_paths=[".dockerignore"],
        shared_key_hint=f"context:{context.key}-.dockerignore",
        differ="none",
        constraints=Constraints.named(f"[context {context.key}] load .dockerignore"),
    )
    ref = await loader.gateway.solve(state.marshal())
    deferred = Deferred()
    loaded = LoadedContext(State(deferred))
    loaded.deferred = deferred
    loaded.local_name, loaded.session_id = name, session_id
    loaded.shared_key = loader.options.shared_keys.get(context.key, "")
    try:
        loaded.excludes = tuple(parse_ignore(await ref.read_file(".dockerignore")))
    except PathNotFound:
        loaded.excludes = ()
    return loaded
