"""Names that progress shows for steps: `[linux/amd64->arm64 build 2/5] RUN make`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError, InvalidPlatform
from anyarch.spec.platform import Platform

from .expand import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .stage import Scope, Stage, Work

__all__ = ["shown", "step_name", "summary"]


def shown(text: str, env: Mapping[str, str], escape: str, *, keep: bool = False) -> str:
    """An instruction for people: variables replaced, its word in capitals. `keep` leaves quotes and unset
    variables."""
    word, blank, rest = _expanded(text, env, escape, keep=keep).partition(" ")
    return word.upper() + blank + rest


def _expanded(text: str, env: Mapping[str, str], escape: str, *, keep: bool) -> str:
    try:
        return expand(text, env, escape=escape, raw_quotes=keep, keep_unset=keep).value
    except DockerfileError:
        return text  # a name is no reason to fail; the text as written will do


def step_name(
    scope: Scope, stage: Stage, work: Work, text: str, env: Mapping[str, str], *, advance: bool = True
) -> str:
    """`text` with the step's place in front; counts the step unless not to `advance`."""
    if not stage.total:
        return text
    parts = []
    if scope.options.multi_platform and stage.platform is not None:
        parts.append(stage.platform.format_all() + _cross_target(stage.platform, env))
    if stage.label:
        parts.append(stage.label)
    if advance:
        work.command_number += 1
    width = len(str(stage.total))
    parts.append(f"{work.command_number:>{width}}/{stage.total}")
    onbuild = "ONBUILD " if work.is_onbuild else ""
    return f"[{' '.join(parts)}] {onbuild}{text}"


def _cross_target(base: Platform, env: Mapping[str, str]) -> str:
    """`->arm64` when the TARGET arguments that the step can see say something else than its platform."""
    target = _target_of(base, env)
    if target is None:
        return ""
    if target.os != base.os:
        return f"->{target.format_all()}"
    if target.architecture != base.architecture:
        return f"->{target.architecture}" + (f"/{target.variant}" if target.variant else "")
    return ""


def _target_of(base: Platform, env: Mapping[str, str]) -> Platform | None:
    whole = _parsed(env.get("TARGETPLATFORM", ""), base)
    if whole is not None:
        return whole
    found = [env.get(name) for name in ("TARGETOS", "TARGETARCH", "TARGETVARIANT")]
    if found == [None, None, None]:
        return None
    os, architecture, variant = found
    return Platform.make(os or base.os, architecture or base.architecture, variant or "")


def _parsed(text: str, base: Platform) -> Platform | None:
    try:
        return Platform.parse(text, default=base) if text else None
    except InvalidPlatform:
        return None  # overridden by something that is no platform; the single parts may tell


def summary(body: str) -> str:
    """The first line of a here-document."""
    first, *others = body.strip().replace("\r\n", "\n").split("\n")
    return first + ("..." if others else "")
