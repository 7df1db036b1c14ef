"""Files of Docker's configuration: written whole or not at all, and given to the user behind sudo."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["make_directories", "sudo_owner", "write_atomically"]


def sudo_owner(env: Mapping[str, str], directory: str) -> tuple[int, int] | None:
    """Whom files below `directory` are given to when root writes them for the user who ran sudo; None where
    they stay ours. Only for a directory in that user's home, as docker's tools do it."""
    home = env.get("HOME", "")
    if os.geteuid() != 0 or not env.get("SUDO_COMMAND") or not home:
        return None
    try:
        user, group = int(env.get("SUDO_UID", "")), int(env.get("SUDO_GID", ""))
        import pwd

        if pwd.getpwuid(user).pw_dir != home:
            return None
    except (ValueError, KeyError):
        return None
    inside = os.path.relpath(directory, home)
    return None if inside.startswith("..") or inside == "." else (user, group)


def make_directories(path: str, *, owner: tuple[int, int] | None = None) -> None:
    """Make a directory and those above it, for its owner alone. Raises `OSError`."""
    missing = []
    place = path
    while not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    for place in reversed(missing):
        os.makedirs(place, mode=0o700, exist_ok=True)
        if owner is not None:
            os.chown(place, *owner)


def write_atomically(
    path: str, data: bytes, mode: int, *, owner: tuple[int, int] | None = None, is_durable: bool = True
) -> None:
    """A reader sees the old file or the complete new one, with `is_durable` also where the machine goes down
    in between. Raises `OSError`."""
    temporary = f"{os.path.dirname(path)}/.tmp-{os.path.basename(path)}-{os.urandom(8).hex()}"
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(number, mode)
            if owner is not None:
                os.fchown(number, *owner)
            if is_durable:
                os.fsync(number)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
