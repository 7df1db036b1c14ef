"""Where builds were started from: what `history` adds to the records that the nodes keep.

buildx's own files, so that both tools know of the other's builds. Below the store of builders:

| path | content |
|---|---|
| `refs/BUILDER/NODE/REF` | a `LocalState` |
| `refs/__group__/ID` | the builds that were started as one: `Targets` and `Refs` (`BUILDER/NODE/REF`) |
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.builder.files import make_directories, write_atomically
from anyarch.engine.remote import is_remote
from anyarch.errors import BuilderError
from anyarch.spec.codec import json_decoder

if TYPE_CHECKING:
    from anyarch.engine.request import BuildRequest

__all__ = ["LocalState", "read_state", "remove_states", "save_state", "state_of"]

_GROUPS = "__group__"


class LocalState(msgspec.Struct, frozen=True, kw_only=True):
    """Of one build. Paths are absolute, but in a remote context; `-` is standard input, and an empty
    `dockerfile_path` the Dockerfile of the context."""

    target: str = msgspec.field(name="Target", default="")
    local_path: str = msgspec.field(name="LocalPath", default="")
    dockerfile_path: str = msgspec.field(name="DockerfilePath", default="")
    group_ref: str | msgspec.UnsetType = msgspec.field(name="GroupRef", default=msgspec.UNSET)


class _Group(msgspec.Struct):
    refs: list[str] | None = msgspec.field(name="Refs", default=None)


def state_of(request: BuildRequest) -> LocalState:
    """What a build with `--file` and a context as they were written leaves behind."""
    context = request.context
    is_here = context != "-" and not is_remote(context)
    dockerfile = request.dockerfile or ""
    if request.dockerfile_data is not None and context != "-":
        dockerfile = "-"
    elif dockerfile and is_here:
        dockerfile = os.path.abspath(dockerfile)
    return LocalState(
        target="default",
        local_path=os.path.abspath(context) if is_here else context,
        dockerfile_path=dockerfile,
    )


def save_state(
    directory: str, name: tuple[str, str, str], state: LocalState, *, owner: tuple[int, int] | None = None
) -> None:
    """Write that of the build `name` (builder, node, ref). `directory` is that of the store. Raises
    `BuilderError`."""
    path = _path(directory, *name)
    try:
        make_directories(os.path.dirname(path), owner=owner)
        write_atomically(path, msgspec.json.encode(state), 0o644, owner=owner, is_durable=False)
    except OSError as error:
        raise BuilderError(
            f"where the build was started from cannot be kept: {error.strerror}: {error.filename or path}",
            hint="BUILDX_CONFIG names another directory",
        ) from None


def read_state(directory: str, builder: str, node: str, ref: str) -> LocalState | None:
    """None where it is not known, as for builds that others have started."""
    try:
        with open(_path(directory, builder, node, ref), "rb") as file:
            return json_decoder(LocalState).decode(file.read())
    except (OSError, BuilderError, msgspec.DecodeError):
        return None


def remove_states(directory: str, builder: str, node: str = "") -> None:
    """Forget those of a builder, or of one node of it, and the groups that consist of them."""
    import shutil

    place = _path(directory, builder)
    for name in [node] if node else _listed(place):
        found = {
            ref: read_state(directory, builder, name, ref) for ref in _listed(_path(directory, builder, name))
        }
        groups: dict[str, set[str]] = {}
        for ref, state in found.items():
            if state is not None and state.group_ref:
                groups.setdefault(state.group_ref, set()).add(f"{builder}/{name}/{ref}")
        for group, members in groups.items():
            _remove_group(directory, group, members)
        shutil.rmtree(_path(directory, builder, name), ignore_errors=True)
    if not node:
        shutil.rmtree(place, ignore_errors=True)


def _remove_group(directory: str, group: str, members: set[str]) -> None:
    """Unless other builds belong to it."""
    path = _path(directory, _GROUPS, group)
    try:
        with open(path, "rb") as file:
            known = json_decoder(_Group).decode(file.read()).refs or []
        if set(known) <= members:
            os.remove(path)
    except (OSError, msgspec.DecodeError):
        return  # it says nothing that could be kept


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _path(directory: str, *parts: str) -> str:
    """Raises `BuilderError` for names that would lead elsewhere."""
    for part in parts:
        if not part or part in (".", "..") or "/" in part or "\0" in part:
            raise BuilderError(f"invalid name of a build: {'/'.join(parts)!r}")
    return os.path.join(directory, "refs", *parts)
