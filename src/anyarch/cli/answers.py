"""Answers to `--call`, on standard output: as JSON, or as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.engine.request import BuildRequest, BuildResult, Method

__all__ = ["print_answer", "shown_dockerfile"]


def shown_dockerfile(request: BuildRequest) -> str:
    """Where the Dockerfile is, as findings in it are to tell; empty: as it is called where it is read."""
    import os

    from anyarch.engine.remote import is_remote

    if request.dockerfile_data is not None:
        return "stdin"
    if request.dockerfile or request.context == "-" or is_remote(request.context):
        return request.dockerfile or ""
    return os.path.normpath(os.path.join(request.context, "Dockerfile"))


def print_answer(result: BuildResult, method: Method, dockerfile: str) -> int:
    """Print what was asked for; the exit status it says. `dockerfile` is what the Dockerfile is called."""
    answer = {name: str(value) for name, value in result.metadata.items()}
    document = answer.get("result.json", "")
    failure = ""
    if method.format == "json":
        print(document)
        if method.name == "lint":
            failure = _failure(document, dockerfile)
    elif method.name == "lint":
        failure = _print_findings(document, answer.get("result.txt", ""), dockerfile)
    else:
        print(answer.get("result.txt", ""), end="")
    if failure:
        from anyarch.cli.dispatch import stderr

        stderr().write(f"ERROR: {failure}\n")
        return 1
    status = natural(answer.get("result.statuscode", ""))
    return 0 if method.ignore_status else status or 0


def _print_findings(document: str, text: str, dockerfile: str) -> str:
    """The findings under a line that counts them; what keeps the file from being built is the answer."""
    count = len(_decoded(document).get("warnings") or ())
    if count:
        found = "1 warning has been found!" if count == 1 else f"{count} warnings have been found!"
        print(f"Check complete, {found}\n{_renamed(document, text, dockerfile)}", end="")
    failure = _failure(document, dockerfile)
    if failure and count:
        print()
    elif not failure and not count:
        print("Check complete, no warnings found.")
    return failure


def _renamed(document: str, text: str, dockerfile: str) -> str:
    """With the Dockerfile's own name above each excerpt."""
    import re

    names = {str(source.get("filename", "")) for source in _decoded(document).get("sources") or ()}
    places = "|".join(re.escape(name) for name in sorted(names) if name)
    if not places or not dockerfile:
        return text
    pattern = rf"^(?:{places}):(\d+)(?=\n-{{20}}$)"
    return re.sub(pattern, lambda found: f"{dockerfile}:{found[1]}", text, flags=re.MULTILINE)


def _decoded(document: str) -> dict[str, Any]:
    import msgspec

    decoded: dict[str, Any] = msgspec.json.decode(document)
    return decoded


def _failure(document: str, dockerfile: str) -> str:
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
    place = SourceRange(
        dockerfile or source["filename"], start, end, data=base64.b64decode(source.get("data", ""))
    )
    return f"{error['message']}\n{excerpt(place)}".rstrip("\n")
