"""The digest of a tree's content, by which results that turn out equal are told to be equal.

What counts is what a container could tell apart, except times: names, kinds, modes, owners, link targets,
device numbers, extended attributes and contents. Of the attributes, those in `security.` and `system.` are
the machine's own and do not count, but file capabilities do (engine.md 3.3).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.errors import StoreError
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyarch.archive.entry import Entry
    from anyarch.snapshot.tree import Node

__all__ = ["counts", "digest_nodes"]

_VERSION = b"anyarch content 1\n"
_DEVICES = frozenset({Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE})


def digest_nodes(
    top: str, nodes: Iterable[tuple[str, Node]], digests: Mapping[int, Mapping[str, bytes]]
) -> Digest:
    """Digest of `nodes`: pairs of the path under which a node shows (at or below `top`) and the node, hard
    links replaced by their file. `digests` has what the entries themselves do not know, by position and
    path."""
    total = hashlib.sha256(_VERSION)
    cut = len(top) + 1 if top else 0
    batch: list[bytes] = []
    for path, node in nodes:
        entry = node.entry
        content = entry.digest
        if entry.kind is Kind.FILE and not content:
            content = digests[node.position][entry.path]
        batch.append(_record(_raw(path[cut:]), entry, content))
        if len(batch) >= 4096:
            total.update(b"".join(batch))
            batch.clear()
    total.update(b"".join(batch))
    return Digest.from_hex(total.hexdigest())


def _record(name: bytes, entry: Entry, content: bytes) -> bytes:
    """One entry as bytes that no other entry has: names and targets hold no NUL, the rest has a fixed
    form."""
    kind = entry.kind
    head = b"%b\0%d %o %d %d" % (name, kind, entry.mode, entry.uid, entry.gid)
    if entry.xattrs:
        head += b"".join(
            b" %d:%b=%d:%b" % (len(raw), raw, len(value), value)
            for raw, value in ((_raw(key), value) for key, value in entry.xattrs if counts(key))
        )
    match kind:
        case Kind.FILE:
            if len(content) != 32:
                raise StoreError(f"{entry.path}: content without a digest")
            return head + b"\0" + content
        case Kind.SYMLINK:
            return head + b"\0" + _raw(entry.linkname) + b"\0"
        case _ if kind in _DEVICES:
            return head + b"\0%d %d\0" % (entry.major, entry.minor)
    return head + b"\0\0"


def _raw(text: str) -> bytes:
    """Entries speak UTF-8 whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def counts(xattr: str) -> bool:
    """Whether an extended attribute is the file's own."""
    return xattr == "security.capability" or not xattr.startswith(("security.", "system."))
