"""anyarch as a plugin of the docker command line: `docker buildx` and `docker build`.

docker looks for an executable `docker-buildx`, asks it for its metadata, and calls it with all of its own
arguments: the flags of docker, the word `buildx`, and the rest. docker tells the end of a call by closing a
socket whose name it hands over. Facts: docs.docker.com, "CLI plugins".
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ORIGINAL", "is_plugin_call", "main", "metadata", "split_docker_flags"]

ORIGINAL = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
_METADATA = "docker-cli-plugin-metadata"
_HOOKS = "docker-cli-plugin-hooks"
_SOCKET = "DOCKER_CLI_PLUGIN_SOCKET"
NAME = "buildx"

# docker's own flags, and what they mean for us: a variable that says the same, or nothing.
_VALUES = {
    "--config": "DOCKER_CONFIG",
    "--context": "DOCKER_CONTEXT",
    "-c": "DOCKER_CONTEXT",
    "--host": "DOCKER_HOST",
    "-H": "DOCKER_HOST",
    "--log-level": "",
    "-l": "",
    "--tlscacert": "",
    "--tlscert": "",
    "--tlskey": "",
}
_SWITCHES = {
    "--debug": "",
    "-D": "",
    "--tls": "DOCKER_TLS",
    "--tlsverify": "DOCKER_TLS_VERIFY",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The program `docker-buildx`: called by docker, or by itself as a stand-alone `buildx`."""
    words = list(sys.argv[1:] if argv is None else argv)
    from anyarch.cli.main import main as anyarch

    if words[:1] == [_METADATA]:
        sys.stdout.write(metadata())
        return 0
    if words[:1] == [_HOOKS]:
        return 0  # nothing to say after other commands of docker
    if not is_plugin_call(words):
        return anyarch(words)
    settings, is_debug, rest = split_docker_flags(words)
    os.environ.update(settings)
    if "DOCKER_CONTEXT" in settings and "DOCKER_HOST" not in settings:
        os.environ.pop("DOCKER_HOST", None)  # the flag goes before the variable
    _watch_docker()
    return anyarch((["--debug"] if is_debug else []) + rest)


def is_plugin_call(words: Sequence[str]) -> bool:
    """Whether docker calls: it says so in the environment, and names the plugin."""
    return bool(os.environ.get(ORIGINAL)) and NAME in words


def split_docker_flags(words: Sequence[str]) -> tuple[dict[str, str], bool, list[str]]:
    """docker's flags before the plugin's name, as environment variables; whether there is --debug; the words
    after the name."""
    settings: dict[str, str] = {}
    is_debug = False
    left = list(words)
    while left:
        word = left.pop(0)
        if word == NAME:
            break
        flag, equals, value = word.partition("=")
        if flag in _SWITCHES:
            is_debug = is_debug or flag in ("--debug", "-D")
            if _SWITCHES[flag] and value not in ("false", "0"):
                settings[_SWITCHES[flag]] = "1"
        elif flag in _VALUES:
            value = value if equals else (left.pop(0) if left else "")
            if _VALUES[flag]:
                settings[_VALUES[flag]] = value
            elif flag.startswith("--tls"):
                settings["DOCKER_CERT_PATH"] = os.path.dirname(value)
    return settings, is_debug, left


def metadata() -> str:
    """What docker wants to know, as JSON."""
    import json

    from anyarch.version import __version__

    values = {
        "SchemaVersion": "0.1.0",
        "Vendor": "anyarch",
        "Version": f"v{__version__}",
        "ShortDescription": "Docker Buildx (anyarch)",
    }
    return json.dumps(values, indent=5) + "\n"


def _watch_docker() -> None:
    """End the build, as by Ctrl-C, when docker closes the socket that it named."""
    name = os.environ.pop(_SOCKET, "")
    if not name:
        return
    import signal
    import socket
    import threading

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{name[1:]}" if name.startswith("@") else name)
    except OSError:
        connection.close()
        return  # docker is gone already, or too old for it

    def wait() -> None:
        with connection:
            try:
                while connection.recv(4096):
                    """Nothing is sent; only the end matters."""
            except OSError:
                return
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, name="docker-socket", daemon=True).start()
