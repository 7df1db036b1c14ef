"""Users and groups of an image: its /etc/passwd and /etc/group (passwd(5), group(5))."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import BuildError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.snapshot.tree import TreeView

__all__ = ["Identity", "UserDatabase"]

_MAX_SIZE = 4 << 20


class Identity(msgspec.Struct, frozen=True):
    """Who a process runs as. `home` is "" when the user is not in passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""


class UserDatabase:
    """Looks names up in the tree; files that are missing are empty. Malformed lines are passed over, as libc
    does."""

    def __init__(self, tree: TreeView | None) -> None:
        self._passwd_raw = _read(tree, "etc/passwd")
        self._group_raw = _read(tree, "etc/group")
        self._passwd = _rows(self._passwd_raw, 7)
        self._group = _rows(self._group_raw, 4)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._passwd_raw + b"\0" + self._group_raw).hexdigest()

    def ids_of(self, name: str) -> tuple[int, int]:
        """uid and primary gid of a name; (0, 0) when it is unknown."""
        for row in self._passwd:
            if row[0] == name:
                return _number(row[2]) or 0, _number(row[3]) or 0
        return 0, 0

    def gid_of(self, name: str) -> int | None:
        for row in self._group:
            if row[0] == name:
                return _number(row[2])
        return None

    def identity(self, user: str) -> Identity:
        """`user[:group]`, each a name or a number, as USER has it; "" is root. Raises `BuildError` for an
        unknown name."""
        name, colon, group = user.partition(":")
        uid, gid, home, login = 0, 0, "", ""
        wanted = _number(name) if name else 0
        row = next((r for r in self._passwd if r[0] == name), None) if name else None
        if row is None and wanted is not None:
            row = next((r for r in self._passwd if _number(r[2]) == wanted), None)
        if row is not None:
            uid, gid, home, login = _number(row[2]) or 0, _number(row[3]) or 0, row[5], row[0]
        elif wanted is not None:
            uid = wanted
        else:
            raise BuildError(
                f"unable to find user {name}: no matching entries in passwd file",
                hint=f"add the user in a RUN step before (such as RUN adduser -D {name}), or use a number",
            )
        groups: set[int] = set()
        if colon and group:
            number = self.gid_of(group)
            if number is None:
                number = _number(group)
            if number is None:
                raise BuildError(f"unable to find group {group}: no matching entries in group file")
            gid = number
        elif login:
            members = (r for r in self._group if login in r[3].split(","))
            groups = {n for r in members if (n := _number(r[2])) is not None}
        # The primary group is among them: a step could otherwise drop it (CVE-2022-36109).
        return Identity(uid, gid, (gid, *sorted(groups - {gid})), home)


def _read(tree: TreeView | None, path: str) -> bytes:
    if tree is None:
        return b""
    node = tree.lookup(tree.resolve(path))
    if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
        return b""
    with tree.open(node) as stream:
        return stream.read(_MAX_SIZE)


def _rows(raw: bytes, fields: int) -> list[list[str]]:
    rows = []
    for line in raw.decode("utf-8", "surrogateescape").splitlines():
        if line.strip() and not line.startswith("#"):
            row = line.split(":")
            if len(row) >= 3:
                rows.append((row + [""] * fields)[:fields])
    return rows


def _number(text: str) -> int | None:
    number = natural(text)
    return number if number is not None and number < 1 << 32 else None
