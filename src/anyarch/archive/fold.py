"""What a sequence of tar entries amounts to: the index of a layer.

`fold` does in memory what `apply.Unpacker` does to a directory, by the same rules, so that an index and the
directory unpacked from the same tar agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import MalformedArchive

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_LINKS", "fold", "sort_key"]

MAX_LINKS = 40
"""Symbolic links followed on the way to one path; Linux has the same limit."""


def sort_key(path: str) -> str:
    """Key that sorts paths by their components, so that parents come before what is in them."""
    return path.replace("/", "\0")


def fold(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that are left when `entries` are applied in order; sorted, one for each path.

    * A later entry replaces an earlier one with all that was below it; two directories are merged.
    * A path below a symbolic link of the same layer is moved to where the link leads inside the root.
    * A hard link stands for the file that its target is at that moment. The first path of a file becomes
      the FILE, the others HARDLINKs to it with its attributes. A hard link to something else becomes a copy
      of that entry.
    * An opaque marker becomes `opaque` of its directory. A whiteout beside a real entry of the same path
      hides only lower layers (OCI image-spec layer.md, "Whiteouts"): a directory becomes opaque, other
      kinds hide it anyway.
    * Directories that are needed but have no entry stay without one: the layer leaves them as they are.

    Raises `MalformedArchive` where an unpacker would fail.
    """
    tree = _Tree()
    for entry in entries:
        tree.put(entry)
    return tree.listing()


class _Node:
    """A path. `children` is a dict exactly when it is a directory; `hides` says whether that is opaque.

    Without `entry` it is a directory that is implied, or a whiteout.
    """

    __slots__ = ("children", "entry", "hides")

    def __init__(self) -> None:
        self.children: dict[str, _Node] | None = None
        self.entry: Entry | None = None
        self.hides = False


class _Tree:
    def __init__(self) -> None:
        self._root = _Node()
        self._root.children = {}
        self._last: tuple[str, _Node, str] = ("", self._root, "")
        self._hidden: set[str] = set()  # real paths with a whiteout

    def put(self, entry: Entry) -> None:
        path = entry.path
        kind = entry.kind
        if not path or (kind is Kind.WHITEOUT and entry.opaque):
            directory, _ = self._directory(path)
            if kind is Kind.DIRECTORY:
                directory.entry = entry
            elif kind is not Kind.WHITEOUT or not entry.opaque:
                raise MalformedArchive("an entry without a name")
            directory.hides = directory.hides or entry.opaque
            return
        parent_path, _, name = path.rpartition("/")
        directory, real_parent = self._directory(parent_path)
        source = entry
        real_path = f"{real_parent}/{name}" if real_parent else name
        if kind is Kind.HARDLINK:
            target, real_target = self._find(entry)
            if real_target == real_path:
                return
            if real_target.startswith(real_path + "/"):
                raise MalformedArchive(f"the hard link {path!r} replaces its own target")
            assert target.entry is not None
            source = target.entry
        assert directory.children is not None
        node = directory.children.get(name)
        if node is None:
            node = directory.children[name] = _Node()
        elif kind is not Kind.WHITEOUT and (node.children is not None or node.entry is not None):
            self._last = ("", self._root, "")
        if kind is Kind.WHITEOUT:
            self._hidden.add(real_path)
            node.hides = True
            return
        if kind is not Kind.DIRECTORY:
            node.children = None
        elif node.children is None:
            node.children = {}
            node.hides = entry.opaque or real_path in self._hidden
        else:
            node.hides = node.hides or entry.opaque
        node.entry = source

    def listing(self) -> list[Entry]:
        found: list[Entry] = []
        files: dict[int, str] = {}
        stack = [("", self._root)]
        while stack:
            path, node = stack.pop()
            entry = node.entry
            if node.children is not None:
                if entry is None:
                    if node.hides:
                        found.append(Entry(path, Kind.DIRECTORY, 0o755, opaque=True))
                elif entry.path != path or entry.opaque != node.hides:
                    found.append(replace(entry, path=path, opaque=node.hides))
                else:
                    found.append(entry)
                prefix = path + "/" if path else ""
                stack += [
                    (prefix + name, child) for name, child in sorted(node.children.items(), reverse=True)
                ]
            elif entry is None:
                found.append(Entry(path, Kind.WHITEOUT))
            elif entry.kind is Kind.FILE and (first := files.setdefault(id(entry), path)) is not path:
                found.append(
                    replace(
                        entry, path=path, kind=Kind.HARDLINK, size=0, linkname=first, digest=b"", offset=-1
                    )
                )
            else:
                found.append(entry if entry.path == path else replace(entry, path=path))
        return found

    def _find(self, link: Entry) -> tuple[_Node, str]:
        """The node that a hard link means, and its path."""
        parent_path, _, name = link.linkname.rpartition("/")
        directory, real = self._walk(parent_path, create=False)
        node = None if directory is None or directory.children is None else directory.children.get(name)
        if node is None or (node.entry is None and node.children is None):
            raise MalformedArchive(
                f"the hard link {link.path!r} leads to {link.linkname!r}, which is not there before it"
            )
        if node.children is not None:
            raise MalformedArchive(f"the hard link {link.path!r} leads to a directory")
        return node, f"{real}/{name}" if real else name

    def _directory(self, path: str) -> tuple[_Node, str]:
        """The directory `path`, made if it is not there, and where it really is."""
        if path == self._last[0]:
            return self._last[1:]
        node, real = self._walk(path, create=True)
        assert node is not None
        self._last = (path, node, real)
        return node, real

    def _walk(self, path: str, *, create: bool) -> tuple[_Node | None, str]:
        todo = path.split("/")[::-1]
        trail = [self._root]
        names: list[str] = []
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":  # of a link's target only; the root's parent is the root
                if names:
                    names.pop()
                    trail.pop()
                continue
            children = trail[-1].children
            assert children is not None
            node = children.get(name)
            if node is None or (node.entry is None and node.children is None):
                if not create:
                    return None, ""
                if node is None:
                    node = children[name] = _Node()
                node.children = {}
                node.hides = bool(self._hidden) and "/".join((*names, name)) in self._hidden
            if node.children is not None:
                trail.append(node)
                names.append(name)
                continue
            assert node.entry is not None
            if node.entry.kind is not Kind.SYMLINK:
                raise MalformedArchive(f"{path!r}: {'/'.join((*names, name))!r} is not a directory")
            links += 1
            if links > MAX_LINKS:
                raise MalformedArchive(f"{path!r}: too many symbolic links")
            target = node.entry.linkname
            if target.startswith("/"):
                names.clear()
                del trail[1:]
            todo += target.split("/")[::-1]
        return trail[-1], "/".join(names)
