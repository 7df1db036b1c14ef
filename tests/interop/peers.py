"""Stock BuildKit's programs (`buildkitd`, `buildctl`, `docker-buildx`), where the machine has them: on PATH,
or in the directories of `$ANYARCH_PEERS`. Tests that want one are skipped, with a word, without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

__all__ = ["flags_of", "peer"]

_FLAG = re.compile(r"\s+(?:-(\w), )?--([\w-]+)(?: ([\w]+))?\s{2,}(.*)")
_DEFAULT = re.compile(r'\(default "?([^")]*)"?\)\Z')
_REPEATED = ("strings", "stringArray", "ulimit", "filter")


def peer(name: str) -> str:
    """The path of a program; skips the test without it."""
    path = os.pathsep.join([os.environ.get("ANYARCH_PEERS", ""), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not on this machine (PATH, ANYARCH_PEERS)")
    return found


def flags_of(program: str, command: str) -> dict[str, list[object]]:
    """The flags that a command's help lists: short form, value taken, may be repeated, default."""
    done = subprocess.run([program, *command.split(), "--help"], capture_output=True, text=True, check=True)
    own, _, _ = done.stdout.partition("\nGlobal Flags:")
    found: dict[str, list[object]] = {}
    for line in own.splitlines():
        match = _FLAG.fullmatch(line)
        if match is not None and match[2] != "help":
            default = _DEFAULT.search(match[4])
            kind = match[3] or ""
            found[match[2]] = [match[1] or "", bool(kind), kind in _REPEATED, default[1] if default else ""]
    return found
