"""SOURCE_DATE_EPOCH: seconds, or the name of something that has a time of its own.

The main context (`context`), a named context, or a stage that is nothing but one remote ADD: a git
repository has the time of its commit, a download that of its last change, or of the newest file in it if it
is an archive. What has no time, such as a local directory, leaves the argument unset.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError, SourceRange, UsageError, error_context
from anyarch.llb.state import Constraints
from anyarch.llb.vertex import Deferred

from .copy import download_state
from .expand import expand
from .instructions import Add, Arg
from .named import find_named
from .remote import git_state, is_git, is_http, parse_git_ref

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.llb.state import State
    from anyarch.spec.platform import Platform

    from .context import Loader
    from .instructions import Dockerfile, Stage

__all__ = ["EPOCH", "resolve_epoch"]

EPOCH = "SOURCE_DATE_EPOCH"
_NUMBER = r"[+-]?[0-9]{1,19}"


async def resolve_epoch(
    loader: Loader,
    dockerfile: Dockerfile,
    *,
    target: Platform,
    build_args: dict[str, str],
    global_args: dict[str, str],
) -> int | None:
    """The time in seconds, which also takes the place of the text in both mappings; without one the argument
    is removed from them.

    Raises `UsageError` for what names nothing, `DockerfileError` for a stage that does not qualify, and what
    the gateway raises.
    """
    text = build_args[EPOCH] if EPOCH in build_args else global_args.get(EPOCH, "")
    value: int | None = None
    if re.fullmatch(_NUMBER, text):
        value = int(text)
    elif text:
        value = await _time(text, loader, dockerfile, target, build_args, global_args)
    for place in (build_args, global_args):
        if EPOCH in place:
            if value is None:
                del place[EPOCH]
            else:
                place[EPOCH] = str(value)
    return value


async def _time(
    text: str,
    loader: Loader,
    dockerfile: Dockerfile,
    target: Platform,
    build_args: Mapping[str, str],
    global_args: Mapping[str, str],
) -> int | None:
    if text == "context":
        source = (await loader.main_context()).source
        return await _time_of(loader, source, "[internal] resolve main build context metadata")
    context = find_named(loader.options.named_contexts, text, target)
    if context is not None:
        state = (await loader.named(context)).state
        name = f"[internal] resolve {EPOCH} named context {text}"
        return await _time_of(loader, state, name)
    for stage in dockerfile.stages:
        if stage.name and stage.name == text.lower():
            place = SourceRange(dockerfile.filename, *stage.lines, data=dockerfile.data)
            with error_context(source=place):
                known = {key: value for key, value in global_args.items() if key != EPOCH}
                source = _source(stage, known, build_args, dockerfile.escape)
            name = f"[internal] resolve {EPOCH} source stage {stage.name}"
            return await _time_of(loader, source, name)
    raise UsageError(
        f"invalid {EPOCH}: {text}",
        hint="seconds since 1970, the word context, or the name of a context or of a stage with a remote ADD",
    )


async def _time_of(loader: Loader, state: State | None, name: str) -> int | None:
    if state is None or state.output is None or isinstance(state.output, Deferred):
        return None
    return await loader.source_time(state, name)


def _source(stage: Stage, args: Mapping[str, str], build_args: Mapping[str, str], escape: str) -> State:
    """What the ADD of a source-only stage brings."""
    env = dict(args)
    if expand(stage.base_name, env, escape=escape).value != "scratch":
        raise DockerfileError(f"{EPOCH} stage must use FROM scratch")
    found: State | None = None
    for instruction in stage.instructions:
        if isinstance(instruction, Arg):
            for item in instruction.args:
                if item.key in build_args:
                    env[item.key] = build_args[item.key]
                elif item.value is not None:
                    env[item.key] = expand(item.value, env, escape=escape).value
        elif not isinstance(instruction, Add):
            raise DockerfileError(
                f"{EPOCH} stage does not meet source-only requirements: "
                f"unsupported {instruction.keyword.lower()} instruction"
            )
        elif found is not None:
            raise DockerfileError(f"{EPOCH} stage must contain exactly one remote ADD")
        else:
            found = _added(instruction, env, escape)
    if found is None:
        raise DockerfileError(f"{EPOCH} stage must contain exactly one remote ADD")
    return found


def _added(instruction: Add, env: Mapping[str, str], escape: str) -> State:
    if instruction.files or len(instruction.sources) != 1:
        raise DockerfileError(f"{EPOCH} stage must contain exactly one remote ADD source")
    source = expand(instruction.sources[0], env, escape=escape).value
    checksum = expand(instruction.checksum, env, escape=escape).value
    if is_http(source):
        return download_state(source, checksum, Constraints())
    ref = parse_git_ref(source) if is_git(source) else None
    if ref is None:
        raise DockerfileError(f"{EPOCH} stage source must be a single HTTP(S) or Git ADD")
    return git_state(
        ref,
        Constraints(),
        keep_git_dir=bool(instruction.keep_git_dir or ref.keep_git_dir),
        checksum=checksum or ref.checksum,
    )
