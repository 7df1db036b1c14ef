"""`anyarch plugin install`: make anyarch the `buildx` of the docker command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag

if TYPE_CHECKING:
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run", "standalone_path"]

COMMAND = Command(
    "plugin install",
    summary="Make anyarch the buildx of the docker command line",
    usage="plugin install [OPTIONS]",
    description=(
        "Put a program docker-buildx into docker's directory of plugins, which goes before those of the "
        "system: `docker buildx` is anyarch from then on, and so is `docker build` (docker 23 and newer; for "
        "older ones the alias of the builder is set). With --standalone a program buildx of the same is made "
        "instead."
    ),
    flags=(
        Flag("dir", "Directory for the program", metavar="DIRECTORY", complete="directory"),
        Flag("force", "Replace a program that is not anyarch's; it is kept beside", short="f"),
        Flag("standalone", "Make a program buildx, to be called without docker"),
    ),
    examples=(
        ("docker buildx and docker build", "anyarch plugin install"),
        ("A program buildx", "anyarch plugin install --standalone --dir ~/bin"),
    ),
)


def standalone_path(directory: str | None) -> str:
    if directory:
        return os.path.join(directory, "buildx")
    home = "/usr/local/bin" if os.geteuid() == 0 else os.path.expanduser("~/.local/bin")
    return os.path.join(home, "buildx")


def run(parsed: Parsed) -> int:
    from anyarch.builder.docker_config import DockerConfig
    from anyarch.builder.plugin_files import install, needs_alias, plugin_path

    docker = DockerConfig(os.environ)
    directory = parsed.text("dir")
    if parsed.switch("standalone"):
        path = standalone_path(directory)
    else:
        path = os.path.join(directory, "docker-buildx") if directory else plugin_path(docker)
    done = install(path, force=parsed.switch("force"))
    print(f"{done.path} is anyarch")
    if done.kept:
        print(f"what was there before is kept as {done.kept}")
    if not parsed.switch("standalone") and needs_alias() and docker.set_alias(is_wanted=True):
        print(f"docker is older than version 23: aliases.builder is set in {docker.path}")
    return 0
