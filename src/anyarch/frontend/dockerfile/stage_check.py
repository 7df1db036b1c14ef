"""Build checks of a stage's instructions, one after the other as they are converted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError
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
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anyarch.spec.pattern import PatternMatcher

    from .check import Checker
    from .instructions import Instruction

__all__ = ["StageChecks"]

Lines = tuple[int, int]

_SECRETS = frozenset(
    ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
)
_NO_SECRETS = frozenset(("public", "file", "version"))
_NEVER_REPORTED = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_WINDOWS_ROOT = r"(?:[a-zA-Z]:)?[\\/]"


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
