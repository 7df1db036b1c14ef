"""`anyarch create`: a builder, or one more node for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag

if TYPE_CHECKING:
    from anyarch.builder.builder import Surroundings
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "create",
    summary="Create a new builder instance",
    usage="create [OPTIONS] [CONTEXT|ENDPOINT]",
    description=(
        "Make a builder instance, or with --append one more node for it. Builders are kept where docker "
        "buildx keeps them, and both tools see the same. The name of the builder is printed."
    ),
    arguments=(("CONTEXT|ENDPOINT", "a docker context, or the address of an engine or daemon"),),
    most=1,
    flags=(
        Flag("append", "Append a node to builder instead of changing it"),
        Flag("bootstrap", "Boot builder after creation"),
        Flag("buildkitd-config", "BuildKit daemon config file", metavar="FILE", complete="file"),
        Flag("buildkitd-flags", "BuildKit daemon flags", metavar="FLAGS"),
        Flag("config", "Old name of --buildkitd-config", metavar="FILE", hidden=True),
        Flag(
            "driver",
            'Driver to use (available: "docker-container", "kubernetes", "remote")',
            metavar="DRIVER",
        ),
        Flag("driver-opt", "Options for the driver", metavar="KEY=VALUE,...", repeat=True),
        Flag("leave", "Remove a node from builder instead of changing it"),
        Flag("name", "Builder instance name", metavar="NAME"),
        Flag("node", "Create/modify node with given name", metavar="NAME"),
        Flag("platform", "Fixed platforms for current node", metavar="OS/ARCH[/VARIANT],...", repeat=True),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
        Flag("use", "Set the current builder instance"),
    ),
    examples=(
        ("Two native nodes", "anyarch create --use --name mybuild node-amd64"),
        ("and the second one", "anyarch create --append --name mybuild node-arm64"),
        ("A daemon behind TCP", "anyarch create --name far --driver remote tcp://10.0.0.5:1234"),
    ),
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.builder import Surroundings
    from anyarch.builder.create import CreateRequest, check_node, create, leave
    from anyarch.cli.builders import timeout_of

    surroundings = Surroundings(os.environ)
    timeout_s = timeout_of(parsed)
    with surroundings.store.transaction() as transaction:
        if parsed.switch("leave"):
            leave(transaction, parsed.text("name") or "", parsed.text("node") or "")
            return 0
        group, node = create(
            transaction,
            surroundings.docker,
            surroundings.env,
            CreateRequest(
                name=parsed.text("name") or "",
                driver=parsed.text("driver") or "",
                node=parsed.text("node") or "",
                platforms=tuple(parsed.texts("platform")),
                driver_opts=tuple(parsed.texts("driver-opt")),
                flags=parsed.text("buildkitd-flags") or "",
                config=parsed.text("buildkitd-config") or parsed.text("config") or "",
                default_config=surroundings.store.default_daemon_config,
                endpoint=parsed.args[0] if parsed.args else "",
                append=parsed.switch("append"),
            ),
        )
        asyncio.run(check_node(group, node, surroundings.docker, surroundings.env, timeout_s))
        transaction.save(group)
        if parsed.switch("use"):
            transaction.set_current(surroundings.docker.current_endpoint(), group.name)
    if parsed.switch("bootstrap"):
        _boot(surroundings, group.name, timeout_s)
    print(group.name)
    return 0


def _boot(surroundings: Surroundings, name: str, timeout_s: float) -> None:
    import asyncio

    from anyarch.cli.boot import boot

    with surroundings.store.transaction() as transaction:
        builder = surroundings.find(transaction, name)
    asyncio.run(boot(builder, timeout_s))
