"""What a build reads before and beside its Dockerfile: the file itself, the ignore file, contexts, base
image configs.

One `Loader` serves all platforms of a build, so each thing is asked of the gateway once.
"""

from __future__ import annotations

import asyncio
import posixpath
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from anyarch.errors import ContextError, DockerfileError, NoContext, PathNotFound
from anyarch.llb.definition import SourceInfo
from anyarch.llb.ops import ActionCopy
from anyarch.llb.source import http, local
from anyarch.llb.state import Constraints, CopySource, State
from anyarch.llb.vertex import output_of
from anyarch.spec.pattern import PatternMatcher

from .gotext import parse_bool
from .ignore import parse_ignore
from .named import load_named
from .remote import git_state, is_http, parse_git_ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyarch.errors import AnyarchError
    from anyarch.frontend.gateway import Gateway, ResolvedImage
    from anyarch.spec.platform import Platform

    from .named import LoadedContext, NamedContext
    from .options import Options

__all__ = ["Loader", "MainContext", "wanted_paths"]

T = TypeVar("T")

_IGNORE_FILE = ".dockerignore"
_MAGIC = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_PROBE_BYTES = 1024


class MainContext(msgspec.Struct, frozen=True):
    """Where the main context is: a local directory (`state` None), or files that are in the graph already.

    Those hold the Dockerfile too: `whole` are the files and `dockerfile` its path there. `source` is the
    checkout or download that they come from.
    """

    state: State | None = None
    whole: State | None = None
    dockerfile: str = ""
    source: State | None = None


class Loader:
    """Asks the gateway, and remembers the answers."""

    def __init__(self, gateway: Gateway, options: Options) -> None:
        self.gateway = gateway
        self.options = options
        self._ignore_data: bytes | None = None
        self._ignore_name = _IGNORE_FILE
        self.dockerfile_vertex = ""  # the digest of what brought the Dockerfile, for warnings about it
        self._asked: dict[object, asyncio.Future[Any]] = {}

    async def _once(self, key: object, make: Callable[[], Awaitable[T]]) -> T:
        """The result of `make`; whoever asks with the same key later, or at the same time, gets the same
        one."""
        known = self._asked.get(key)
        if known is not None:
            result: T = await asyncio.shield(known)
            return result
        future = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            result = await make()
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # there may be nobody else who asks
            raise
        future.set_result(result)
        return result

    def session_id(self, local_name: str) -> str:
        """The session that has the local directory of that name."""
        return self.options.local_session_ids.get(local_name, self.gateway.build_opts.session_id)

    async def main_context(self) -> MainContext:
        """Find out what the main context is. Raises `ContextError`, `UsageError`."""
        return await self._once("main context", self._main_context)

    async def _main_context(self) -> MainContext:
        url = self.options.context
        if not url:
            given = self.gateway.build_opts.inputs.get("context")
            if given is None:
                return MainContext()
            state = State(output_of(given))
            return MainContext(state)
        repository = parse_git_ref(url)
        if repository is not None:
            keep = parse_bool(self.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", ""))
            # Whoever asks for a time wants the files to have one of their own.
            mtime = "commit" if self.options.build_args.get("SOURCE_DATE_EPOCH") else ""
            checkout = git_state(
                repository,
                _internal(f"load git source {url}"),
                keep_git_dir=bool(repository.keep_git_dir or keep),
                checksum=repository.checksum,
                mtime=repository.mtime or mtime,
            )
            return self._scoped(checkout, checkout, self.options.filename)
        if not is_http(url):
            raise ContextError(
                f"unsupported build context {url}", hint="a directory, a git repository, or an http(s) URL"
            )
        download = http(url, filename="context", constraints=_internal("load remote build context"))
        ref = await self.gateway.solve(download.marshal())
        head = await ref.read_file("context", length=_PROBE_BYTES)
        if _is_archive(head):
            unpack = ActionCopy("/context", "/", attempt_unpack_docker_compat=True)
            state, dockerfile = State().file(CopySource(download, unpack)), self.options.filename
        else:
            state, dockerfile = download, "context"  # the body is the Dockerfile, and all there is
        return self._scoped(state, download, dockerfile)

    def _scoped(self, whole: State, source: State, dockerfile: str) -> MainContext:
        """The context, of which only a directory may be wanted; the Dockerfile is looked up in all of it."""
        state = whole
        if self.options.context_subdir:
            inner = ActionCopy(self.options.context_subdir, "/", dir_copy_contents=True)
            state = State().file(CopySource(whole, inner))
        return MainContext(state, whole, dockerfile, source)

    async def dockerfile(self) -> SourceInfo:
        """The Dockerfile's text, with the ignore file beside it noted. Raises `DockerfileError`,
        `ContextError`."""
        context = await self.main_context()
        filename = self.options.filename
        if is_http(filename):
            state = http(
                filename,
                filename="Dockerfile",
                constraints=_internal(f"load build definition from {filename}"),
            )
            filename = "Dockerfile"
        elif (
            given := self.gateway.build_opts.inputs.get(self.options.dockerfile_local)
        ) is not None and not self.options.force_local_dockerfile:
            state = State(output_of(given))
        elif context.whole is not None and not self.options.force_local_dockerfile:
            state, filename = context.whole, context.dockerfile
        else:
            name = self.options.dockerfile_local
            wanted = [filename, f"{filename}.dockerignore"]
            if posixpath.basename(filename) == "Dockerfile":
                wanted.append(_lower(filename))
            state = local(
                name,
                session_id=self.session_id(name),
                follow_paths=wanted,
                shared_key_hint=name,
                differ="none",
                constraints=_internal(f"load build definition from {filename}"),
            )
        definition = state.marshal()
        self.dockerfile_vertex = definition.digests[-2]
        ref = await self.gateway.solve(definition)
        try:
            data = await ref.read_file(filename)
        except PathNotFound:
            if posixpath.basename(filename) != "Dockerfile":
                raise _missing(filename) from None
            try:
                data = await ref.read_file(_lower(filename))
            except PathNotFound:
                raise _missing(filename) from None
        own_ignore = f"{filename}.dockerignore"
        try:
            self._ignore_data = await ref.read_file(own_ignore)
            self._ignore_name = own_ignore
        except PathNotFound:
            self._ignore_data = None  # the one at the context's root counts, when it is needed
        return SourceInfo(filename, data, "Dockerfile", definition.marshal())

    async def ignore_patterns(self) -> list[str]:
        """Patterns for the main context, none if it is not local. Raises `DockerfileError` for a bad file."""
        return await self._once("ignore patterns", self._ignore_patterns)

    async def _ignore_patterns(self) -> list[str]:
        context = await self.main_context()
        if context.state is not None:
            return []
        if self._ignore_data is None:
            state = local(
                "context",
                session_id=self.session_id("context"),
                follow_paths=[_IGNORE_FILE],
                shared_key_hint=f"context-{_IGNORE_FILE}",
                differ="none",
                constraints=_internal(f"load {_IGNORE_FILE}"),
            )
            ref = await self.gateway.solve(state.marshal())
            try:
                self._ignore_data = await ref.read_file(_IGNORE_FILE)
            except (PathNotFound, NoContext):
                # Where there is no context, a Dockerfile that uses none can be built nevertheless.
                self._ignore_data = b""
        try:
            patterns = parse_ignore(self._ignore_data)
            PatternMatcher(patterns)  # says what is wrong with one, before anything is built
        except DockerfileError as error:
            raise DockerfileError(
                f"failed parsing {self._ignore_name}: {error.message}", hint=error.hint
            ) from None
        return patterns

    async def main_state(self, paths: set[str]) -> State:
        """The main context, of which only `paths` (absolute) are needed."""
        context = await self.main_context()
        if context.state is not None:
            return context.state
        return local(
            "context",
            session_id=self.session_id("context"),
            follow_paths=wanted_paths(paths),
            exclude=await self.ignore_patterns(),
            shared_key_hint="context",
            constraints=_internal("load build context"),
        )

    async def resolve_image(
        self, reference: str, platform: Platform, log_name: str, *, layout: str = ""
    ) -> ResolvedImage:
        """The config of an image, asked for once; `layout` is the client's layout that it is in, if any.
        Raises what the gateway raises."""
        mode = self.options.resolve_mode

        def ask() -> Awaitable[ResolvedImage]:
            return self.gateway.resolve_image_config(
                reference, platform=platform, mode=mode, log_name=log_name, layout=layout
            )

        return await self._once(("image", reference, platform, layout), ask)

    async def source_time(self, state: State, log_name: str) -> int | None:
        """When what `state` brings was made, asked for once. Raises what the gateway raises."""
        definition = state.marshal()

        def ask() -> Awaitable[int | None]:
            return self.gateway.source_time(definition, log_name=log_name)

        return await self._once(("time", definition.digests), ask)

    async def named(self, context: NamedContext) -> LoadedContext:
        """Load a named context, once."""
        return await self._once(("context", context), lambda: load_named(context, self))


def wanted_paths(paths: set[str]) -> list[str]:
    """Absolute paths as the client wants them: relative and sorted; none when everything is needed."""
    if "/" in paths:
        return []
    return sorted(
        [path.lstrip("/") for path in paths], key=lambda path: path.encode("utf-8", "surrogateescape")
    )


def _internal(name: str) -> Constraints:
    return Constraints.named(f"[internal] {name}")


def _lower(filename: str) -> str:
    return posixpath.join(posixpath.dirname(filename), "dockerfile")


def _missing(filename: str) -> AnyarchError:
    return ContextError(
        f"failed to read dockerfile: open {filename}: no such file or directory",
        hint="give the path of the Dockerfile with -f, or check that the context is the right directory",
    )


def _is_archive(head: bytes) -> bool:
    """Compressed, or a tar whose first header is sound."""
    if head.startswith(_MAGIC):
        return True
    if len(head) < 512:
        return False
    try:
        checksum = int(head[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return checksum == sum(head[:148]) + 8 * 32 + sum(head[156:512]) and checksum != 256
