"""Build checks: what the rules of `rules.RULES` find in a Dockerfile.

A conversion makes a `Checker`, calls `check_file` and `check_froms`, makes a `StageChecks` for each stage and
calls its `check` before each instruction is converted; `base_platform` when it has found a base image.
`lint.lint` does as much of that as the file alone allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import AnyarchError, DockerfileError

from .expand import expand
from .gotext import closest, quote
from .instructions import (
    Arg,
    Maintainer,
)
from .rules import RULES, file_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyarch.spec.platform import Platform

    from .instructions import (
        Dockerfile,
        Stage,
    )
    from .rules import CheckOptions

__all__ = ["Checker", "LintWarning"]

Lines = tuple[int, int]

_RESERVED = ("context", "scratch")


class LintWarning(msgspec.Struct, frozen=True):
    """One finding. `description` says what the rule is about, `detail` what was found."""

    rule: str
    description: str
    url: str
    detail: str
    lines: Lines

    @property
    def short(self) -> str:
        """The one line that a build shows."""
        return f"{self.rule}: {self.detail} (line {self.lines[0]})"


class Checker:
    """The checks of one conversion. `warnings` collects what was found; `sink` also gets each at once."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        options: CheckOptions | None = None,
        *,
        sink: Callable[[LintWarning], object] | None = None,
    ) -> None:
        """`options` are the file's own when not given. Raises `DockerfileError` when those are malformed."""
        self.dockerfile = dockerfile
        self.options = file_options(dockerfile.data) if options is None else options
        self.warnings: list[LintWarning] = []
        self._sink = sink

    def report(
        self, rule: str, detail: str, lines: Lines, comments: tuple[str, ...] = (), *, once: bool = False
    ) -> None:
        """Note a finding unless its rule is off, by the options or by a comment above the instruction.

        `once` drops what was found before, word for word.
        """
        facts = RULES[rule]
        options = self.options.with_comments(comments) if comments else self.options
        if not options.is_on(facts):
            return
        warning = LintWarning(rule, facts.description, facts.url, detail, lines)
        if once and warning in self.warnings:
            return
        self.warnings.append(warning)
        if self._sink:
            self._sink(warning)

    def error(self) -> DockerfileError | None:
        """What `error=true` makes of the findings, None if there are none or they are only warnings."""
        if not self.options.error or not self.warnings:
            return None
        names = ", ".join(sorted({warning.rule for warning in self.warnings}))
        return DockerfileError(
            f"lint violation found for rules: {names}",
            hint="the warnings say where; that they fail the build is asked for by error=true",
        )

    # Rules of the file as such

    def check_instructions(self) -> None:
        """The rules that look at one instruction alone: they hold in a file that could not be read to its end
        too."""
        file = self.dockerfile
        for warning in file.warnings:
            self.report(warning.rule, warning.message, (warning.line, warning.line))
        for arg in file.global_args:
            self._arg_comments(arg)
        for stage in file.stages:
            self._stage_line(stage)
            for instruction in stage.instructions:
                if isinstance(instruction, Maintainer):
                    detail = "Maintainer instruction is deprecated in favor of using label"
                    self.report("MaintainerDeprecated", detail, instruction.lines, instruction.comments)
                elif isinstance(instruction, Arg):
                    self._arg_comments(instruction)

    def check_file(self) -> None:
        """The rules about spelling and names, for all stages, reachable or not."""
        self.check_instructions()
        names: set[str] = set()
        for stage in self.dockerfile.stages:
            if stage.name in _RESERVED:
                detail = f"Stage name should not use the same name as reserved stage {quote(stage.name)}"
                self.report("ReservedStageName", detail, stage.lines)
            if stage.name and stage.name in names:
                detail = f"Duplicate stage name {quote(stage.name)}, stage names should be unique"
                self.report("DuplicateStageName", detail, stage.lines)
            names.add(stage.name)
        self._casing()

    def _stage_line(self, stage: Stage) -> None:
        if stage.name_text != stage.name_text.lower():
            detail = f"Stage name '{stage.name_text}' should be lowercase"
            self.report("StageNameCasing", detail, stage.lines, stage.comments)
        keyword, other = stage.keyword, stage.as_keyword
        is_consistent = keyword in (keyword.lower(), keyword.upper())
        if is_consistent and other != (other.lower() if keyword == keyword.lower() else other.upper()):
            detail = f"'{other}' and '{keyword}' keywords' casing do not match"
            self.report("FromAsCasing", detail, stage.lines, stage.comments)
        if stage.name:
            self._description("FROM", (stage.name,), stage.lines, stage.comments)

    def _arg_comments(self, arg: Arg) -> None:
        self._description("ARG", tuple(item.key for item in arg.args), arg.lines, arg.comments)

    def _description(
        self, keyword: str, names: Sequence[str], lines: Lines, comments: tuple[str, ...]
    ) -> None:
        if not comments or comments[-1].partition(" ")[0] in names:
            return
        example = names[0] if len(names) == 1 else "<arg_key>"
        detail = f"Comment for {keyword} should follow the format: `# {example} <description>`"
        self.report("InvalidDefinitionDescription", detail, lines, comments)

    def _casing(self) -> None:
        keywords: list[tuple[str, Lines]] = []
        for stage in self.dockerfile.stages:
            keywords.append((stage.keyword, stage.lines))
            keywords += [(instruction.keyword, instruction.lines) for instruction in stage.instructions]
        lower = sum(keyword == keyword.lower() for keyword, _ in keywords)
        upper = sum(keyword == keyword.upper() for keyword, _ in keywords)
        for keyword, lines in keywords:
            if keyword != (keyword.lower() if lower > upper else keyword.upper()):
                wanted = "lowercase" if lower > upper else "uppercase"
                detail = f"Command '{keyword}' should match the case of the command majority ({wanted})"
                self.report("ConsistentInstructionCasing", detail, lines)

    # Rules of FROM lines

    def check_froms(self, global_args: Mapping[str, str], predefined: Mapping[str, str]) -> None:
        """The rules about variables in FROM lines.

        `global_args` is the evaluated global scope, `predefined` what of it is there without any ARG.
        """
        file = self.dockerfile
        defaults = self._default_args(predefined)
        known = dict.fromkeys((*(item.key for arg in file.global_args for item in arg.args), *global_args))
        names: set[str] = set()
        for stage in file.stages:
            if defaults is not None and stage.base_name.lower() not in names:
                self._default_base(stage, defaults)
            names.add(stage.name)
        for stage in file.stages:
            for word in filter(None, (stage.base_name, stage.platform)):
                self._undeclared(stage, word, global_args, list(known))
            if stage.platform:
                self._platform_flag(stage, global_args)

    def _default_args(self, predefined: Mapping[str, str]) -> dict[str, str] | None:
        """The global scope as it is without any build argument, None if it cannot be evaluated."""
        values = dict(predefined)
        try:
            for arg in self.dockerfile.global_args:
                for item in arg.args:
                    if item.value is not None:
                        values[item.key] = expand(item.value, values, escape=self.dockerfile.escape).value
        except DockerfileError:
            return None
        return values

    def _default_base(self, stage: Stage, defaults: Mapping[str, str]) -> None:
        from anyarch.spec.reference import Reference

        try:
            base = expand(stage.base_name, defaults, escape=self.dockerfile.escape).value
        except DockerfileError:
            return
        try:
            Reference.parse(base)
        except AnyarchError:
            detail = f"Default value for ARG {stage.base_name} results in empty or invalid base image name"
            self.report("InvalidDefaultArgInFrom", detail, stage.lines)

    def _undeclared(self, stage: Stage, word: str, env: Mapping[str, str], known: list[str]) -> None:
        try:
            unmatched = expand(word, env, escape=self.dockerfile.escape).unmatched
        except DockerfileError:
            return
        for name in unmatched:
            if name not in known:
                match = closest(name, known)
                suggestion = f" (did you mean {match}?)" if match else ""
                detail = f"FROM argument '{name}' is not declared{suggestion}"
                self.report("UndefinedArgInFrom", detail, stage.lines, stage.comments)

    def _platform_flag(self, stage: Stage, env: Mapping[str, str]) -> None:
        from anyarch.spec.platform import Platform

        try:
            expansion = expand(stage.platform, env, escape=self.dockerfile.escape)
        except DockerfileError:
            return
        if expansion.matched == ("TARGETPLATFORM",) and not expansion.unmatched:
            if expansion.value == env.get("TARGETPLATFORM"):
                problem = f"Setting platform to predefined {stage.platform} in FROM"
                detail = f"{problem} is redundant as this is the default behavior"
                self.report("RedundantTargetPlatform", detail, stage.lines, stage.comments)
        elif not expansion.matched and not expansion.unmatched:
            try:
                platform = Platform.parse(expansion.value)
            except AnyarchError:
                return
            if platform.os not in stage.name and platform.architecture not in stage.name:
                detail = f"FROM --platform flag should not use constant value {quote(expansion.value)}"
                self.report("FromPlatformFlagConstDisallowed", detail, stage.lines, stage.comments)

    # Rules that need the world

    def base_platform(self, stage: Stage, image: str, *, expected: Platform, actual: Platform) -> None:
        """The image that a stage starts from, as written, was found for another OS or architecture."""
        if (expected.os, expected.architecture) != (actual.os, actual.architecture):
            found = f"was pulled with platform {quote(actual.format_all())}"
            wanted = f"expected {quote(expected.format_all())} for current build"
            self.report("InvalidBaseImagePlatform", f"Base image {image} {found}, {wanted}", stage.lines)
