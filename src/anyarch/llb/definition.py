"""`Definition`: a graph of ops as it travels from a frontend or client to the solver.

Ops are kept as the bytes they came in, because the digest of those bytes is their identity; metadata and
source locations ride beside them and are no part of any digest.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from anyarch.errors import UsageError
from anyarch.llb.ops import OpMetadata
from anyarch.llb.wire import marshal_definition, op_digest, unmarshal_definition, unmarshal_op

if TYPE_CHECKING:
    from anyarch.llb.ops import Input, Op

__all__ = ["Definition", "LineRange", "Location", "SourceInfo", "SourceMap"]

LineRange: TypeAlias = tuple[int, int] | tuple[int, int, int, int]
"""The first and the last line (1-based), and the characters where they begin and end, if those are told."""

Location: TypeAlias = tuple[int, tuple[LineRange, ...]]
"""An index into `SourceMap.infos`, and ranges there."""


class SourceInfo(msgspec.Struct, frozen=True):
    """A file that ops were made from."""

    filename: str
    data: bytes = b""
    language: str = ""
    definition: bytes = b""
    """The message `pb.Definition` of the tree that the file is read from; empty where that is not known."""

    def __repr__(self) -> str:
        return f"SourceInfo({self.filename!r}, {len(self.data)} bytes)"


class SourceMap(msgspec.Struct, frozen=True):
    """Where ops come from: the files, and for an op's digest its places in them."""

    infos: tuple[SourceInfo, ...] = ()
    locations: dict[str, tuple[Location, ...]] = {}


class Definition(msgspec.Struct, frozen=True, dict=True):
    """Ops in topological order, inputs first. The last one has no kind and a single input, the result.

    No ops at all is the empty result (scratch).
    """

    ops: tuple[bytes, ...] = ()
    metadata: dict[str, OpMetadata] = {}
    source: SourceMap = SourceMap()

    def __repr__(self) -> str:
        # Short, as asyncio writes the result of a task out whenever it looks at a signal handler.
        return f"Definition({len(self.ops)} ops)"

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The digest of each of `ops`."""
        return tuple([op_digest(raw) for raw in self.ops])

    @cached_property
    def decoded(self) -> dict[str, Op]:
        """All ops by digest, in the order of `ops`. Raises `UsageError`, `NotSupported`."""
        return {digest: unmarshal_op(raw) for digest, raw in zip(self.digests, self.ops, strict=True)}

    def op(self, digest: str) -> Op:
        """The op of that digest. Raises `UsageError` when the definition has none."""
        try:
            return self.decoded[digest]
        except KeyError:
            raise UsageError(
                f"malformed LLB: an input names {digest}, which the definition does not hold"
            ) from None

    def head(self) -> Input | None:
        """The result: output of an op, or None for scratch. Raises `UsageError` on a malformed last op."""
        if not self.ops:
            return None
        last = self.decoded[self.digests[-1]]
        if last.kind is not None or len(last.inputs) != 1:
            raise UsageError("malformed LLB: the last op must have no kind and one input")
        return last.inputs[0]

    def locations(self, digest: str) -> list[tuple[SourceInfo, tuple[LineRange, ...]]]:
        """The places in source files that the op comes from."""
        infos = self.source.infos
        return [
            (infos[i], ranges) for i, ranges in self.source.locations.get(digest, ()) if 0 <= i < len(infos)
        ]

    def marshal(self) -> bytes:
        """The message `pb.Definition`."""
        return marshal_definition(self)

    @classmethod
    def unmarshal(cls, raw: bytes) -> Definition:
        """Raises `UsageError` on bytes that are not a definition."""
        return unmarshal_definition(raw)
