"""The Dockerfile frontend's entry: reads what it needs through the gateway and converts for every platform
asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NotSupported, SourceRange, error_context
from anyarch.frontend.gateway import FrontendResult
from anyarch.llb.state import State
from anyarch.llb.vertex import Deferred
from anyarch.solver.events import WarningEvent
from anyarch.spec.oci import encode
from anyarch.spec.pattern import PatternMatcher
from anyarch.spec.platform import Platform

from .check import Checker
from .context import Loader
from .convert import Conversion, Shared, at_once, global_args
from .lexer import detect_syntax
from .lint import predefined_args
from .options import parse_options
from .parser import parse
from .rules import file_options
from .stage import Scope

if TYPE_CHECKING:
    from anyarch.frontend.gateway import Gateway
    from anyarch.llb.definition import Definition, SourceInfo

    from .check import LintWarning
    from .convert import Converted
    from .instructions import Dockerfile
    from .options import Options

__all__ = ["build"]

_EPOCH = "SOURCE_DATE_EPOCH"
_BUILT_IN = (
    r"dockerfile\.v0|(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?"
)


async def build(gateway: Gateway) -> FrontendResult:
    """Build the Dockerfile that the gateway's options name.

    Returns graphs and configs; nothing but what had to be read has been evaluated. Raises `DockerfileError`
    and other `AnyarchError`s with the place in the Dockerfile and the platform, where there is one.
    """
    build_opts = gateway.build_opts
    options = parse_options(build_opts.opts, build_opts.build_platform)
    if build_opts.opts.get("requestid"):
        raise NotSupported(f"unsupported request {build_opts.opts['requestid']}")
    loader = Loader(gateway, options)
    info = await loader.dockerfile()
    _refuse_foreign_syntax(options, info)
    dockerfile = parse(info.data, info.filename)
    checker = Checker(
        dockerfile,
        file_options(info.data, options.check),
        sink=lambda warning: gateway.warn(_event(loader.dockerfile_vertex, info, warning)),
    )
    context, shared = Deferred(), Shared()
    conversions: list[Conversion] = []
    for platform in options.platforms or (None,):
        with error_context(platform=str(platform) if platform else None):
            scope = _scope(options, dockerfile, info, platform, build_opts.build_platform, State(context))
            if not conversions:
                _check_file(scope, checker, build_opts.build_platform)
            conversion = Conversion(dockerfile, scope, loader, shared)
            conversion.plan()
            conversions.append(conversion)
    await at_once([_resolve(conversion) for conversion in conversions])
    patterns = await loader.ignore_patterns()
    conversions[0].scope.ignore = PatternMatcher(patterns) if patterns else None
    for conversion in conversions:
        with error_context(platform=str(conversion.scope.target)):
            conversion.dispatch()
    failed = checker.error()
    if failed is not None:
        raise failed
    context.resolve((await loader.main_state(shared.paths)).output)
    shared.settle()
    return _result(options, [(item, item.finish()) for item in conversions])


def _check_file(scope: Scope, checker: Checker, build: Platform) -> None:
    """The checks that need no stage; those of stages follow as `scope` is converted."""
    scope.checker = checker
    checker.check_file()
    predefined = predefined_args(build, scope.target, checker.dockerfile.stages[-1].name)
    own = {name: scope.build_args.get(name, value) for name, value in predefined.items()}
    checker.check_froms(scope.global_args, own)


def _event(vertex: str, info: SourceInfo, warning: LintWarning) -> WarningEvent:
    return WarningEvent(
        vertex,
        warning.short,
        (warning.description,),
        warning.url,
        filename=info.filename,
        source=info.data,
        lines=(warning.lines,),
    )


async def _resolve(conversion: Conversion) -> None:
    with error_context(platform=str(conversion.scope.target)):
        await conversion.resolve()


def _refuse_foreign_syntax(options: Options, info: SourceInfo) -> None:
    """`# syntax=` of Docker's own frontend means this one, whatever its version; other frontends are not
    run."""
    if options.forwarded:
        return
    hint = "only docker/dockerfile is built in; leave out the syntax line if the file needs nothing else"
    argument = options.build_args.get("BUILDKIT_SYNTAX")
    if argument is not None:
        reference = argument.strip().partition(" ")[0]
        if not re.fullmatch(_BUILT_IN, reference):
            raise NotSupported(f"the frontend {reference} (BUILDKIT_SYNTAX) is not supported yet", hint=hint)
        return
    syntax = detect_syntax(info.data)
    if syntax is not None and not re.fullmatch(_BUILT_IN, syntax.reference):
        place = SourceRange(info.filename, syntax.line, syntax.line, data=info.data)
        error = NotSupported(f"the frontend {syntax.reference} is not supported yet", hint=hint)
        error.source = place
        raise error


def _scope(
    options: Options,
    dockerfile: Dockerfile,
    info: SourceInfo,
    platform: Platform | None,
    build_platform: Platform,
    context: State,
) -> Scope:
    target = platform or build_platform
    build_args = dict(options.build_args)
    stage = options.target or dockerfile.stages[-1].name
    args = global_args(dockerfile, build_args, target=target, build=build_platform, stage=stage)
    epoch = _epoch(options, build_args, args)
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
    )


def _epoch(options: Options, build_args: dict[str, str], args: dict[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH in seconds. Where it has no value the argument is not set at all."""
    text = build_args[_EPOCH] if _EPOCH in build_args else args.get(_EPOCH, "")
    value: int | None = None
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        value = int(text)
    elif text == "context" and not options.context:
        value = None  # a local directory has no time of its own
    elif text:
        raise NotSupported(
            f"invalid {_EPOCH}: {text}: times of contexts and stages are not supported yet",
            hint="give seconds since 1970, for example the output of git log -1 --format=%ct",
        )
    for place in (build_args, args):
        if _EPOCH in place:
            if value is None:
                del place[_EPOCH]
            else:
                place[_EPOCH] = str(value)
    return value


def _result(options: Options, converted: list[tuple[Conversion, Converted]]) -> FrontendResult:
    refs: dict[str, Definition | None] = {}
    configs: dict[str, bytes] = {}
    base_configs: dict[str, bytes] = {}
    metadata: dict[str, bytes] = {}
    platforms: list[tuple[str, Platform]] = []
    for conversion, item in converted:
        config = item.config
        platform = conversion.scope.target
        if conversion.scope.is_implicit_target:
            platform = Platform.make(config.os, config.architecture, config.variant)
        name = platform.format_all()
        if platform.os == "windows":
            platform = _extended(platform, config.os_version, config.os_features or ())
        if name in refs:
            continue
        definition = item.state.marshal()
        refs[name] = definition if definition.ops else None
        configs[name] = encode(config)
        platforms.append((name, platform))
        if item.base_config:
            base_configs[name] = item.base_config
        if conversion.scope.epoch is not None:
            metadata[f"source.date.epoch/{name}"] = str(conversion.scope.epoch).encode()
    return FrontendResult(
        refs=refs,
        configs=configs,
        platforms=tuple(platforms),
        base_configs=base_configs,
        multi_platform=options.multi_platform,
        metadata=metadata,
    )


def _extended(platform: Platform, os_version: str, os_features: tuple[str, ...]) -> Platform:
    """A Windows image runs only where its version does, so the version comes from the base image."""
    return msgspec.structs.replace(
        platform,
        os_version=platform.os_version or os_version,
        os_features=platform.os_features or os_features,
    )
