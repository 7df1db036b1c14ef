"""The builder instances on disk, in buildx's own format, so that both tools see the same ones.

The root is `$BUILDX_CONFIG`, else `buildx` in Docker's configuration directory. Everything happens in a
`Transaction`, which holds a lock over the whole store, as buildx does: `flock` on `.lock`.

| path | content |
|---|---|
| `instances/NAME` | a `NodeGroup` |
| `current` | the builder in use, with the docker endpoint it was chosen for |
| `defaults/HASH` | the default builder of one docker endpoint |
| `activity/NAME` | when the builder was last used |
| `refs/…` | where builds were started from: see `refs` |
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from anyarch.builder.files import make_directories, sudo_owner, write_atomically
from anyarch.builder.refs import remove_states
from anyarch.errors import BuilderError, NoSuchBuilder, UsageError
from anyarch.spec.codec import json_decoder
from anyarch.spec.oci import PlatformSpec
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anyarch.builder.docker_config import DockerConfig

__all__ = [
    "InstanceStore",
    "NodeGroup",
    "NodeRecord",
    "Transaction",
    "peek_current",
    "store_directory",
    "valid_name",
]

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*\Z")


class NodeRecord(msgspec.Struct, kw_only=True):
    """One node as it is stored. `platforms` are those that the user fixed for it."""

    name: str = msgspec.field(name="Name", default="")
    endpoint: str = msgspec.field(name="Endpoint", default="")
    platforms: tuple[PlatformSpec, ...] | None = msgspec.field(name="Platforms", default=None)
    driver_opts: dict[str, str] | None = msgspec.field(name="DriverOpts", default=None)
    flags: tuple[str, ...] | None = msgspec.field(name="Flags", default=None)
    files: dict[str, bytes] | None = msgspec.field(name="Files", default=None)

    @property
    def fixed(self) -> tuple[Platform, ...]:
        """The fixed platforms, normalised."""
        return tuple(Platform.of_spec(spec) for spec in self.platforms or ())


class NodeGroup(msgspec.Struct, kw_only=True):
    """A builder instance as it is stored. `driver` is empty only for a docker context, which is a builder
    by itself (`is_context`) and never stored. `last_activity` is RFC 3339, or empty."""

    name: str = msgspec.field(name="Name")
    driver: str = msgspec.field(name="Driver", default="")
    nodes: tuple[NodeRecord, ...] | None = msgspec.field(name="Nodes", default=())
    dynamic: bool = msgspec.field(name="Dynamic", default=False)

    def all_nodes(self) -> tuple[NodeRecord, ...]:
        return self.nodes or ()

    def find(self, name: str) -> NodeRecord | None:
        return next((node for node in self.all_nodes() if node.name == name), None)

    def without(self, name: str) -> NodeGroup:
        """The group without one node. Raises `BuilderError`."""
        if self.find(name) is None:
            raise BuilderError(f'node "{name}" not found for {self.name}', hint=self._nodes_hint())
        if len(self.all_nodes()) == 1:
            raise BuilderError("can not leave last node, do you want to rm instance instead?")
        left = tuple(node for node in self.all_nodes() if node.name != name)
        return msgspec.structs.replace(self, nodes=left)

    def with_node(self, node: NodeRecord) -> NodeGroup:
        """The group with `node` added, or put in the place of that of its name. Platforms fixed for it are
        taken from the others. Raises `BuilderError` for an endpoint that another node has."""
        nodes = list(self.all_nodes())
        position = next((n for n, known in enumerate(nodes) if known.name == node.name), len(nodes))
        nodes[position : position + 1] = [node]
        if sum(known.endpoint == node.endpoint for known in nodes) > 1:
            raise BuilderError(f"invalid duplicate endpoint {node.endpoint}")
        taken = set(node.fixed)
        for number, other in enumerate(nodes):
            if number != position and other.platforms and taken:
                left = tuple(spec for spec in other.platforms if Platform.of_spec(spec) not in taken)
                nodes[number] = msgspec.structs.replace(other, platforms=left)
        return msgspec.structs.replace(self, nodes=tuple(nodes))

    def next_node_name(self) -> str:
        number = 0
        while self.find(f"{self.name}{number}") is not None:
            number += 1
        return f"{self.name}{number}"

    def _nodes_hint(self) -> str:
        return f"its nodes are {', '.join(node.name for node in self.all_nodes()) or 'none'}"


class _Current(msgspec.Struct):
    key: str = msgspec.field(name="Key", default="")
    name: str = msgspec.field(name="Name", default="")
    is_global: bool = msgspec.field(name="Global", default=False)


def valid_name(name: str) -> str:
    """A builder's or node's name as it is stored. Raises `UsageError`."""
    if not _NAME.match(name):
        raise UsageError(
            f"invalid name {name}, name needs to start with a letter and may not contain symbols, except ._-"
        )
    return name.lower()


def store_directory(env: Mapping[str, str], docker: DockerConfig) -> str:
    return env.get("BUILDX_CONFIG") or os.path.join(docker.directory, "buildx")


class InstanceStore:
    """The store below `directory`; directories are made when they are first needed."""

    def __init__(self, directory: str, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.owner = sudo_owner(env, directory)
        """Whom the files are given to; None where they stay ours."""

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Hold the store's lock. Raises `BuilderError` where the directory cannot be used."""
        try:
            for name in ("instances", "defaults", "activity"):
                make_directories(os.path.join(self.directory, name), owner=self.owner)
            lock = os.open(
                os.path.join(self.directory, ".lock"), os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _unusable(self.directory, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Transaction(self.directory, self.owner)
        finally:
            os.close(lock)

    @property
    def default_daemon_config(self) -> str | None:
        """The configuration file that new nodes get when none is named, if there is one."""
        path = os.path.join(self.directory, "buildkitd.default.toml")
        return path if os.path.exists(path) else None


class Transaction:
    """What can be done while the lock is held. Raises `BuilderError` for files that cannot be read."""

    def __init__(self, directory: str, owner: tuple[int, int] | None) -> None:
        self.directory = directory
        self._owner = owner

    def names(self) -> list[str]:
        listed = os.listdir(os.path.join(self.directory, "instances"))
        return sorted(name for name in listed if _NAME.match(name))

    def all(self) -> list[NodeGroup]:
        return sorted((self.get(name) for name in self.names()), key=lambda group: group.name)

    def get(self, name: str) -> NodeGroup:
        """Raises `NoSuchBuilder`, and `UsageError` for what cannot be a name."""
        group = self.find(name)
        if group is None:
            raise NoSuchBuilder(
                f'no builder "{name}" found', hint=f"there is {', '.join(self.names()) or 'none'}"
            )
        return group

    def find(self, name: str) -> NodeGroup | None:
        path = self._path("instances", valid_name(name))
        raw = _read(path)
        if raw is None:
            return None
        try:
            return json_decoder(NodeGroup).decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BuilderError(
                f"builder {name}: its file cannot be read: {error}",
                hint=f"correct or remove {path}",
            ) from None

    def save(self, group: NodeGroup) -> None:
        name = valid_name(group.name)
        self.touch(name)
        self._write(self._path("instances", name), msgspec.json.encode(group))

    def remove(self, name: str) -> None:
        """Forget a builder, and where its builds were started from."""
        name = valid_name(name)
        for part in ("activity", "instances"):
            _unlink(self._path(part, name))
        self.remove_refs(name)

    def remove_refs(self, builder: str, node: str = "") -> None:
        remove_states(self.directory, builder, node)

    # the builder in use ---------------------------------------------------------------------------

    def set_current(self, key: str, name: str, *, is_global: bool = False, is_default: bool = False) -> None:
        """Use `name` (empty: the docker context itself) for the endpoint `key`."""
        current = _Current(key=key, name=name, is_global=is_global)
        self._write(self._path("current"), msgspec.json.encode(current))
        default = self._path("defaults", _hash(key))
        if is_default:
            self._write(default, name.encode())
        else:
            _unlink(default)

    def current(self, key: str) -> NodeGroup | None:
        """The builder in use with the docker endpoint `key`; None means the docker context itself."""
        return _current(self.find, self.directory, key)

    # activity -------------------------------------------------------------------------------------

    def touch(self, name: str) -> None:
        """Note that a builder is used now."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(self._path("activity", name), now.encode(), is_durable=False)

    def last_activity(self, name: str) -> str:
        """RFC 3339, empty when it is not known."""
        raw = _read(self._path("activity", name))
        return raw.decode("utf-8", "replace").strip() if raw else ""

    # files ----------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)

    def _write(self, path: str, data: bytes, *, is_durable: bool = True) -> None:
        try:
            write_atomically(path, data, 0o600, owner=self._owner, is_durable=is_durable)
        except OSError as error:
            raise _unusable(path, error) from None


def peek_current(directory: str, key: str) -> str:
    """The name of the builder in use, without lock and without writing; empty for the docker context itself.

    For builds, which must not wait for another command that holds the lock while it starts a node: files
    are replaced whole, so what is read is consistent."""

    def find(name: str) -> NodeGroup | None:
        path = os.path.join(directory, "instances", valid_name(name))
        return NodeGroup(name=name) if os.path.isfile(path) else None

    group = _current(find, directory, key)
    return group.name if group is not None else ""


def _current(find: Callable[[str], NodeGroup | None], directory: str, key: str) -> NodeGroup | None:
    """`current` if it is global or for this endpoint, else the endpoint's default; a builder that is gone
    counts for nothing."""

    def known(name: str) -> NodeGroup | None:
        return find(name) if _NAME.match(name) else None

    raw = _read(os.path.join(directory, "current"))
    try:
        chosen = json_decoder(_Current).decode(raw) if raw else _Current()
    except msgspec.DecodeError:
        chosen = _Current()  # whoever chooses a builder writes it anew
    if chosen.name and (chosen.is_global or chosen.key == key):
        group = known(chosen.name)
        if group is not None or not chosen.is_global:
            return group
    default = _read(os.path.join(directory, "defaults", _hash(key)))
    return known(default.decode("utf-8", "replace").strip()) if default else None


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, error) from None


def _unlink(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: str, error: OSError) -> BuilderError:
    return BuilderError(
        f"the store of builders cannot be used: {error.strerror}: {error.filename or path}",
        hint="BUILDX_CONFIG names another directory",
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:20]
