"""`anyarch.build`: the Python API for a build, in the same words as the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from anyarch.engine.request import BuildRequest, Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.engine.request import BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = ["build"]


def build(
    context: str | os.PathLike[str] | BinaryIO = ".",
    *,
    dockerfile: str | os.PathLike[str] | bytes | None = None,
    platforms: Sequence[str] = (),
    tags: Sequence[str] = (),
    outputs: Sequence[str | Output] = (),
    push: bool = False,
    load: bool = False,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    no_cache: bool = False,
    pull: bool = False,
    root: str | os.PathLike[str] | None = None,
    on_event: EventSink | None = None,
    cancel: CancelToken | None = None,
) -> BuildResult:
    """Build one image for `platforms` (default: this machine's) in this process and wait for the result.

    `context` is a directory, or a binary file with an archive of it. `dockerfile` is a path relative to the
    current directory (default: `Dockerfile` in the context), or, as bytes, its text. `outputs` are texts as
    `--output` takes them (`"type=oci,dest=image.tar"`, `"out/"`) or `Output` values; tags without any
    output keep the image in the local store. `push` sends the tags to their registries, `load` gives the
    image to docker or podman. `root` is the directory of the store (default: `$ANYARCH_ROOT`, else
    `~/.local/share/anyarch`).

    `on_event` is called with every progress event (`VertexEvent`, `StatusEvent`, `LogEvent`,
    `WarningEvent`), from any thread; it must return soon and not raise. `cancel.set()`, from any thread,
    stops the build.

    Nothing is taken from the environment but what concerns the machine (store, proxies, credentials): no
    default platform, no build arguments. Raises `AnyarchError`; `UsageError` and its like before any work
    was done, `Canceled` when it was stopped.
    """
    from anyarch.engine import build as engine_build
    from anyarch.engine import grammar
    from anyarch.engine.validate import prepare

    wanted = [output if isinstance(output, Output) else grammar.output(output) for output in outputs]
    path, archive = (os.fspath(context), None) if isinstance(context, (str, os.PathLike)) else ("-", context)
    request = BuildRequest(
        context=path,
        context_tar=archive,
        dockerfile=None if dockerfile is None or isinstance(dockerfile, bytes) else os.fspath(dockerfile),
        dockerfile_data=dockerfile if isinstance(dockerfile, bytes) else None,
        platforms=tuple(platforms),
        tags=tuple(tags),
        outputs=grammar.with_shorthands(wanted, push=push, load=load),
        target=target,
        build_args=dict(build_args or {}),
        labels=dict(labels or {}),
        no_cache=no_cache,
        pull=pull,
        root=None if root is None else os.fspath(root),
    )
    return engine_build(prepare(request), on_event=on_event, cancel=cancel)
