"""Named contexts (`--build-context name=value`): files or images that stand in for a stage, an image, a
`--from`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BadReference, NotSupported, PathNotFound, UsageError
from anyarch.llb.source import http, image, local
from anyarch.llb.state import Constraints, State
from anyarch.llb.vertex import Deferred
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

from .ignore import parse_ignore
from .image import Image
from .remote import is_git

if TYPE_CHECKING:
    from .context import Loader

__all__ = ["LoadedContext", "NamedContext", "find_named", "load_named"]


class NamedContext(msgspec.Struct, frozen=True):
    """One that was asked for: `key` is the name it was found under, maybe with `::platform`.

    `platform` is None where it makes no difference.
    """

    key: str
    value: str
    platform: Platform | None


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
            return NamedContext(key, value, platform if value.startswith("docker-image:") else None)
    return None


async def load_named(context: NamedContext, loader: Loader) -> LoadedContext:
    """Raises `UsageError`, `NotSupported`, and what the gateway raises."""
    scheme, colon, rest = context.value.partition(":")
    if not colon:
        raise UsageError(f"invalid context specifier {context.value} for {context.key}")
    if is_git(context.value) or scheme == "git":
        raise NotSupported(f"named context {context.key} is a git repository, which is not supported yet")
    match scheme:
        case "docker-image":
            return await _image(context, rest.removeprefix("//"), loader)
        case "http" | "https":
            constraints = Constraints.named(f"[context {context.key}] {context.value}")
            return LoadedContext(http(context.value, filename="context", constraints=constraints))
        case "local":
            return await _local(context, rest, loader)
        case "oci-layout" | "input" | "target":
            raise NotSupported(f"named context {context.key}={context.value}: {scheme} is not supported yet")
        case _:
            raise UsageError(f"unsupported context source {scheme} for {context.key}")


async def _image(context: NamedContext, text: str, loader: Loader) -> LoadedContext:
    if text == "scratch" or context.platform is None:
        return LoadedContext(State())
    reference = str(Reference.parse(text))
    name = f"[context {context.key}] load metadata for {text}"
    resolved = await loader.resolve_image(reference, context.platform, name)
    config = decode(ImageConfig, resolved.config)
    state = image(
        resolved.reference,
        platform=context.platform,
        constraints=Constraints.named(f"[context {context.key}] {text}"),
    )
    for item in config.config.env or ():
        key, _, value = item.partition("=")
        if key:
            state = state.add_env(key, value)
    state = state.set_dir(config.config.working_dir or "/")
    found = Image(config)
    platform = found.platform()
    if platform is not None:
        state = state.set_platform(platform)
    return LoadedContext(state, found, resolved.config)


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
