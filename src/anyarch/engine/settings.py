"""What the configuration file says of builds: the table `[build]`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["BuildSettings"]


class BuildSettings(msgspec.Struct, frozen=True):
    """`stage_platform` is what `--stage-platform` asks for, for every build."""

    stage_platform: bool = False

    @classmethod
    def load(cls, env: Mapping[str, str] = os.environ) -> BuildSettings:
        """From `$ANYARCH_CONFIG`, else `$XDG_CONFIG_HOME/anyarch/config.toml`. Raises `UsageError`."""
        home = env.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
        path = env.get("ANYARCH_CONFIG") or os.path.join(home, "anyarch", "config.toml")
        try:
            with open(path, "rb") as file:
                raw = file.read()
        except OSError:
            return cls()  # those who need a file that is named report it
        if b"[build]" not in raw:
            return cls()
        import tomllib

        try:
            table: Any = tomllib.loads(raw.decode()).get("build", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
        unknown = sorted(set(table) - {"stagePlatform"})
        if unknown:
            raise UsageError(f"{path}: [build] has no setting {unknown[0]!r}", hint="there is stagePlatform")
        value = table.get("stagePlatform", False)
        if not isinstance(value, bool):
            raise UsageError(f"{path}: stagePlatform is true or false, not {value!r}")
        return cls(value)
