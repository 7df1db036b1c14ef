"""A builder as commands see it: its stored group, its nodes with what they answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.builder.docker_config import DockerConfig
from anyarch.builder.driver import DriverSetup, open_driver
from anyarch.builder.store import InstanceStore, NodeGroup, NodeRecord, peek_current, store_directory
from anyarch.errors import AnyarchError, BuilderError, NoSuchBuilder, NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anyarch.builder.driver import Device, Driver, NodeClient, PruneRule
    from anyarch.builder.store import Transaction
    from anyarch.spec.platform import Platform

__all__ = ["Builder", "Node", "Surroundings", "load_all", "load_node"]


class Surroundings:
    """The configuration of one command: environment, docker's configuration, the store."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.docker = DockerConfig(env)
        self.store = InstanceStore(store_directory(env, self.docker), env)

    def find(self, transaction: Transaction, name: str) -> Builder:
        """The builder `name`: an instance, else a docker context. Raises `NoSuchBuilder`."""
        try:
            group = transaction.find(name)
        except UsageError:
            group = None  # no instance can have that name, a context may
        if group is not None:
            return Builder(group, self, last_activity=transaction.last_activity(group.name))
        found = self.of_context(name)
        if found is None:
            raise NoSuchBuilder(
                f'no builder "{name}" found',
                hint=f"there is {', '.join([*transaction.names(), *self.context_names()])}",
            )
        found.last_activity = transaction.last_activity(name)
        return found

    def chosen(self, transaction: Transaction, name: str = "") -> Builder:
        """The builder `name`, or the one in use when that is empty."""
        if name:
            return self.find(transaction, name)
        group = transaction.current(self.docker.current_endpoint())
        if group is not None:
            return Builder(group, self, last_activity=transaction.last_activity(group.name))
        return self.find(transaction, self.docker.current_context)

    def chosen_name(self, name: str = "") -> str:
        """The name of what `chosen` gives, without the store's lock and without making a directory."""
        if name:
            return name
        found = peek_current(self.store.directory, self.docker.current_endpoint())
        return found or self.docker.current_context

    def context_names(self) -> list[str]:
        return [context.name for context in self.docker.contexts()]

    def of_context(self, name: str) -> Builder | None:
        """The builder that a docker context is by itself: the engine in this process for `default`, the
        context's docker engine for others."""
        if name not in self.context_names():
            return None
        driver = "embedded" if name == "default" else "docker"
        group = NodeGroup(name=name, driver=driver, nodes=(NodeRecord(name=name, endpoint=name),))
        return Builder(group, self, is_context=True)


class Node:
    """A node and what it answered. `platforms` begins with the fixed ones; `native` is what its first worker
    runs without emulation; `error` says why nothing is known."""

    def __init__(self, record: NodeRecord, builder: str) -> None:
        self.record = record
        self.builder = builder
        self.driver: Driver | None = None
        self.client: NodeClient | None = None
        """An open one, where it was asked to be kept; whoever takes it closes it."""
        self.status = ""
        self.replicas: tuple[NodeRecord, ...] = ()
        self.error: AnyarchError | None = None
        self.version = ""
        self.worker_ids: tuple[str, ...] = ()
        self.detected: tuple[Platform, ...] = ()
        self.labels: dict[str, str] = {}
        self.gc_policy: tuple[PruneRule, ...] = ()
        self.devices: tuple[Device, ...] = ()

    @property
    def name(self) -> str:
        return self.record.name

    def take_client(self) -> NodeClient | None:
        client, self.client = self.client, None
        return client

    @property
    def fixed(self) -> tuple[Platform, ...]:
        return self.record.fixed

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return tuple(dict.fromkeys((*self.fixed, *self.detected)))

    @property
    def native(self) -> Platform | None:
        return self.detected[0] if self.detected else None

    @property
    def is_running(self) -> bool:
        return self.error is None and self.status == "running"

    def shown_platforms(self) -> list[str]:
        """As `ls` shows them: the fixed ones with a star."""
        fixed = self.fixed
        return [f"{platform}*" if platform in fixed else str(platform) for platform in self.platforms]


class Builder:
    """`is_context` says that the builder is a docker context and not stored."""

    def __init__(
        self,
        group: NodeGroup,
        surroundings: Surroundings,
        *,
        is_context: bool = False,
        last_activity: str = "",
    ) -> None:
        self.group = group
        self.surroundings = surroundings
        self.is_context = is_context
        self.last_activity = last_activity
        self.nodes: list[Node] = []
        self.is_dynamic = group.dynamic

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def driver(self) -> str:
        return self.group.driver

    @property
    def is_embedded(self) -> bool:
        return self.driver == "embedded"

    @property
    def is_inactive(self) -> bool:
        """No node runs."""
        return not any(node.is_running for node in self.nodes)

    def open(self, *, context_path: str = "", connect_timeout_s: float = 20.0) -> list[Node]:
        """The nodes with their drivers; nothing is contacted. A node whose options are wrong has an error."""
        self.nodes = []
        for record in self.group.all_nodes():
            node = Node(record, self.name)
            setup = DriverSetup(
                node=record,
                docker=self.surroundings.docker,
                env=self.surroundings.env,
                builder=self.name,
                context_path=context_path,
                connect_timeout_s=connect_timeout_s,
            )
            try:
                node.driver = open_driver(self.driver, setup)
            except AnyarchError as error:
                node.error = error
            self.nodes.append(node)
        return self.nodes

    async def load(self, timeout_s: float = 0.0, *, connect_timeout_s: float = 20.0) -> list[Node]:
        """Ask all nodes at once how they are, for `timeout_s` seconds at most. What a node does not answer
        is its error; raises nothing."""
        self.open(connect_timeout_s=connect_timeout_s)
        await asyncio.gather(*(load_node(node, timeout_s) for node in self.nodes))
        self._expand_replicas()
        return self.nodes

    def _expand_replicas(self) -> None:
        """The pods of Kubernetes are the nodes, where all stored nodes stand for pods."""
        if not self.nodes or not all(node.replicas for node in self.nodes):
            return
        self.is_dynamic = True
        self.nodes = [pod for node in self.nodes for pod in _pods(node)]

    async def start(self, nodes: Iterable[Node], log: Callable[[Node, str], None]) -> bool:
        """Start those of `nodes` that do not run, all at once; whether there was one. A node that does not
        come up has the error."""
        wanted = [
            node for node in nodes if node.driver is not None and node.error is None and not node.is_running
        ]
        await asyncio.gather(*(_start(node, log) for node in wanted))
        return bool(wanted)


def _pods(node: Node) -> list[Node]:
    """One node a pod, with what the template's daemon answered."""
    pods = []
    for record in node.replicas:
        pod = Node(record, node.builder)
        pod.driver, pod.status, pod.error, pod.version = node.driver, node.status, node.error, node.version
        pod.worker_ids, pod.detected = node.worker_ids, node.detected
        pod.labels, pod.gc_policy, pod.devices = node.labels, node.gc_policy, node.devices
        pods.append(pod)
    return pods


async def _start(node: Node, log: Callable[[Node, str], None]) -> None:
    assert node.driver is not None
    try:
        await node.driver.start(lambda text: log(node, text))
        await _ask(node)
    except AnyarchError as error:
        node.error = error


async def load_node(node: Node, timeout_s: float = 0.0, *, to_build: bool = False) -> None:
    """Ask one node how it is; what it does not answer is its error. For a build its version does not matter,
    and the client that was asked is kept in `node.client`."""
    if node.driver is None:
        return
    try:
        async with asyncio.timeout(timeout_s or None):
            await _ask(node, to_build=to_build)
    except TimeoutError:
        node.error = BuilderError(f"no answer within {timeout_s:g} seconds")
    except AnyarchError as error:
        node.error = error


async def _ask(node: Node, *, to_build: bool = False) -> None:
    assert node.driver is not None
    state = await node.driver.state()
    node.status = state.status
    node.replicas = state.replicas
    if state.status != "running":
        return
    client = state.client or await node.driver.client()
    try:
        workers = await client.workers() if state.workers is None else state.workers
        node.worker_ids = tuple(sorted(worker.id for worker in workers))
        node.detected = tuple(dict.fromkeys(item for worker in workers for item in worker.platforms))
        if workers:
            node.labels, node.gc_policy = workers[0].labels, workers[0].gc_policy
            node.devices = workers[-1].devices
        if to_build:
            node.client = client
            return
        try:
            node.version = await client.version()
        except NotSupported:
            node.version = ""  # older than the question
    finally:
        if node.client is not client:
            await client.close()


async def load_all(builders: Iterable[Builder], timeout_s: float, *, connect_timeout_s: float = 20.0) -> None:
    """Ask the nodes of all builders at once."""
    loading = (builder.load(timeout_s, connect_timeout_s=connect_timeout_s) for builder in builders)
    await asyncio.gather(*loading)
