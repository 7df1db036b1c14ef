"""Build checks: what the rules of `rules.RULES` find in a Dockerfile.

A conversion makes a `Checker`, calls `check_file` and `check_froms`, makes a `StageChecks` for each stage and
calls its `check` before each instruction is converted; `base_platform` when it has found a base image.
`lint.lint` does as much of that as the file alone allows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import AnyarchError, DockerfileError
from anyarch.spec.pattern import clean_path

from .expand import expand, expand_words
from .gotext import closest, quote
from .instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from .rules import RULES, file_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from anyarch.spec.pattern import PatternMatcher
    from anyarch.spec.platform import Platform

    from .instructions import (
        Dockerfile,
        Instruction,
        Stage,
    )
    from .rules import CheckOptions

__all__ = ["Checker", "LintWarning", "StageChecks"]

Lines = tuple[int, int]

_RESERVED = ("context", "scratch")
_SECRETS = frozenset(
    ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
)
_NO_SECRETS = frozenset(("public", "file", "version"))
_NEVER_REPORTED = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_WINDOWS_ROOT = r"(?:[a-zA-Z]:)?[\\/]"


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

    def check_file(self) -> None:
        """The rules about spelling and names, for all stages, reachable or not."""
        file = self.dockerfile
        for warning in file.warnings:
            self.report(warning.rule, warning.message, (warning.line, warning.line))
        for arg in file.global_args:
            self._arg_comments(arg)
        names: set[str] = set()
        for stage in file.stages:
            self._stage_line(stage)
            for instruction in stage.instructions:
                if isinstance(instruction, Maintainer):
                    detail = "Maintainer instruction is deprecated in favor of using label"
                    self.report("MaintainerDeprecated", detail, instruction.lines, instruction.comments)
                elif isinstance(instruction, Arg):
                    self._arg_comments(instruction)
        for stage in file.stages:
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


class StageChecks:
    """The rules about the instructions of one stage, which are given to `check` in order.

    `base` are the checks of the stage it is built on; `has_shell` says that its image comes with a SHELL.
    """

    def __init__(
        self, checker: Checker, base: StageChecks | None = None, *, has_shell: bool = False, os: str = "linux"
    ) -> None:
        self._checker = checker
        self._escape = checker.dockerfile.escape
        self._os = os
        self.has_shell: bool = has_shell or (base is not None and base.has_shell)
        self.has_workdir: bool = base is not None and base.has_workdir
        self._seen: dict[str, Lines] = {}

    def check(
        self,
        instruction: Instruction,
        env: Mapping[str, str] | None,
        *,
        declared: Mapping[str, object] | None = None,
        build_args: Mapping[str, str] | None = None,
        global_args: Mapping[str, str] | None = None,
        ignore: PatternMatcher | None = None,
    ) -> None:
        """Check one instruction as it is about to be converted.

        `env` is what variables expand from, None if it is not known; `declared` the names that ARG has named
        in the stage and the stages below; `build_args` what the user gave; `ignore` the main context's
        patterns. What does not expand is left to the conversion to complain about.
        """
        match instruction:
            case Arg():
                for item in instruction.args:
                    self._secret(instruction, "ARG", item.key)
            case Env() | Label():
                self._pairs(instruction, env)
            case Cmd() | Entrypoint() | Healthcheck():
                self._command(instruction)
            case Shell():
                self.has_shell = True
            case Workdir():
                self._workdir(instruction, env)
            case Expose():
                self._expose(instruction, env)
            case Copy() | Add() if ignore is not None:
                self._ignored(instruction, env, ignore)
        if env is not None:
            self._undefined(instruction, env, declared or {}, build_args or {}, global_args or {})

    def _report(self, rule: str, detail: str, instruction: Instruction, *, once: bool = False) -> None:
        self._checker.report(rule, detail, instruction.lines, instruction.comments, once=once)

    def _expand(self, word: str, env: Mapping[str, str] | None) -> str | None:
        """The expanded word, None if that cannot be known or done."""
        try:
            expansion = expand(word, env or {}, escape=self._escape)
        except DockerfileError:
            return None
        return None if env is None and (expansion.matched or expansion.unmatched) else expansion.value

    def _secret(self, instruction: Instruction, keyword: str, key: str) -> None:
        words = key.lower().split("_")
        if not _SECRETS.isdisjoint(words) and _NO_SECRETS.isdisjoint(words):
            problem = "Do not use ARG or ENV instructions for sensitive data"
            self._report("SecretsUsedInArgOrEnv", f"{problem} ({keyword} {quote(key)})", instruction)

    def _pairs(self, instruction: Env | Label, env: Mapping[str, str] | None) -> None:
        for pair in instruction.pairs:
            if pair.legacy:
                word = instruction.keyword
                detail = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
                self._report("LegacyKeyValueFormat", detail, instruction)
            if isinstance(instruction, Env):
                self._secret(instruction, "ENV", self._expand(pair.key, env) or pair.key)

    def _command(self, instruction: Cmd | Entrypoint | Healthcheck) -> None:
        kind = type(instruction).__name__
        earlier = self._seen.get(kind)
        if earlier is not None:
            problem = f"Multiple {instruction.keyword} instructions should not be used in the same stage"
            detail = f"{problem} because only the last one will be used"
            # The place is that of the one without effect.
            self._checker.report("MultipleInstructionsDisallowed", detail, earlier, instruction.comments)
        self._seen[kind] = instruction.lines
        if not isinstance(instruction, Healthcheck) and instruction.prepend_shell and not self.has_shell:
            problem = f"JSON arguments recommended for {instruction.keyword}"
            detail = f"{problem} to prevent unintended behavior related to OS signals"
            self._report("JSONArgsRecommended", detail, instruction)

    def _workdir(self, instruction: Workdir, env: Mapping[str, str] | None) -> None:
        path = self._expand(instruction.path, env)
        if path is not None and not self.has_workdir:
            is_absolute = re.match(_WINDOWS_ROOT, path) if self._os == "windows" else path.startswith("/")
            if not is_absolute:
                detail = (
                    f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
                )
                self._report("WorkdirRelativePath", detail, instruction)
        self.has_workdir = True

    def _expose(self, instruction: Expose, env: Mapping[str, str] | None) -> None:
        from .port import parse_port

        try:
            for port in instruction.ports:
                if env is None and "$" in port:
                    continue
                for word in expand_words(port, env or {}, escape=self._escape):
                    spec = parse_port(word)
                    if spec.odd_protocol:
                        detail = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
                        self._report("ExposeProtoCasing", detail, instruction)
                    if spec.odd_format:
                        problem = "EXPOSE instruction should not define an IP address or host-port mapping"
                        self._report("ExposeInvalidFormat", f"{problem}, found '{word}'", instruction)
        except DockerfileError:
            return

    def _ignored(
        self, instruction: Copy | Add, env: Mapping[str, str] | None, ignore: PatternMatcher
    ) -> None:
        # With a `!` pattern there is no telling: a file in an excluded directory may have been brought back.
        if ignore.has_exclusions or (isinstance(instruction, Copy) and instruction.from_):
            return
        verb = "Copy" if isinstance(instruction, Copy) else "Add"
        for source in instruction.sources:
            path = self._expand(source, env)
            if path is None or (isinstance(instruction, Add) and _is_remote(path)):
                continue
            path = clean_path(path)
            if path in (".", "/"):
                is_excluded = any(pattern.text in ("*", "**", "**/*") for pattern in ignore.patterns)
            else:
                is_excluded = ignore.matches(path.lstrip("/"))
            if is_excluded:
                detail = f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore"
                self._report("CopyIgnoredFile", detail, instruction)

    def _undefined(
        self,
        instruction: Instruction,
        env: Mapping[str, str],
        declared: Mapping[str, object],
        build_args: Mapping[str, str],
        global_args: Mapping[str, str],
    ) -> None:
        if isinstance(instruction, Arg):
            # The names of one line are taken in order, each seeing those before it.
            env, declared = dict(env), dict(declared)
            for item in instruction.args:
                value = build_args.get(item.key)
                if value is None and item.value is not None:
                    self._unmatched(instruction, item.value, env, declared)
                    value = self._expand(item.value, env)
                elif value is None:
                    value = global_args.get(item.key)
                if value is not None:
                    env[item.key] = value
                declared[item.key] = None
            return
        for word, has_quotes in _expandable(instruction):
            self._unmatched(instruction, word, env, declared, has_quotes=has_quotes)

    def _unmatched(
        self,
        instruction: Instruction,
        word: str,
        env: Mapping[str, str],
        declared: Mapping[str, object],
        *,
        has_quotes: bool = True,
    ) -> None:
        if "$" not in word:
            return
        try:
            if has_quotes:
                unmatched = expand(word, env, escape=self._escape).unmatched
            else:
                unmatched = expand(word, env, quotes=False).unmatched
        except DockerfileError:
            return
        for name in unmatched:
            if name not in declared and name not in _NEVER_REPORTED:
                match = closest(name, list(env))
                suggestion = f" (did you mean ${match}?)" if match else ""
                detail = f"Usage of undefined variable '${name}'{suggestion}"
                self._report("UndefinedVar", detail, instruction, once=True)


def _is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://", "git://", "ssh://", "git@"))


def _expandable(instruction: Instruction) -> Iterator[tuple[str, bool]]:
    """The words of an instruction that are expanded; False with those in which quotes mean nothing."""
    match instruction:
        case Env() | Label():
            for pair in instruction.pairs:
                yield pair.key, True
                yield pair.value, True
        case Copy() | Add():
            yield instruction.chown, True
            yield instruction.chmod, True
            if isinstance(instruction, Add):
                yield instruction.checksum, True
            for source in instruction.sources:
                yield source, True
            yield instruction.dest, True
            for file in instruction.files:
                if file.expand:
                    yield file.data, False
        case Run():
            for mount in instruction.mounts:
                for field in mount.fields:
                    yield field.value or "", True
        case Workdir():
            yield instruction.path, True
        case User():
            yield instruction.user, True
        case Volume():
            for volume in instruction.volumes:
                yield volume, True
        case StopSignal():
            yield instruction.signal, True
