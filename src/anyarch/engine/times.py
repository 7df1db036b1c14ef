"""When a source was made, for SOURCE_DATE_EPOCH: a commit's time, a download's, or that of the newest file in
an archive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.errors import AnyarchError
from anyarch.llb.ops import SourceOp
from anyarch.worker.graph import load

if TYPE_CHECKING:
    from anyarch.llb.definition import Definition
    from anyarch.snapshot.tree import TreeView
    from anyarch.solver.solver import Solver
    from anyarch.worker.worker import Worker

__all__ = ["source_time"]

_SECOND_NS = 1_000_000_000


async def source_time(solver: Solver, worker: Worker, definition: Definition, vertex: str) -> int | None:
    """Seconds since 1970 of the only source in `definition`; None if it has no time, or there are several.

    `vertex` is where progress is shown. Raises what fetching the source raises.
    """
    sources = [op.kind for op in definition.decoded.values() if isinstance(op.kind, SourceOp)]
    if len(sources) != 1:
        return None
    source = sources[0]
    scheme = source.identifier.partition("://")[0]
    if scheme == "git":
        from anyarch.worker.git import commit_time

        return await asyncio.to_thread(commit_time, worker, source, vertex)
    if scheme not in ("http", "https"):
        return None
    edge = load(solver, worker, definition)
    if edge is None:
        return None
    (result,) = await solver.solve([edge])
    return await asyncio.to_thread(_download_time, worker.view(result))


def _download_time(tree: TreeView) -> int | None:
    for node in tree.walk(""):
        entry = node.entry
        if entry.kind is Kind.FILE:
            # What has no Last-Modified was given the time 0.
            return entry.mtime_ns // _SECOND_NS or _newest(tree, entry.path)
    return None


def _newest(tree: TreeView, path: str) -> int | None:
    """The newest regular file in an archive, None if it is none."""
    from anyarch.archive.compression import open_decompressed
    from anyarch.archive.tar_reader import read_tar

    node = tree.lookup(path)
    assert node is not None
    newest: int | None = None
    try:
        with tree.open(node) as packed, open_decompressed(packed) as plain:
            for entry, _ in read_tar(plain, whiteouts=False):
                if entry.kind is Kind.FILE:
                    newest = max(newest or 0, entry.mtime_ns // _SECOND_NS)
    except AnyarchError:
        return None
    return newest
