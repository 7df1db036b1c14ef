"""Source policies of docker buildx: Rego files, which decide what a build may be made of. What asks for one
is refused, since a build without its policy is not what its user relies on.

`--policy` takes `filename=…` (repeatable), `reset`, `disabled`, `strict`, `log-level`; besides, a file
`<Dockerfile>.rego` beside the Dockerfile is a policy by itself, unless `disabled` or `reset` says otherwise.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.engine.grammar import csv_fields, truth
from anyarch.engine.remote import is_remote
from anyarch.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.request import BuildRequest

__all__ = ["check_policies"]

_LEVELS = ("panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")
_COMBINED = "disabled policy cannot be combined with other policy flags"


def check_policies(texts: Sequence[str], request: BuildRequest) -> None:
    """Raises `UsageError` for what is no policy, `NotSupported` where one would apply."""
    has_default = True
    for text in texts:
        fields = _fields(text)
        if fields.get("disabled") == "true":
            if len(texts) > 1 or len(fields) > 1:
                raise UsageError(_COMBINED)
            return
        if fields.get("reset") == "true":
            has_default = False
        if "filename" in fields:
            raise NotSupported(
                f"policy files are not checked by this release: {fields['filename']}",
                hint="--policy disabled=true builds without a policy",
            )
    path = _default_file(request)
    if has_default and path and os.path.exists(path):
        raise NotSupported(
            f"{path} is a policy for this build, and this release does not check policies",
            hint="--policy disabled=true builds without it",
        )


def _fields(text: str) -> dict[str, str]:
    found = {}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        match key:
            case "filename":
                is_right = bool(value)
            case "reset" | "disabled" | "strict":
                is_right = truth(value) is not None
                value = str(truth(value)).lower()
            case "log-level":
                is_right = value.lower() in _LEVELS
            case _:
                is_right = False
        if not equals or not is_right:
            raise UsageError(
                f"invalid value {field}",
                hint="--policy takes filename, reset, disabled, strict and log-level",
            )
        found[key] = value
    return found


def _default_file(request: BuildRequest) -> str:
    """Where a policy beside the Dockerfile would be; empty where that is not on this machine."""
    if request.dockerfile_data is not None or request.context == "-":
        return ""
    if request.dockerfile is None:
        return "" if is_remote(request.context) else os.path.join(request.context, "Dockerfile.rego")
    is_elsewhere = is_remote(request.dockerfile) or (
        is_remote(request.context) and not os.path.isabs(request.dockerfile)
    )
    return "" if is_elsewhere else f"{request.dockerfile}.rego"
