"""Requests that ask about a Dockerfile in place of a build (`--call`).

Each is answered as text for people (`result.txt`) and as JSON with the fields of BuildKit (`result.json`);
`result.statuscode` is the exit status it should have.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from anyarch.errors import AnyarchError
from anyarch.frontend.gateway import FrontendResult, RequestNotSupported
from anyarch.llb.state import State
from anyarch.llb.vertex import Deferred
from anyarch.spec.pattern import PatternMatcher

from .check import Checker
from .convert import Conversion
from .gotext import json_text
from .lint import LintError, LintResult, lint_file
from .outline import Outline
from .parser import parse, parse_leniently
from .rules import file_options
from .scope import check_file, make_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.llb.definition import SourceInfo

    from .check import LintWarning
    from .context import Loader
    from .instructions import Dockerfile, Lines

    Sink = Callable[[LintWarning], object]

__all__ = ["answer"]

_PREFIX = "frontend."
_VERSION = "1.0.0"
_KNOWN = {
    "outline": ("List all parameters current build target supports", ("target", "Target build stage")),
    "targets": ("List all targets current build supports", None),
    "subrequests.describe": ("List available subrequest types", None),
}


async def answer(request: str, loader: Loader, info: SourceInfo, sink: Sink) -> FrontendResult:
    """The answer as metadata of a result without images. `sink` gets warnings that are not the answer.

    Raises `RequestNotSupported` for an unknown request, and what parsing and converting raise, except for
    `lint`, whose answer that is.
    """
    status = None
    match request.removeprefix(_PREFIX):
        case "lint":
            found = await _lint(loader, info)
            document, text, status = found.json(), found.text(), found.status
        case "outline":
            document, text = await _outline(loader, info, sink)
        case "targets":
            document, text = _targets(info)
        case "subrequests.describe":
            document, text = _describe()
        case _:
            raise RequestNotSupported(
                f"unsupported request {request}",
                name=request,
                hint=f"--call is one of build, check, {', '.join(_KNOWN)}",
            )
    metadata = {"result.json": document, "result.txt": text.encode("utf-8", "replace")}
    if status is not None:
        metadata["result.statuscode"] = str(status).encode()
    metadata["version"] = _VERSION.encode()
    return FrontendResult(refs={}, configs={}, platforms=(), metadata=metadata)


async def _lint(loader: Loader, info: SourceInfo) -> LintResult:
    """All stages are looked at unless a target is named; what keeps the file from being built comes last."""
    options = loader.options
    dockerfile, error = parse_leniently(info.data, info.filename)
    if error is not None:
        return lint_file(info.data, info.filename, build_args=options.build_args)
    checker: Checker | None = None
    try:
        checker = Checker(dockerfile, file_options(info.data, options.check))
        await _convert(loader, dockerfile, info, checker, all_stages=not options.target)
        problem: AnyarchError | None = checker.error()
    except AnyarchError as failure:
        problem = failure
    return LintResult(
        tuple(checker.warnings) if checker is not None else (),
        info.filename,
        info.data,
        LintError.of(problem) if problem is not None else None,
    )


async def _convert(
    loader: Loader, dockerfile: Dockerfile, info: SourceInfo, checker: Checker, *, all_stages: bool = False
) -> Conversion:
    """Convert for the builder's own platform, as far as that goes without building anything."""
    scope = await make_scope(loader, dockerfile, info, None, State(Deferred()))
    scope.outline = Outline(dockerfile, scope)
    check_file(scope, checker, loader.gateway.build_opts.build_platform)
    conversion = Conversion(dockerfile, scope, loader, all_stages=all_stages)
    await conversion.resolve()
    patterns = await loader.ignore_patterns()
    scope.ignore = PatternMatcher(patterns) if patterns else None
    conversion.dispatch()
    return conversion


async def _outline(loader: Loader, info: SourceInfo, sink: Sink) -> tuple[bytes, str]:
    dockerfile = parse(info.data, info.filename)
    checker = Checker(dockerfile, file_options(info.data, loader.options.check), sink=sink)
    conversion = await _convert(loader, dockerfile, info, checker)
    failed = checker.error()
    if failed is not None:
        raise failed
    assert conversion.scope.outline is not None
    found = conversion.scope.outline.result(conversion.target)
    document = {
        "name": found.name,
        "description": found.description,
        "args": [
            _filled(
                {"name": item.name},
                description=item.description,
                value=item.value,
                location=_location(item.lines),
            )
            for item in found.args
        ],
        "secrets": [
            _filled({"name": item.name}, required=item.required, location=_location(item.lines))
            for item in found.secrets
        ],
        "ssh": [
            _filled({"name": item.name}, required=item.required, location=_location(item.lines))
            for item in found.ssh
        ],
        "sources": [base64.b64encode(info.data).decode()],
    }
    parts = []
    if found.name or found.description:
        rows = [("TARGET:", found.name or "(default)")]
        if found.description:
            rows.append(("DESCRIPTION:", found.description))
        parts.append(_table(rows, padding=1))
    if found.args:
        rows3 = [(item.name, item.value, item.description) for item in found.args]
        parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows3], padding=3))
    for title, items in (("SECRET", found.secrets), ("SSH", found.ssh)):
        if items:
            rows = [(item.name, "true" if item.required else "") for item in items]
            parts.append(_table([(title, "REQUIRED"), *rows], padding=3))
    return json_text(_filled({}, **document)), "".join(f"{part}\n" for part in parts)


def _targets(info: SourceInfo) -> tuple[bytes, str]:
    stages = parse(info.data, info.filename).stages
    document = {
        "targets": [
            _filled(
                {},
                name=stage.name,
                default=stage is stages[-1],
                description=stage.comment,
                base=stage.base_name,
                platform=stage.platform,
                location=_location(stage.lines),
            )
            for stage in stages
        ],
        "sources": [base64.b64encode(info.data).decode()],
    }
    rows = [("TARGET", "DESCRIPTION")]
    for stage in stages:
        words = [stage.name, "(default)" if stage is stages[-1] else ""]
        rows.append((" ".join(filter(None, words)), stage.comment))
    return json_text(document), _table(rows, padding=1)


def _describe() -> tuple[bytes, str]:
    results = [{"name": "result.json", "description": ""}, {"name": "result.txt", "description": ""}]
    options: dict[str, Any] = {
        "outline": [{"name": "target", "description": "Target build stage"}],
        "targets": [],
    }
    document = [
        {
            "name": _PREFIX + name,
            "version": _VERSION,
            "type": "rpc",
            "description": description,
            "opts": options.get(name),
            "inputs": None,
            "metadata": results,
            "refs": None,
        }
        for name, (description, _) in _KNOWN.items()
    ]
    rows = [(name, _VERSION, description) for name, (description, _) in _KNOWN.items()]
    return json_text(document), _table([("NAME", "VERSION", "DESCRIPTION"), *rows], padding=1)


def _filled(start: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """`start` and those of `fields` that are not empty."""
    return start | {name: value for name, value in fields.items() if value}


def _location(lines: Lines) -> dict[str, Any]:
    places = [{"line": line} for line in range(lines[0], lines[1] + 1)]
    return {"ranges": [{"start": place, "end": place} for place in places]}


def _table(rows: Sequence[tuple[str, ...]], *, padding: int) -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    widths = [max(len(row[column]) for row in rows) + padding for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join((*cells, row[-1])) + "\n")
    return "".join(lines)
