"""Local directories, read in place: which of their files a build sees.

`include` and `exclude` are patterns as in .dockerignore; `follow` names paths of which every symlink on the
way is followed (inside the directory), so that both the links and what they lead to are seen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from anyarch.errors import BuildError
from anyarch.snapshot.hosttree import HostTree
from anyarch.spec.glob import has_wildcards, match

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.spec.pattern import PatternMatcher
    from anyarch.store.store import Store

__all__ = ["LocalFiles", "LocalProvider", "Transferred", "follow_paths", "scan"]

_LINK_LIMIT = 255


class LocalFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What a local source asks of the client that offered the directory `name`.

    `session` is the id of the client's session where the source names one, else empty; `unique` keeps sources
    of several builds apart; `shared_key` tells which earlier transfer is of the same directory. With
    `metadata_only` contents are wanted of `metadata_exceptions` (patterns) alone. `differ` is metadata (also
    when empty) or none.
    """

    name: str
    session: str = ""
    unique: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    shared_key: str = ""
    differ: str = ""
    metadata_only: bool = False
    metadata_exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, attrs: Mapping[str, str]) -> LocalFiles:
        """From the attributes of an LLB source. Raises `BuildError`."""
        session = attrs.get("local.session", "")
        prefix, colon, rest = session.partition(":")
        if colon:
            name, session = f"{prefix}-{name}", rest
        only = attrs.get("local.metadatatransfer", "")
        if only not in _TRUE | _FALSE:
            raise BuildError(f'invalid value for local.metadatatransfer "{only}"')
        return cls(
            name=name,
            session=session,
            unique=attrs.get("local.unique", ""),
            include=_texts(attrs, "local.includepattern"),
            exclude=_texts(attrs, "local.excludepatterns"),
            follow=_texts(attrs, "local.followpaths"),
            shared_key=attrs.get("local.sharedkeyhint", ""),
            differ=attrs.get("local.differ", ""),
            metadata_only=only in _TRUE,
            metadata_exceptions=_texts(attrs, "local.metadatatransferexclude"),
        )


_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"", "0", "f", "F", "FALSE", "false", "False"})


def _texts(attrs: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A JSON list of texts; one or the other may be no UTF-8."""
    raw = attrs.get(name)
    if not raw:
        return ()
    import json  # which msgspec is not: texts may hold halves of surrogate pairs

    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if found is None and raw.strip() == "null":
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise BuildError(f"invalid value for {name}: {raw!r}", hint="it has to be a JSON list of texts")
    return tuple(found)


class Transferred(msgspec.Struct, frozen=True):
    """A directory that came from a client. It is the build's own: nobody changes it until the build ends.
    `digests` (sha256, by path) are of files of which the transfer has found them out; `attributes` the
    extended attributes of those files that have some at the client."""

    path: str
    digests: Mapping[str, bytes]
    attributes: Mapping[str, tuple[tuple[str, bytes], ...]] = {}


class LocalProvider(Protocol):
    """Where local directories come from that are not this machine's: a client that transfers them."""

    async def directory(self, wanted: LocalFiles, vertex: str) -> Transferred | None:
        """A directory with (at least) the files that are wanted. None when nobody offers it. Progress is
        shown on `vertex`."""
        ...


def scan(
    directory: str,
    *,
    store: Store | None,
    patterns: Callable[[tuple[str, ...]], PatternMatcher],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow: Sequence[str] = (),
    digests: Mapping[str, bytes] | None = None,
) -> HostTree:
    """The filtered tree; `digests` as `HostTree` has them. Raises `ContextError` for what cannot be read."""
    wanted = list(include)
    if follow:
        found = follow_paths(directory, follow)
        # Following everything is the same as no filter at all.
        wanted = [] if "" in found else [*wanted, *found]
        if not wanted and "" not in found:
            wanted = ["/nothing-is-wanted\0"]
    included = patterns(tuple(wanted)) if wanted else None
    split = [[part for part in pattern.split("/") if part] for pattern in wanted]
    excluded = patterns(tuple(exclude)) if exclude else None

    def below(path: str) -> bool:
        """Whether something below directory `path` can match an include pattern."""
        parts = path.split("/")
        for pattern in split:
            for have, want in zip(parts, pattern, strict=False):
                if want == "**":
                    return True
                if not (have == want or (has_wildcards(want) and match(want, have))):
                    break
            else:
                if len(pattern) > len(parts):
                    return True
        return False

    whole = "\0"  # below this all is included: the walk is in order, so one such directory is enough to know

    def keep(path: str, is_directory: bool) -> Literal["yes", "no", "descend"]:
        nonlocal whole
        if included is not None and not path.startswith(whole):
            if not included.matches(path):
                return "descend" if is_directory and below(path) else "no"
            if is_directory and included.can_skip_directory(path):
                whole = f"{path}/"
        if excluded is not None and excluded.matches(path):
            return "descend" if is_directory and not excluded.can_skip_directory(path) else "no"
        return "yes"

    return HostTree(directory, keep=keep if included or excluded else None, store=store, digests=digests)


def follow_paths(directory: str, paths: Sequence[str]) -> list[str]:
    """Patterns for `paths` and for what the symlinks on their way lead to; "" stands for the whole
    directory."""
    out: dict[str, None] = {}
    for path in paths:
        parts = [p for p in path.split("/") if p and p != "."]
        if not parts:
            return [""]
        _follow(directory, [], parts, out, 0)
    return list(out)


def _follow(root: str, done: list[str], todo: list[str], out: dict[str, None], links: int) -> None:
    while todo:
        part = todo[0]
        if part == "..":
            done = done[:-1]
            todo = todo[1:]
            continue
        if has_wildcards(part):
            out.setdefault("/".join((*done, *todo)))
            try:
                names = sorted(os.listdir(os.path.join(root, *done)))
            except OSError:
                return
            for name in names:
                # Plain entries are matched by the pattern itself; links have to be walked.
                if match(part, name) and os.path.islink(os.path.join(root, *done, name)):
                    _follow(root, done, [_escape(name), *todo[1:]], out, links)
                elif len(todo) > 1 and match(part, name):
                    _follow(root, [*done, name], todo[1:], out, links)
            return
        name = part.replace("\\", "") if "\\" in part else part
        here = [*done, name]
        try:
            target = os.readlink(os.path.join(root, *here))
        except OSError:
            done, todo = here, todo[1:]
            continue
        out.setdefault("/".join(_escape(p) for p in here))
        links += 1
        if links > _LINK_LIMIT:
            return
        if target.startswith("/"):
            done = []
        todo = [_escape(p) for p in target.split("/") if p and p != "."] + todo[1:]
    out.setdefault("/".join(_escape(p) for p in done))


def _escape(name: str) -> str:
    return "".join("\\" + c if c in "*?[\\" else c for c in name)
