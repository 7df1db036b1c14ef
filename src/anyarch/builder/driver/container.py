"""A BuildKit-API daemon in a container of a docker (or podman) engine, made when it is first needed.

The container is `buildx_buildkit_NODE`, its state a volume, so stock buildx and anyarch find the same one.
The daemon is reached by a program in it, `buildctl dial-stdio`, whose streams the engine hands over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anyarch.builder.daemon_config import CONFIG_DIRECTORY, CONFIG_FILE
from anyarch.builder.docker_api import DockerApi, EngineError
from anyarch.builder.driver import NodeState, option_bool, option_int, refuse_unknown
from anyarch.builder.wire import open_client
from anyarch.errors import BuilderError, NodeLost, UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.builder.driver import DriverSetup, NodeClient
    from anyarch.builder.stream import ByteStream

__all__ = ["DEFAULT_IMAGE", "ContainerDriver", "config_archive", "container_config", "open_driver"]

DEFAULT_IMAGE = "moby/buildkit:buildx-stable-1"
STATE_DIRECTORY = "/var/lib/buildkit"
_TRIES = 15
_OPTIONS = (
    "allow-untrusted-image",
    "cgroup-parent",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpuset-cpus",
    "cpuset-mems",
    "default-load",
    "env.",
    "image",
    "memory",
    "memory-swap",
    "network",
    "provenance-add-gha",
    "restart-policy",
)


def open_driver(setup: DriverSetup) -> ContainerDriver:
    """Raises `UsageError` for options that make no sense."""
    options = setup.options
    refuse_unknown(options, _OPTIONS, "docker-container")
    for name in ("allow-untrusted-image", "provenance-add-gha"):
        option_bool(options, name)
    container_config(setup, {})
    return ContainerDriver(setup)


class ContainerDriver:
    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup
        self._name = setup.container
        self._api = DockerApi(
            setup.docker.resolve(setup.node.endpoint), setup.env, timeout_s=setup.connect_timeout_s
        )
        self.default_load = option_bool(setup.options, "default-load")

    async def state(self) -> NodeState:
        found = await self._api.inspect(self._name)
        if found is None:
            return NodeState(status="inactive")
        is_running = bool((found.get("State") or {}).get("Running"))
        return NodeState(status="running" if is_running else "stopped")

    async def start(self, log: Callable[[str], None]) -> None:
        if await self._api.inspect(self._name) is None:
            await self._create(log)
        log(f"starting container {self._name}")
        await self._api.start(self._name)
        await self._wait()

    async def _create(self, log: Callable[[str], None]) -> None:
        image = self._setup.options.get("image") or DEFAULT_IMAGE
        log(f"pulling image {image}")
        try:
            await self._api.pull(image, await asyncio.to_thread(_credentials, image))
        except EngineError as error:
            if not await self._api.has_image(image):
                raise BuilderError(
                    error.message, hint="--driver-opt image=NAME names an image that the engine can have"
                ) from None
            log(f"using local image {image}")
        log(f"creating container {self._name}")
        if await self._make(container_config(self._setup, await self._api.info()), log):
            files = self._setup.node.files
            if files:
                directory = CONFIG_DIRECTORY.rpartition("/")[0]
                await self._api.put_archive(self._name, directory, config_archive(files))

    async def _make(self, config: dict[str, Any], log: Callable[[str], None]) -> bool:
        """Make the container; False when there is one. podman may be installed without the program that is
        the init of a container, and does not say so before it is asked for one."""
        try:
            return await self._api.create(self._name, config)
        except EngineError:
            without = {**config, "HostConfig": {**config["HostConfig"], "Init": False}}
            try:
                made = await self._api.create(self._name, without)
            except EngineError:
                made = None  # it was not that
            if made is None:
                raise
        log("the engine has no init program for containers; going without")
        return made

    async def _wait(self) -> None:
        """Until the daemon answers. Raises `BuilderError` with what it said."""
        said = ""
        for number in range(1, _TRIES + 1):
            try:
                status, said = await self._api.run(self._name, ["buildctl", "debug", "workers"])
            except EngineError as error:
                status, said = 1, error.message  # it is restarting, or has ended
            if status == 0:
                return
            await asyncio.sleep(number * 0.12)
        log = (await self._api.logs(self._name)).strip().splitlines()
        raise BuilderError(
            f"the daemon in container {self._name} does not answer: {said or 'no word'}",
            hint="\n".join(log[-5:]) or None,
        )

    async def stop(self) -> None:
        if (await self.state()).status == "running":
            await self._api.stop(self._name)

    async def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        found = await self._api.inspect(self._name)
        if found is None or keep_daemon:
            return
        await self._api.remove(self._name)
        volume = f"{self._name}_state"
        if not keep_state and any(mount.get("Name") == volume for mount in found.get("Mounts") or ()):
            await self._api.remove_volume(volume)

    async def client(self) -> NodeClient:
        return await open_client(self.dial, f"node {self._setup.node.name}")

    async def dial(self) -> ByteStream:
        try:
            _, stream = await self._api.open_exec(self._name, ["buildctl", "dial-stdio"])
        except EngineError as error:
            raise NodeLost(error.message) from None
        stream.is_dialogue = True
        return stream


def container_config(setup: DriverSetup, info: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine is asked to make. `info` is what it says of itself. Raises `UsageError`."""
    from anyarch.engine.grammar import size_bytes

    options = setup.options
    flags = list(setup.node.flags or ())
    if CONFIG_FILE in (setup.node.files or {}):
        flags = ["--config", f"{CONFIG_DIRECTORY}/{CONFIG_FILE}", *flags]
    state = {"Type": "volume", "Source": f"{setup.container}_state", "Target": STATE_DIRECTORY}
    host: dict[str, Any] = {
        "Privileged": True,
        "Init": True,  # ends what programs of the daemon leave behind
        "Mounts": [state],
        "RestartPolicy": _restart_policy(options.get("restart-policy", "unless-stopped")),
    }
    if options.get("network"):
        host["NetworkMode"] = options["network"]
    if options.get("memory"):
        host["Memory"] = size_bytes(options["memory"])
    if swap := options.get("memory-swap"):
        host["MemorySwap"] = -1 if swap == "-1" else size_bytes(swap)
    for name, key in (("cpu-period", "CpuPeriod"), ("cpu-quota", "CpuQuota"), ("cpu-shares", "CpuShares")):
        if number := option_int(options, name):
            host[key] = number
    for name, key in (("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")):
        if options.get(name):
            host[key] = options[name]
    if info.get("CgroupDriver") == "cgroupfs":
        host["CgroupParent"] = options.get("cgroup-parent") or "/docker/buildx"
    if any("name=userns" in str(item) for item in info.get("SecurityOptions") or ()):
        host["UsernsMode"] = "host"
    env = []
    for name, value in options.items():
        if name.startswith("env."):
            if name == "env.":
                raise UsageError(f'invalid env option "{name}", expecting env.FOO=bar')
            env.append(f"{name.removeprefix('env.')}={value}")
    image = options.get("image") or DEFAULT_IMAGE
    return {"Image": image, "Env": sorted(env), "Cmd": flags, "HostConfig": host}


def _restart_policy(text: str) -> dict[str, Any]:
    name, _, count = text.partition(":")
    if name not in ("", "no", "always", "on-failure", "unless-stopped") or (count and name != "on-failure"):
        raise UsageError(
            f"invalid restart policy {text!r}", hint="no, always, unless-stopped or on-failure[:COUNT]"
        )
    most = natural(count)
    if count and most is None:
        raise UsageError(f"invalid restart policy {text!r}: maximum retry count must be an integer")
    policy: dict[str, Any] = {"Name": name}
    if most is not None:
        policy["MaximumRetryCount"] = most
    return policy


def config_archive(files: Mapping[str, bytes]) -> bytes:
    """A tar of the node's files, below the last part of the configuration directory."""
    from anyarch.archive.entry import Entry, Kind
    from anyarch.archive.tar import TarWriter

    pieces: list[bytes] = []
    writer = TarWriter(lambda data: pieces.append(bytes(data)))
    root = CONFIG_DIRECTORY.rpartition("/")[2]
    directories = {root}
    for name in files:
        parts = f"{root}/{name}".split("/")[:-1]
        directories |= {"/".join(parts[:number]) for number in range(1, len(parts) + 1)}
    for directory in sorted(directories):
        writer.add(Entry(directory, Kind.DIRECTORY, 0o755))
    for name, content in sorted(files.items()):
        writer.add(Entry(f"{root}/{name}", Kind.FILE, 0o600, size=len(content)), content)
    writer.close()
    return b"".join(pieces)


def _credentials(image: str) -> dict[str, str] | None:
    """What the engine needs to pull from the image's registry, if we have it."""
    from anyarch.registry.credentials import Credentials
    from anyarch.spec.reference import Reference

    reference = Reference.parse(image)
    found = Credentials().get(reference.domain, reference.path)
    if found is None:
        return None
    return engine_auth(found, reference.domain)


def engine_auth(credential: Any, domain: str) -> dict[str, str]:
    """Credentials as the engine's API takes them."""
    if credential.identity_token:
        return {"identitytoken": credential.identity_token, "serveraddress": domain}
    return {"username": credential.username, "password": credential.password, "serveraddress": domain}
