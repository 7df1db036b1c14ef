"""Making anyarch the docker command line's `buildx`: a small program in the directory of plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import OutputError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.builder.docker_config import DockerConfig

__all__ = ["Installed", "install", "needs_alias", "plugin_path", "uninstall"]

_MARK = b"anyarch.cli.plugin"
BACKUP = ".before-anyarch"
_LONGEST_SHEBANG = 120
FIRST_FORWARDING = 23
"""docker forwards `docker build` to buildx by itself from this version on."""


class Installed(msgspec.Struct, frozen=True):
    """The program's path, and where the one that was there before is kept, if there was one."""

    path: str
    kept: str = ""


def plugin_path(docker: DockerConfig) -> str:
    return os.path.join(docker.directory, "cli-plugins", "docker-buildx")


def install(path: str, *, force: bool = False) -> Installed:
    """Put the program at `path`. Raises `OutputError`; a program of someone else is there only replaced with
    `force`, and kept beside."""
    kept = ""
    try:
        if os.path.lexists(path) and not _is_ours(path):
            if not force:
                raise OutputError(
                    f"{path} exists and is not anyarch's",
                    hint="--force replaces it, and `plugin uninstall` brings it back",
                )
            kept = path + BACKUP
            os.replace(path, kept)
        directory = os.path.dirname(path)
        os.makedirs(directory, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(_program())
            os.fchmod(file.fileno(), 0o755)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"installing the plugin: {error.strerror}: {error.filename or path}") from None
    return Installed(path, kept)


def uninstall(path: str) -> bool:
    """Remove the program if it is ours, and bring back what was there before. Whether there was one."""
    try:
        if not os.path.lexists(path) or not _is_ours(path):
            return False
        os.remove(path)
        if os.path.lexists(path + BACKUP):
            os.replace(path + BACKUP, path)
    except OSError as error:
        raise OutputError(f"removing the plugin: {error.strerror}: {error.filename or path}") from None
    return True


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _MARK in file.read(4096)
    except OSError:
        return False  # a dangling link, a directory: not ours


def _program() -> bytes:
    """Runs this very installation, whatever the PATH of docker is."""
    python = sys.executable
    body = "import sys\n\nfrom anyarch.cli.plugin import main\n\nsys.exit(main())\n"
    if len(python) < _LONGEST_SHEBANG and " " not in python:
        return f"#!{python}\n{body}".encode()
    import shlex

    return (
        "#!/bin/sh\n"
        f"exec {shlex.quote(python)} -c 'import sys; from anyarch.cli.plugin import main; sys.exit(main())' "
        '"$@"\n'
    ).encode()


def needs_alias() -> bool:
    """Whether the docker on PATH is too old to forward `docker build` by itself."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run([docker, "--version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    words = done.stdout.decode("utf-8", "replace").split()
    number = words[2].split(".")[0] if len(words) > 2 and words[1] == "version" else ""
    major = natural(number)
    return major is not None and major < FIRST_FORWARDING
