"""COPY and ADD of one source path into a draft: which entries come out, with which owner and mode.

The rules are those of BuildKit's file operations (shared by COPY, ADD and `llb.Copy`): what a trailing slash
means, when a directory's contents are copied and when the directory, which metadata existing directories
keep.
"""

from __future__ import annotations

import posixpath
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, PathNotFound
from anyarch.spec.glob import has_wildcards, match
from anyarch.worker.draft import clean, join, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.llb.ops import ActionCopy
    from anyarch.snapshot.tree import Keep, Node, TreeView
    from anyarch.spec.pattern import PatternMatcher
    from anyarch.worker.draft import Content, Draft

__all__ = ["Copier", "Names", "Owner", "expand", "selector", "source_paths"]

Owner = tuple[int, int]
_FILE, _DIRECTORY = Kind.FILE, Kind.DIRECTORY  # an enumeration's own attributes are slow to get at


def source_paths(tree: TreeView, action: ActionCopy) -> list[str]:
    """The paths (clean, links in them not followed) that the action's source names in `tree`.

    Raises `PathNotFound` when a literal path, or a wildcard that must match, is not there.
    """
    source = clean(action.src)
    if not (action.allow_wildcard and has_wildcards(source)):
        return [_unescape(source) if action.allow_wildcard else source]
    found = expand(_TreeNames(tree), source)
    if not found and not action.allow_empty_wildcard:
        raise PathNotFound(f'"/{source}": not found')
    if not found:
        _check_directory(tree, source)
    return found


def _check_directory(tree: TreeView, pattern: str) -> None:
    """Nothing may match, but the directory where it would have to be has to be there."""
    names = pattern.split("/")
    literal = next(position for position, name in enumerate(names) if has_wildcards(name))
    directory = _unescape("/".join(names[:literal]))
    node = tree.lookup(tree.resolve(directory)) if directory else None
    if directory and (node is None or node.entry.kind is not Kind.DIRECTORY):
        raise PathNotFound(f"lstat /{directory}: no such file or directory")


def _unescape(path: str) -> str:
    if "\\" not in path:
        return path
    out, escaped = [], False
    for char in path:
        if char == "\\" and not escaped:
            escaped = True
            continue
        escaped = False
        out.append(char)
    return "".join(out)


class Names(Protocol):
    """What wildcards are looked up in: `Draft`, and `TreeView` through `_TreeNames`."""

    def get(self, path: str) -> Entry | None: ...

    def resolve(self, path: str) -> str: ...

    def listdir(self, path: str) -> list[str]: ...


class _TreeNames:
    def __init__(self, tree: TreeView) -> None:
        self._tree = tree
        self.resolve = tree.resolve
        self.listdir = tree.listdir

    def get(self, path: str) -> Entry | None:
        node = self._tree.lookup(path)
        return node.entry if node is not None else None


def expand(names: Names, pattern: str) -> list[str]:
    """Paths that match, in order; component by component, since no wildcard crosses a slash."""
    return list(_expand(names, pattern))


def _expand(names: Names, pattern: str) -> Iterator[str]:

    def step(directory: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            yield directory
            return
        head, rest = parts[0], parts[1:]
        if not has_wildcards(head):
            candidate = join(directory, _unescape(head))
            if names.get(join(names.resolve(directory), _unescape(head))) is not None:
                yield from step(candidate, rest)
            return
        real = names.resolve(directory)
        entry = names.get(real)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            return
        for name in names.listdir(real):
            if match(head, name):
                child = join(directory, name)
                if rest:
                    below = names.get(join(real, name))
                    if below is None or below.kind not in (Kind.DIRECTORY, Kind.SYMLINK):
                        continue
                yield from step(child, rest)

    yield from step("", pattern.split("/"))


def selector(action: ActionCopy, patterns: Callable[[tuple[str, ...]], PatternMatcher]) -> Keep | None:
    """Which paths below a copied directory are wanted; None for all."""
    if not action.include_patterns and not action.exclude_patterns:
        return None
    include = patterns(action.include_patterns) if action.include_patterns else None
    exclude = patterns(action.exclude_patterns) if action.exclude_patterns else None

    def keep(path: str, is_directory: bool) -> Literal["yes", "no", "descend"]:
        if exclude is not None and exclude.matches(path):
            return "no" if not is_directory or exclude.can_skip_directory(path) else "descend"
        if include is None or include.matches(path):
            return "yes"
        return "descend" if is_directory else "no"

    return keep


class Copier:
    """One copy action. `owner` None keeps the source's owner."""

    def __init__(
        self,
        draft: Draft,
        tree: TreeView,
        action: ActionCopy,
        owner: Owner | None,
        *,
        patterns: Callable[[tuple[str, ...]], PatternMatcher],
    ) -> None:
        self._draft = draft
        self._tree = tree
        self._action = action
        self._owner = owner
        self._keep = selector(action, patterns)
        self._mtime_ns = action.timestamp if action.timestamp >= 0 else None
        self._mode: Callable[[Entry], int] = lambda entry: entry.mode
        if action.mode_str:
            from anyarch.worker.symbolic_mode import parse_symbolic

            change = parse_symbolic(action.mode_str)
            self._mode = lambda entry: change(entry.mode, is_directory=entry.kind is Kind.DIRECTORY)
        elif action.mode != -1:
            self._mode = lambda entry: action.mode & 0o7777
        # Whether files go over with all their metadata.
        self._is_plain = (
            owner is None and action.mode == -1 and not action.mode_str and self._mtime_ns is None
        )
        self._names: dict[str, str] = {}  # source path of a FILE → where it went, for hard links

    # targets --------------------------------------------------------------------------------------

    def _make_parents(self, path: str) -> None:
        # Like Go's MkdirAll, which makes none of the special bits.
        mode = self._action.mode & 0o777 if self._action.mode != -1 and not self._action.mode_str else 0o755
        uid, gid = self._owner or (0, 0)
        self._draft.make_parents(path, mode=mode, uid=uid, gid=gid, mtime_ns=self._mtime_ns)

    def copy(self, source: str) -> None:
        """Copy what is at `source` (one of `source_paths`) to the action's destination."""
        action, draft = self._action, self._draft
        dest = action.dest
        wants_directory = dest.endswith(("/", "/.")) or dest in ("", ".")
        target = draft.resolve(clean(dest))
        if action.create_dest_path:
            self._make_parents(target if wants_directory else parent_of(target))
        else:
            parent = parent_of(target)
            if parent and draft.get(parent) is None:
                raise PathNotFound(f"failed to stat {dest}: the parent directory does not exist")
        real = self._tree.resolve(source) if action.follow_symlink else _resolve_parent(self._tree, source)
        node = self._tree.lookup(real)
        if node is None:
            raise PathNotFound(f"lstat /{source}: no such file or directory")
        existing = draft.get(target)
        is_directory = node.entry.kind is Kind.DIRECTORY
        into = existing is not None and existing.kind is Kind.DIRECTORY
        if (is_directory and not action.dir_copy_contents and existing is not None) or (
            not is_directory and into
        ):
            name = posixpath.basename(source)
            target = draft.resolve(join(target, name), last=False) if name else target
            existing = draft.get(target)
        if is_directory:
            self._make_parents(target if action.dir_copy_contents and existing is None else parent_of(target))
            self._copy_directory(node, target)
        else:
            self._make_parents(parent_of(target))
            self._copy_other(node, target)

    def _copy_other(self, node: Node, target: str) -> None:
        existing = self._draft.get(target)
        if existing is not None:
            if existing.kind is Kind.DIRECTORY and not self._action.always_replace_existing_dest_paths:
                raise BuildError(f"cannot replace to directory /{target} with file")
            self._draft.remove(target)
        self._draft.put(*self._item(node, target))

    # whole trees ----------------------------------------------------------------------------------

    def _copy_directory(self, top: Node, target: str) -> None:
        draft = self._draft
        existing = draft.get(target)
        if existing is not None and existing.kind is not Kind.DIRECTORY:
            if not self._action.always_replace_existing_dest_paths:
                raise BuildError(f"cannot copy to non-directory: /{target}")
            draft.remove(target)
            existing = None
        if existing is None:
            draft.put(*self._item(top, target))
        elif target and self._mtime_ns is None:
            # The directory stays as it is, its time is that of the source's (what `cp -a` of the contents
            # leaves).
            draft.put(
                msgspec.structs.replace(existing, path=target, mtime_ns=top.entry.mtime_ns, opaque=False)
            )
        fresh = {target} if existing is None else set()
        base = top.entry.path
        cut = len(base) + 1 if base else 0
        for node in self._tree.walk(base, keep=self._keep):
            path = node.entry.path
            if path != base:
                self._place(node, join(target, path[cut:]), fresh)

    def _place(self, node: Node, target: str, fresh: set[str]) -> None:
        """Put one entry of a tree; below a directory that is new nothing has to be looked up."""
        draft = self._draft
        is_directory = node.entry.kind is _DIRECTORY
        if target.rpartition("/")[0] in fresh:
            if is_directory:
                fresh.add(target)
            draft.put_below(*self._item(node, target))
            return
        existing = draft.get(target)
        if existing is None:
            if is_directory:
                fresh.add(target)
        elif is_directory and existing.kind is Kind.DIRECTORY:
            pass  # merged: it takes the source's metadata, its contents stay
        elif self._action.always_replace_existing_dest_paths or existing.kind is not Kind.DIRECTORY:
            if is_directory and not self._action.always_replace_existing_dest_paths:
                raise BuildError(f"cannot copy to non-directory: /{target}")
            draft.remove(target)
        else:
            raise BuildError(f"cannot replace to directory /{target} with file")
        draft.put(*self._item(node, target))

    # entries --------------------------------------------------------------------------------------

    def _item(self, node: Node, target: str) -> tuple[Entry, Content | None]:
        entry = node.entry
        content: Content | None = None
        uid, gid = self._owner or (entry.uid, entry.gid)
        kind, linkname, size, digest = entry.kind, entry.linkname, entry.size, entry.digest
        if kind is _FILE:
            self._names.setdefault(entry.path, target)
            content = partial(self._tree.content, node)
            if target == entry.path and self._is_plain and entry.offset == -1:
                return entry, content
        elif kind is Kind.HARDLINK:
            original = self._tree.target(node)
            known = self._names.get(original.entry.path)
            if known is None or known == target:
                return self._item(original, target)
            linkname = known
        elif kind is Kind.SYMLINK:
            return (
                Entry(
                    target,
                    kind,
                    entry.mode,
                    uid,
                    gid,
                    self._time(entry),
                    linkname=linkname,
                    xattrs=entry.xattrs,
                ),
                None,
            )
        return (
            Entry(
                target,
                kind,
                self._mode(entry),
                uid,
                gid,
                self._time(entry),
                size,
                linkname,
                entry.major,
                entry.minor,
                entry.xattrs,
                digest=digest,
            ),
            content,
        )

    def _time(self, entry: Entry) -> int:
        return entry.mtime_ns if self._mtime_ns is None else self._mtime_ns


def _resolve_parent(tree: TreeView, path: str) -> str:
    parent, _, name = path.rpartition("/")
    return join(tree.resolve(parent) if parent else "", name)
