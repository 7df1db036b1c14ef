"""Where an image is or goes, as people write it.

    ghcr.io/me/app:1, docker://ghcr.io/me/app:1    a registry
    oci-layout://PATH[:TAG][@DIGEST]               an OCI image layout: a directory, or a tar
    docker-archive://PATH[:NAME[:TAG]]             what `docker save` writes and `docker load` reads
    store://NAME                                   anyarch's own store
    docker-daemon://NAME, podman://NAME, containerd://NAME    an engine on this machine

Where it cannot be a reference, the path of a directory or archive is taken as it stands.
"""

from __future__ import annotations

import os

import msgspec

from anyarch.errors import BadReference, UsageError
from anyarch.imagetools.layout import LayoutReference
from anyarch.spec.reference import Reference

__all__ = ["ENGINES", "ArchivePlace", "EnginePlace", "Place", "StorePlace", "parse_place"]

ENGINES = ("docker-daemon", "podman", "containerd")
_SUFFIXES = (".tar", ".oci", ".tgz", ".tar.gz")


class ArchivePlace(msgspec.Struct, frozen=True):
    """A docker archive; `name` chooses one of its images."""

    path: str
    name: Reference | None = None

    def __str__(self) -> str:
        return f"docker-archive://{self.path}" + (f":{self.name.familiar}" if self.name else "")


class StorePlace(msgspec.Struct, frozen=True):
    """A name in anyarch's store."""

    name: Reference

    def __str__(self) -> str:
        return f"store://{self.name.familiar}"


class EnginePlace(msgspec.Struct, frozen=True):
    """A name in an engine's store; `kind` is one of `ENGINES`."""

    kind: str
    name: Reference

    def __str__(self) -> str:
        return f"{self.kind}://{self.name.familiar}"

    @property
    def engine(self) -> str:
        """The engine's own name."""
        return self.kind.removesuffix("-daemon")


Place = Reference | LayoutReference | ArchivePlace | StorePlace | EnginePlace


def parse_place(text: str) -> Place:
    """Raises `BadReference`, `UsageError`."""
    layout = LayoutReference.parse(text)
    if layout is not None:
        if not layout.path:
            raise UsageError(f"{text!r}: a path is missing", hint="write oci-layout://PATH[:TAG]")
        return layout
    scheme, separator, rest = text.partition("://")
    if separator:
        match scheme:
            case "docker" | "registry":
                return Reference.parse(rest)
            case "docker-archive":
                return _archive(rest)
            case "store":
                return StorePlace(Reference.parse(rest))
            case "docker-daemon" | "podman" | "containerd":
                return EnginePlace(scheme, Reference.parse(rest))
        known = "oci-layout, docker-archive, store, docker, " + ", ".join(ENGINES)
        raise UsageError(f"{text!r}: {scheme}:// is not known", hint=f"known are {known}")
    if _is_path(text):
        return LayoutReference(text)
    try:
        return Reference.parse(text)
    except BadReference as error:
        if os.path.exists(text):
            return LayoutReference(text)
        raise error from None


def _is_path(text: str) -> bool:
    if text.startswith(("/", "./", "../")) or text in (".", ".."):
        return True
    if text.endswith(_SUFFIXES) and os.path.isfile(text):
        return True
    return os.path.isfile(os.path.join(text, "oci-layout"))


def _archive(rest: str) -> ArchivePlace:
    if not rest:
        raise UsageError("docker-archive://: a path is missing", hint="write docker-archive://PATH[:NAME]")
    path, colon, name = rest.partition(":")
    return ArchivePlace(path, Reference.parse(name) if colon and name else None)
