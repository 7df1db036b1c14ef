"""What a build was made of: its sources with what they turned out to be, and what its steps could reach.

Read from the graphs of a build; what a source is pinned to only whoever runs it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import msgspec

from anyarch.llb.ops import BuildOp, ExecOp, MountType, NetMode, SourceOp
from anyarch.spec.platform import Platform
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyarch.http.intercept.traffic import Traffic
    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import Op

    Pins = Callable[[str], str]
    """What the source of a vertex turned out to be (a digest, a commit); empty where that is not known."""
    Passages = Callable[[str], Traffic | None]
    """What a step fetched through its proxy; None for one that has none."""

__all__ = ["Capture", "GitSource", "HttpSource", "ImageSource", "UnknownFetch", "capture_of", "redacted"]

_MASK = "xxxxx"


class ImageSource(msgspec.Struct, frozen=True):
    """`is_local`: of a layout of the client's; `is_blob`: one blob of a repository."""

    reference: Reference
    platform: Platform | None
    digest: str
    is_local: bool = False
    is_blob: bool = False


class GitSource(msgspec.Struct, frozen=True):
    """`bundle` is the name of the blob that the repository came in."""

    url: str
    commit: str
    bundle: str = ""


class HttpSource(msgspec.Struct, frozen=True):
    url: str
    digest: str


class UnknownFetch(msgspec.Struct, frozen=True, order=True):
    """What a step (its digest and command) fetched without a digest being known of it, and why; as far as
    that is known."""

    op: str
    url: str
    method: str
    reason: str
    name: str

    def document(self) -> dict[str, str]:
        told = {"op": self.op, "name": self.name, "method": self.method, "uri": self.url}
        return {key: value for key, value in {**told, "reason": self.reason}.items() if value}


class Capture:
    """Each thing once. Secrets and agents are by id; the value says whether the build could do without."""

    def __init__(self) -> None:
        self.images: list[ImageSource] = []
        self.blobs: list[ImageSource] = []
        self.repositories: list[GitSource] = []
        self.downloads: list[HttpSource] = []
        self.locals: set[str] = set()
        self.secrets: dict[str, bool] = {}
        self.ssh: dict[str, bool] = {}
        self.has_network = False
        self.is_incomplete = False
        self.has_proxy = False
        self.unknown: list[UnknownFetch] = []
        """What went through proxies and is no material."""

    def add_image(self, item: ImageSource) -> None:
        for known in self.images:
            if known.reference == item.reference and known.is_local == item.is_local:
                if known.platform == item.platform:
                    return
                if known.platform is not None and item.platform is not None:
                    plain = msgspec.structs.replace(known.platform, os_features=())
                    if plain == msgspec.structs.replace(item.platform, os_features=()):
                        return
        self.images.append(item)

    def add_blob(self, item: ImageSource) -> None:
        if not any(b.reference == item.reference and b.is_local == item.is_local for b in self.blobs):
            self.blobs.append(item)

    def add_repository(self, item: GitSource) -> None:
        item = msgspec.structs.replace(item, url=redacted(item.url))
        if not any(r.url == item.url and r.bundle == item.bundle for r in self.repositories):
            self.repositories.append(item)

    def add_download(self, item: HttpSource) -> None:
        item = msgspec.structs.replace(item, url=redacted(item.url))
        if not any(d.url == item.url for d in self.downloads):
            self.downloads.append(item)

    def add_secret(self, name: str, *, optional: bool) -> None:
        self.secrets[name] = self.secrets.get(name, True) and optional

    def add_ssh(self, name: str, *, optional: bool) -> None:
        self.ssh[name or "default"] = self.ssh.get(name or "default", True) and optional

    def merge(self, other: Capture) -> None:
        for image in other.images:
            self.add_image(image)
        for blob in other.blobs:
            self.add_blob(blob)
        for repository in other.repositories:
            self.add_repository(repository)
        for download in other.downloads:
            self.add_download(download)
        self.locals |= other.locals
        for name, optional in other.secrets.items():
            self.add_secret(name, optional=optional)
        for name, optional in other.ssh.items():
            self.add_ssh(name, optional=optional)
        self.has_network |= other.has_network
        self.is_incomplete |= other.is_incomplete
        self.has_proxy |= other.has_proxy
        self.unknown += [item for item in other.unknown if item not in self.unknown]

    def settle(self) -> None:
        """Leave out what is there by its name as well as by its digest, and sort."""
        tagged = {_name_tag(image.reference) for image in self.images if image.reference.digest is None}
        self.images = [
            image
            for image in self.images
            if image.reference.digest is None or _name_tag(image.reference) not in tagged
        ]
        self.images.sort(key=lambda item: (str(item.reference), str(item.platform or "")))
        self.blobs.sort(key=lambda item: str(item.reference))
        self.repositories.sort(key=lambda item: item.url)
        self.downloads.sort(key=lambda item: item.url)
        self.unknown.sort()


def _name_tag(reference: Reference) -> str:
    return f"{reference.name}:{reference.tag or 'latest'}"


def redacted(url: str) -> str:
    """Without user and password."""
    if "@" not in url or "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url
    name, colon, _ = user.partition(":")
    masked = (_MASK if name else "") + (f":{_MASK}" if colon else "")
    return urlunsplit((parts.scheme, f"{masked}@{host}", parts.path, parts.query, parts.fragment))


def _reached(definition: Definition) -> Iterable[tuple[str, Op]]:
    """The ops that the result consists of, with their digests."""
    head = definition.head()
    todo = [head.digest] if head is not None else []
    seen = set(todo)
    while todo:
        digest = todo.pop()
        op = definition.op(digest)
        yield digest, op
        for item in op.inputs:
            if item.digest not in seen:
                seen.add(item.digest)
                todo.append(item.digest)


def _add_traffic(found: Capture, digest: str, op: ExecOp, traffic: Traffic) -> None:
    found.has_proxy = True
    for material in traffic.materials():
        found.add_download(HttpSource(material.url, material.digest))
    for item in traffic.missing:
        found.is_incomplete = True
        name = " ".join(op.meta.args)
        found.unknown.append(UnknownFetch(str(digest), item.url, item.method, item.reason, name))


def capture_of(definition: Definition, pin_of: Pins, traffic_of: Passages = lambda digest: None) -> Capture:
    """What one graph was made of. Raises `UsageError` for a graph that is not whole."""
    found = Capture()
    for digest, op in _reached(definition):
        match op.kind:
            case SourceOp():
                _add_source(found, op.kind, op.platform, pin_of(digest))
            case ExecOp():
                _add_exec(found, op.kind)
                traffic = traffic_of(digest)
                if traffic is not None:
                    _add_traffic(found, digest, op.kind, traffic)
            case BuildOp():
                found.is_incomplete = True  # what a nested build takes is not looked into
    return found


def _add_exec(found: Capture, op: ExecOp) -> None:
    for mount in op.mounts:
        if mount.mount_type is MountType.SECRET and mount.secret_opt is not None:
            found.add_secret(mount.secret_opt.id, optional=mount.secret_opt.optional)
        if mount.mount_type is MountType.SSH and mount.ssh_opt is not None:
            found.add_ssh(mount.ssh_opt.id, optional=mount.ssh_opt.optional)
    for item in op.secret_env:
        found.add_secret(item.id, optional=item.optional)
    if op.network is not NetMode.NONE:
        found.has_network = True


def _add_source(found: Capture, op: SourceOp, platform: Platform | None, pin: str) -> None:
    scheme, _, rest = op.identifier.partition("://")
    match scheme:
        case "docker-image" | "oci-layout":
            image = ImageSource(Reference.parse(rest), platform, pin, is_local=scheme == "oci-layout")
            found.add_image(image)
        case "docker-image+blob" | "oci-layout+blob":
            blob = ImageSource(
                Reference.parse(rest), None, pin, is_local=scheme.startswith("oci"), is_blob=True
            )
            found.add_blob(blob)
        case "local":
            found.locals.add(rest)
        case "http" | "https":
            found.add_download(HttpSource(op.identifier, pin))
        case "git":
            _add_git(found, op, pin)


def _add_git(found: Capture, op: SourceOp, pin: str) -> None:
    from anyarch.worker.git import git_source

    source = git_source(op)
    url = source.remote + (f"#{source.ref}" if source.ref else "")
    found.add_repository(GitSource(url, pin, source.bundle))
    for name in ("git.authtokensecret", "git.authheadersecret"):
        if op.attrs.get(name):
            found.add_secret(op.attrs[name], optional=True)
    if op.attrs.get("git.mountsshsock"):
        found.add_ssh(op.attrs["git.mountsshsock"], optional=True)
