"""From a parsed Dockerfile to a graph and an image config, for one target platform.

    plan      stages, their bases and what they copy from; which of them the target needs (`Plan`)
    resolve   configs of base images and named contexts (asks the gateway), ONBUILD triggers (`Resolution`)
    dispatch  instruction by instruction, in file order
    finish    the platform that the config claims

Conversions of several platforms share `Shared`: a stage that comes out the same for two platforms (one that
runs on the build platform and sees no TARGET argument) is converted once, and its vertices are the same
objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NotSupported, error_context
from anyarch.frontend.gateway import ScanTargets
from anyarch.llb.ops import SourceOp
from anyarch.llb.state import State
from anyarch.llb.vertex import Deferred
from anyarch.spec.oci import ImageConfig
from anyarch.spec.timestamp import format_time

from . import instructions as ins
from . import steps
from .copy import copy
from .gotext import parse_bool
from .image import default_path
from .plan import Plan, Shared
from .resolve import Resolution
from .run import run
from .stage import Work
from .stage_check import StageChecks

if TYPE_CHECKING:
    from .context import Loader
    from .stage import Command, Scope, Stage

__all__ = ["Conversion", "Converted"]


class Converted(msgspec.Struct, frozen=True):
    """`base_config` are the bytes of the base image's config, empty if there is none."""

    state: State
    config: ImageConfig
    base_config: bytes = b""


_SCAN_CONTEXT = "BUILDKIT_SBOM_SCAN_CONTEXT"
_SCAN_STAGE = "BUILDKIT_SBOM_SCAN_STAGE"


class Conversion:
    """One Dockerfile for one platform. Call `resolve`, `dispatch`, `finish` in this order."""

    def __init__(
        self,
        dockerfile: ins.Dockerfile,
        scope: Scope,
        loader: Loader,
        shared: Shared | None = None,
        *,
        all_stages: bool = False,
    ) -> None:
        """With `all_stages` also what the target does not need is converted, which is to say checked.

        Raises `DockerfileError`, `UsageError` for an unknown target.
        """
        self.all_stages = all_stages
        self.scope = scope
        self.shared = shared or Shared()
        self.plan = Plan(dockerfile, scope, loader, self.shared)
        self.target = self.plan.target

    async def resolve(self) -> None:
        """Raises `DockerfileError`, and what the gateway raises, with the FROM line."""
        await Resolution(self.plan).run(all_stages=self.all_stages)

    # --- dispatch ---

    def dispatch(self) -> None:
        """Convert what the target needs. Raises `DockerfileError`, `NotSupported` with the line."""
        for stage in self.plan.stages if self.all_stages else self.plan.reachable():
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

    def scan_targets(self) -> ScanTargets:
        """What an SBOM of the target is made from, with the stages and the context that ask for it."""
        extras: dict[str, State] = {}
        ignores_cache = self.target.no_cache
        if self._wants(self.target, _SCAN_CONTEXT):
            extras["context"] = self.scope.context
        for stage in self.plan.reachable():
            if stage is not self.target and not stage.is_implicit and self._wants(stage, _SCAN_STAGE):
                extras[stage.label] = stage.done().state
                ignores_cache |= stage.no_cache
        return ScanTargets(self.target.done().state, extras, ignores_cache)

    def _wants(self, stage: Stage, name: str) -> bool:
        """Whether an argument of that name, of the file or of the stage, is true or names the stage."""
        wanted = False
        values = (self.scope.global_args.get(name), stage.done().build_args.get(name))
        for value in values:
            if value:
                truth = parse_bool(value)
                wanted = stage.label in value.split(",") if truth is None else truth
        return wanted


def _origin(work: Work) -> object:
    """Equal for equal starts of a stage."""
    output = work.state.output
    if output is None or isinstance(output, Deferred):
        return (id(output), work.base_config)
    kind = output.vertex.kind
    return (kind.identifier if isinstance(kind, SourceOp) else id(output), work.base_config)
