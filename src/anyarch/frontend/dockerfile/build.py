"""The Dockerfile frontend's entry: reads what it needs through the gateway and converts for every platform
asked for."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import AnyarchError, NotSupported, SourceRange, error_context
from anyarch.frontend.gateway import FrontendResult, check_caps
from anyarch.llb.state import State
from anyarch.llb.vertex import Deferred
from anyarch.solver.events import WarningEvent
from anyarch.spec.oci import encode
from anyarch.spec.pattern import PatternMatcher
from anyarch.spec.platform import Platform

from .check import Checker
from .context import Loader
from .convert import Conversion
from .lexer import detect_syntax
from .options import parse_options
from .parser import parse_leniently
from .plan import Shared
from .resolve import at_once
from .rules import file_options
from .scope import check_file, make_scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.frontend.gateway import Gateway, ScanTargets
    from anyarch.llb.definition import Definition, SourceInfo

    from .check import LintWarning
    from .convert import Converted
    from .options import Options

__all__ = ["ForeignSyntax", "build"]

_BUILT_IN = r"dockerfile\.v0|(?:docker\.io/)?docker/dockerfile(?::(?:latest|labs|experimental|[0-9][\w.-]*))?"


class ForeignSyntax(NotSupported):
    """The file is for the frontend of an image: `reference`, with `cmdline` as its `# syntax=` line has it.
    Who can run that does; for others it is an error."""

    def __init__(self, reference: str, cmdline: str, where: str, *, hint: str) -> None:
        super().__init__(f"the frontend {reference}{where} is not supported yet", hint=hint)
        self.reference = reference
        self.cmdline = cmdline


async def build(gateway: Gateway) -> FrontendResult:
    """Build the Dockerfile that the gateway's options name.

    Returns graphs and configs; nothing but what had to be read has been evaluated. With the option
    `requestid` it is a question about the file that is answered, in the metadata. Raises `DockerfileError`
    and other `AnyarchError`s with the place in the Dockerfile and the platform, where there is one.
    """
    build_opts = gateway.build_opts
    check_caps(build_opts.opts)
    options = parse_options(build_opts.opts, build_opts.build_platform)
    loader = Loader(gateway, options)
    info = await loader.dockerfile()
    with _told_of(info):
        return await _build(gateway, loader, info)


@contextmanager
def _told_of(info: SourceInfo) -> Iterator[None]:
    """Errors that point into the Dockerfile say where it comes from."""
    try:
        yield
    except AnyarchError as error:
        if error.source is not None and not error.source.definition:
            error.source.definition = info.definition
        raise


async def _build(gateway: Gateway, loader: Loader, info: SourceInfo) -> FrontendResult:
    build_opts, options = gateway.build_opts, loader.options
    _refuse_foreign_syntax(options, info, frontend_images=build_opts.frontend_images)

    def warn(warning: LintWarning) -> None:
        gateway.warn(_event(loader.dockerfile_vertex, info, warning))

    request = build_opts.opts.get("requestid")
    if request:
        from .requests import answer

        return await answer(request, loader, info, warn)
    dockerfile, failure = parse_leniently(info.data, info.filename)
    checker = Checker(dockerfile, file_options(info.data, options.check), sink=warn)
    if failure is not None:
        checker.check_instructions()
        raise failure
    context, shared = Deferred(), Shared()
    conversions: list[Conversion] = []
    for platform in options.platforms or (None,):
        with error_context(platform=str(platform) if platform else None):
            scope = await make_scope(loader, dockerfile, info, platform, State(context))
            if not conversions:
                check_file(scope, checker, build_opts.build_platform)
            conversions.append(Conversion(dockerfile, scope, loader, shared))
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
    warned = tuple((warning.rule, warning.lines[0]) for warning in checker.warnings)
    converted = [(item, item.finish()) for item in conversions]
    result = _result(options, converted, wants_scans=build_opts.wants_scans)
    return msgspec.structs.replace(result, warned=warned)


def _event(vertex: str, info: SourceInfo, warning: LintWarning) -> WarningEvent:
    return WarningEvent(
        vertex,
        warning.short,
        (warning.description,),
        warning.url,
        filename=info.filename,
        source=info.data,
        lines=tuple((line, line) for line in range(warning.lines[0], warning.lines[1] + 1)),
    )


async def _resolve(conversion: Conversion) -> None:
    with error_context(platform=str(conversion.scope.target)):
        await conversion.resolve()


def _refuse_foreign_syntax(options: Options, info: SourceInfo, *, frontend_images: bool) -> None:
    """`# syntax=` of a release of Docker's own frontend means this one, whichever it is, unless
    `frontend_images` are wanted; what names other bytes (another image, a digest, the upstream image) is not
    run here."""
    if options.forwarded:
        return
    built_in = r"dockerfile\.v0" if frontend_images else _BUILT_IN
    hint = "only docker/dockerfile is built in; leave out the syntax line if the file needs nothing else"
    if frontend_images:
        hint = "ANYARCH_FRONTEND=image asks for it: leave that out for the frontend that is built in"
    argument = options.build_args.get("BUILDKIT_SYNTAX")
    if argument is not None:
        reference = argument.strip().partition(" ")[0]
        if not re.fullmatch(built_in, reference):
            raise ForeignSyntax(reference, argument.strip(), " (BUILDKIT_SYNTAX)", hint=hint)
        return
    syntax = detect_syntax(info.data)
    if syntax is not None and not re.fullmatch(built_in, syntax.reference):
        place = SourceRange(info.filename, syntax.line, syntax.line, data=info.data)
        error = ForeignSyntax(syntax.reference, syntax.cmdline, "", hint=hint)
        error.source = place
        raise error


def _result(
    options: Options, converted: list[tuple[Conversion, Converted]], *, wants_scans: bool
) -> FrontendResult:
    refs: dict[str, Definition | None] = {}
    configs: dict[str, bytes] = {}
    base_configs: dict[str, bytes] = {}
    metadata: dict[str, bytes] = {}
    platforms: list[tuple[str, Platform]] = []
    scans: dict[str, ScanTargets] = {}
    for conversion, item in converted:
        config = item.config
        platform = conversion.scope.target
        # a config without platform is that of files alone
        if conversion.scope.is_implicit_target and config.os and config.architecture:
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
        if wants_scans:
            scans[name] = conversion.scan_targets()
        if conversion.scope.epoch is not None:
            metadata[f"source.date.epoch/{name}"] = str(conversion.scope.epoch).encode()
    return FrontendResult(
        refs=refs,
        configs=configs,
        platforms=tuple(platforms),
        base_configs=base_configs,
        multi_platform=options.multi_platform,
        metadata=metadata,
        scans=scans,
    )


def _extended(platform: Platform, os_version: str, os_features: tuple[str, ...]) -> Platform:
    """A Windows image runs only where its version does, so the version comes from the base image."""
    return msgspec.structs.replace(
        platform,
        os_version=platform.os_version or os_version,
        os_features=platform.os_features or os_features,
    )
