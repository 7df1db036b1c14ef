"""What the commands about builders share: the builder that is meant, and the words for nodes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder
    from anyarch.cli.flags import Parsed

__all__ = ["builder_for_build", "chosen_builder", "is_plain", "timeout_of"]


def timeout_of(parsed: Parsed) -> float:
    """`--timeout` in seconds; 0 is without limit."""
    text = parsed.text("timeout")
    if text is None:
        return 20.0
    if text == "0":
        return 0.0
    found = re.fullmatch(r"(?:(\d+(?:\.\d*)?)h)?(?:(\d+(?:\.\d*)?)m)?(?:(\d+(?:\.\d*)?)s)?(?:(\d+)ms)?", text)
    if not text or found is None:
        raise UsageError(
            f'invalid argument "{text}" for "--timeout" flag: not a duration', hint="for example 5s or 1m30s"
        )
    scales = (3600.0, 60.0, 1.0, 0.001)
    return sum(float(part) * scale for part, scale in zip(found.groups(), scales, strict=True) if part)


def chosen_builder(parsed: Parsed, name: str = "", *, touch: bool = False) -> Builder:
    """The builder `name`, that of `--builder`, or the one in use; with `touch` its use is noted. Raises
    `NoSuchBuilder`."""
    from anyarch.builder.builder import Surroundings

    surroundings = Surroundings(os.environ)
    with surroundings.store.transaction() as transaction:
        builder = surroundings.chosen(transaction, name or parsed.builder)
        if touch and not builder.is_embedded:
            transaction.touch(builder.name)
        return builder


def builder_for_build(parsed: Parsed) -> Builder | None:
    """The builder that a build is for; None for the engine in this process. Raises `NoSuchBuilder`, and
    `UsageError` for a docker context that is not the current one."""
    if is_plain(parsed):
        return None
    builder = chosen_builder(parsed, touch=True)
    current = builder.surroundings.docker.current_context
    if builder.is_context and builder.name != current and not builder.is_embedded:
        raise UsageError(
            f'use `docker --context={builder.name} buildx` to switch to context "{builder.name}"'
        )
    return None if builder.is_embedded else builder


def is_plain(parsed: Parsed) -> bool:
    """Whether nothing speaks of another builder than `default`: told by a look at a few paths, since a cached
    build has no time to lose. A store of builders of which none is in use says nothing."""
    if parsed.builder:
        return parsed.builder == "default" and not os.environ.get("BUILDX_CONFIG")
    env = os.environ
    docker = env.get("DOCKER_CONFIG") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".docker")
    store = env.get("BUILDX_CONFIG") or os.path.join(docker, "buildx")
    if os.path.exists(os.path.join(store, "current")) or _has_files(os.path.join(store, "defaults")):
        return False
    if env.get("DOCKER_CONTEXT") and not env.get("DOCKER_HOST"):
        return False
    return not os.path.isdir(os.path.join(docker, "contexts"))


def _has_files(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except OSError:
        return False
