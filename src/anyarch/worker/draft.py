"""A layer in the making: the changes that file operations make above a tree, before they are written.

Nothing is mounted and nothing below is altered. A `Draft` answers look-ups through its own entries first,
then through the tree below; `commit` writes the entries, in canonical order, as one tar layer.

Directories that an operation makes, or carries along because it changes something in them, get the newest
modification time of what the operation puts below them (0 when that is nothing): the layer then depends on
the copied content alone, so that it is the same for every platform and every run (docs/adr/0004).
Every question put to the tree below is recorded, so that a layer can be used again above another tree that
gives the same answers (`worker.memo`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.snapshot.tree import TreeView

__all__ = ["Content", "Draft", "LayerSink", "fact_of", "join", "parent_of"]

Content = Callable[[], BinaryIO | bytes]
"""Opens the content of an entry; who calls it closes what is no bytes."""

_LINK_LIMIT = 255
_INHERIT = -1  # mtime not decided yet: the newest of what lies below


class LayerSink(Protocol):
    """Where a draft is written to: a tar layer of the layer store."""

    def add(self, entry: Entry, content: BinaryIO | bytes | None) -> Entry: ...


def join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def fact_of(entry: Entry | None) -> list[object] | None:
    """What of an entry below may have an influence on what is written above it (times have none)."""
    if entry is None:
        return None
    xattrs = [[name, value.hex()] for name, value in entry.xattrs] if entry.kind is Kind.DIRECTORY else []
    return [int(entry.kind), entry.mode, entry.uid, entry.gid, entry.linkname, xattrs]


class _Item:
    __slots__ = ("carried", "content", "entry")

    def __init__(self, entry: Entry, content: Content | None = None, *, carried: bool = False) -> None:
        self.entry = entry
        self.content = content
        self.carried = carried  # an existing directory that is only here because something in it changes


class Draft:
    """Changes above `base` (None: the empty root)."""

    def __init__(self, base: TreeView | None) -> None:
        self._base = base
        self._items: dict[str, _Item] = {}
        self._children: dict[str, set[str]] | None = None  # made when it is asked for
        self._removed: set[str] = set()  # paths of the tree below that are gone, with all below them
        self.facts: dict[str, object] = {}

    def fork(self) -> Draft:
        """An independent copy, for a second operation on the same intermediate result."""
        other = Draft(self._base)
        other._items = dict(self._items)
        other._removed = set(self._removed)
        other.facts = dict(self.facts)
        return other

    # looking --------------------------------------------------------------------------------------

    def get(self, path: str) -> Entry | None:
        """The entry at a path whose parents are resolved already."""
        item = self._items.get(path)
        if item is not None:
            return item.entry
        if self._base is None or self._hidden(path):
            return Entry("", Kind.DIRECTORY, 0o755) if path == "" else None
        return self._below(path)

    def _below(self, path: str) -> Entry | None:
        assert self._base is not None
        node = self._base.lookup(path)
        entry = node.entry if node is not None else None
        if path == "" and entry is None:
            entry = Entry("", Kind.DIRECTORY, 0o755)
        self.facts[path] = fact_of(entry)
        return entry

    def _hidden(self, path: str) -> bool:
        if not self._removed:
            return False
        while path:
            if path in self._removed:
                return True
            path = parent_of(path)
        return False

    def resolve(self, path: str, *, last: bool = True) -> str:
        """The real path: every symlink followed inside the root, the last component's only when `last`.
        Components
        that do not exist are kept as they are."""
        todo = [part for part in path.split("/") if part and part != "."]
        todo.reverse()
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            done.append(part)
            if not todo and not last:
                break
            entry = self.get("/".join(done))
            if entry is None or entry.kind is not Kind.SYMLINK:
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise PathNotFound(f"/{path}: too many levels of symbolic links")
            done.pop()
            if entry.linkname.startswith("/"):
                done.clear()
            todo.extend(p for p in reversed(entry.linkname.split("/")) if p and p != ".")
        return "/".join(done)

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        if self._children is None:
            self._children = {}
            for known in self._items:
                self._link_up(known)
        names = set(self._children.get(path, ()))
        if self._base is not None and not self._hidden(path):
            below = self._below(path)
            if below is not None and below.kind is Kind.DIRECTORY:
                found = self._base.listdir(path)
                self.facts[path + "/"] = found
                names.update(n for n in found if join(path, n) not in self._removed)
        return sorted(names)

    # changing -------------------------------------------------------------------------------------

    def put(self, entry: Entry, content: Content | None = None) -> None:
        """Add or replace what is at `entry.path`; its parents are there already (`make_parents`)."""
        path = entry.path
        parent = path.rpartition("/")[0]
        if parent and parent not in self._items:
            self._carry(parent)
        self._items[path] = _Item(entry, content)
        if self._children is not None:
            self._link_up(path)

    def put_below(self, entry: Entry, content: Content | None) -> None:
        """As `put`, of an entry whose parent was put before and that replaces nothing."""
        path = entry.path
        self._items[path] = _Item(entry, content)
        if self._children is not None:
            self._link_up(path)

    def _link_up(self, path: str) -> None:
        if path and self._children is not None:
            parent, _, name = path.rpartition("/")
            self._children.setdefault(parent, set()).add(name)

    def _carry(self, path: str) -> None:
        """Bring the existing directories down to `path` into the layer, with what they have now."""
        missing = []
        while path and path not in self._items:
            missing.append(path)
            path = parent_of(path)
        for directory in reversed(missing):
            entry = self.get(directory)
            if entry is None:
                raise BuildError(f"/{directory}: the parent directory does not exist")
            self._items[directory] = _Item(
                msgspec.structs.replace(entry, path=directory, mtime_ns=_INHERIT, opaque=False), carried=True
            )
            self._link_up(directory)

    def make_parents(
        self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime_ns: int | None = None
    ) -> list[str]:
        """Make directory `path` (real, its links resolved) and what lacks above it; returns those made."""
        made: list[str] = []
        done = ""
        for part in path.split("/") if path else ():
            done = join(done, part)
            entry = self.get(done)
            if entry is None:
                self.put(
                    Entry(done, Kind.DIRECTORY, mode, uid, gid, _INHERIT if mtime_ns is None else mtime_ns)
                )
                made.append(done)
            elif entry.kind is not Kind.DIRECTORY:
                raise BuildError(f"/{done} is not a directory")
        return made

    def remove(self, path: str) -> None:
        """Remove `path` and all below it."""
        prefix = path + "/"
        for known in [p for p in self._items if p == path or p.startswith(prefix)]:
            del self._items[known]
        self._children = None
        parent = parent_of(path)
        if self._base is not None and not self._hidden(path) and self._below(path) is not None:
            self._carry(parent)
            self._removed.add(path)

    def replace_with_directory(self, entry: Entry) -> None:
        """Put a directory where something else was."""
        self.remove(entry.path)
        self.put(entry)

    # writing --------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not self._items and not self._removed

    def _final(self) -> list[tuple[Entry, Content | None]]:
        """All entries in canonical order, whiteouts among them, times decided."""
        newest = self._newest()
        out: list[tuple[str, Entry, Content | None]] = []
        for path, item in self._items.items():
            entry = item.entry
            if entry.mtime_ns == _INHERIT:
                entry = msgspec.structs.replace(entry, mtime_ns=newest.get(path, 0))
            out.append((path.replace("/", "\0"), entry, item.content))
        out.extend(
            (path.replace("/", "\0"), Entry(path, Kind.WHITEOUT), None)
            for top in sorted(self._removed)
            # Below a removed ancestor everything is hidden already.
            if not any(p in self._removed for p in _ancestors(top))
            for path in self._gone(top)
        )
        out.sort(key=itemgetter(0))
        return [(entry, content) for _, entry, content in out]

    def _newest(self) -> dict[str, int]:
        """The newest time below each directory, where one has to inherit it."""
        newest: dict[str, int] = {}
        inherits = False
        for path, item in self._items.items():
            time = item.entry.mtime_ns
            if time == _INHERIT:
                inherits = True
            elif path:
                parent = path.rpartition("/")[0]
                if newest.get(parent, -1) < time:
                    newest[parent] = time
        if not inherits:
            return {}
        # Deepest first: what is known of a directory counts for its parent.
        for path in sorted(newest, key=lambda path: -path.count("/")):
            directory, time = path, newest[path]
            while directory:
                directory = parent_of(directory)
                if newest.get(directory, -1) >= time:
                    break
                newest[directory] = time
        return newest

    def _gone(self, top: str) -> Iterator[str]:
        """What the removed `top` needs whiteouts for. A directory in its place is not made opaque: put above
        another tree (`merge`) the layer would hide what this step has not seen."""
        if top not in self._items:
            yield top
            return
        assert self._base is not None
        stack = [top]
        while stack:
            directory = stack.pop()
            below = self._below(directory)
            if (
                below is None
                or below.kind is not Kind.DIRECTORY
                or self._items[directory].entry.kind is not Kind.DIRECTORY
            ):
                continue
            names = self._base.listdir(directory)
            self.facts[directory + "/"] = names
            for name in names:
                path = join(directory, name)
                if path in self._items:
                    stack.append(path)
                else:
                    yield path

    def commit(self, sink: LayerSink) -> None:
        """Write everything to `sink`. Of several names of one file the first in order holds the content."""
        entries = self._final()
        if any(entry.kind is Kind.HARDLINK for entry, _ in entries):
            entries = _with_first_names(entries)
        for entry, content in entries:
            if content is None:
                sink.add(entry, b"" if entry.kind is Kind.FILE else None)
                continue
            stream = content()
            if isinstance(stream, bytes):
                sink.add(entry, stream)
            else:
                with stream:
                    sink.add(entry, stream)


def _with_first_names(
    entries: list[tuple[Entry, Content | None]],
) -> list[tuple[Entry, Content | None]]:
    """Of several names of one file the first holds the content, the others are links to it."""
    first: dict[str, str] = {}
    contents = {entry.path: (entry, content) for entry, content in entries}
    out = []
    for entry, content in entries:
        if entry.kind is Kind.HARDLINK:
            target = first.get(entry.linkname)
            if target is None:
                # The name that held the content comes later in order: this one takes its place.
                original, content = contents[entry.linkname]
                first[entry.linkname] = entry.path
                entry = msgspec.structs.replace(original, path=entry.path)
            else:
                entry, content = msgspec.structs.replace(entry, linkname=target), None
        elif entry.kind is Kind.FILE:
            target = first.get(entry.path)
            if target is not None:
                entry = msgspec.structs.replace(
                    entry, kind=Kind.HARDLINK, linkname=target, size=0, digest=b""
                )
                content = None
            else:
                first[entry.path] = entry.path
        out.append((entry, content))
    return out


def _ancestors(path: str) -> Iterator[str]:
    while path := parent_of(path):
        yield path


def bytes_content(data: bytes) -> Content:
    return lambda: data


def clean(path: str) -> str:
    """A path as the root sees it: `..` cannot leave, no leading slash, no trailing one."""
    return posixpath.normpath("/" + path).lstrip("/")
