"""BuildKit's hashes of files, which stand in its cache keys for what is copied or mounted of a directory.

A file's hash is over fields of a tar header (no name, no times), its attributes and its content; that of a
directory is over its own header and, sorted by name, the names and hashes of what is in it. Where patterns
choose files, the headers of directories and the files that are chosen are listed instead. Read from its
sources (`cache/contenthash`), and compared with what its daemon writes (tests/engine/test_cache_stock.py).

Every file is read for that: the hash of its content alone, which the store has, is no part of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import PathNotFound
from anyarch.llb.ops import ActionCopy, ActionRm, ActionSymlink, ContentCache, MountType, UserByName
from anyarch.snapshot.contenthash import counts
from anyarch.spec.digest import EMPTY, Digest
from anyarch.spec.glob import has_wildcards, match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anyarch.archive.entry import Entry
    from anyarch.llb.ops import Chown, ExecOp, FileOp
    from anyarch.snapshot.hosttree import HostTree
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.spec.pattern import MatchState, PatternMatcher

    Patterns = Callable[[tuple[str, ...]], PatternMatcher]

__all__ = ["Attributes", "Selector", "accounts", "attributes_of", "content_digest", "copied", "mounted"]

Attributes = Mapping[str, tuple[tuple[str, bytes], ...]]
"""Extended attributes of files, by path; only of files that have some."""

_CHUNK = 1 << 20
_APPLE = "com.apple."
_TYPES = {
    Kind.FILE: "0",
    Kind.SYMLINK: "2",
    Kind.CHAR_DEVICE: "3",
    Kind.BLOCK_DEVICE: "4",
    Kind.DIRECTORY: "5",
    Kind.FIFO: "6",
}
_ROOT_HEADER = EMPTY
"""Nobody sends the root of a client's directory, so its metadata does not count."""


class Selector(msgspec.Struct, frozen=True):
    """What is used of a tree: a path, or what a pattern and filters choose."""

    path: str = ""
    wildcard: bool = False
    follow: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        return not (self.wildcard or self.include or self.exclude)


def copied(op: FileOp, position: int, inputs: int) -> list[Selector] | None:
    """What a file operation uses of an input; None when that does not stand for the input, because something
    is changed in it."""
    found: list[Selector] = []
    for step in op.actions:
        action = step.action
        if step.input == position:
            return None
        if isinstance(action, ActionCopy) and step.secondary_input == position < inputs:
            found.append(
                Selector(
                    action.src,
                    action.allow_wildcard and has_wildcards(action.src),
                    action.follow_symlink,
                    tuple(action.include_patterns),
                    tuple(action.exclude_patterns),
                    tuple(action.required_paths),
                )
            )
        if not isinstance(action, ActionRm | ActionSymlink):
            found += [
                Selector(path, follow=True) for number, path in accounts(action.owner) if number == position
            ]
    return _reduced(found) if found else None


def mounted(op: ExecOp, position: int) -> list[Selector] | None:
    """The same of a step's mounts. Of several mounts of one input the last one decides."""
    paths: list[str] = []
    by_content = False
    for mount in op.mounts:
        if mount.input != position or mount.mount_type not in (MountType.BIND, MountType.CACHE):
            continue
        path = posixpath.normpath("/" + mount.selector.lstrip("/"))
        paths.append(path)
        by_content = mount.output < 0 or mount.readonly or path == "/"
        if mount.content_cache is ContentCache.OFF or (
            mount.content_cache is ContentCache.DEFAULT and mount.dest == "/"
        ):
            by_content = False
    if not by_content:
        return None
    paths = _outermost(paths)
    return [Selector()] if "/" in paths else [Selector(path, follow=True) for path in paths]


def accounts(owner: Chown | None) -> list[tuple[int, str]]:
    """The inputs and files in which names are looked up."""
    if owner is None:
        return []
    files = ((owner.user, "/etc/passwd"), (owner.group, "/etc/group"))
    return [(part.input, path) for part, path in files if isinstance(part, UserByName)]


def _reduced(selectors: Sequence[Selector]) -> list[Selector]:
    """Paths below others are left out; what is followed and what is not are kept apart."""
    found = []
    for follow in (False, True):
        plain = [one.path for one in selectors if one.is_plain and one.follow == follow]
        found += [Selector(path, follow=follow) for path in _outermost(plain)]
    found += [one for one in selectors if not one.is_plain]
    return sorted(found, key=lambda one: _raw(one.path))


def _outermost(paths: Sequence[str]) -> list[str]:
    if len(paths) < 2:
        return list(paths)
    known = set(paths)
    return sorted(
        (one for one in known if not any(one != o and one.startswith(o.rstrip("/") + "/") for o in known)),
        key=_raw,
    )


def attributes_of(tree: HostTree) -> Attributes:
    """The extended attributes of a directory's files that count, as BuildKit's client would send them. What
    cannot be read is passed over, as it does."""
    found: dict[str, tuple[tuple[str, bytes], ...]] = {}
    top = os.fsencode(tree.root)
    for node in tree.walk(""):
        path = node.entry.path
        place = b"%b/%b" % (top, _raw(path))
        try:
            names = os.listxattr(place, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}  # the file system knows none
            continue
        pairs = []
        for name in names:
            if counts(name) and not name.startswith(_APPLE):
                with suppress(OSError):
                    pairs.append((_in_utf8(name), os.getxattr(place, name, follow_symlinks=False)))
        if path and pairs:
            found[path] = tuple(sorted(pairs))
    return found


def content_digest(
    tree: TreeView,
    selectors: Iterable[Selector],
    patterns: Patterns,
    attributes: Attributes | None = None,
) -> str:
    """The hash of what `selectors` name in `tree`. `attributes` are given of a client's directory, whose
    entries have none of their own. Raises `PathNotFound` and what reading raises."""
    contents = _Contents(tree, patterns, attributes)
    return Digest.of(b"\0".join(contents.digest(one).encode() for one in selectors))


class _Included:
    """A file, or the header of a directory, that patterns may choose."""

    __slots__ = ("digest", "excluded", "included", "is_chosen", "may_follow", "path")

    def __init__(self, path: str, *, may_follow: bool, included: MatchState, excluded: MatchState) -> None:
        self.path = path
        self.may_follow = may_follow
        self.included = included
        self.excluded = excluded
        self.digest = ""
        self.is_chosen = False


class _Contents:
    def __init__(self, tree: TreeView, patterns: Patterns, attributes: Attributes | None) -> None:
        self._tree = tree
        self._patterns = patterns
        self._attributes = attributes
        self._known: dict[str, str] = {}  # by real path; of directories their whole content

    def digest(self, selector: Selector) -> str:
        path = posixpath.normpath("/" + selector.path.lstrip("/"))
        if selector.is_plain:
            return self._of_path(path, follow=selector.follow)
        prefix, chosen = self._choose("" if path == "/" else path, selector)
        for required in selector.required:
            if not any(one.path.startswith(required) for one in chosen):
                raise PathNotFound(f'"{required}": not found')
        if not chosen:
            return EMPTY
        if len(chosen) == 1 and _base(path) == _base(chosen[0].path):
            return chosen[0].digest
        whole = hashlib.sha256()
        for one in chosen:
            name = _raw(one.path.removeprefix(prefix)).replace(b"/", b"\0")
            whole.update((name or b"\0") + one.digest.encode())
        return f"sha256:{whole.hexdigest()}"

    # plain paths ----------------------------------------------------------------------------------

    def _of_path(self, path: str, *, follow: bool) -> str:
        node = self._tree.lookup(self._tree.resolve(path) if follow else path)
        if node is None:
            raise PathNotFound(f'"{path}": not found')
        real = node.entry.path
        if real not in self._known:
            self._learn(node)
        return self._known[real]

    def _learn(self, top: Node) -> None:
        """The hashes of a node and of all below it."""
        known = self._known
        children: dict[str, list[tuple[bytes, str]]] = {}
        # Parents come first in a walk, so that in reverse the children of a directory are known.
        for node in reversed(list(self._tree.walk(top.entry.path))):
            path = node.entry.path
            digest = self._digest_of(node)
            if node.entry.kind is Kind.DIRECTORY:
                whole = hashlib.sha256(b"\0" + digest.encode())
                for raw, below in sorted(children.pop(path, ())):
                    whole.update(b"\0" + raw + below.encode())
                digest = f"sha256:{whole.hexdigest()}"
            known[path] = digest
            if path:
                parent, _, name = path.rpartition("/")
                children.setdefault(parent, []).append((_raw(name), digest))

    def _digest_of(self, node: Node) -> str:
        """The hash of a file, or of the header of a directory."""
        target = self._tree.target(node)
        entry = target.entry
        if not entry.path and self._attributes is not None:
            return _ROOT_HEADER
        if entry.kind is not Kind.DIRECTORY and node.entry.path in self._known:
            return self._known[node.entry.path]
        own = entry.xattrs if self._attributes is None else self._attributes.get(entry.path, ())
        hashed = hashlib.sha256(_header(entry, own))
        if entry.kind is Kind.FILE and entry.size:
            with self._tree.open(target) as stream:
                while data := stream.read(_CHUNK):
                    hashed.update(data)
        return f"sha256:{hashed.hexdigest()}"

    # patterns -------------------------------------------------------------------------------------

    def _choose(self, path: str, selector: Selector) -> tuple[str, list[_Included]]:
        """The part of `path` that no pattern is in, and what is chosen."""
        prefix = _before_wildcards(path) if selector.wildcard else path
        real = self._tree.resolve(prefix) if selector.wildcard else prefix
        top = self._tree.lookup(real)
        if top is None:
            return prefix, []
        cut = len(top.entry.path) + 1 if top.entry.path else 0
        include = self._patterns(selector.include) if selector.include else None
        exclude = self._patterns(selector.exclude) if selector.exclude else None
        start = (include or exclude or self._patterns(())).root
        parents: list[_Included] = []
        chosen: list[_Included] = []
        matched = ""
        for node in sorted(self._tree.walk(top.entry.path), key=_in_order):
            below = node.entry.path[cut:] if node.entry.path != top.entry.path else ""
            name = f"{prefix}/{below}" if below else prefix
            is_directory = node.entry.kind is Kind.DIRECTORY
            while parents and not name.startswith(parents[-1].path + "/"):
                parents.pop()
            parent = parents[-1] if parents else None
            if not name and not path:
                continue  # the header of a source that is the root itself does not count
            if selector.wildcard:
                if not matched or not name.startswith(matched + "/"):
                    if not match(path, name):
                        continue
                    matched = name
                candidate = name[len(matched) + 1 :]
            else:
                candidate = name[len(path) + 1 :]
            one = _Included(
                name, may_follow=parent is None and selector.follow, included=start, excluded=start
            )
            takes = True
            if include is not None:
                one.included = include.match_child(candidate, parent.included if parent else include.root)
                takes = one.included.matched
            if exclude is not None and takes:
                one.excluded = exclude.match_child(candidate, parent.excluded if parent else exclude.root)
                takes = not one.excluded.matched
            if not takes and not is_directory:
                continue
            one.digest = self._digest_of(node)
            if one.may_follow and node.entry.kind is Kind.SYMLINK:
                one.digest = self._of_path(name, follow=True)
            if takes:
                for above in (*parents, one):
                    if not above.is_chosen:
                        above.is_chosen = True
                        chosen.append(above)
            if is_directory:
                parents.append(one)
        return prefix, chosen


def _in_order(node: Node) -> bytes:
    return _raw(node.entry.path.replace("/", "\0"))


def _before_wildcards(path: str) -> str:
    names = path.split("/")
    return "/".join(names[: next(n for n, name in enumerate(names) if has_wildcards(name))])


def _header(entry: Entry, xattrs: Iterable[tuple[str, bytes]]) -> bytes:
    """The fields of a tar header that count."""
    mode = entry.mode & 0o7777
    size = entry.size if entry.kind is Kind.FILE else 0
    link = entry.linkname if entry.kind is Kind.SYMLINK else ""
    is_device = entry.kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE)
    major, minor = (entry.major, entry.minor) if is_device else (0, 0)
    head = (
        f"namemode{mode}uid{entry.uid}gid{entry.gid}size{size}typeflag{_TYPES[entry.kind]}linkname{link}"
        f"unamegnamedevmajor{major}devminor{minor}"
    )
    attributes = [_raw(name) + value for name, value in sorted(xattrs) if counts(name)]
    return _raw(head) + b"".join(attributes)


def _base(path: str) -> str:
    """As Go's path.Base."""
    return posixpath.basename(path.rstrip("/")) or ("/" if path else ".")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _in_utf8(name: str) -> str:
    """Entries speak UTF-8 whatever the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")
