"""Where a build's result goes when the command line does not say: into the docker engine, or nowhere but the
cache, with a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.cli.dispatch import stderr
from anyarch.cli.flags import parse_bool
from anyarch.engine.request import Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.builder.builder import Builder
    from anyarch.engine.request import BuildRequest

__all__ = ["NO_OUTPUT", "with_default_output"]

NO_OUTPUT = (
    "WARNING: No output specified. Build result will only remain in the build cache. To push result image "
    "into registry use --push or to load image into docker use --load"
)


def with_default_output(
    request: BuildRequest, builder: Builder | None, env: Mapping[str, str]
) -> BuildRequest:
    """`request`, which names no output, with that of the builder.

    docker's own driver, and others with the option default-load, load into the docker engine; so does the
    engine in this process when docker calls it as its plugin, for a user of `docker build` looks for the
    image there. BUILDX_NO_DEFAULT_LOAD switches that off, and the warning."""
    is_off = parse_bool(env.get("BUILDX_NO_DEFAULT_LOAD", "")) is True
    if builder is None:
        if not is_off and _is_plugin(env) and _can_load(request):
            load = Output("docker", None, {"name": ",".join(request.tags)} if request.tags else {})
            return msgspec.structs.replace(request, outputs=(*request.outputs, load))
        if not request.outputs and not is_off:
            print(NO_OUTPUT, file=stderr())
        return request
    loads = [node.driver.default_load for node in builder.open() if node.driver is not None]
    if not is_off and loads and all(loads):
        load = Output("docker", None, {"name": ",".join(request.tags)} if request.tags else {})
        return msgspec.structs.replace(request, outputs=(load,))
    if not is_off:
        print(NO_OUTPUT, file=stderr())
    return msgspec.structs.replace(request, outputs=(Output("cacheonly"),))


def _is_plugin(env: Mapping[str, str]) -> bool:
    from anyarch.cli.plugin import ORIGINAL

    return bool(env.get(ORIGINAL))


def _can_load(request: BuildRequest) -> bool:
    """Whether an engine is there, and takes what comes."""
    from anyarch.errors import OutputError
    from anyarch.source.engines import find_engine

    try:
        engine = find_engine()
    except OutputError:
        return False
    return len(request.platforms) < 2 or engine.takes_indexes
