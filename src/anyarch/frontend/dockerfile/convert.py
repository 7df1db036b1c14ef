"""From a parsed Dockerfile to a graph and an image config, for one target platform.

    plan      stages, their bases and what they copy from; which of them the target needs
    resolve   configs of base images and named contexts (asks the gateway), ONBUILD triggers
    dispatch  instruction by instruction, in file order
    finish    the platform that the config claims

Conversions of several platforms share `Shared`: a stage that comes out the same for two platforms (one that
runs on the build platform and sees no TARGET argument) is converted once, and its vertices are the same
objects.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import (
    BadReference,
    DockerfileError,
    InvalidPlatform,
    NotSupported,
    RegistryError,
    SourceRange,
    UsageError,
    error_context,
)
from anyarch.llb.ops import SourceOp
from anyarch.llb.source import image as image_source
from anyarch.llb.state import State
from anyarch.llb.vertex import Deferred
from anyarch.solver.events import WarningEvent
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference
from anyarch.spec.timestamp import format_time

from . import instructions as ins
from . import steps
from .check import StageChecks
from .context import wanted_paths
from .copy import copy
from .expand import expand
from .gotext import closest, did_you_mean
from .image import Image, default_path
from .lint import predefined_args
from .named import find_named
from .naming import step_name
from .parser import parse_onbuild
from .run import mount_stage_names, run
from .stage import Command, Stage, Work

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping
    from typing import Any

    from .context import Loader
    from .named import LoadedContext, NamedContext
    from .stage import Scope

__all__ = ["Conversion", "Converted", "Shared", "at_once", "global_args"]

# Images that people mean when they mistype a name.
_WELL_KNOWN = ("alpine", "busybox", "centos", "debian", "fedora", "golang", "node", "python", "ubuntu")

_COUNTED = (ins.Run, ins.Copy, ins.Add, ins.Workdir)


class Converted(msgspec.Struct, frozen=True):
    """`base_config` are the bytes of the base image's config, empty if there is none."""

    state: State
    config: ImageConfig
    base_config: bytes = b""


class Shared:
    """What the conversions of one build have in common."""

    __slots__ = ("contexts", "ignored_platforms", "paths", "works")

    def __init__(self) -> None:
        self.works: dict[object, Work] = {}
        self.contexts: dict[NamedContext, LoadedContext] = {}
        self.ignored_platforms: set[tuple[int, int]] = set()  # lines of FROM that were told of
        self.paths: set[str] = set()  # what all platforms together take from the main context

    def settle(self) -> None:
        """Decide what local named contexts transfer; all platforms must have been dispatched."""
        for context, loaded in self.contexts.items():
            loaded.settle(context.key, wanted_paths(loaded.paths))


def global_args(
    dockerfile: ins.Dockerfile,
    build_args: Mapping[str, str],
    *,
    target: Platform,
    build: Platform,
    stage: str,
) -> dict[str, str]:
    """The global scope: predefined platform arguments, then the ARGs before the first FROM.

    `stage` is the name of the target stage. Raises `DockerfileError`.
    """
    predefined = predefined_args(build, target, stage)
    args = {name: build_args.get(name, value) for name, value in predefined.items()}
    for arg in dockerfile.global_args:
        for item in arg.args:
            value = build_args.get(item.key)
            if value is None and item.value is not None:
                try:
                    value = expand(item.value, args, escape=dockerfile.escape).value
                except DockerfileError as error:
                    error.source = error.source or _range(dockerfile, arg.lines)
                    raise
            if value is not None:
                args[item.key] = value
    return args


def _range(dockerfile: ins.Dockerfile, lines: tuple[int, int]) -> SourceRange:
    return SourceRange(dockerfile.filename, *lines, data=dockerfile.data)


class Conversion:
    """One Dockerfile for one platform. Call `plan`, `resolve`, `dispatch`, `finish` in this order."""

    def __init__(
        self,
        dockerfile: ins.Dockerfile,
        scope: Scope,
        loader: Loader,
        shared: Shared | None = None,
        *,
        all_stages: bool = False,
    ) -> None:
        """With `all_stages` also what the target does not need is converted, which is to say checked."""
        self.all_stages = all_stages
        self.dockerfile = dockerfile
        self.scope = scope
        self.loader = loader
        self.shared = shared or Shared()
        self.stages: list[Stage] = []
        self._numbered: list[Stage] = []  # those of the file, by position
        self._again: dict[tuple[Stage, Platform], Stage] = {}
        self.by_name: dict[str, Stage] = {}
        self.target: Stage

    # --- plan ---

    def plan(self) -> None:
        """Raises `DockerfileError`, `UsageError` for an unknown target."""
        for number, parsed in enumerate(self.dockerfile.stages):
            with error_context(source=self.scope.range(parsed.lines)):
                self._add_stage(number, parsed)
        self.target = self._find_target()
        for stage in list(self.stages):
            if stage.named is not None or stage.parsed is None:
                continue
            for instruction in stage.parsed.instructions:
                if not _takes_files(instruction):
                    stage.commands.append(Command(instruction))
                    continue
                with error_context(source=self.scope.range(instruction.lines)):
                    self._add_command(stage, self._command(instruction))
        self._refuse_cycles()
        if len(self.stages) == 1:
            self.stages[0].label = ""

    def _add_stage(self, number: int, parsed: ins.Stage) -> None:
        args = self.scope.global_args
        base_name = self.scope.expand(parsed.base_name, args)
        if not base_name:
            raise DockerfileError(
                f"base name ({parsed.base_name}) should not be blank",
                hint="is the ARG declared before the first FROM, or given with --build-arg?",
            )
        stage = Stage(
            base_name, parsed.lines, number=number, parsed=parsed, platform=self._stage_platform(parsed)
        )
        stage.named = self._named(parsed.name, stage.platform) if parsed.name else None
        if stage.named is None:
            stage.label = parsed.name or f"stage-{number}"
            stage.base = self.by_name.get(base_name) or self.by_name.get(base_name.lower())
            is_pulled = base_name != "scratch" and stage.base is None
            stage.total = is_pulled + sum(isinstance(item, _COUNTED) for item in parsed.instructions)
            stage.no_cache = self.scope.options.ignores_cache(parsed.name)
            if stage.base is not None and stage.platform is not None:
                stage.base = self._base_for(stage, stage.base, stage.platform)
        self.stages.append(stage)
        self._numbered.append(stage)
        if parsed.name:
            self.by_name[parsed.name] = stage

    def _base_for(self, stage: Stage, base: Stage, platform: Platform) -> Stage:
        """The stage that FROM names, made for the platform it asks for. BuildKit ignores that platform, and
        so is it here unless the option `stage-platform` is set."""
        chain = [base]
        while chain[-1].base is not None:
            chain.append(chain[-1].base)
        have = chain[-1].platform or self.scope.target
        if have == platform or any(one.named is not None for one in chain):
            return base
        if self.scope.options.stage_platform:
            return self._for_platform(base, platform)
        if stage.lines not in self.shared.ignored_platforms:
            self.shared.ignored_platforms.add(stage.lines)
            self.loader.gateway.warn(_ignored_platform(self, stage, chain, have))
        return base

    def _for_platform(self, stage: Stage, platform: Platform) -> Stage:
        """The same stage on another platform, with all it is built on."""
        known = self._again.get((stage, platform))
        if known is None:
            again = Stage(
                stage.base_name, stage.lines, number=stage.number, parsed=stage.parsed, platform=platform
            )
            again.again = stage
            again.label, again.total, again.no_cache = stage.label, stage.total, stage.no_cache
            if stage.base is not None:
                again.base = self._for_platform(stage.base, platform)
            known = self._again[stage, platform] = again
            self.stages.append(again)
        return known

    def _stage_platform(self, parsed: ins.Stage) -> Platform | None:
        if not parsed.platform:
            return None
        text = self.scope.expand(parsed.platform, self.scope.global_args)
        if not text:
            raise DockerfileError(
                f"empty platform value from expression {parsed.platform}",
                hint="predefined arguments such as $BUILDPLATFORM and global ARGs are known here",
            )
        try:
            return Platform.parse(text, default=self.loader.gateway.build_opts.build_platform)
        except InvalidPlatform as error:
            raise DockerfileError(
                f"failed to parse platform {parsed.platform}: {error.message}", hint=error.hint
            ) from None

    def _find_target(self) -> Stage:
        wanted = self.scope.options.target
        if not wanted:
            return self.stages[-1]
        found = self.by_name.get(wanted.lower())
        if found is None:
            names = [stage.label for stage in self.stages if stage.label]
            raise UsageError(
                did_you_mean(f'target stage "{wanted}" could not be found', wanted, names),
                hint=f"the Dockerfile has: {', '.join(names)}",
            )
        return found

    def _command(self, instruction: ins.Instruction, *, is_onbuild: bool = False) -> Command:
        """The instruction with the stages it takes from."""
        sources: tuple[Stage, ...] = ()
        if isinstance(instruction, ins.Copy) and instruction.from_:
            sources = (self._copy_source(instruction),)
        elif isinstance(instruction, ins.Run):
            names = mount_stage_names(instruction)
            sources = tuple([self._source(name, instruction.lines) for name in names])
        return Command(instruction, sources, is_onbuild)

    def _copy_source(self, instruction: ins.Copy) -> Stage:
        name = instruction.from_
        if "$" in name and self.scope.expand(name, {}) != name:
            raise DockerfileError(
                "variable expansion is not supported for --from, "
                "define a new stage with FROM using ARG from global scope as a workaround"
            )
        index = name[1:] if name[0] in "+-" else name
        if index.isascii() and index.isdigit():
            number = int(name)
            if not 0 <= number < len(self.dockerfile.stages):
                raise DockerfileError(f"invalid stage index {number}")
            return self._numbered[number]
        return self._source(name, instruction.lines)

    def _source(self, name: str, lines: tuple[int, int]) -> Stage:
        """The stage of that name, else an image."""
        return self.by_name.get(name.lower()) or Stage(name, lines)

    def _add_command(self, stage: Stage, command: Command) -> None:
        stage.commands.append(command)
        for source in command.sources:
            stage.deps[source] = command.instruction.lines
            if source.is_implicit:
                self.stages.append(source)

    def _refuse_cycles(self) -> None:
        """Depth first over what stages copy and mount from. Raises `DockerfileError`."""
        finished: set[Stage] = set()
        for start in self.stages:
            path: dict[Stage, Iterator[Stage]] = {} if start in finished else {start: iter(start.deps)}
            while path:
                stage, sources = next(reversed(path.items()))
                source = next(sources, None)
                if source is None:
                    del path[stage]
                    finished.add(stage)
                elif source in path:
                    raise DockerfileError(
                        f"circular dependency detected on stage: {source.label}",
                        source=self.scope.range(stage.deps[source]),
                    )
                elif source not in finished:
                    path[source] = iter(source.deps)

    # --- resolve ---

    async def resolve(self) -> None:
        """Ask for base images and named contexts until ONBUILD triggers bring no new ones.

        Raises `DockerfileError`, and what the gateway raises, with the FROM line.
        """
        for stage in self.stages:
            if stage.base is None and stage.named is None and stage.base_name != "scratch":
                with error_context(source=self.scope.range(stage.lines)):
                    _reference(stage)  # also in stages that are not needed
        while True:
            reachable = self.reachable()
            wanted = self.stages if self.all_stages else reachable
            waiting = [stage for stage in wanted if stage.base is None and not stage.is_resolved]
            await at_once([self._resolve_base(stage) for stage in waiting])
            if not any(self._fire_onbuild(stage) for stage in reachable):
                return

    def reachable(self) -> list[Stage]:
        """What the target needs, in file order."""
        found: set[Stage] = set()
        stack = [self.target]
        while stack:
            stage = stack.pop()
            if stage in found:
                continue
            found.add(stage)
            stack.extend(stage.deps)
            if stage.base is not None:
                stack.append(stage.base)
        return [stage for stage in self.stages if stage in found]

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
                named = self._named(str(_reference(stage)), platform)
                if named is not None:
                    await self._use_named_base(stage, named, platform)
                else:
                    await self._pull(stage, platform)
        if stage.is_implicit:
            stage.is_dispatched = True

    def _named(self, name: str, platform: Platform | None) -> NamedContext | None:
        return find_named(self.scope.options.named_contexts, name, platform or self.scope.target)

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
            names = [item.name for item in self.stages if item.name]
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

    def _fire_onbuild(self, stage: Stage) -> bool:
        """Put triggers of the base before the stage's own commands; True if they need stages not known so
        far."""
        triggers: list[str] = []
        if stage.work is not None:
            triggers += stage.work.image.on_build
            if triggers and not stage.is_implicit:
                stage.work.image.on_build = ()
        if stage.base is not None and not stage.onbuild_done:
            stage.onbuild_done = True
            triggers += [
                command.instruction.expression
                for command in stage.base.commands
                if isinstance(command.instruction, ins.Onbuild)
            ]
        if not triggers or stage.is_implicit or stage.is_dispatched:
            return False
        own, stage.commands = stage.commands, []
        info = self.scope.info
        for trigger in triggers:
            with error_context(source=self.scope.range(stage.lines)):
                instruction = parse_onbuild(
                    trigger, filename=info.filename, lines=stage.lines, data=info.data
                )
                self._add_command(stage, self._command(instruction, is_onbuild=True))
        has_sources = any(command.sources for command in stage.commands)
        stage.total += len(stage.commands)
        stage.commands += own
        return has_sources

    # --- dispatch ---

    def dispatch(self) -> None:
        """Convert what the target needs. Raises `DockerfileError`, `NotSupported` with the line."""
        for stage in self.stages if self.all_stages else self.reachable():
            if not stage.is_dispatched:
                self._dispatch_stage(stage)
                stage.is_dispatched = True
            self.shared.paths |= stage.done().context_paths
        # All of the result is wanted, whatever was copied from it.
        self.target.done().paths.add("/")

    def _dispatch_stage(self, stage: Stage) -> None:
        if stage.base is not None:
            stage.platform = stage.base.platform
        stage.platform = stage.platform or self.scope.target
        key = self._key(stage)
        known = self.shared.works.get(key)
        if known is not None:
            stage.work = known
            return
        work = self.shared.works[key] = stage.work = self._begin(stage)
        scope, outline = self.scope, self.scope.outline
        checks = stage.checks = self._checks(stage, work)
        for command in stage.commands:
            work.is_onbuild = command.is_onbuild
            instruction = command.instruction
            with error_context(source=scope.range(instruction.lines)):
                if checks is not None:
                    checks.check(
                        instruction,
                        work.state.env.values,
                        declared=work.build_args,
                        build_args=scope.build_args,
                        global_args=scope.global_args,
                        ignore=scope.ignore,
                    )
                env = work.state.env.values
                self._dispatch(stage, work, command)
                if outline is not None:
                    outline.note(stage, instruction, work, env)

    def _checks(self, stage: Stage, work: Work) -> StageChecks | None:
        if self.scope.checker is None or (stage.again is not None and stage.again.is_dispatched):
            return None
        base = stage.base.checks if stage.base is not None else None
        os = stage.platform.os if stage.platform is not None else "linux"
        return StageChecks(self.scope.checker, base, has_shell=bool(work.image.shell), os=os)

    def _key(self, stage: Stage) -> object:
        """Equal for stages of two platforms that come out the same."""
        seen: list[object] = []
        for command in stage.commands:
            if command.is_onbuild:
                seen.append(command.instruction.original)
            seen += [id(source.done()) for source in command.sources]
            if isinstance(command.instruction, ins.Arg):
                names = [item.key for item in command.instruction.args if item.value is None]
                seen += [self.scope.global_args.get(name) for name in names]
        base = id(stage.base.done()) if stage.base is not None else _origin(stage.done())
        return (stage.number, stage.platform, base, *seen)

    def _begin(self, stage: Stage) -> Work:
        """What the stage starts with: the base's filesystem, config and, if that is a stage, arguments."""
        if stage.base is not None:
            parent = stage.base.done()
            image = parent.image.copy()
            image.on_build = ()
            work = Work(parent.state, image, parent.base_config, parent.paths)
            work.build_args = dict(parent.build_args)
        else:
            work = stage.done()
            image = work.image
        assert stage.platform is not None
        path = default_path(stage.platform.os)
        if path is not None and not any(item.startswith("PATH=") for item in image.env):
            image.env.append(f"PATH={path}")
        env = work.state.env
        for item in image.env:
            name, _, value = item.partition("=")
            env = env.set(name, value)
        work.state = work.state.set_env(env)
        if work.state.platform is None:  # nothing below says what may run here
            work.state = work.state.set_platform(self.scope.target)
        options = self.scope.options
        if options.hostname:
            work.state = work.state.set_hostname(options.hostname)
        with error_context(source=self.scope.range(stage.lines)):
            if image.working_dir:
                steps.enter_workdir(work, image.working_dir, stage.platform.os)
        if image.user:
            steps.set_user(work, image.user)
        work.state = work.state.set_network(options.network)
        return work

    def _dispatch(self, stage: Stage, work: Work, command: Command) -> None:
        scope = self.scope
        instruction = command.instruction
        match instruction:
            case ins.Run():
                run(stage, work, command, scope)
            case ins.Copy() | ins.Add():
                copy(stage, work, command, scope)
            case ins.Arg():
                steps.add_args(work, instruction, scope)
            case ins.Env():
                steps.add_env(work, instruction, scope)
            case ins.Label():
                steps.add_labels(work, instruction, scope)
            case ins.Workdir():
                steps.change_workdir(stage, work, instruction, scope)
            case ins.User():
                user = scope.expand(instruction.user, work.state.env.values)
                steps.set_user(work, user)
                work.image.commit(f"USER {user}")
            case ins.Cmd():
                steps.set_cmd(work, instruction)
            case ins.Entrypoint():
                steps.set_entrypoint(work, instruction)
            case ins.Shell():
                steps.set_shell(work, instruction)
            case ins.Healthcheck():
                steps.set_healthcheck(work, instruction)
            case ins.Expose():
                steps.expose(work, instruction, scope)
            case ins.Volume():
                steps.add_volumes(work, instruction, scope)
            case ins.StopSignal():
                steps.set_stop_signal(work, instruction, scope)
            case ins.Maintainer():
                steps.set_maintainer(work, instruction)
            case ins.Onbuild():
                steps.add_onbuild(work, instruction)
            case _:
                raise NotSupported(f"{instruction.keyword.upper()} is not supported yet")

    # --- finish ---

    def finish(self) -> Converted:
        """The result; the main context and named contexts must have been settled before it is marshalled."""
        work = self.target.done()
        image = work.image.copy()
        image.labels.update(self.scope.options.labels)
        if not self.scope.is_implicit_target:
            image.force_platform(self.scope.target)
        epoch = self.scope.epoch
        created = None if epoch is None else format_time(epoch)
        return Converted(work.state, image.finish(created=created), work.base_config)


def _ignored_platform(
    conversion: Conversion, stage: Stage, chain: list[Stage], have: Platform
) -> WarningEvent:
    """That `FROM --platform=` of a stage does nothing, and what it would gain."""
    wanted = stage.platform
    steps_run = sum(
        isinstance(instruction, ins.Run)
        for one in (stage, *chain)
        for instruction in (one.parsed.instructions if one.parsed is not None else ())
    )
    is_native = wanted == conversion.loader.gateway.build_opts.build_platform
    gain = f"their {steps_run} RUN steps would run" if steps_run else "they would be made"
    gain += f"{' natively and' if is_native and steps_run else ''} once for all who ask for {wanted}"
    info = conversion.scope.info
    return WarningEvent(
        conversion.loader.dockerfile_vertex,
        f"FROM --platform={wanted} {stage.base_name}: the platform is ignored, because "
        f"{stage.base_name} is a stage of {have} (line {stage.lines[0]})",
        (f"This stage and what it is built on are made for each platform. With --stage-platform {gain}.",),
        filename=info.filename,
        source=info.data,
        lines=(stage.lines,),
    )


def _takes_files(instruction: ins.Instruction) -> bool:
    """True if other stages may be named in it."""
    if isinstance(instruction, ins.Copy):
        return bool(instruction.from_)
    return isinstance(instruction, ins.Run) and bool(instruction.mounts)


def _reference(stage: Stage) -> Reference:
    try:
        return Reference.parse(stage.base_name)
    except BadReference as error:
        raise DockerfileError(
            f'failed to parse stage name "{stage.base_name}": {error.message}', hint=error.hint
        ) from None


def _origin(work: Work) -> object:
    """Equal for equal starts of a stage."""
    output = work.state.output
    if output is None or isinstance(output, Deferred):
        return (id(output), work.base_config)
    kind = output.vertex.kind
    return (kind.identifier if isinstance(kind, SourceOp) else id(output), work.base_config)


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
