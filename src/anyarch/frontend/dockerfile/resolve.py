"""What stages start from: base images, named contexts (both asked of the gateway) and ONBUILD triggers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.errors import BadReference, DockerfileError, RegistryError, error_context
from anyarch.llb.source import image as image_source
from anyarch.llb.state import State
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.reference import Reference

from .gotext import closest
from .image import Image
from .naming import step_name
from .stage import Work

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from anyarch.spec.platform import Platform

    from .named import LoadedContext, NamedContext
    from .plan import Plan
    from .stage import Stage

__all__ = ["Resolution", "at_once"]

# Images that people mean when they mistype a name.
_WELL_KNOWN = ("alpine", "busybox", "centos", "debian", "fedora", "golang", "node", "python", "ubuntu")


class Resolution:
    """Gives the stages of a plan what they start from."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scope = plan.scope
        self.loader = plan.loader
        self.shared = plan.shared

    async def run(self, *, all_stages: bool = False) -> None:
        """Ask for base images and named contexts until ONBUILD triggers bring no new ones; with `all_stages`
        also for those that the target does not need.

        Raises `DockerfileError`, and what the gateway raises, with the FROM line.
        """
        stages = self.plan.stages
        for stage in stages:
            if stage.base is None and stage.named is None and stage.base_name != "scratch":
                with error_context(source=self.scope.range(stage.lines)):
                    _reference(stage)  # also in stages that are not needed
        while True:
            reachable = self.plan.reachable()
            wanted = stages if all_stages else reachable
            waiting = [stage for stage in wanted if stage.base is None and not stage.is_resolved]
            await at_once([self._resolve_base(stage) for stage in waiting])
            if not any(self.plan.fire_onbuild(stage) for stage in reachable):
                return

    async def _resolve_base(self, stage: Stage) -> None:
        stage.is_resolved = True
        target = self.scope.target
        with error_context(source=self.scope.range(stage.lines)):
            if stage.named is not None:
                await self._use_named_stage(stage, stage.named)
            elif stage.base_name == "scratch":
                platform = target
                if stage.again is not None and stage.platform is not None:
                    platform = stage.platform
                stage.platform = platform
                work = Work(State(), Image.empty(platform))
                stage.work = self._shared("scratch", work) if stage.is_implicit else work
            else:
                platform = stage.platform or target
                named = self.plan.named(str(_reference(stage)), platform)
                if named is not None:
                    await self._use_named_base(stage, named, platform)
                else:
                    await self._pull(stage, platform)
        if stage.is_implicit:
            stage.is_dispatched = True

    async def _use_named_stage(self, stage: Stage, context: NamedContext) -> None:
        """The context stands in for the whole stage."""
        loaded = await self._load_named(context)
        image = loaded.image.copy() if loaded.image is not None else Image(ImageConfig())
        stage.work = self._shared(context, Work(loaded.state, image, loaded.config, loaded.paths))
        stage.platform = image.platform() or stage.platform or self.scope.target
        stage.is_dispatched = True

    async def _use_named_base(self, stage: Stage, context: NamedContext, platform: Platform) -> None:
        loaded = await self._load_named(context)
        image = loaded.image.copy() if loaded.image is not None else Image.empty(platform)
        work = Work(loaded.state.set_platform(platform), image, loaded.config, loaded.paths)
        stage.work = self._shared((context, "base"), work) if stage.is_implicit else work
        stage.platform = platform

    async def _load_named(self, context: NamedContext) -> LoadedContext:
        loaded = self.shared.contexts[context] = await self.loader.named(context)
        return loaded

    def _shared(self, key: object, work: Work) -> Work:
        """What is only copied from has one `Work` for all platforms, so that those who copy can be shared."""
        return self.shared.works.setdefault(key, work)

    async def _pull(self, stage: Stage, platform: Platform) -> None:
        reference = _reference(stage)
        prefix = f"{platform.format_all()} " if self.scope.options.multi_platform else ""
        log_name = f"[{prefix}internal] load metadata for {reference}"
        try:
            resolved = await self.loader.resolve_image(str(reference), platform, log_name)
        except RegistryError as error:
            names = [item.name for item in self.plan.stages if item.name]
            match = closest(stage.base_name, [*names, *_WELL_KNOWN])
            if match:
                error.hint = "\n".join(filter(None, (f"did you mean {match}?", error.hint)))
            raise
        config = decode(ImageConfig, resolved.config)
        image = Image(config)
        if stage.platform is None and self.scope.is_implicit_target:
            platform = self._implied_platform(image, platform)
        stage.platform = platform
        actual = image.platform()
        is_first = stage.again is None
        if self.scope.checker is not None and stage.parsed is not None and actual is not None and is_first:
            self.scope.checker.base_platform(stage.parsed, stage.base_name, expected=platform, actual=actual)
        if resolved.reference != str(reference):
            reference = Reference.parse(resolved.reference)
        if resolved.digest:
            reference = reference.with_digest(Digest.parse(resolved.digest))
        layers = any(not item.empty_layer for item in image.history) or image.rootfs.diff_ids
        state = State()
        work = Work(state, image, resolved.config)
        if layers:
            mode = self.scope.options.resolve_mode
            command = stage.parsed.original if stage.parsed is not None else ""
            name = step_name(self.scope, stage, work, f"FROM {reference}", {})
            work.state = image_source(
                str(reference),
                platform=platform,
                resolve_mode="" if mode == "default" else mode,
                constraints=self.scope.constraints(name, stage.lines, command=command),
            )
        if stage.is_implicit:
            work = self._shared((str(reference), platform, stage.lines), work)
        stage.work = work

    def _implied_platform(self, image: Image, platform: Platform) -> Platform:
        """With no platform asked for, that of the image if this builder can run it."""
        if (image.os, image.architecture) == (platform.os, platform.architecture):
            return platform
        for known in self.loader.gateway.build_opts.build_platforms:
            if (image.os, image.architecture) == (known.os, known.architecture):
                return known
        return platform


def _reference(stage: Stage) -> Reference:
    try:
        return Reference.parse(stage.base_name)
    except BadReference as error:
        raise DockerfileError(
            f'failed to parse stage name "{stage.base_name}": {error.message}', hint=error.hint
        ) from None


async def at_once(jobs: list[Coroutine[Any, Any, None]]) -> None:
    """Run them at the same time; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
