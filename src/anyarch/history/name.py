"""The name by which a list of builds shows one: where it was built from, as buildx puts it together."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build_name"]

_DEFAULT = "Dockerfile"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def build_name(attrs: Mapping[str, str], local_path: str = "", dockerfile_path: str = "") -> str:
    """`attrs` are those of the frontend, the paths those that were kept where the build was started (empty
    elsewhere)."""
    given = attrs.get("build-arg:BUILDKIT_BUILD_NAME")
    if given:
        return given
    context = attrs.get("context") or _unless(attrs.get("vcs:localdir:context"), ".")
    name = context or _of_paths(*_paths(attrs, local_path, dockerfile_path))
    target = attrs.get("target", "")
    if target:
        return f"{name} ({target})" if name else target
    return name or attrs.get("vcs:source", "")


def _unless(text: str | None, default: str) -> str:
    return text if text and text != default else ""


def _paths(attrs: Mapping[str, str], local_path: str, dockerfile_path: str) -> tuple[str, str]:
    """The directory and the Dockerfile; each empty where it is not known or the usual one."""
    dockerfile = _unless(attrs.get("filename"), _DEFAULT)
    directory = _unless(attrs.get("vcs:localdir:dockerfile"), ".")
    if directory:
        dockerfile = posixpath.normpath(posixpath.join(directory, dockerfile))
    if local_path.startswith(_REMOTE):
        return "", dockerfile
    if dockerfile_path not in ("", "-", _DEFAULT):
        dockerfile = dockerfile_path
    return _unless(local_path, "-"), dockerfile


def _of_paths(local: str, dockerfile: str) -> str:
    """The last part of the directory, with the Dockerfile where that is not the usual one."""
    is_usual = not dockerfile or dockerfile.endswith(f"/{_DEFAULT}")
    dockerfile = dockerfile.removesuffix(f"/{_DEFAULT}")
    if dockerfile.startswith(local) and len(dockerfile) > len(local):
        return dockerfile[local.rfind("/") + 1 :]
    path = dockerfile or local
    directory, slash, last = path.rpartition("/")
    if is_usual or not last:
        return last
    parent = posixpath.basename(directory) if slash else path
    return posixpath.join(parent, last)
