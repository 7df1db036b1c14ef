"""How a build is told to run emulated steps faster: the flag, else the configuration file.

[build]
accelerate = "tools"
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODES", "acceleration"]

MODES = ("off", "tools", "cross", "verify")


def acceleration(flag: str | None, env: Mapping[str, str]) -> str:
    """The mode that is asked for. Raises `UsageError` for one that does not exist."""
    if flag is not None:
        return _checked(flag, "--accelerate")
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
    return _checked(value, f"{path}: [build] accelerate")


def _checked(value: object, what: str) -> str:
    if not isinstance(value, str) or value not in MODES:
        raise UsageError(f"{what}: {value!r} is not one of {', '.join(MODES)}")
    return value
