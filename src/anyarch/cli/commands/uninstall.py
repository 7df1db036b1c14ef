"""`anyarch uninstall`: takes back what `anyarch install` did; hidden, as in buildx."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "uninstall",
    summary="Uninstall the 'docker builder' alias",
    usage="uninstall",
    description=("Removes aliases.builder from docker's config.json."),
)


def run(parsed: Parsed) -> int:
    from anyarch.builder.docker_config import DockerConfig
    from anyarch.cli.dispatch import stderr

    print(
        "Command \"uninstall\" is deprecated, use 'docker buildx' directly, without relying on the 'docker "
        "builder' alias",
        file=stderr(),
    )
    DockerConfig(os.environ).set_alias(is_wanted=False)
    return 0
