"""Run a command as an ordinary user from a root shell, even where root's files are out of that user's reach.

A test or demonstration that runs as root shows with it that something needs no privilege. A checkout or a
Python below `/root` cannot be read by others. So the command gets a mount namespace of its own in which each
directory that bars the way is covered by an empty one that holds only what the command needs. Nothing is
changed outside of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["NOBODY", "as_ordinary_user"]

NOBODY = 65534
"""The user and group id of `nobody` on Debian."""

# Arguments: barred directory, number of needed paths below it, these paths; again for each; `--`; uid;
# command. Needed paths are bound to a place that stays in reach, then to their old names in the empty one.
_COVER = """
hold=$(mktemp -d)
mount -t tmpfs -o mode=700 tmpfs "$hold"
while [ "$1" != -- ]; do
    barred=$1 count=$2; shift 2
    i=0
    for path in "$@"; do
        [ $i -lt $count ] || break
        i=$((i + 1)); mkdir "$hold/$i"; mount --rbind "$path" "$hold/$i"
    done
    mount -t tmpfs -o mode=755 tmpfs "$barred"
    i=0
    while [ $i -lt $count ]; do
        i=$((i + 1)); mkdir -p "$1"; mount --rbind "$hold/$i" "$1"; shift
        umount -l "$hold/$i"; rmdir "$hold/$i"
    done
done
umount -l "$hold"; rmdir "$hold"
shift; id=$1; shift
exec setpriv --reuid "$id" --regid "$id" --clear-groups --inh-caps=-all "$@"
"""


def as_ordinary_user(
    argv: Sequence[str], *, needs: Iterable[str | Path] = (), user_id: int = NOBODY
) -> list[str]:
    """The command line that runs `argv` as `user_id` (and the group of that number), with no capability.

    `needs` are directories that the command has to read: those of the interpreter, a checkout. The
    environment is passed on unchanged, HOME too. For a caller who is not root it is `argv` itself.
    """
    if os.geteuid() != 0:
        return list(argv)
    groups: dict[str, list[str]] = {}
    for need in sorted({os.path.realpath(path) for path in needs}):
        if barred := _barred_by(need):
            groups.setdefault(barred, []).append(need)
    cover = [word for barred, paths in groups.items() for word in (barred, str(len(paths)), *paths)]
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", _COVER, "sh"]
    return [*shell, *cover, "--", str(user_id), *argv]


def _barred_by(path: str) -> str | None:
    """The first directory on the way to `path` (itself excluded) that others may not pass."""
    for parent in reversed(Path(path).parents):
        if not parent.stat().st_mode & 0o001:
            return str(parent)
    return None
