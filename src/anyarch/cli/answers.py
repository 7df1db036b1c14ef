"""Answers to `--call`, on standard output: as JSON, or as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.engine.request import BuildResult, Method

__all__ = ["print_answer"]


def print_answer(result: BuildResult, method: Method) -> int:
    """Print what was asked for; the exit status it says."""
    answer = {name: str(value) for name, value in result.metadata.items()}
    document = answer.get("result.json", "")
    failure = ""
    if method.format == "json":
        print(document)
        if method.name == "lint":
            failure = _failure(document)
    elif method.name == "lint":
        failure = _print_findings(document, answer.get("result.txt", ""))
    else:
        print(answer.get("result.txt", ""), end="")
    if failure:
        from anyarch.cli.dispatch import stderr

        stderr().write(f"ERROR: {failure}\n")
        return 1
    status = natural(answer.get("result.statuscode", ""))
    return 0 if method.ignore_status else status or 0


def _print_findings(document: str, text: str) -> str:
    """The findings under a line that counts them; what keeps the file from being built is the answer."""
    count = len(_decoded(document).get("warnings") or ())
    if count:
        found = "1 warning has been found!" if count == 1 else f"{count} warnings have been found!"
        print(f"Check complete, {found}\n{text}", end="")
    failure = _failure(document)
    if failure and count:
        print()
    elif not failure and not count:
        print("Check complete, no warnings found.")
    return failure


def _decoded(document: str) -> dict[str, Any]:
    import msgspec

    decoded: dict[str, Any] = msgspec.json.decode(document)
    return decoded


def _failure(document: str) -> str:
    """The build error of a check with its lines, empty without one."""
    import base64

    from anyarch.cli.errors import excerpt
    from anyarch.errors import SourceRange

    values = _decoded(document)
    error = values.get("buildError")
    if error is None:
        return ""
    ranges = error["location"].get("ranges") or ()
    if not ranges:
        return str(error["message"])
    source = values["sources"][0]
    start, end = ranges[0]["start"]["line"], ranges[-1]["end"]["line"]
    place = SourceRange(source["filename"], start, end, data=base64.b64decode(source.get("data", "")))
    return f"{error['message']}\n{excerpt(place)}".rstrip("\n")
