"""How a conversion begins: the arguments and times of one platform, and the checks of the file as such."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError, SourceRange

from .epoch import resolve_epoch
from .expand import expand
from .lexer import detect_syntax
from .lint import predefined_args
from .stage import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.llb.definition import SourceInfo
    from anyarch.llb.state import State
    from anyarch.spec.platform import Platform

    from .check import Checker
    from .context import Loader
    from .instructions import Dockerfile
    from .options import Options

__all__ = ["check_file", "make_scope"]


async def make_scope(
    loader: Loader, dockerfile: Dockerfile, info: SourceInfo, platform: Platform | None, context: State
) -> Scope:
    """The circumstances of a conversion; `platform` None is the builder's own, to be adapted to the base
    image. Raises `DockerfileError`, `UsageError`, and what the gateway raises."""
    options = loader.options
    build_platform = loader.gateway.build_opts.build_platform
    target = platform or build_platform
    build_args = dict(options.build_args)
    stage = options.target or dockerfile.stages[-1].name
    args = _global_args(dockerfile, build_args, target=target, build=build_platform, stage=stage)
    epoch = await resolve_epoch(loader, dockerfile, target=target, build_args=build_args, global_args=args)
    return Scope(
        options=options,
        target=target,
        is_implicit_target=platform is None,
        global_args=args,
        build_args=build_args,
        escape=dockerfile.escape,
        context=context,
        info=info,
        epoch=epoch,
        is_labs=_is_labs(options, dockerfile),
    )


def _global_args(
    dockerfile: Dockerfile,
    build_args: Mapping[str, str],
    *,
    target: Platform,
    build: Platform,
    stage: str,
) -> dict[str, str]:
    """The global scope: predefined platform arguments, then the ARGs before the first FROM.

    `stage` is the name of the target stage. Raises `DockerfileError`.
    """
    predefined = predefined_args(build, target, stage)
    args = {name: build_args.get(name, value) for name, value in predefined.items()}
    for arg in dockerfile.global_args:
        for item in arg.args:
            value = build_args.get(item.key)
            if value is None and item.value is not None:
                try:
                    value = expand(item.value, args, escape=dockerfile.escape).value
                except DockerfileError as error:
                    error.source = error.source or _range(dockerfile, arg.lines)
                    raise
            if value is not None:
                args[item.key] = value
    return args


def _range(dockerfile: Dockerfile, lines: tuple[int, int]) -> SourceRange:
    return SourceRange(dockerfile.filename, *lines, data=dockerfile.data)


def _is_labs(options: Options, dockerfile: Dockerfile) -> bool:
    """Whether `# syntax=`, or what replaces it, names a release with what is not final yet."""
    text = options.build_args.get("BUILDKIT_SYNTAX")
    if text is None:
        syntax = detect_syntax(dockerfile.data)
        text = syntax.reference if syntax is not None else ""
    return text.strip().partition(" ")[0].partition("@")[0].endswith("labs")


def check_file(scope: Scope, checker: Checker, build_platform: Platform) -> None:
    """The checks that need no stage; those of stages follow as `scope` is converted."""
    scope.checker = checker
    checker.check_file()
    predefined = predefined_args(build_platform, scope.target, checker.dockerfile.stages[-1].name)
    own = {name: scope.build_args.get(name, value) for name, value in predefined.items()}
    checker.check_froms(scope.global_args, own)
