"""`create`: a new builder, a node added to one, changed, or taken away. Nothing is written before all is
known to be right, so a command that fails leaves the builder as it was."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec

from anyarch.builder.daemon_config import entitlements_of, load_config_files
from anyarch.builder.driver import DriverSetup, open_driver, validate_driver
from anyarch.builder.names import random_name
from anyarch.builder.store import NodeGroup, NodeRecord, valid_name
from anyarch.builder.stream import BUILDKIT_SCHEMES, parse_docker_host, split_endpoint
from anyarch.errors import AnyarchError, BuilderError, UsageError
from anyarch.spec.platform import parse_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.builder.docker_config import DockerConfig
    from anyarch.builder.store import Transaction

__all__ = ["CreateRequest", "check_node", "create", "leave"]


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `create`, as they were given. `default_config` is the configuration file for nodes that
    get none by name."""

    name: str = ""
    driver: str = ""
    node: str = ""
    platforms: tuple[str, ...] = ()
    driver_opts: tuple[str, ...] = ()
    flags: str = ""
    config: str = ""
    default_config: str | None = None
    endpoint: str = ""
    append: bool = False


def leave(transaction: Transaction, name: str, node: str) -> None:
    """Take a node out of a builder. Raises `BuilderError`, `UsageError`."""
    if not name:
        raise UsageError("leave requires instance name", hint="add --name")
    if not node:
        raise UsageError("leave requires node name", hint="add --node")
    group = transaction.find(name)
    if group is None:
        raise BuilderError(f'failed to find instance "{name}" for leave', hint=_known(transaction))
    changed = group.without(node)
    transaction.remove_refs(group.name, node)
    transaction.save(changed)


def create(
    transaction: Transaction, docker: DockerConfig, env: Mapping[str, str], request: CreateRequest
) -> tuple[NodeGroup, NodeRecord]:
    """What is to be saved: the builder as it will be, and the node that was added or changed. Raises
    `BuilderError`, `UsageError`, `InvalidPlatform`; writes nothing."""
    group, is_new = _group(transaction, docker, env, request)
    options = _driver_opts(request.driver_opts)
    config = request.config or request.default_config or ""
    flags = _daemon_flags(request.flags, group.driver, options or {}, config)
    endpoint, is_given = _endpoint(transaction, docker, env, group, request)
    platforms = parse_list([text for text in request.platforms if text])
    specs = tuple(platform.spec() for platform in platforms) or None
    files = load_config_files(config) if config else None
    old = group.find(valid_name(request.node)) if request.node else None
    if old is not None:
        node = msgspec.structs.replace(
            old,
            endpoint=endpoint if is_given else old.endpoint,
            platforms=specs or old.platforms,
            flags=flags or old.flags,
            driver_opts=options or old.driver_opts,
            files={**(old.files or {}), **files} if files else old.files,
        )
    else:
        if not is_new and not request.append:
            raise BuilderError(f"node {request.node} not found, did you mean to append?")
        name = valid_name(request.node) if request.node else group.next_node_name()
        node = NodeRecord(
            name=name,
            endpoint=endpoint,
            platforms=specs,
            driver_opts=options,
            flags=flags,
            files=files,
        )
    return group.with_node(node), node


def _group(
    transaction: Transaction, docker: DockerConfig, env: Mapping[str, str], request: CreateRequest
) -> tuple[NodeGroup, bool]:
    """The builder before the change, with its driver; whether it is new."""
    if request.name == "default":
        raise UsageError("default is a reserved name and cannot be used to identify builder instance")
    if request.append and not request.name:
        raise UsageError("append requires a builder name", hint="add --name")
    name = request.name or random_name(lambda word: transaction.find(word) is not None)
    if not request.append and any(context.name == name for context in docker.contexts()):
        raise UsageError(f'instance name "{name}" already exists as context builder')
    group = transaction.find(name)
    if group is None:
        if request.append:
            raise BuilderError(f'failed to find instance "{name}" for append', hint=_known(transaction))
        default = "remote" if env.get("BUILDKIT_HOST") and not request.endpoint else "docker-container"
        driver = validate_driver(request.driver or default, is_created=True)
        return NodeGroup(name=valid_name(name), driver=driver), True
    if not request.node and not request.append:
        raise BuilderError(
            f'existing instance for "{name}" but no append mode, specify the node name to make changes for '
            "existing instances",
            hint="add --append for one more node, or --node NAME to change one",
        )
    if request.driver and request.driver != group.driver:
        raise BuilderError(
            f'existing instance for "{name}" but has mismatched driver "{group.driver}"',
            hint="all nodes of a builder have one driver",
        )
    validate_driver(group.driver, is_created=True)
    return group, False


def _endpoint(
    transaction: Transaction,
    docker: DockerConfig,
    env: Mapping[str, str],
    group: NodeGroup,
    request: CreateRequest,
) -> tuple[str, bool]:
    """The node's endpoint, and whether the user named it."""
    if group.driver == "kubernetes":
        if request.endpoint:
            raise UsageError(
                f'kubernetes driver does not support endpoint args "{request.endpoint}"',
                hint="KUBECONFIG and its current context say which cluster",
            )
        deployment = request.node or _free_deployment(transaction, group.name)
        query = urlencode({"deployment": deployment, "kubeconfig": env.get("KUBECONFIG", "")})
        return f"kubernetes:///{quote(group.name)}?{query}", False
    if group.driver == "remote":
        endpoint = request.endpoint or env.get("BUILDKIT_HOST", "")
        if not endpoint:
            raise UsageError(
                "no remote endpoint provided", hint="for example tcp://HOST:1234, or BUILDKIT_HOST"
            )
        scheme = split_endpoint(endpoint).scheme
        if scheme not in BUILDKIT_SCHEMES:
            raise UsageError(
                f"unrecognized url scheme {scheme}", hint=f"it is one of {', '.join(BUILDKIT_SCHEMES)}"
            )
        return endpoint, True
    if request.endpoint:
        context = docker.context(request.endpoint)
        if context is None:
            return parse_docker_host(request.endpoint), True
        return (context.host if request.endpoint == "default" else request.endpoint), True
    if docker.current_context == "default" and docker.has_tls_in_environment:
        raise BuilderError(
            "could not create a builder instance with TLS data loaded from environment. Please use `docker "
            "context create <context-name>` to create a context for current environment and then create a "
            "builder instance with context set to <context-name>"
        )
    return docker.current_endpoint(), False


def _free_deployment(transaction: Transaction, builder: str) -> str:
    """A name for a Deployment that no node has: the endpoints of nodes have to differ."""
    import random

    taken = {
        _query(node.endpoint).get("deployment")
        for group in transaction.all()
        for node in group.all_nodes()
        if group.driver == "kubernetes"
    }
    base = builder.replace("_", "-").replace(".", "-")
    letters = random.SystemRandom()
    while True:
        name = f"{base}-{letters.getrandbits(32):08x}"
        if name not in taken:
            return name


def _query(endpoint: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(split_endpoint(endpoint).query))


def _driver_opts(texts: tuple[str, ...]) -> dict[str, str] | None:
    from anyarch.engine.grammar import csv_fields

    options: dict[str, str] = {}
    for text in texts:
        for field in csv_fields(text):
            name, equals, value = field.partition("=")
            if not equals:
                raise UsageError(f'invalid value "{field}", expecting k=v', hint="--driver-opt KEY=VALUE,...")
            options[name] = value
    return options or None


def _daemon_flags(text: str, driver: str, options: dict[str, str], config: str) -> tuple[str, ...] | None:
    """The daemon's flags. Steps of containers may use the container's network, unless the user says what is
    allowed: it is not the host's."""
    try:
        flags = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"failed to parse buildkit flags: {error}") from None
    if driver not in ("docker-container", "kubernetes"):
        return tuple(flags) or None
    name = "--allow-insecure-entitlement"
    allowed = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}=")]
    allowed += [value for flag, value in pairwise(flags) if flag == name]
    is_host = driver == "docker-container" and options.get("network") == "host"
    in_config = bool(config) and "network.host" in entitlements_of(config)
    if (is_host and "network.host" not in allowed) or (not allowed and not in_config):
        flags.append(f"{name}=network.host")
    return tuple(flags) or None


def _known(transaction: Transaction) -> str:
    return f"there is {', '.join(transaction.names()) or 'none'}"


async def check_node(
    group: NodeGroup, node: NodeRecord, docker: DockerConfig, env: Mapping[str, str], timeout_s: float
) -> None:
    """Raises `BuilderError` when the node cannot be used with its options: before it is saved."""
    import asyncio

    try:
        driver = open_driver(group.driver, DriverSetup(node=node, docker=docker, env=env, builder=group.name))
        async with asyncio.timeout(timeout_s or None):
            state = await driver.state()
            if state.client is not None:
                await state.client.close()
    except TimeoutError:
        raise BuilderError(
            f"failed to initialize builder {group.name} ({node.name}): no answer within {timeout_s:g} seconds"
        ) from None
    except AnyarchError as error:
        raise BuilderError(
            f"failed to initialize builder {group.name} ({node.name}): {error.message}", hint=error.hint
        ) from None
