"""From a build request to what frontend and exporters take: the frontend's attributes, outputs, names."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from anyarch.engine.attributes import compression_of, flag
from anyarch.engine.remote import is_download, is_remote
from anyarch.engine.request import Annotation
from anyarch.engine.settings import BuildSettings
from anyarch.engine.validate import check_directory
from anyarch.errors import ContextError, UsageError
from anyarch.spec.number import natural
from anyarch.spec.platform import Platform
from anyarch.worker.session import Lent, LentSecret, LentSsh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.request import BuildRequest, BuildResult, Output, Repository
    from anyarch.exporter.assemble import Annotations
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.spec.reference import Reference
    from anyarch.store.store import Store

__all__ = [
    "annotation_of",
    "annotations_of",
    "answer_of",
    "build_epoch",
    "check_output",
    "epoch_of",
    "frontend_attrs",
    "image_names",
    "local_inputs",
    "wants_frontend_images",
]

_IMAGE_ATTRS = frozenset(
    [
        "name",
        "push",
        "push-by-digest",
        "registry.insecure",
        "store",
        "unpack",
        "dangling-name-prefix",
        "danging-name-empty-only",  # spelled so by BuildKit
        "name-canonical",
        "oci-mediatypes",
        "oci-artifact",
        "compression",
        "compression-level",
        "force-compression",
        "rewrite-timestamp",
        "source-date-epoch",
        "prefer-nondist-layers",
        "attestation-inline",
        "tar",
        "part",
    ]
)
_FILE_ATTRS = frozenset(["platform-split", "source-date-epoch", "mode", "attestation-prefix"])
_BOOLEANS = (
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
    "danging-name-empty-only",
    "name-canonical",
    "oci-mediatypes",
    "oci-artifact",
    "force-compression",
    "rewrite-timestamp",
    "prefer-nondist-layers",
    "attestation-inline",
    "tar",
    "part",
    "platform-split",
)
LOCAL_DELETE = "buildx.local.delete"
"""Allows `mode=delete` of a local output to delete outside the working directory."""
_ONLY_OCI = ("estargz",)


def check_output(output: Output) -> None:
    """Refuse attributes that are unknown, wrong, or at odds with one another; none is ignored."""
    is_image = output.type not in ("local", "tar", "cacheonly")
    known = _IMAGE_ATTRS if is_image else _FILE_ATTRS
    if output.type == "cacheonly":
        known = frozenset()
    for name in output.attrs:
        if is_image and annotation_of(name, "") is not None:
            continue
        if name not in known:
            raise UsageError(
                f"unknown attribute {name!r} of output type={output.type}",
                hint=f"it takes {', '.join(('type', 'dest', *sorted(known)))}",
            )
        if name in _BOOLEANS:
            flag(output.attrs, name, default=False)
    epoch_of(output.attrs, None)
    if is_image:
        _check_image(output.attrs)
    elif output.attrs.get("mode", "copy").strip().lower() not in ("", "copy", "delete"):
        raise UsageError(f'invalid local exporter mode "{output.attrs["mode"]}"', hint="it is copy or delete")


def _check_image(attrs: dict[str, str]) -> None:
    kind = compression_of(attrs).type
    if flag(attrs, "part", default=False) and flag(attrs, "tar", default=True):
        raise UsageError("part=true makes a directory", hint="write tar=false too, or use --part DIR")
    if not flag(attrs, "oci-mediatypes", default=True):
        if kind in _ONLY_OCI:
            raise UsageError(
                f'exporter option "compression={kind}" conflicts with "oci-mediatypes=false"',
                hint="leave out oci-mediatypes=false",
            )
        if flag(attrs, "oci-artifact", default=False):
            raise UsageError('exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"')
    if flag(attrs, "rewrite-timestamp", default=False) and flag(attrs, "unpack", default=False):
        raise UsageError('exporter option "rewrite-timestamp" conflicts with "unpack"')


_HOST_GATEWAY = "host-gateway"
_STEPS_SHARE_THE_NETWORK = "127.0.0.1"


def frontend_attrs(request: BuildRequest, *, gateway: str = _STEPS_SHARE_THE_NETWORK) -> dict[str, str]:
    """The attributes that BuildKit's Dockerfile frontend takes (dockerfile.v0).

    `gateway` is what `host-gateway` of `--add-host` stands for: the address at which steps reach the machine
    they run on. For another engine than ours it is not known: empty, and then asking for it is an error.
    """
    attrs: dict[str, str] = {}
    if request.target:
        attrs["target"] = request.target
    if request.platforms:
        attrs["platform"] = ",".join(request.platforms)
    if request.multi_platform:
        attrs["multi-platform"] = "true"
    for name, value in request.build_args.items():
        attrs[f"build-arg:{name}"] = value
    for name, value in request.labels.items():
        attrs[f"label:{name}"] = value
    if request.no_cache:
        attrs["no-cache"] = ""
    elif request.no_cache_filter:
        attrs["no-cache"] = ",".join(request.no_cache_filter)
    if request.stage_platform or BuildSettings.load().stage_platform:
        attrs["stage-platform"] = "true"
    attrs["image-resolve-mode"] = "pull" if request.pull else "default"
    if request.network not in ("", "default"):
        attrs["force-network-mode"] = request.network
    if request.add_hosts:
        attrs["add-hosts"] = ",".join(f"{n}={_host_address(a, gateway)}" for n, a in request.add_hosts)
    if request.shm_size is not None:
        attrs["shm-size"] = str(request.shm_size)
    if request.ulimits:
        attrs["ulimit"] = ",".join(f"{u.name}={u.soft}:{u.hard}" for u in request.ulimits)
    attrs.update(request.resources)
    if request.cgroup_parent:
        attrs["cgroup-parent"] = request.cgroup_parent
    if request.dockerfile is not None:
        is_inside = _is_inside(request)
        attrs["filename"] = request.dockerfile if is_inside else os.path.basename(request.dockerfile)
        if is_remote(request.context) and not is_inside:
            attrs["dockerfilekey"] = "dockerfile"
    if is_remote(request.context):
        attrs["context"] = request.context
    attrs |= _attest_attrs(request)
    method = request.call.partition(",")[0]
    if method not in ("", "build"):
        attrs["requestid"] = f"frontend.{'lint' if method == 'check' else method}"
        attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests"
    return attrs


def attests_by_default(request: BuildRequest) -> bool:
    """Whether provenance is made although nobody asked for it: of images that are pushed, as docker buildx
    does. Docker's media types know no attestations."""
    if not request.default_provenance or "provenance" in request.attests:
        return False
    return request.call.partition(",")[0] in ("", "build") and any(
        (output.type == "registry" or flag(output.attrs, "push", default=False))
        and flag(output.attrs, "oci-mediatypes", default=True)
        for output in request.outputs
    )


def _attest_attrs(request: BuildRequest) -> dict[str, str]:
    found = {}
    for kind, attrs in request.attests.items():
        fields = [f"type={kind}", *(f"{name}={value}" for name, value in attrs.items())]
        found[f"attest:{kind}"] = ",".join(_csv_field(field) for field in fields)
    if attests_by_default(request):
        found["attest:provenance"] = "mode=min,inline-only=true"
    return found


def _csv_field(text: str) -> str:
    if not any(char in text for char in ',"\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'


def vcs_attrs(repository: Repository, directories: dict[str, str]) -> dict[str, str]:
    """What is told of the build's git repository, and where in it the directories are."""
    found = {"vcs:source": repository.source, "vcs:revision": repository.revision}
    attrs = {name: value for name, value in found.items() if value}
    root = os.path.realpath(repository.root)
    for name, directory in directories.items():
        inside = os.path.relpath(os.path.realpath(directory), root)
        if not inside.startswith(".."):
            attrs[f"vcs:localdir:{name}"] = inside
    return attrs


def _host_address(address: str, gateway: str) -> str:
    if address != _HOST_GATEWAY:
        return address
    if not gateway:
        raise UsageError(
            "unable to derive the IP value for host-gateway: host-gateway is not supported by the builder's "
            "driver",
            hint="give the address itself",
        )
    return gateway


def _is_inside(request: BuildRequest) -> bool:
    """Whether the path of the Dockerfile is not one of this machine, but a URL or one in the context: always
    in an archive, and in a remote context unless it is absolute."""
    if request.context_tar is not None or is_download(request.dockerfile or ""):
        return True
    return is_remote(request.context) and not os.path.isabs(request.dockerfile or "")


def local_inputs(request: BuildRequest) -> dict[str, str]:
    """The directories that local sources are read from: `context` and `dockerfile`. Raises `ContextError`."""
    inputs: dict[str, str] = {}
    if request.context != "-" and not is_remote(request.context):
        check_directory(request.context)
        inputs["context"] = inputs["dockerfile"] = os.path.abspath(request.context)
    if request.dockerfile is not None and not _is_inside(request):
        inputs["dockerfile"] = os.path.abspath(os.path.dirname(request.dockerfile) or ".")
    return inputs


def wants_frontend_images() -> bool:
    """Whether `$ANYARCH_FRONTEND` asks for the frontend images that Dockerfiles name, even where it is ours
    that they mean. Raises `UsageError`."""
    text = os.environ.get("ANYARCH_FRONTEND", "")
    if text not in ("", "builtin", "image"):
        raise UsageError(f"invalid ANYARCH_FRONTEND {text!r}", hint="builtin, the default, or image")
    return text == "image"


def lent_things(request: BuildRequest) -> Lent:
    """Secrets, agents and entitlements of a request. `--network=host` asks for its own entitlement."""
    allow = set(request.allow) - {LOCAL_DELETE}
    if request.network == "host":
        allow.add("network.host")
    ssh = {item.id: LentSsh(item.paths) for item in request.ssh}
    if not ssh and _is_ssh(request.context) and os.environ.get("SSH_AUTH_SOCK"):
        ssh["default"] = LentSsh()  # as buildx does for a context that cannot be had without
    return Lent(
        secrets={item.id: LentSecret(item.source, item.env) for item in request.secrets},
        ssh=ssh,
        entitlements=allow,
    )


def _is_ssh(context: str) -> bool:
    if not is_remote(context) or context.startswith(("http://", "https://", "github.com/")):
        return False
    from anyarch.source.giturl import parse_git_url

    url = parse_git_url(context)
    return url is not None and url.scheme == "ssh"


def named_contexts(
    request: BuildRequest, store: Store, attrs: dict[str, str], inputs: dict[str, str]
) -> None:
    """`--build-context`: directories become local inputs, layouts are brought into the store, the rest is the
    frontend's. Raises `ContextError`."""
    for name, value in request.build_contexts.items():
        key = f"context:{name}"
        if value.startswith("oci-layout://"):
            from anyarch.source.layout import import_layout

            descriptor = import_layout(store.content, value.removeprefix("oci-layout://"))
            attrs[key] = f"oci-layout://{name}@{descriptor.digest}"
        elif is_remote(value) or "://" in value or value.startswith(("target:", "input:")):
            attrs[key] = value
        elif os.path.isdir(value):
            inputs[name] = os.path.abspath(value)
            attrs[key] = f"local:{name}"
        else:
            raise ContextError(
                f"failed to get build context {name}: stat {value}: no such directory",
                hint="a named context is a directory, docker-image://…, oci-layout://…, a git repository, "
                "or an http(s) URL",
            )


def answer_of(frontend: FrontendResult, warnings: int) -> BuildResult:
    """What a frontend that was asked about a file, not for an image, gives as the outcome."""
    from anyarch.engine.request import BuildResult

    metadata = {name: value.decode("utf-8", "replace") for name, value in frontend.metadata.items()}
    return BuildResult(metadata=metadata, warnings=warnings)


def image_names(request: BuildRequest, output: Output) -> list[Reference]:
    """The names an output gets: its own, or those of --tag."""
    from anyarch.spec.reference import Reference

    text = output.attrs.get("name", "")
    names = [part for part in text.split(",") if part] if text else list(request.tags)
    return [Reference.parse(name) for name in names]


def epoch_of(attrs: dict[str, str], epoch: int | None) -> int | None:
    """The time that bounds those of an output: its own, else `epoch`, that of the build. Seconds."""
    text = attrs.get("source-date-epoch")
    if not text:
        return epoch if text is None else None  # an empty one takes back that of the build
    number = natural(text)
    if number is None:
        raise UsageError(
            f"invalid source-date-epoch {text!r} of an output", hint="give a number of seconds since 1970"
        )
    return number


def build_epoch(frontend: FrontendResult) -> int | None:
    """SOURCE_DATE_EPOCH as the frontend found it: the newest, should platforms differ."""
    prefix = "source.date.epoch/"
    found = [int(value) for key, value in frontend.metadata.items() if key.startswith(prefix)]
    return max(found, default=None)


_ANNOTATION = r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)\Z"
_LEVELS = ("manifest", "manifest-descriptor", "index", "index-descriptor")


def annotation_of(name: str, value: str) -> Annotation | None:
    """What an output's attribute `annotation[-LEVEL][[PLATFORM]].KEY` says; None for another attribute.
    Raises `UsageError`."""
    match = re.match(_ANNOTATION, name) if name.startswith("annotation") else None
    if match is None:
        return None
    kind, platform = match[1] or "manifest", match[2] or ""
    if kind not in _LEVELS:
        raise UsageError(f"unrecognized annotation type {kind}", hint=f"it is one of {', '.join(_LEVELS)}")
    if platform and kind.startswith("index"):
        raise UsageError(f"annotations of type {kind} take no platform")
    return Annotation(match[3], value, kind, platform)


def annotations_of(request: BuildRequest, output: Output, frontend: Sequence[Annotation] = ()) -> Annotations:
    """Those of one output, of the request and of the frontend; of several with one key the later counts."""
    from anyarch.exporter.assemble import Annotations

    levels: dict[str, dict[tuple[Platform | None, str], str]] = {level: {} for level in _LEVELS}
    own = [annotation_of(name, value) for name, value in sorted(output.attrs.items())]
    for item in (*own, *request.annotations, *frontend):
        if item is None:
            continue
        if item.kind not in levels:
            raise UsageError(f"unknown annotation type {item.kind!r}")
        platform = Platform.parse(item.platform) if item.platform else None
        levels[item.kind][platform, item.key] = item.value

    def platformed(level: str) -> tuple[tuple[Platform | None, str, str], ...]:
        return tuple((platform, key, value) for (platform, key), value in levels[level].items())

    def plain(level: str) -> tuple[tuple[str, str], ...]:
        return tuple((key, value) for (_, key), value in levels[level].items())

    return Annotations(
        platformed("manifest"),
        platformed("manifest-descriptor"),
        plain("index"),
        plain("index-descriptor"),
    )
