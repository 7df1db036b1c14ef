"""`anyarch install`: the old way to make `docker build` a build by this plugin; hidden, as in buildx."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "install",
    summary="Install buildx as a 'docker builder' alias",
    usage="install",
    description=(
        "Sets aliases.builder in docker's config.json. `anyarch plugin install` does it where needed."
    ),
)


def run(parsed: Parsed) -> int:
    from anyarch.builder.docker_config import DockerConfig
    from anyarch.cli.dispatch import stderr

    print(
        "Command \"install\" is deprecated, use 'docker buildx' directly, without relying on the 'docker "
        "builder' alias",
        file=stderr(),
    )
    DockerConfig(os.environ).set_alias(is_wanted=True)
    return 0
