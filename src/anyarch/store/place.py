"""Where the store is unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_root"]


def default_root() -> Path:
    """`$ANYARCH_ROOT`, else `$XDG_DATA_HOME/anyarch`, else `~/.local/share/anyarch`."""
    if root := os.environ.get("ANYARCH_ROOT"):
        return Path(os.path.abspath(root))
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "anyarch"
