"""How a node is reached, started, stopped and removed: one module a driver, imported when it is used.

A `Driver` is about the node's daemon; a `NodeClient`, which a running one gives, is about building with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.builder.store import NodeRecord
from anyarch.errors import NodeLost, UsageError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.builder.docker_config import DockerConfig
    from anyarch.builder.stream import ByteStream
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.solver.events import EventSink

__all__ = [
    "CREATABLE",
    "DRIVERS",
    "STATUSES",
    "Device",
    "Driver",
    "DriverSetup",
    "NodeClient",
    "NodeState",
    "PruneRule",
    "WorkerInfo",
    "open_driver",
    "option_bool",
    "option_int",
    "refuse_unknown",
    "unreachable",
    "validate_driver",
]

DRIVERS = {
    "docker": "anyarch.builder.driver.docker",
    "docker-container": "anyarch.builder.driver.container",
    "embedded": "anyarch.builder.driver.embedded",
    "kubernetes": "anyarch.builder.driver.kubernetes",
    "remote": "anyarch.builder.driver.remote",
}
CREATABLE = ("docker-container", "kubernetes", "remote")
"""The drivers of which instances can be made; the others belong to what is there anyway."""

STATUSES = ("inactive", "starting", "running", "stopping", "stopped")

NAME_PREFIX = "buildx_buildkit_"
"""What the names of containers and deployments begin with, before the node's name."""


class PruneRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule by which a daemon's cache is cleared; zero means: no limit."""

    all: bool = False
    filters: tuple[str, ...] = ()
    keep_duration_s: int = 0
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device that a daemon offers to steps."""

    name: str
    auto_allow: bool = False
    on_demand: bool = False
    annotations: dict[str, str] = {}


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of a daemon. The first of its platforms is what it runs natively."""

    id: str
    platforms: tuple[Platform, ...]
    labels: dict[str, str] = {}
    gc_policy: tuple[PruneRule, ...] = ()
    devices: tuple[Device, ...] = ()


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a node runs (`STATUSES`). `replicas` are the nodes that one of Kubernetes stands for: what is
    stored is their template. `client` and `workers` are there where they came up in finding out; whoever
    asked closes the client."""

    status: str
    replicas: tuple[NodeRecord, ...] = ()
    client: NodeClient | None = None
    workers: tuple[WorkerInfo, ...] | None = None


class NodeClient(Protocol):
    """A running node. Whoever opened it closes it. A node that cannot be reached any more raises
    `NodeLost`."""

    async def workers(self) -> list[WorkerInfo]: ...

    async def version(self) -> str: ...

    async def build(
        self, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None
    ) -> BuildResult: ...

    async def close(self) -> None: ...


class Driver(Protocol):
    """One node's daemon. All raise `BuilderError`; a driver opens nothing before it is asked to do
    something, and what it opened is closed when the call returns or with the client it gave."""

    @property
    def default_load(self) -> bool:
        """Whether a result without an output is loaded into the docker engine."""
        ...

    async def state(self) -> NodeState:
        """Nothing is started by asking."""
        ...

    async def start(self, log: Callable[[str], None]) -> None:
        """Returns when the node answers; `log` is told what is done, a line each."""
        ...

    async def stop(self) -> None: ...

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None: ...

    async def client(self) -> NodeClient: ...

    async def dial(self) -> ByteStream:
        """A new connection to the daemon's API."""
        ...


class DriverSetup:
    """What a driver is made of: the node, and the surroundings. `context_path` is the build context, by
    which Kubernetes chooses among equal pods; `connect_timeout_s` how long a connection may take."""

    def __init__(
        self,
        *,
        node: NodeRecord,
        docker: DockerConfig,
        env: Mapping[str, str],
        builder: str = "",
        context_path: str = "",
        connect_timeout_s: float = 20.0,
    ) -> None:
        self.node = node
        self.docker = docker
        self.env = env
        self.builder = builder
        self.context_path = context_path
        self.connect_timeout_s = connect_timeout_s

    @property
    def options(self) -> dict[str, str]:
        return self.node.driver_opts or {}

    @property
    def container(self) -> str:
        return NAME_PREFIX + self.node.name


def validate_driver(name: str, *, is_created: bool = False) -> str:
    """Raises `UsageError` for a driver that does not exist, or of which no instance can be made."""
    if name not in DRIVERS:
        raise UsageError(f'failed to find driver "{name}"', hint=f"there is {', '.join(CREATABLE)}")
    if is_created and name not in CREATABLE:
        raise UsageError(
            f'additional instances of driver "{name}" cannot be created',
            hint=f"there is {', '.join(CREATABLE)}",
        )
    return name


def open_driver(name: str, setup: DriverSetup) -> Driver:
    """The driver of a node. Its options are checked, nothing is contacted. Raises `BuilderError`."""
    validate_driver(name)
    opened: Driver = import_module(DRIVERS[name]).open_driver(setup)
    return opened


def option_bool(options: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """A driver option that is a truth value. Raises `UsageError`."""
    from anyarch.engine.grammar import truth

    text = options.get(name)
    if text is None:
        return default
    value = truth(text)
    if value is None:
        raise UsageError(f"invalid value {text!r} of driver option {name}: not a truth value")
    return value


def option_int(options: Mapping[str, str], name: str) -> int:
    """A driver option that is a whole number, 0 when it is not given. Raises `UsageError`."""
    text = options.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid value {text!r} of driver option {name}: not a number") from None


def refuse_unknown(options: Mapping[str, str], known: tuple[str, ...], driver: str) -> None:
    """Raises `UsageError` for an option that the driver does not have; a known one that ends with a dot
    stands for all that begin so."""
    prefixes = tuple(name for name in known if name.endswith("."))
    for name in options:
        if name not in known and not (prefixes and name.startswith(prefixes)):
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=1)
            raise UsageError(
                f"invalid driver option {name} for {driver} driver",
                hint=f"did you mean {close[0]}?" if close else f"it knows {', '.join(known)}",
            )


def unreachable(what: str, error: BaseException) -> NodeLost:
    """For a node or engine that does not answer."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return NodeLost(f"{what}: {said}")
