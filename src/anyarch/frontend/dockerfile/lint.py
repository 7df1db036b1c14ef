"""`--call check`: the build checks of a file without building it, and their findings as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import AnyarchError

from .check import Checker, LintWarning
from .expand import expand
from .gotext import json_text
from .instructions import Arg, Env
from .parser import parse_leniently
from .stage_check import StageChecks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.errors import DockerfileError
    from anyarch.spec.pattern import PatternMatcher
    from anyarch.spec.platform import Platform

    from .instructions import Dockerfile
    from .rules import CheckOptions

__all__ = ["LintError", "LintResult", "excerpt", "lint", "lint_file", "predefined_args"]

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FRAME = "--------------------"


def predefined_args(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """The platform arguments that need no ARG; `stage` is the name of the requested or of the last stage."""
    return {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": target.format_all(),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }


def lint(
    dockerfile: Dockerfile,
    options: CheckOptions | None = None,
    *,
    build_args: Mapping[str, str] | None = None,
    ignore: PatternMatcher | None = None,
) -> list[LintWarning]:
    """All that can be found in the file alone, sorted by line; no image is looked at.

    So what depends on a base image's environment is left out: undefined variables are found in stages on
    `scratch` only. Raises `DockerfileError` when the file's check options are malformed.
    """
    from anyarch.spec.platform import host_platform

    checker = Checker(dockerfile, options)
    given = build_args or {}
    host = host_platform()
    predefined = predefined_args(host, host, dockerfile.stages[-1].name if dockerfile.stages else "")
    own = predefined | {name: value for name, value in given.items() if name in predefined}
    global_args = _defined(dockerfile, dockerfile.global_args, own, given, {})
    checker.check_file()
    checker.check_froms(global_args, predefined)
    done: dict[str, tuple[StageChecks, dict[str, str] | None, dict[str, None]]] = {}
    for stage in dockerfile.stages:
        base, env, declared = done.get(stage.base_name.lower(), (None, None, {}))
        if base is None and stage.base_name == "scratch":
            env = {"PATH": _DEFAULT_PATH}
        declared = dict(declared)
        checks = StageChecks(checker, base)
        for instruction in stage.instructions:
            checks.check(
                instruction,
                env,
                declared=declared,
                build_args=given,
                global_args=global_args,
                ignore=ignore,
            )
            if isinstance(instruction, Arg):
                declared |= dict.fromkeys(item.key for item in instruction.args)
                if env is not None:
                    env = _defined(dockerfile, (instruction,), env, given, global_args)
            elif isinstance(instruction, Env) and env is not None:
                env = env | {pair.key: pair.value for pair in instruction.pairs}
        if stage.name:
            done[stage.name] = (checks, env, declared)
    return sorted(checker.warnings, key=lambda warning: warning.lines[0])


def _defined(
    dockerfile: Dockerfile,
    args: Sequence[Arg],
    env: Mapping[str, str],
    given: Mapping[str, str],
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """`env` with what ARG lines define; a default that does not expand is as if it were not there."""
    values = dict(env)
    for arg in args:
        for item in arg.args:
            value = given.get(item.key)
            if value is None and item.value is not None:
                try:
                    value = expand(item.value, values, escape=dockerfile.escape).value
                except AnyarchError:
                    continue
            elif value is None:
                value = inherited.get(item.key)
            if value is not None:
                values[item.key] = value
    return values


class LintError(msgspec.Struct, frozen=True):
    """Why the file cannot be built; `lines` None when that is nowhere in particular."""

    message: str
    lines: tuple[int, int] | None = None

    @classmethod
    def of(cls, error: AnyarchError) -> LintError:
        source = error.source
        message = error.message
        if error.hint is not None and error.hint.startswith("did you mean"):
            message += f" ({error.hint.splitlines()[0].rstrip('?')}?)"
        return cls(message, (source.start, source.end) if source else None)


class LintResult(msgspec.Struct, frozen=True):
    """The answer to the request `frontend.lint`."""

    warnings: tuple[LintWarning, ...]
    filename: str
    data: bytes
    error: LintError | None = None

    @property
    def status(self) -> int:
        """The exit status: 1 if there is any warning or an error."""
        return int(bool(self.warnings or self.error))

    def summary(self) -> str:
        """The line that opens the text shown to a user."""
        match len(self.warnings):
            case 0:
                return "Check complete, no warnings found."
            case 1:
                return "Check complete, 1 warning has been found!"
            case count:
                return f"Check complete, {count} warnings have been found!"

    def text(self) -> str:
        """The warnings with excerpts of the file, in the order of lines (`result.txt`)."""
        parts = []
        for warning in sorted(self.warnings, key=lambda warning: warning.lines[0]):
            title = f"{warning.rule} - {warning.url}" if warning.url else warning.rule
            place = excerpt(self.filename, self.data, warning.lines)
            parts.append(f"\nWARNING: {title}\n{warning.detail}\n{place}")
        return "".join(parts)

    def error_text(self) -> str:
        """The build error in the same form, empty without one."""
        if self.error is None:
            return ""
        place = excerpt(self.filename, self.data, self.error.lines) if self.error.lines else ""
        return f"{self.error.message}\n{place}"

    def json(self) -> bytes:
        """`result.json` as BuildKit lays it out: indented, empty fields left out, one range a line."""
        import base64

        document: dict[str, object] = {
            "warnings": [
                {
                    "ruleName": warning.rule,
                    "description": warning.description,
                    **({"url": warning.url} if warning.url else {}),
                    "detail": warning.detail,
                    "location": _location(warning.lines),
                }
                for warning in self.warnings
            ]
            or None,
            "sources": [
                {
                    "filename": self.filename,
                    "data": base64.b64encode(self.data).decode(),
                    "language": "Dockerfile",
                }
            ],
        }
        if self.error is not None:
            document["buildError"] = {"message": self.error.message, "location": _location(self.error.lines)}
        return json_text(document)


def _location(lines: tuple[int, int] | None) -> dict[str, object]:
    if lines is None:
        return {}
    places = [{"line": line} for line in range(lines[0], lines[1] + 1)]
    return {"ranges": [{"start": place, "end": place} for place in places]}


def lint_file(
    data: bytes,
    filename: str = "Dockerfile",
    options: CheckOptions | None = None,
    *,
    build_args: Mapping[str, str] | None = None,
    ignore: PatternMatcher | None = None,
) -> LintResult:
    """`lint` for a file that may not even parse: then the warnings are those of the part before the error.

    With `error=true` and findings, that is the error. Raises nothing.
    """
    dockerfile, error = parse_leniently(data, filename)
    warnings: list[LintWarning] = []
    try:
        warnings = lint(dockerfile, options, build_args=build_args, ignore=ignore)
        if error is None:
            error = _as_error(dockerfile, options, warnings)
    except AnyarchError as problem:
        return LintResult((), filename, data, LintError.of(problem))
    return LintResult(tuple(warnings), filename, data, LintError.of(error) if error else None)


def _as_error(
    dockerfile: Dockerfile, options: CheckOptions | None, warnings: list[LintWarning]
) -> DockerfileError | None:
    checker = Checker(dockerfile, options)
    checker.warnings = warnings
    return checker.error()


def excerpt(filename: str, data: bytes, lines: tuple[int, int]) -> str:
    """The lines of a file, marked `>>>`, with one or two of context on each side, under `file:line`.

    Empty when the lines are not in the file.
    """
    text = data.decode("utf-8", "replace").split("\n")
    start, end = lines
    if not 1 <= start <= len(text):
        return ""
    end = min(end, len(text))
    first, last = start, end
    # As BuildKit counts: one line gets two lines on each side, several get one; at an end of the file what is
    # missing there is not made up for.
    wanted = 4 if start == end else 2
    shown = 0
    while shown < wanted:
        if first > 1:
            first -= 1
            shown += 1
        if last < len(text):
            last += 1
            shown += 1
        shown += 1
    rows = [f"{filename}:{start}", _FRAME]
    for number in range(first, last + 1):
        mark = ">>>" if start <= number <= end else "   "
        rows.append(f" {number:3d} | {mark} {text[number - 1]}")
    return "\n".join([*rows, _FRAME, ""])
