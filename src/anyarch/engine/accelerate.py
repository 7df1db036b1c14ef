"""How a build is told to run emulated steps faster: the flag, else the configuration file.

[build]
accelerate = "cross,packages=/srv/debs"
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODES", "acceleration"]

MODES = ("off", "tools", "cross", "verify")
_PACKAGES = "packages"


def acceleration(flag: str | None, env: Mapping[str, str]) -> str:
    """What is asked for: a mode, and perhaps `,packages=` with the absolute path of a directory or
    `docker-image://NAME`. Raises `UsageError` for a mode or a directory that does not exist."""
    if flag is not None:
        return _checked(flag, "--accelerate", os.getcwd())
    home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "/", ".config")
    path = env.get("ANYARCH_CONFIG") or os.path.join(home, "anyarch", "config.toml")
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        return "off"  # a file that must exist is complained about where registries are read
    if b"accelerate" not in raw:
        return "off"
    import tomllib

    try:
        table = tomllib.loads(raw.decode()).get("build", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
    value = table.get("accelerate", "off") if isinstance(table, dict) else "off"
    return _checked(value, f"{path}: [build] accelerate", os.path.dirname(path))


def _checked(value: object, what: str, directory: str) -> str:
    mode, comma, rest = value.partition(",") if isinstance(value, str) else ("", "", "")
    if mode not in MODES:
        raise UsageError(f"{what}: {value!r} is not one of {', '.join(MODES)}")
    if not comma:
        return mode
    name, _, source = rest.partition("=")
    if name != _PACKAGES or not source:
        raise UsageError(f"{what}: {rest!r} is not {_PACKAGES}=DIRECTORY or {_PACKAGES}=docker-image://NAME")
    if mode in ("off", "tools"):
        raise UsageError(
            f"{what}: {_PACKAGES} are those of compilers: {mode} needs none, cross and verify do"
        )
    if not source.startswith("docker-image://"):
        source = os.path.normpath(os.path.join(directory, source))
        if not os.path.isdir(source):
            raise UsageError(f"{what}: {source} is not a directory")
    return f"{mode},{_PACKAGES}={source}"
