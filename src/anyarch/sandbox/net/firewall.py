"""Forwarding where iptables forbids it by default, as it does beside Docker: the bridge's packets are
accepted.

An accept of nftables does not lift a drop of iptables, so this takes the program itself. Without it, or where
its default is to accept, nothing is changed.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["close_forwarding", "open_forwarding"]

_PROGRAMS = {4: "iptables", 6: "ip6tables"}
_COMMENT = ("-m", "comment", "--comment", "anyarch steps")
_TIMEOUT_S = 30


def open_forwarding(bridge: str, version: int, note: Callable[[str], object]) -> None:
    """Rules that are there already stay. What the program refuses is told."""
    program = shutil.which(_PROGRAMS[version])
    if program is None or "-P FORWARD ACCEPT" in _call(program, "-S", "FORWARD")[1]:
        return
    for rule in _rules(bridge):
        if _call(program, "-C", "FORWARD", *rule)[0] == 0:
            continue
        code, text = _call(program, "-I", "FORWARD", *rule)
        if code:
            note(f"steps may not reach the world: {program} refuses to accept packets of {bridge}: {text}")
            return
    note(f"{program} accepts packets of {bridge} in FORWARD now")


def close_forwarding(bridge: str, version: int) -> None:
    """Take them back, if they are there."""
    program = shutil.which(_PROGRAMS[version])
    if program is not None:
        for rule in _rules(bridge):
            if _call(program, "-C", "FORWARD", *rule)[0] == 0:
                _call(program, "-D", "FORWARD", *rule)


def _rules(bridge: str) -> tuple[tuple[str, ...], ...]:
    answers = ("-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", *_COMMENT, "-j", "ACCEPT")
    return ("-i", bridge, *_COMMENT, "-j", "ACCEPT"), answers


def _call(*argv: str) -> tuple[int, str]:
    """Its status, and what it says."""
    try:
        done = subprocess.run(
            [argv[0], "-w", "5", *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()
