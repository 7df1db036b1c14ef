"""Stages under conversion, and what is common to all stages of one platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError, SourceRange
from anyarch.llb.state import Constraints

from . import instructions
from .expand import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.llb.definition import SourceInfo
    from anyarch.llb.state import State
    from anyarch.spec.pattern import PatternMatcher
    from anyarch.spec.platform import Platform

    from .check import Checker
    from .image import Image
    from .named import NamedContext
    from .options import Options
    from .outline import Outline
    from .stage_check import StageChecks

__all__ = ["Command", "Scope", "Stage", "Work"]


class Scope:
    """The circumstances of one conversion: one Dockerfile for one target platform."""

    __slots__ = (
        "build_args",
        "checker",
        "context",
        "epoch",
        "escape",
        "global_args",
        "ignore",
        "info",
        "is_implicit_target",
        "is_labs",
        "options",
        "outline",
        "target",
    )

    def __init__(
        self,
        *,
        options: Options,
        target: Platform,
        is_implicit_target: bool,
        global_args: dict[str, str],
        build_args: Mapping[str, str],
        escape: str,
        context: State,
        info: SourceInfo,
        epoch: int | None,
        checker: Checker | None = None,
        is_labs: bool = False,
    ) -> None:
        self.options = options
        self.is_labs = is_labs  # the file asks for the syntax with what is not final yet
        self.target = target
        self.is_implicit_target = is_implicit_target
        self.global_args = global_args
        self.build_args = build_args
        self.escape = escape
        self.context = context
        self.info = info
        self.epoch = epoch
        self.checker = checker  # of the first platform only: the others would say the same
        self.ignore: PatternMatcher | None = None  # set before instructions are converted
        self.outline: Outline | None = None  # where what can be given to the build is noted

    def expand(self, word: str, env: Mapping[str, str]) -> str:
        """Raises `DockerfileError`."""
        return expand(word, env, escape=self.escape).value

    def constraints(
        self, name: str, lines: tuple[int, int] | None = None, *, command: str | None = None
    ) -> Constraints:
        """Progress name, place in the Dockerfile, and the instruction as written."""
        description = {"llb.customname": name}
        if command is not None:
            description["com.docker.dockerfile.v1.command"] = command
        return Constraints(description=description, places=((self.info, (lines,)),) if lines else ())

    def range(self, lines: tuple[int, int]) -> SourceRange:
        return SourceRange(self.info.filename, *lines, data=self.info.data)


class Command(msgspec.Struct, frozen=True):
    """An instruction with the stages it takes files from; for RUN one a mount."""

    instruction: instructions.Instruction
    sources: tuple[Stage, ...] = ()
    is_onbuild: bool = False


class Work:
    """What converting a stage makes, and what a stage built on it starts with.

    Platforms whose stage comes out the same share one `Work`.
    """

    __slots__ = (
        "base_config",
        "build_args",
        "command_number",
        "context_paths",
        "image",
        "is_cmd_set",
        "is_onbuild",
        "paths",
        "state",
    )

    def __init__(
        self, state: State, image: Image, base_config: bytes = b"", paths: set[str] | None = None
    ) -> None:
        self.state = state
        self.image = image
        self.base_config = base_config
        self.build_args: dict[str, str] = {}  # names of ARG lines so far, with their values there
        self.command_number = 0
        self.context_paths: set[str] = set()  # what the stage takes from the main context
        # What is taken of the root that all began with, by this stage and by others; one set for the whole
        # chain.
        self.paths: set[str] = set() if paths is None else paths
        self.is_cmd_set = False
        self.is_onbuild = False


class Stage:
    """A FROM with its instructions, or an image that a COPY or a mount takes files from (`is_implicit`).

    `label` is the name in progress texts, `total` the number of steps it counts. `named` is the named
    context that replaces it. `commands` are ready when dependencies are known; `work` when it has been
    converted or resolved.
    """

    __slots__ = (
        "again",
        "base",
        "base_name",
        "checks",
        "commands",
        "deps",
        "is_dispatched",
        "is_implicit",
        "is_resolved",
        "label",
        "lines",
        "name",
        "named",
        "no_cache",
        "number",
        "onbuild_done",
        "parsed",
        "platform",
        "total",
        "work",
    )

    def __init__(
        self,
        base_name: str,
        lines: tuple[int, int],
        *,
        number: int = -1,
        parsed: instructions.Stage | None = None,
        platform: Platform | None = None,
    ) -> None:
        self.base_name = base_name
        self.lines = lines
        self.number = number
        self.parsed = parsed
        self.name = parsed.name if parsed else ""
        self.label = self.name
        self.platform = platform
        self.is_implicit = parsed is None
        self.base: Stage | None = None
        self.named: NamedContext | None = None
        self.again: Stage | None = None  # the stage that this one is for another platform
        self.commands: list[Command] = []
        self.deps: dict[Stage, tuple[int, int]] = {}  # with the lines that need them
        self.total = 0
        self.no_cache = False
        self.onbuild_done = False
        self.is_resolved = False
        self.is_dispatched = False
        self.work: Work | None = None
        self.checks: StageChecks | None = None

    def done(self) -> Work:
        """The work of a stage that has been converted."""
        if self.work is None:
            raise DockerfileError(f"stage {self.label or self.base_name} has not been converted yet")
        return self.work
