"""What a git or HTTP source is just now, for clients that pin what they build from."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import UsageError
from anyarch.llb.ops import SourceOp
from anyarch.llb.protobuf import put_message
from anyarch.llb.wire import unmarshal_op
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from anyarch.engine.workbench import Workbench

__all__ = ["GitInfo", "HttpInfo", "checksum", "resolve_git", "resolve_http"]


class GitInfo(msgspec.Struct, frozen=True):
    """`commit` is empty unless the ref is an annotated tag, whose own object `checksum` then is."""

    ref: str
    checksum: str
    commit: str
    commit_object: bytes = b""
    tag_object: bytes = b""


class HttpInfo(msgspec.Struct, frozen=True):
    checksum: str
    filename: str
    modified: int | None


def _source(raw: bytes) -> SourceOp:
    """The op of a `pb.SourceOp` message. Raises `UsageError`."""
    kind = unmarshal_op(put_message(3, raw)).kind
    if not isinstance(kind, SourceOp):
        raise UsageError("malformed LLB: this is no source")
    return kind


async def resolve_git(bench: Workbench, raw: bytes, log_name: str, *, with_objects: bool = False) -> GitInfo:
    """`with_objects` fetches the commit, and the tag if there is one. Raises what asking the repository
    raises."""
    from anyarch.worker.git import git_source, lender

    op = _source(raw)
    worker = bench.worker
    source = git_source(op)
    name = log_name or f"[internal] resolve {op.identifier}"

    def ask() -> GitInfo:
        with lender(worker, op, Digest.of(name.encode())) as lent:
            found = worker.repositories.resolve(source, lent)
            objects = (b"", b"")
            if with_objects:
                objects = worker.repositories.objects(source, found, lent)
        commit = found.commit if found.commit != found.object else ""
        return GitInfo(found.ref, found.object, commit, *objects)

    async with bench.gateway.step(name):
        return await asyncio.to_thread(ask)


async def resolve_http(bench: Workbench, raw: bytes, log_name: str) -> HttpInfo:
    """The file is fetched, and known from then on. Raises what that raises."""
    from anyarch.worker.url import download

    op = _source(raw)
    name = log_name or f"[internal] resolve {op.identifier}"
    async with bench.gateway.step(name) as vertex:
        found = await asyncio.to_thread(download, bench.worker, op, vertex)
    modified: int | None = None
    if found.last_modified:
        try:
            modified = int(parsedate_to_datetime(found.last_modified).timestamp())
        except (ValueError, TypeError):
            modified = None
    return HttpInfo(found.digest, posixpath.basename(found.filename), modified)


async def checksum(bench: Workbench, digest: str, algorithm: str, suffix: bytes) -> str:
    """The digest of a blob of the store with `suffix` after it, which detached signatures are made of."""

    def compute() -> str:
        whole = hashlib.new(algorithm)
        with bench.store.content.open(digest) as stream:
            while chunk := stream.read(1 << 20):
                whole.update(chunk)
        whole.update(suffix)
        return f"{algorithm}:{whole.hexdigest()}"

    return await asyncio.to_thread(compute)
