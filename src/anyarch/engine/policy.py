"""Which platforms may fail: `--keep-going`, `--require`, `--optional`.

Without them the first failure ends the build, as in buildx. A platform that is optional may fail: the others
are built, exported and published without it. With `keep_going` no failure ends the work on other platforms
either, but when a platform failed that is not optional, nothing leaves: no tag is written, no file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine import grammar
from anyarch.errors import AnyarchError, PlatformsFailed, UsageError
from anyarch.solver.events import WarningEvent
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from anyarch.engine.request import BuildRequest
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.solver.solver import Solver
    from anyarch.solver.vertex import Edge
    from anyarch.worker.result import Result

__all__ = ["Failures", "check_policy"]


def check_policy(request: BuildRequest) -> BuildRequest:
    """`request` with the platforms of `require` and `optional` normalised. Raises `UsageError`."""
    require, _ = grammar.platforms(request.require)
    optional, _ = grammar.platforms(request.optional)
    both = [name for name in require if name in optional]
    if both:
        raise UsageError(f"platform {both[0]} is both required and optional", hint="name it once")
    for flag, names in (("--require", require), ("--optional", optional)):
        for name in names:
            if name not in request.platforms:
                asked = ", ".join(request.platforms) or "this machine's alone"
                raise UsageError(
                    f"{flag} names {name}, for which the build is not", hint=f"--platform is {asked}"
                )
    return msgspec.structs.replace(request, require=require, optional=optional)


class Failures:
    """What failed so far, by platform, and what that means. One a build; not thread-safe."""

    def __init__(self, request: BuildRequest) -> None:
        self._platforms = request.platforms
        self._keep_going = request.keep_going
        optional = set(request.optional)
        if request.require:
            optional |= set(request.platforms) - set(request.require)
        self._optional = optional
        self.errors: dict[str, AnyarchError] = {}

    def goes_on(self, name: str | None) -> bool:
        """Whether the others are built although this platform failed."""
        return len(self._platforms) > 1 and (name in self._optional or self._keep_going)

    def note(self, name: str | None, error: AnyarchError) -> bool:
        """Remember a failure, if the build goes on without that platform; else False."""
        if name is None or name not in self._platforms or not self.goes_on(name):
            return False
        error.platform = error.platform or name
        self.errors[name] = error
        return True

    @property
    def left(self) -> list[str]:
        """The platforms that have not failed."""
        return [name for name in self._platforms if name not in self.errors]

    def decide(self) -> AnyarchError | None:
        """What the build ends with, once nothing runs any more; None when it may be published."""
        if not self.errors:
            return None
        required = [name for name in self.errors if name not in self._optional]
        if not self.errors or (not required and self.left):
            return None
        return PlatformsFailed(self.errors, self.left)

    def warn(self, warn: Callable[[WarningEvent], None]) -> None:
        for name, error in self.errors.items():
            text = f"{name} failed and is left out: {error.message}"
            source = error.source
            warn(
                WarningEvent(
                    error.vertex or Digest.of(text.encode()),
                    text,
                    detail=(error.hint,) if error.hint else (),
                    filename=source.filename if source is not None else "",
                    source=source.data if source is not None else b"",
                    lines=((source.start, source.end),) if source is not None else (),
                )
            )

    async def convert(
        self, attrs: dict[str, str], convert: Callable[[], Awaitable[FrontendResult]]
    ) -> FrontendResult:
        """Call the frontend until it succeeds for the platforms that are left; it reads `attrs`."""
        while True:
            try:
                return await convert()
            except AnyarchError as error:
                if len(self.left) < 2 or not self.note(error.platform, error):
                    if self.errors and error.platform in self._platforms:
                        self.errors[str(error.platform)] = error
                        raise PlatformsFailed(self.errors, self.left) from None
                    raise
                attrs["platform"] = ",".join(self.left)
                attrs.setdefault("multi-platform", "true")

    async def solve(self, solver: Solver, edges: dict[str, Edge]) -> dict[str, Result]:
        """The results of the platforms that do not fail."""
        found: dict[str, Result] = {}

        async def one(name: str, edge: Edge) -> None:
            try:
                (found[name],) = await solver.solve([edge])
            except AnyarchError as error:
                if not self.note(name, error):
                    raise

        if self.goes_on(None) or self._optional:
            await _at_once([one(name, edge) for name, edge in edges.items()])
        else:
            found = dict(zip(edges, await solver.solve(list(edges.values())), strict=True))
        return found

    def check(self, frontend: FrontendResult, check: Callable[[Sequence[str]], None]) -> None:
        """Call `check` with the digests of the vertices of all platforms; of each alone, where platforms may
        fail."""
        names = [name for name, _ in frontend.platforms]
        together = not (self._keep_going or self._optional)
        for group in [names] if together else [[name] for name in names]:
            definitions = [frontend.refs.get(name) for name in group]
            try:
                check([digest for item in definitions if item is not None for digest in item.digests])
            except AnyarchError as error:
                if together or not self.note(group[0], error):
                    raise


async def _at_once(jobs: Sequence[Coroutine[None, None, None]]) -> None:
    """Run them at the same time; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
