"""From a build request to what a builder's API takes, and what has to be offered to it meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.api.proto import control_pb2 as control
from anyarch.engine.options import frontend_attrs, lent_things, local_inputs, vcs_attrs
from anyarch.engine.remote import is_remote
from anyarch.errors import ContextError, ManifestNotFound, NotSupported, UsageError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from anyarch.engine.request import BuildRequest, CacheOption, Output
    from anyarch.session.offer.content import BlobDirectory
    from anyarch.session.offer.outputs import Target
    from anyarch.worker.session import Lent

__all__ = ["RemoteBuild", "remote_build"]

UPLOAD_HOST = "http://buildkit-session/"
FRONTEND = "dockerfile.v0"


class RemoteBuild:
    """One build as a builder gets it. `exported_caches` are the layouts whose index is to name the new
    cache: (directory, tag)."""

    def __init__(self, lent: Lent) -> None:
        self.lent = lent
        self.attrs: dict[str, str] = {}
        self.directories: dict[str, str] = {}
        self.uploads: dict[str, BinaryIO] = {}
        self.stores: dict[str, BlobDirectory] = {}
        self.exporters: list[control.Exporter] = []
        self.targets: dict[int, Target] = {}
        self.cache_exports: list[control.CacheOptionsEntry] = []
        self.cache_imports: list[control.CacheOptionsEntry] = []
        self.exported_caches: list[tuple[Path, str]] = []


def remote_build(request: BuildRequest, stack: ExitStack) -> RemoteBuild:
    """Raises `AnyarchError` for what cannot be had or is not for another builder. `stack` holds what has to
    exist while the build runs."""
    _refuse(request)
    lent = lent_things(request)
    lent.check()
    build = RemoteBuild(lent)
    build.attrs = frontend_attrs(request, gateway="")  # of another machine
    build.directories = local_inputs(request)
    _standard_input(build, request, stack)
    _named_contexts(build, request)
    if request.repository is not None:
        build.attrs |= vcs_attrs(request.repository, build.directories)
    for output in request.outputs:
        _add_output(build, request, output)
    if not request.outputs and request.tags:
        build.exporters.append(control.Exporter(Type="image", Attrs={"name": ",".join(request.tags)}))
    for option in request.cache_to:
        build.cache_exports.append(_cache_export(build, option))
    for option in request.cache_from:
        entry = _cache_import(build, option)
        if entry is not None:
            build.cache_imports.append(entry)
    if build.cache_imports:
        imports = [{"Type": one.Type, "Attrs": dict(one.Attrs)} for one in build.cache_imports]
        build.attrs["cache-imports"] = msgspec.json.encode(imports).decode()
    return build


def _refuse(request: BuildRequest) -> None:
    """What only the engine in this process does."""
    if request.no_emulation:
        raise NotSupported("--no-emulation is not known to builders elsewhere", hint="leave it out")
    for flag, given in (
        ("--lock", request.lock),
        ("--offline", request.offline),
        ("--test", request.tests),
    ):
        if given:
            raise NotSupported(f"{flag} is not known to builders elsewhere", hint="leave it out")
    if request.arch_check == "error":
        raise NotSupported("--arch-check=error is not known to builders elsewhere", hint="leave it out")


def _standard_input(build: RemoteBuild, request: BuildRequest, stack: ExitStack) -> None:
    if request.context_tar is not None:
        name = os.urandom(12).hex()
        build.uploads[name] = request.context_tar
        build.attrs["context"] = UPLOAD_HOST + name
    elif request.context == "-":
        empty = _scratch(stack, "anyarch-context-")
        build.directories["context"] = empty
        build.directories.setdefault("dockerfile", empty)
    if request.dockerfile_data is not None:
        directory = _scratch(stack, "anyarch-dockerfile-")
        name = build.attrs.setdefault("filename", "Dockerfile")
        with open(os.path.join(directory, name), "wb") as file:
            file.write(request.dockerfile_data)
        build.directories["dockerfile"] = directory
        if "context" in build.attrs:
            build.attrs["dockerfilekey"] = "dockerfile"


def _scratch(stack: ExitStack, prefix: str) -> str:
    import tempfile

    return stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))


def _named_contexts(build: RemoteBuild, request: BuildRequest) -> None:
    for number, (name, value) in enumerate(request.build_contexts.items()):
        key = f"context:{name}"
        if value.startswith("oci-layout://"):
            from anyarch.session.offer.content import BlobDirectory

            path, digest = _layout_digest(value.removeprefix("oci-layout://"))
            store = f"layout{number}"
            build.stores[f"oci:{store}"] = BlobDirectory(path)
            build.attrs[key] = f"oci-layout://{store}@{digest}"
        elif is_remote(value) or "://" in value or value.startswith(("target:", "input:")):
            build.attrs[key] = value
        elif os.path.isdir(value):
            build.directories[name] = os.path.abspath(value)
            build.attrs[key] = f"local:{name}"
        else:
            raise ContextError(
                f"failed to get build context {name}: stat {value}: no such directory",
                hint="a named context is a directory, docker-image://…, oci-layout://…, a git repository, "
                "or an http(s) URL",
            )


def _layout_digest(name: str) -> tuple[str, str]:
    """The directory of a layout and the digest that a name in it selects."""
    from pathlib import Path

    from anyarch.source.layout import choose, split_layout_name
    from anyarch.spec.oci import Index, decode

    path, tag, digest = split_layout_name(name)
    try:
        raw = (Path(path) / "index.json").read_bytes()
    except OSError:
        raise ManifestNotFound(
            f"{path} is not a directory with an OCI image layout", hint="unpack it first if it is an archive"
        ) from None
    return path, choose(decode(Index, raw), name, tag, digest).digest


def _add_output(build: RemoteBuild, request: BuildRequest, output: Output) -> None:
    attrs = dict(output.attrs)
    kind = output.type
    if kind == "cacheonly":
        return
    if kind == "registry":
        kind = "image"
        attrs.setdefault("push", "true")
    if kind not in ("local", "tar"):
        if request.tags:
            attrs.setdefault("name", ",".join(request.tags))
        for item in request.annotations:
            level = "" if item.kind == "manifest" else f"-{item.kind}"
            platform = f"[{item.platform}]" if item.platform else ""
            attrs[f"annotation{level}{platform}.{item.key}"] = item.value
    if kind == "image" and attrs.get("push") == "true" and not attrs.get("name"):
        raise UsageError("tag is needed when pushing to registry", hint="name the image with --tag")
    if kind not in ("image", "moby"):  # moby: into the engine that the builder belongs to
        build.targets[len(build.exporters)] = _target(output, attrs)
    build.exporters.append(control.Exporter(Type=kind, Attrs=attrs))


def _target(output: Output, attrs: dict[str, str]) -> Target:
    from anyarch.session.offer.outputs import DirectoryTarget, FileTarget, PipeTarget

    if output.type == "local":
        if output.dest is None:
            raise UsageError("output type=local needs dest")
        is_deleting = attrs.get("mode", "").strip().lower() == "delete"
        return DirectoryTarget(output.dest, is_deleting=is_deleting)
    if attrs.get("tar", "true") in ("false", "0"):
        raise NotSupported(f"type={output.type},tar=false is not supported with a builder elsewhere")
    if output.dest is not None:
        return FileTarget(output.dest)
    if output.type == "docker":
        from anyarch.source.engines import find_engine

        return PipeTarget([*find_engine().argv, "load"])
    raise UsageError(f"output type={output.type} needs dest")


def _cache_export(build: RemoteBuild, option: CacheOption) -> control.CacheOptionsEntry:
    attrs = dict(option.attrs)
    if option.type == "local":
        from pathlib import Path

        from anyarch.session.offer.content import BlobDirectory

        dest = attrs.get("dest")
        if not dest:
            raise UsageError("dest is required for local cache exporter")
        tag = attrs.pop("tag", "latest")
        build.stores[f"local:{dest}"] = BlobDirectory(dest, is_writable=True)
        build.exported_caches.append((Path(dest), tag))
    return control.CacheOptionsEntry(Type=option.type, Attrs=attrs)


def _cache_import(build: RemoteBuild, option: CacheOption) -> control.CacheOptionsEntry | None:
    attrs = dict(option.attrs)
    if option.type == "local":
        from anyarch.session.offer.content import BlobDirectory

        source = attrs.get("src")
        if not source:
            raise UsageError("src is required for local cache importer")
        tag = attrs.pop("tag", "latest")
        if not attrs.get("digest"):
            try:
                attrs["digest"] = _layout_digest(f"{source}:{tag}")[1]
            except ManifestNotFound:
                return None  # nothing there yet, as at the first build
        build.stores.setdefault(f"local:{source}", BlobDirectory(source))
    return control.CacheOptionsEntry(Type=option.type, Attrs=attrs)
