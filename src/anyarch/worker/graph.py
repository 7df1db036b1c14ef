"""From a definition to the solver's vertices: each op meets the code that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from anyarch.errors import BuildError, SourceRange, error_context
from anyarch.llb.ops import (
    BuildOp,
    DiffOp,
    ExecOp,
    FileOp,
    MergeOp,
    MountType,
    OpMetadata,
    PassthroughOp,
    SourceOp,
)
from anyarch.llb.wire import unmarshal_op
from anyarch.solver.vertex import Edge, Vertex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import Op
    from anyarch.solver.solver import Solver
    from anyarch.solver.vertex import Operation
    from anyarch.worker.worker import Worker

__all__ = ["load"]

_NO_METADATA = OpMetadata()
_LONG_NAME = 8192


def load(solver: Solver, worker: Worker, definition: Definition) -> Edge | None:
    """Make the vertices of `definition` known to `solver`; the edge that is its result, None for the empty
    root.

    Vertices that are known already are shared. Cache mounts of steps that are to run without cache begin
    anew. Raises `BuildError` for a graph that is not whole.
    """
    if not definition.ops:
        return None
    last: Op | None = None
    anew: set[str] = set()
    for digest, raw in zip(definition.digests, definition.ops, strict=True):
        if digest in solver:
            continue
        op = unmarshal_op(raw)
        if op.kind is None:
            last = op
            continue
        for item in op.inputs:
            if item.digest not in solver:
                raise BuildError(
                    f"invalid build graph: {digest} needs {item.digest}, which does not come before it"
                )
        worker.acceleration.learn(digest, op)
        metadata = definition.metadata.get(digest, _NO_METADATA)
        if metadata.ignore_cache and isinstance(op.kind, ExecOp):
            anew |= _caches_of(op.kind)
        source = _source_of(definition, digest)
        platform = str(op.platform) if op.platform is not None else None
        with error_context(vertex=digest, source=source, platform=platform):
            operation = _operation(solver, worker, op, digest, metadata)
        solver.add(
            Vertex(
                digest,
                operation,
                name=metadata.description.get("llb.customname")
                or default_name(op, [solver.vertex(item.digest).name for item in op.inputs]),
                inputs=[Edge(item.digest, item.index) for item in op.inputs],
                ignore_cache=metadata.ignore_cache,
                source=source,
                platform=platform,
            )
        )
    if anew:
        worker.drop_cache_mounts(anew)
    if last is None:
        last = unmarshal_op(definition.ops[-1])
    if len(last.inputs) != 1:
        raise BuildError("invalid build graph: its last operation has to have one input")
    if last.inputs[0].digest not in solver:
        raise BuildError(
            f"invalid build graph: its result is {last.inputs[0].digest}, which it does not hold"
        )
    return Edge(last.inputs[0].digest, last.inputs[0].index)


def _caches_of(op: ExecOp) -> set[str]:
    """The ids of its cache mounts."""
    mounts = [mount for mount in op.mounts if mount.mount_type is MountType.CACHE]
    return {mount.cache_opt.id for mount in mounts if mount.cache_opt is not None}


def _operation(solver: Solver, worker: Worker, op: Op, digest: str, metadata: OpMetadata) -> Operation:
    kind = op.kind
    match kind:
        case SourceOp():
            from anyarch.worker.ops.source import make_source

            return make_source(worker, kind, op.platform, digest)
        case ExecOp():
            from anyarch.worker.ops.exec import ExecOperation

            return ExecOperation(
                worker, kind, op.platform, len(op.inputs), digest, limits=metadata.linux_resources
            )
        case FileOp():
            from anyarch.worker.ops.file import FileOperation

            return FileOperation(worker, kind, len(op.inputs))
        case MergeOp():
            from anyarch.worker.ops.merge import MergeOperation

            return MergeOperation(worker, kind, len(op.inputs))
        case DiffOp():
            from anyarch.worker.ops.merge import DiffOperation

            return DiffOperation(worker, kind, len(op.inputs))
        case BuildOp():
            from anyarch.worker.ops.build import BuildOperation

            return BuildOperation(worker, solver, kind, len(op.inputs), digest)
        case PassthroughOp():
            from anyarch.worker.ops.merge import PassthroughOperation

            return PassthroughOperation(kind, len(op.inputs))
        case None:
            raise BuildError("invalid build graph: an operation of no kind")
        case _:
            assert_never(kind)


def default_name(op: Op, names: Sequence[str]) -> str:
    """How a vertex without a name of its own is shown; `names` are those of its inputs. Names of names of
    names would double with each operation."""
    name = _full_name(op, names)
    return name if len(name) <= _LONG_NAME else name[:_LONG_NAME] + "…"


def _full_name(op: Op, names: Sequence[str]) -> str:
    from anyarch.llb.ops import ActionCopy, ActionMkdir, ActionMkfile, ActionRm

    match op.kind:
        case SourceOp(identifier=identifier):
            return identifier
        case ExecOp(meta=meta):
            return " ".join(meta.args)
        case FileOp(actions=actions):
            names = []
            for step in actions:
                action = step.action
                if isinstance(action, ActionCopy):
                    names.append(f"copy {action.src} {action.dest}")
                elif isinstance(action, ActionMkdir):
                    names.append(f"mkdir {action.path}")
                elif isinstance(action, ActionMkfile):
                    names.append(f"mkfile {action.path}")
                elif isinstance(action, ActionRm):
                    names.append(f"rm {action.path}")
                else:
                    names.append(f"symlink {action.newpath} -> {action.oldpath}")
            return ", ".join(names)
        case MergeOp():
            return f"merge ({', '.join(names)})"
        case DiffOp(lower=lower, upper=upper):
            pair = [names[index] if 0 <= index < len(names) else "scratch" for index in (lower, upper)]
            return f"diff {pair[0]} -> {pair[1]}"
        case PassthroughOp(id=name):
            return f"passthrough {name}"
        case BuildOp():
            return "build"
    return "unknown"


def _source_of(definition: Definition, digest: str) -> SourceRange | None:
    first: SourceRange | None = None
    others: list[SourceRange] = []
    for info, ranges in reversed(definition.locations(digest)):
        if not ranges:
            continue
        start, end = ranges[0][0], ranges[-1][1]
        first = SourceRange(
            info.filename,
            start,
            max(start, end),
            data=info.data,
            definition=info.definition,
            language=info.language,
            ranges=[(*one, 0, 0)[:4] for one in ranges] if any(len(one) > 2 for one in ranges) else (),
            others=tuple(others),
        )
        others.insert(0, first)
    return first
