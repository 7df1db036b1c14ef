"""Nodes of a graph under construction, and how they become a `Definition`.

A vertex is sealed (gets its bytes and digest) only when a definition is made, because an input may be
decided late: what is asked of the build context is known after all of a Dockerfile has been converted. A
sealed vertex is never encoded again, so definitions of several platforms that share vertices share the work
too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from anyarch.errors import UsageError
from anyarch.llb.definition import Definition, SourceMap
from anyarch.llb.ops import (
    Chown,
    DiffOp,
    ExecOp,
    FileAction,
    FileOp,
    Input,
    MergeOp,
    Op,
    OpMetadata,
    SourceOp,
    UserByName,
)
from anyarch.llb.wire import marshal_op
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.llb.definition import LineRange, Location, SourceInfo
    from anyarch.spec.platform import Platform

__all__ = ["Deferred", "Output", "SourcePlace", "Vertex", "define", "merge_metadata", "output_of"]

SourcePlace: TypeAlias = "tuple[SourceInfo, tuple[LineRange, ...]]"
"""A source file and ranges in it."""

Kind = ExecOp | SourceOp | FileOp | MergeOp | DiffOp


class Output:
    """One output of a vertex; what a state points at."""

    __slots__ = ("index", "vertex")

    def __init__(self, vertex: Vertex, index: int = 0) -> None:
        self.vertex = vertex
        self.index = index

    def resolved(self) -> Output | None:
        """The real output; None is scratch."""
        return self


class Deferred(Output):
    """An output that is decided later: `resolve` must be called before a definition is made."""

    __slots__ = ("_is_resolved", "_target")

    def __init__(self) -> None:
        self._is_resolved = False
        self._target: Output | None = None

    def resolve(self, target: Output | None) -> None:
        self._target = target
        self._is_resolved = True

    def resolved(self) -> Output | None:
        if not self._is_resolved:
            raise UsageError("a deferred input of the graph was never resolved")
        return self._target.resolved() if self._target is not None else None


class Vertex:
    """A node. `kind` refers to inputs by their index in `sources`; `distinct` says that equal inputs are
    listed once (exec and file ops, as Go's client does)."""

    __slots__ = ("digest", "distinct", "kind", "metadata", "op", "places", "platform", "raw", "sources")

    def __init__(
        self,
        kind: Kind,
        sources: Sequence[Output] = (),
        *,
        platform: Platform | None = None,
        metadata: OpMetadata | None = None,
        places: Sequence[SourcePlace] = (),
        distinct: bool = False,
    ) -> None:
        self.kind: Kind | None = kind
        self.sources = tuple(sources)
        self.platform = platform
        self.metadata = metadata or _NO_METADATA
        self.places = tuple(places)
        self.distinct = distinct
        self.op: Op | None = None
        self.raw = b""
        self.digest = ""

    @classmethod
    def of(cls, digest: str, raw: bytes, op: Op, sources: Sequence[Output], metadata: OpMetadata) -> Vertex:
        """A vertex that exists already, in a definition."""
        vertex = cls.__new__(cls)
        vertex.kind = None
        vertex.sources = tuple(sources)
        vertex.platform = op.platform
        vertex.metadata = metadata
        vertex.places = ()
        vertex.distinct = False
        vertex.op, vertex.raw, vertex.digest = op, raw, digest
        return vertex

    def seal(self) -> None:
        """Encode the op; all inputs must be sealed."""
        assert self.kind is not None
        inputs: list[Input] = []
        places: list[int] = []
        for source in self.sources:
            target = source.resolved()
            if target is None:
                places.append(-1)
                continue
            item = Input(target.vertex.digest, target.index)
            if self.distinct and item in inputs:
                places.append(inputs.index(item))
            else:
                places.append(len(inputs))
                inputs.append(item)
        kind = self.kind
        if places != list(range(len(self.sources))):
            kind = _moved(kind, places, len(inputs))
        self.op = Op(tuple(inputs), kind, self.platform, ())
        self.raw = marshal_op(self.op)
        self.digest = Digest.of(self.raw)


_NO_METADATA = OpMetadata()


def _moved(kind: Kind, places: list[int], count: int) -> Kind:
    """`kind` with its references to inputs renumbered; `count` is the new number of inputs."""

    def move(index: int) -> int:
        if index < 0:
            return index
        return places[index] if index < len(places) else index - len(places) + count

    def owner(value: Chown | None) -> Chown | None:
        if value is None:
            return None
        parts = (
            UserByName(part.name, move(part.input)) if isinstance(part, UserByName) else part
            for part in (value.user, value.group)
        )
        return Chown(*parts)

    if isinstance(kind, ExecOp):
        mounts = [msgspec.structs.replace(mount, input=move(mount.input)) for mount in kind.mounts]
        return msgspec.structs.replace(kind, mounts=tuple(mounts))
    if isinstance(kind, FileOp):
        actions = []
        for item in kind.actions:
            action = item.action
            changed = owner(getattr(action, "owner", None))
            if changed is not None:
                action = msgspec.structs.replace(action, owner=changed)
            actions.append(FileAction(action, move(item.input), move(item.secondary_input), item.output))
        return FileOp(tuple(actions))
    if isinstance(kind, MergeOp):
        return MergeOp(tuple([move(index) for index in kind.inputs]))
    if isinstance(kind, DiffOp):
        return DiffOp(move(kind.lower), move(kind.upper))
    return kind


def output_of(definition: Definition) -> Output | None:
    """The result of a definition that exists already, to go on from; None for the empty one. Raises
    `UsageError`."""
    head = definition.head()
    if head is None:
        return None
    made: dict[str, Vertex] = {}
    places: dict[str, list[SourcePlace]] = {
        digest: list(definition.locations(digest)) for digest in definition.digests
    }
    for digest, raw in zip(definition.digests, definition.ops, strict=True):
        op = definition.op(digest)
        if op.kind is None:
            continue
        sources = []
        for item in op.inputs:
            source = made.get(item.digest)
            if source is None:
                raise UsageError(
                    f"malformed LLB: {digest} needs {item.digest}, which does not come before it"
                )
            sources.append(Output(source, item.index))
        metadata = definition.metadata.get(digest, _NO_METADATA)
        vertex = made[digest] = Vertex.of(digest, raw, op, sources, metadata)
        vertex.places = tuple(places[digest])
    if head.digest not in made:
        raise UsageError(f"malformed LLB: its result {head.digest} is not in it")
    return Output(made[head.digest], head.index)


def define(output: Output | None) -> Definition:
    """The definition whose result is `output`, with all that it needs. None gives the empty definition."""
    head = output.resolved() if output is not None else None
    if head is None:
        return Definition()
    ops: dict[str, bytes] = {}
    decoded: dict[str, Op] = {}
    metadata: dict[str, OpMetadata] = {}
    infos = _Infos()
    locations: dict[str, tuple[Location, ...]] = {}
    for vertex in _ordered(head.vertex):
        digest = vertex.digest
        known = metadata.get(digest)
        metadata[digest] = vertex.metadata if known is None else merge_metadata(known, vertex.metadata)
        if vertex.places:
            found = [(infos.number(info), ranges) for info, ranges in vertex.places]
            locations[digest] = (*locations.get(digest, ()), *found)
        if digest not in ops:
            assert vertex.op is not None
            ops[digest] = vertex.raw
            decoded[digest] = vertex.op
    last = Op((Input(head.vertex.digest, head.index),), None, None, None)
    raw = marshal_op(last)
    digest = Digest.of(raw)
    ops[digest] = raw
    decoded[digest] = last
    metadata[digest] = OpMetadata(caps=("constraints", "platform"))
    definition = Definition(tuple(ops.values()), metadata, SourceMap(tuple(infos.items), locations))
    # What was just made need not be hashed and decoded again by the solver in this process.
    definition.__dict__["digests"] = tuple(ops)
    definition.__dict__["decoded"] = decoded
    return definition


class _Infos:
    """The files that vertices come from, each once."""

    def __init__(self) -> None:
        self.items: list[SourceInfo] = []
        self._numbers: dict[SourceInfo, int] = {}

    def number(self, info: SourceInfo) -> int:
        known = self._numbers.get(info)
        if known is None:
            same = (n for n, other in enumerate(self.items) if _is_same_file(info, other))
            known = self._numbers[info] = next(same, len(self.items))
            if known == len(self.items):
                self.items.append(info)
        return known


def _is_same_file(one: SourceInfo, other: SourceInfo) -> bool:
    """Whether they differ in nothing but what rides beside the ops that the file was read by: clients write
    that anew."""
    if (one.filename, one.language, one.data) != (other.filename, other.language, other.data):
        return False
    return Definition.unmarshal(one.definition).ops == Definition.unmarshal(other.definition).ops


def _ordered(head: Vertex) -> Iterable[Vertex]:
    """All vertices below `head` and itself, inputs first, each sealed. A loop, not recursion: chains get
    long."""
    done: dict[int, None] = {}
    result: list[Vertex] = []
    stack: list[tuple[Vertex, bool]] = [(head, False)]
    while stack:
        vertex, is_ready = stack.pop()
        if id(vertex) in done:
            continue
        if is_ready:
            done[id(vertex)] = None
            if not vertex.raw:
                vertex.seal()
            result.append(vertex)
            continue
        stack.append((vertex, True))
        for source in reversed(vertex.sources):
            target = source.resolved()
            if target is not None and id(target.vertex) not in done:
                stack.append((target.vertex, False))
    return result


def merge_metadata(first: OpMetadata, second: OpMetadata) -> OpMetadata:
    """Metadata of one op that was made twice: what `second` says wins."""
    if first == second:
        return first
    return OpMetadata(
        first.ignore_cache or second.ignore_cache,
        {**first.description, **second.description},
        second.export_cache if second.export_cache is not None else first.export_cache,
        tuple(sorted({*first.caps, *second.caps})),
        second.progress_group or first.progress_group,
        second.linux_resources or first.linux_resources,
    )
