"""The stages of a Dockerfile for one platform: what each is built on and copies from, and which of them the
target needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError, InvalidPlatform, UsageError, error_context
from anyarch.solver.events import WarningEvent
from anyarch.spec.platform import Platform

from . import instructions as ins
from .context import wanted_paths
from .expand import expand
from .gotext import did_you_mean
from .named import find_named
from .parser import parse_onbuild
from .run import mount_stage_names
from .stage import Command, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .context import Loader
    from .named import LoadedContext, NamedContext
    from .stage import Scope, Work

__all__ = ["Plan", "Shared"]

_COUNTED = (ins.Run, ins.Copy, ins.Add, ins.Workdir)


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


class Plan:
    """The stages of one Dockerfile for one platform, in file order, and the target among them."""

    def __init__(self, dockerfile: ins.Dockerfile, scope: Scope, loader: Loader, shared: Shared) -> None:
        """Raises `DockerfileError`, `UsageError` for an unknown target."""
        self.dockerfile = dockerfile
        self.scope = scope
        self.loader = loader
        self.shared = shared
        self.stages: list[Stage] = []
        self._numbered: list[Stage] = []  # those of the file, by position
        self._again: dict[tuple[Stage, Platform], Stage] = {}
        self._by_name: dict[str, Stage] = {}
        for number, parsed in enumerate(dockerfile.stages):
            with error_context(source=scope.range(parsed.lines)):
                self._add_stage(number, parsed)
        self.target = self._find_target()
        for stage in list(self.stages):
            if stage.named is None and stage.parsed is not None:
                self._add_commands(stage, stage.parsed.instructions)
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
        stage.named = self.named(parsed.name, stage.platform) if parsed.name else None
        if stage.named is None:
            stage.label = parsed.name or f"stage-{number}"
            stage.base = self._by_name.get(base_name) or self._by_name.get(base_name.lower())
            is_pulled = base_name != "scratch" and stage.base is None
            stage.total = is_pulled + sum(isinstance(item, _COUNTED) for item in parsed.instructions)
            stage.no_cache = self.scope.options.ignores_cache(parsed.name)
            if stage.base is not None and stage.platform is not None:
                stage.base = self._base_for(stage, stage.base, stage.platform)
        self.stages.append(stage)
        self._numbered.append(stage)
        if parsed.name:
            self._by_name[parsed.name] = stage

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
        expansion = expand(parsed.platform, self.scope.global_args, escape=self.scope.escape)
        text, known = expansion.value, tuple(self.scope.global_args)

        def suggest(message: str) -> str:
            suggestions = (did_you_mean(message, name, known) for name in expansion.unmatched)
            return next((text for text in suggestions if text != message), message)

        if not text:
            raise DockerfileError(
                suggest(f"empty platform value from expression {parsed.platform}"),
                hint="predefined arguments such as $BUILDPLATFORM and global ARGs are known here",
            )
        try:
            return Platform.parse(text, default=self.loader.gateway.build_opts.build_platform)
        except InvalidPlatform as error:
            raise DockerfileError(
                suggest(f"failed to parse platform {parsed.platform}: {error.message}"), hint=error.hint
            ) from None

    def _find_target(self) -> Stage:
        wanted = self.scope.options.target
        if not wanted:
            return self.stages[-1]
        found = self._by_name.get(wanted.lower())
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
        return self._by_name.get(name.lower()) or Stage(name, lines)

    def _add_commands(self, stage: Stage, instructions: Iterable[ins.Instruction]) -> None:
        for instruction in instructions:
            if not _takes_files(instruction):
                stage.commands.append(Command(instruction))
                continue
            with error_context(source=self.scope.range(instruction.lines)):
                self._add_command(stage, self._command(instruction))

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

    def fire_onbuild(self, stage: Stage) -> bool:
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

    def named(self, name: str, platform: Platform | None) -> NamedContext | None:
        """The named context that stands in for a stage or an image of that name."""
        return find_named(self.scope.options.named_contexts, name, platform or self.scope.target)


def _ignored_platform(plan: Plan, stage: Stage, chain: list[Stage], have: Platform) -> WarningEvent:
    """That `FROM --platform=` of a stage does nothing, and what it would gain."""
    wanted = stage.platform
    steps_run = sum(
        isinstance(instruction, ins.Run)
        for one in (stage, *chain)
        for instruction in (one.parsed.instructions if one.parsed is not None else ())
    )
    is_native = wanted == plan.loader.gateway.build_opts.build_platform
    gain = f"their {steps_run} RUN steps would run" if steps_run else "they would be made"
    gain += f"{' natively and' if is_native and steps_run else ''} once for all who ask for {wanted}"
    info = plan.scope.info
    return WarningEvent(
        plan.loader.dockerfile_vertex,
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
