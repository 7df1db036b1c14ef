"""`anyarch plugin uninstall`: take back what `plugin install` did."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import OutputError

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "plugin uninstall",
    summary="Take anyarch away from the docker command line",
    usage="plugin uninstall [OPTIONS]",
    description="Remove the program that `plugin install` made; one that was there before comes back.",
    flags=(
        Flag("dir", "Directory of the program", metavar="DIRECTORY", complete="directory"),
        Flag("standalone", "The program buildx"),
    ),
)


def run(parsed: Parsed) -> int:
    from anyarch.builder.docker_config import DockerConfig
    from anyarch.builder.plugin_files import plugin_path, uninstall
    from anyarch.cli.commands.plugin_install import standalone_path

    docker = DockerConfig(os.environ)
    directory = parsed.text("dir")
    if parsed.switch("standalone"):
        path = standalone_path(directory)
    else:
        path = os.path.join(directory, "docker-buildx") if directory else plugin_path(docker)
    if not uninstall(path):
        raise OutputError(f"{path} is not a program of anyarch", hint="--dir names another directory")
    if not parsed.switch("standalone"):
        docker.set_alias(is_wanted=False)
    print(f"{path} removed")
    return 0
