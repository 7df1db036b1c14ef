"""What can be said about a build request before any work is done: completed, or refused with a clear error.

`prepare` is called by the command line and the Python API on what a user asked for; `engine.build` takes
what it returns. It looks at paths but reads, writes and fetches nothing. A field that this release does not
act on is refused here, in one table, so that no way in can ignore it in silence.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from anyarch.engine import grammar
from anyarch.engine.remote import is_download, is_remote
from anyarch.engine.request import Output
from anyarch.errors import BadReference, ContextError, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.engine.request import BuildRequest

__all__ = ["OUTPUT_TYPES", "check_directory", "prepare"]

OUTPUT_TYPES = ("image", "registry", "oci", "docker", "local", "tar", "cacheonly")
_NETWORKS = ("default", "none", "host")


def prepare(request: BuildRequest, *, stdout_is_terminal: Callable[[], bool] = lambda: False) -> BuildRequest:
    """Check `request` and complete it.

    In what is returned platforms and tags are normalised, `registry` outputs are `image` outputs with
    `push=true`, image outputs have the tags as their `name`, and tags without an output have become an
    image in the local store; a request that only asks (`call`) has none. Raises `UsageError`,
    `ContextError`, `OutputError`, `NotSupported` and what parsing raises.
    """
    if request.attests:
        _check_attests(request.attests)
    if request.network not in _NETWORKS:
        raise UsageError(
            f'network mode "{request.network}" not supported', hint=f"it is one of {', '.join(_NETWORKS)}"
        )
    if request.no_cache and request.no_cache_filter:
        raise UsageError("--no-cache and --no-cache-filter cannot currently be used together")
    if request.cache_from or request.cache_to:
        from anyarch.engine.remote_cache import check_caches

        check_caches(request)
    if request.offline:
        _check_offline(request)
    _check_context(request)
    if request.call not in ("", "build"):
        request = msgspec.structs.replace(request, tags=(), outputs=())
    tags = tuple(_tag(text) for text in request.tags)
    outputs = request.outputs or ((Output("image"),) if tags else ())
    may_delete = _may_delete(request.allow)
    outputs = tuple(_output(output, tags, request.tags, may_delete=may_delete) for output in outputs)
    _check_destinations(outputs, stdout_is_terminal)
    names, _ = grammar.platforms(request.platforms)
    request = msgspec.structs.replace(request, tags=tags, outputs=outputs, platforms=names)
    if request.require or request.optional:
        from anyarch.engine.policy import check_policy

        request = check_policy(request)
    if request.parallel:
        from anyarch.worker.limits import Limits

        Limits.of(request.parallel)
    return request


_PROVENANCE = (
    "mode",
    "version",
    "filename",
    "builder-id",
    "reproducible",
    "inline-only",
    "capture-usage",
    "complete-materials",
)


def _check_attests(attests: dict[str, dict[str, str]]) -> None:
    from anyarch.attest.options import provenance_options, sbom_options

    for kind, attrs in attests.items():
        match kind:
            case "provenance":
                for name in attrs:
                    if name not in _PROVENANCE:
                        raise UsageError(
                            f"provenance has no attribute {name!r}", hint=f"it has {', '.join(_PROVENANCE)}"
                        )
                provenance_options(attrs)
            case "sbom":
                sbom_options(attrs)
            case _:
                raise UsageError(f'unknown attestation type "{kind}"', hint="there are provenance and sbom")


def _check_offline(request: BuildRequest) -> None:
    pushes = any(
        out.type == "registry" or grammar.truth(out.attrs.get("push", "false")) for out in request.outputs
    )
    caches = [*request.cache_from, *request.cache_to]
    remote = next((c.type for c in caches if c.type not in ("local", "inline")), "")
    for is_wrong, what in (
        (pushes, "nothing can be pushed"),
        (bool(remote), f"no cache of type={remote} can be reached"),
        (is_remote(request.context), "the context cannot be fetched"),
    ):
        if is_wrong:
            raise UsageError(f"--offline: {what}", hint="leave out --offline, or keep the result here")


def _check_context(request: BuildRequest) -> None:
    context = request.context
    if not context:
        raise UsageError('please specify build context (e.g. "." for the current directory)')
    if context == "-":
        if request.context_tar is not None and request.dockerfile == "-" and request.dockerfile_data is None:
            raise UsageError("invalid argument: can't use stdin for both build context and dockerfile")
    elif is_remote(context) and not os.path.isdir(context):
        return  # a Dockerfile of this machine is looked for when it is needed
    else:
        check_directory(context)
    _check_dockerfile(request)


def check_directory(context: str) -> None:
    """Raises `ContextError` unless `context` is a directory that can be read and entered."""
    path = f'unable to prepare context: path "{context}"'
    try:
        is_directory = stat.S_ISDIR(os.stat(context).st_mode)
    except PermissionError:
        raise ContextError(
            f"{path}: permission denied",
            hint="whoever builds needs to enter the directories on the way to it",
        ) from None
    except (OSError, ValueError):
        raise ContextError(
            f"{path} not found",
            hint="the last argument is the directory with the files that COPY may use, often just a dot",
        ) from None
    if not is_directory:
        raise ContextError(
            f"{path} is not a directory",
            hint=f"an archive is given on standard input: anyarch build - < {context}",
        )
    if not os.access(context, os.R_OK | os.X_OK):
        raise ContextError(
            f"{path} cannot be read: permission denied",
            hint="the user who builds needs to read and enter the directory",
        )


def _check_dockerfile(request: BuildRequest) -> None:
    name = request.dockerfile
    if request.dockerfile_data is not None or request.context_tar is not None:
        return
    if name is not None and is_download(name):
        return
    if name is None:
        # A lower-case name is the fallback of the Dockerfile frontend.
        candidates = [os.path.join(request.context, found) for found in ("Dockerfile", "dockerfile")]
        hint = "name another file with -f, or put one called Dockerfile into the context"
    else:
        candidates = [name]
        hint = f"-f is relative to the current directory ({os.getcwd()}), not to the context"
    if not any(os.path.lexists(candidate) for candidate in candidates):
        shown = name if name is not None else "Dockerfile"
        raise ContextError(f"failed to read dockerfile: open {shown}: no such file or directory", hint=hint)
    if name is not None and os.path.isdir(name):
        raise ContextError(
            f"failed to read dockerfile: {name} is a directory", hint=f"perhaps {name}/Dockerfile"
        )


def _tag(text: str) -> str:
    from anyarch.spec.reference import Reference

    try:
        reference = Reference.parse(text)
    except BadReference as error:
        raise BadReference(f'invalid tag "{text}": {error.message}', hint=error.hint) from None
    if reference.digest is not None:
        raise BadReference(
            f'invalid tag "{text}": a digest cannot be chosen', hint="write [registry/]repository[:tag]"
        )
    return str(reference)


def _output(output: Output, tags: tuple[str, ...], written: Sequence[str], *, may_delete: bool) -> Output:
    """`written` are the tags as the user wrote them."""
    attrs = dict(output.attrs)
    kind = output.type
    if kind not in OUTPUT_TYPES:
        raise UsageError(
            f'exporter "{kind}" could not be found', hint=f"types of output are {', '.join(OUTPUT_TYPES)}"
        )
    if kind == "registry":
        kind = "image"
        attrs["push"] = "true"
        attrs.setdefault("unpack", "false")
    for name in ("push", "tar", "push-by-digest"):
        if grammar.truth(attrs.get(name, "true")) is None:
            raise UsageError(
                f"invalid value {attrs[name]!r} of {name}= in an output", hint="it is true or false"
            )
    if kind in ("image", "oci", "docker"):
        if grammar.truth(attrs.get("push-by-digest", "false")) and grammar.truth(attrs.get("push", "false")):
            _check_by_digest(written or attrs.get("name", "").split(","))
        if tags:
            attrs["name"] = ",".join(tags)
        elif attrs.get("name"):
            attrs["name"] = ",".join(_tag(name.strip()) for name in attrs["name"].split(","))
    if kind == "image" and grammar.truth(attrs.get("push", "false")) and not attrs.get("name"):
        raise UsageError("tag is needed when pushing to registry", hint="name it: -t registry/repository:tag")
    if kind == "local":
        mode = attrs.get("mode", "").strip().lower()
        if mode not in ("", "copy", "delete"):
            raise UsageError(f'invalid local exporter mode "{attrs["mode"]}"', hint="it is copy or delete")
        if mode == "delete" and not may_delete:
            _check_delete(output.dest or "")
    dest = output.dest
    if kind == "tar" or (kind == "oci" and grammar.truth(attrs.get("tar", "true"))):
        dest = dest or "-"
    return Output(kind, dest, attrs)


def _check_by_digest(names: Sequence[str]) -> None:
    for name in names:
        if ":" in name.rpartition("/")[2]:
            raise UsageError(
                f"can't push tagged ref {_tag(name.strip())} by digest",
                hint="name the repository without a tag, or leave out push-by-digest",
            )


def _may_delete(allow: Sequence[str]) -> bool:
    for name in allow:
        if name.startswith("buildx.local.delete="):
            raise UsageError("buildx.local.delete does not accept a value")
    return "buildx.local.delete" in allow


def _check_delete(dest: str) -> None:
    """A local output that deletes what it does not write may do so below the working directory, and
    elsewhere only when that was allowed."""
    inside = os.path.realpath(dest)
    if not inside.startswith(os.path.join(os.path.realpath(os.getcwd()), "")):
        raise UsageError(
            f'local output mode=delete for destination "{dest}" requires --allow=buildx.local.delete',
            hint="everything in that directory which is not part of the result would be deleted",
        )


def _check_destinations(outputs: tuple[Output, ...], stdout_is_terminal: Callable[[], bool]) -> None:
    on_stdout = 0
    for output in outputs:
        kind, dest = output.type, output.dest
        if kind in ("image", "cacheonly"):
            continue
        if kind == "local" or (kind != "tar" and grammar.truth(output.attrs.get("tar", "true")) is False):
            _check_directory(kind, dest)
            continue
        if dest is None and kind == "docker":
            continue  # loaded into the store of docker or podman
        if dest in (None, "", "-"):
            on_stdout += 1
            if on_stdout > 1:
                raise UsageError("multiple outputs configured to write to stdout")
            if stdout_is_terminal():
                raise UsageError(
                    f"dest file is required for {kind} exporter. refusing to write to console",
                    hint=f"add ,dest=FILE or send it on: anyarch build -o type={kind} . > FILE",
                )
        elif dest is not None and not os.path.isdir(above := _existing(os.path.dirname(dest))):
            raise OutputError(f"cannot write {dest}: {above} is not a directory")
        elif dest is not None and os.path.isdir(dest):
            raise OutputError(
                f"destination file {dest} is a directory",
                hint=f"name a file in it: dest={os.path.join(dest, 'image.tar')}",
            )


def _existing(directory: str) -> str:
    """The directory, or the lowest above it that is there."""
    while directory and not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return directory or "."


def _check_directory(kind: str, dest: str | None) -> None:
    if not dest:
        raise UsageError(f"dest is required for {kind} exporter", hint="for example type=local,dest=out")
    if dest == "-":
        raise UsageError(
            f"dest cannot be stdout for {kind} exporter", hint="name a directory, or use type=tar"
        )
    if os.path.lexists(dest) and not os.path.isdir(dest):
        raise OutputError(f"destination directory {dest} is a file", hint="remove it or choose another name")
