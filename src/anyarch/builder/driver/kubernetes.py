"""Daemons in pods of Kubernetes: a Deployment or StatefulSet a node, each of its pods a place to build. A pod
is reached by a program in it, through the API server's exec."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from anyarch.builder.driver import NodeState
from anyarch.builder.kube_config import find_cluster
from anyarch.builder.kube_manifest import PLATFORM_ANNOTATION, manifests, parse_options
from anyarch.builder.peer import EngineError, Peer
from anyarch.builder.store import NodeRecord
from anyarch.builder.websocket import PROTOCOLS, ChannelStream
from anyarch.builder.wire import open_client
from anyarch.errors import AnyarchError, BuilderError, NodeLost
from anyarch.spec.platform import parse_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyarch.builder.driver import DriverSetup, NodeClient
    from anyarch.builder.kube_config import Cluster
    from anyarch.builder.kube_manifest import KubeOptions
    from anyarch.builder.stream import ByteStream

__all__ = ["KubernetesDriver", "choose_pod", "open_driver"]

_POLL_S = 0.5
_TRIES = 5
_GROUPS = {"ConfigMap": "/api/v1", "Deployment": "/apis/apps/v1", "StatefulSet": "/apis/apps/v1"}
_PLURALS = {"ConfigMap": "configmaps", "Deployment": "deployments", "StatefulSet": "statefulsets"}


def open_driver(setup: DriverSetup) -> KubernetesDriver:
    """Raises `UsageError` for options that make no sense, `BuilderError` where there is no cluster."""
    options = parse_options(setup.node)
    query = dict(parse_qsl(urlsplit(setup.node.endpoint).query))
    cluster = find_cluster(query.get("kubeconfig", ""), setup.env)
    return KubernetesDriver(options, cluster, setup)


class KubernetesDriver:
    def __init__(self, options: KubeOptions, cluster: Cluster, setup: DriverSetup) -> None:
        self._options = options
        self._cluster = cluster
        self._namespace = options.namespace or cluster.namespace
        self._context_path = setup.context_path
        self.default_load = options.default_load
        self._label = f"the Kubernetes API at {cluster.server}"
        self._api = Peer(
            lambda: cluster.connect(setup.connect_timeout_s), self._label, headers=cluster.headers()
        )
        self._objects = manifests(options)

    def _path(self, kind: str, name: str = "") -> str:
        path = f"{self._cluster.path}{_GROUPS[kind]}/namespaces/{quote(self._namespace)}/{_PLURALS[kind]}"
        return f"{path}/{quote(name)}" if name else path

    async def _get(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._api.call("GET", self._path(kind, name))
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def _runs(self) -> dict[str, Any] | None:
        """The Deployment or StatefulSet as the cluster has it."""
        return await self._get(self._objects[-1]["kind"], self._options.name)

    async def state(self) -> NodeState:
        found = await self._runs()
        if found is None:
            return NodeState(status="inactive")
        if not int((found.get("status") or {}).get("readyReplicas") or 0):
            return NodeState(status="stopped")
        return NodeState(status="running", replicas=tuple(_record(pod) for pod in await self._pods()))

    async def start(self, log: Callable[[str], None]) -> None:
        if await self._runs() is None:
            for item in self._objects:
                log(f"creating {item['kind']} {item['metadata']['name']}")
                await self._create(item)
        wanted = self._options.replicas
        log(f"waiting for {wanted} pods to be ready, timeout: {self._options.timeout_s:g}s")
        deadline = asyncio.get_running_loop().time() + self._options.timeout_s
        while True:
            found = await self._runs()
            ready = int(((found or {}).get("status") or {}).get("readyReplicas") or 0)
            if ready >= wanted:
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise BuilderError(
                    f"expected {wanted} replicas to be ready, got {ready}", hint=await self._trouble()
                )
            await asyncio.sleep(_POLL_S)

    async def _create(self, item: dict[str, Any]) -> None:
        """Make an object; a ConfigMap that is there from before is written anew."""
        kind, name = item["kind"], item["metadata"]["name"]
        try:
            await self._api.call("POST", self._path(kind), json=item)
        except EngineError as error:
            if error.status != 409:
                raise
            if kind == "ConfigMap":
                await self._api.call("PUT", self._path(kind, name), json=item)

    async def _trouble(self) -> str | None:
        """What the pods wait for, as far as they say."""
        said = [text for pod in await self._all_pods() for text in _complaints(pod)]
        return "\n".join(dict.fromkeys(said)) or None

    async def _all_pods(self) -> list[dict[str, Any]]:
        labels = self._objects[-1]["spec"]["selector"]["matchLabels"]
        query = {"labelSelector": ",".join(f"{name}={value}" for name, value in sorted(labels.items()))}
        path = f"{self._cluster.path}/api/v1/namespaces/{quote(self._namespace)}/pods"
        found = await self._api.call("GET", path, query=query)
        return list(found.get("items") or ())

    async def _pods(self) -> list[dict[str, Any]]:
        """Those that run and are not about to end, by name."""
        running = [
            pod
            for pod in await self._all_pods()
            if not pod["metadata"].get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase") == "Running"
        ]
        return sorted(running, key=lambda pod: str(pod["metadata"]["name"]))

    async def stop(self) -> None:
        """Pods stay until the builder is removed, as in buildx."""

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        if keep_daemon:
            return
        for item in reversed(self._objects):
            try:
                await self._api.call(
                    "DELETE",
                    self._path(item["kind"], item["metadata"]["name"]),
                    query={"propagationPolicy": "Background"},
                )
            except EngineError as error:
                if error.status != 404:
                    raise

    async def client(self) -> NodeClient:
        return await open_client(self.dial, f"node {self._options.name}")

    async def dial(self) -> ByteStream:
        """A program's streams in one of the pods. A pod may say that it is ready before the cluster can lead
        to it: some tries."""
        pods = [str(pod["metadata"]["name"]) for pod in await self._pods()]
        key = self._context_path if self._options.load_balance == "sticky" else ""
        pod = choose_pod(pods, key)
        for number in range(1, _TRIES + 1):
            try:
                return await self._exec(pod)
            except (EngineError, NodeLost) as error:
                is_final = isinstance(error, EngineError) and error.status < 500
                if is_final or number == _TRIES:
                    raise NodeLost(f"pod {pod}: {error.message}") from None
            await asyncio.sleep(0.1 * 2**number)
        raise AssertionError("the loop returns or raises")

    async def _exec(self, pod: str) -> ByteStream:
        query = [("container", self._objects[-1]["spec"]["template"]["spec"]["containers"][0]["name"])]
        query += [(name, "true") for name in ("stdin", "stdout", "stderr")]
        query += [("command", "buildctl"), ("command", "dial-stdio")]
        path = f"{self._cluster.path}/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(pod)}/exec"
        headers = {
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": ", ".join(PROTOCOLS),
        }
        stream, answer = await self._api.take_over(
            f"{path}?{urlencode(query)}", method="GET", protocol="websocket", headers=headers
        )
        chosen = answer.headers.get("sec-websocket-protocol", "")
        return ChannelStream(stream, f"pod {pod}", can_half_close=chosen.startswith("v5"))


def _complaints(pod: dict[str, Any]) -> list[str]:
    """Why a pod does not run, in the cluster's words."""
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    states = [container.get("state") or {} for container in status.get("containerStatuses") or ()]
    waiting = [state["waiting"] for state in states if state.get("waiting")]
    conditions = [item for item in status.get("conditions") or () if item.get("status") == "False"]
    words = [f"{item.get('reason') or ''} {item.get('message') or ''}".strip() for item in waiting]
    words += [str(item["message"]) for item in conditions if item.get("message")]
    return [f"{name}: {text}" for text in words]


def choose_pod(names: list[str], key: str) -> str:
    """One of the pods: always the same for a key as long as it is there (rendezvous hashing), any without a
    key. Raises `NodeLost` where there is none."""
    if not names:
        raise NodeLost("no running buildkit pods found")
    if not key:
        return random.SystemRandom().choice(names)
    path = os.path.abspath(key)
    return max(names, key=lambda name: hashlib.sha256(f"{path}\0{name}".encode()).digest())


def _record(pod: dict[str, Any]) -> NodeRecord:
    text = (pod["metadata"].get("annotations") or {}).get(PLATFORM_ANNOTATION, "")
    try:
        platforms = tuple(platform.spec() for platform in parse_list([text])) if text else None
    except AnyarchError:
        platforms = None  # someone else's annotation
    return NodeRecord(name=str(pod["metadata"]["name"]), platforms=platforms)
