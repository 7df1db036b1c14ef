"""The graph of a build as JSON, step by step: what provenance with `mode=max` tells of how a result was made.

Names of fields are those of BuildKit's `solver/pb/ops.proto`, written as Go writes such a message.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from anyarch.llb.gojson import action_json, filled, grant_json, owner_json
from anyarch.llb.ops import (
    ActionRm,
    BuildOp,
    DiffOp,
    ExecOp,
    FileOp,
    MergeOp,
    PassthroughOp,
    SourceOp,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import FileAction, Mount, Op
    from anyarch.spec.platform import Platform

__all__ = ["Steps", "steps_of"]

_NOT_TOLD = ("local.session", "local.unique")


class Steps(msgspec.Struct, frozen=True):
    """`numbers` are those of the steps, by digest."""

    config: dict[str, Any]
    numbers: dict[str, int]
    source: dict[str, Any] | None


def steps_of(definition: Definition) -> Steps:
    """Raises `UsageError` for a graph that is not whole."""
    from anyarch.llb.definition import Definition as Whole

    steps, numbers = _steps(definition)
    config = {"llbDefinition": steps, "digestMapping": _mapping(numbers)}
    source: dict[str, Any] | None = None
    if definition.source.infos:
        infos = []
        for info in definition.source.infos:
            told: dict[str, Any] = {"filename": info.filename}
            if info.language:
                told["language"] = info.language
            told["data"] = b64encode(info.data).decode()
            if info.definition:
                own, own_numbers = _steps(Whole.unmarshal(info.definition))
                told |= {"llbDefinition": own, "digestMapping": _mapping(own_numbers)}
            infos.append(told)
        source = {"locations": _locations(definition, numbers), "infos": infos}
    return Steps(config, numbers, source)


def _mapping(numbers: Mapping[str, int]) -> dict[str, str]:
    return {digest: f"step{number}" for digest, number in sorted(numbers.items())}


def _locations(definition: Definition, numbers: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for digest, places in definition.source.locations.items():
        if digest not in numbers:
            continue
        told = []
        for index, ranges in places:
            place: dict[str, Any] = {"sourceIndex": index} if index else {}
            place["ranges"] = [_range(*one) for one in ranges]
            told.append(place)
        found[f"step{numbers[digest]}"] = {"locations": told} if told else {}
    return dict(sorted(found.items()))


def _range(start: int, end: int, first: int = 0, last: int = 0) -> dict[str, Any]:
    begins, ends = {"line": start}, {"line": end}
    if first:
        begins["character"] = first
    if last:
        ends["character"] = last
    return {"start": begins, "end": ends}


def _steps(definition: Definition) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Depth first, inputs before what takes them; the last one names the result."""
    if not definition.ops:
        return [], {}
    definition.head()  # that there is one
    numbers: dict[str, int] = {}
    stack: list[tuple[str, bool]] = [(definition.digests[-1], False)]
    while stack:
        digest, is_done = stack.pop()
        if digest in numbers:
            continue
        if is_done:
            numbers[digest] = len(numbers)
            continue
        stack.append((digest, True))
        stack += [(item.digest, False) for item in reversed(definition.op(digest).inputs)]
    found = []
    for digest, number in numbers.items():
        op = definition.op(digest)
        step: dict[str, Any] = {"id": f"step{number}", "op": _op(op)}
        if op.inputs:
            step["inputs"] = [f"step{numbers[item.digest]}:{item.index}" for item in op.inputs]
        found.append(step)
    return found, numbers


def _op(op: Op) -> dict[str, Any]:
    kind = op.kind
    match kind:
        case None:
            own: dict[str, Any] = {}
        case SourceOp():
            attrs = {key: value for key, value in sorted(kind.attrs.items()) if key not in _NOT_TOLD}
            own = {"source": filled(identifier=kind.identifier, attrs=attrs)}
        case ExecOp():
            own = {"exec": _exec(kind)}
        case FileOp():
            own = {"file": {"actions": [_file_action(item) for item in kind.actions]}}
        case BuildOp():
            inputs = {name: filled(input=index) for name, index in sorted(kind.inputs.items())}
            attrs = dict(sorted(kind.attrs.items()))
            own = {"build": filled(builder=kind.builder, inputs=inputs, attrs=attrs)}
        case MergeOp():
            own = {"merge": {"inputs": [filled(input=index) for index in kind.inputs]}}
        case DiffOp():
            own = {"diff": {"lower": filled(input=kind.lower), "upper": filled(input=kind.upper)}}
        case PassthroughOp():
            own = {"passthrough": filled(id=kind.id, outputs=list(kind.outputs))}
        case _:
            assert_never(kind)
    found: dict[str, Any] = {"Op": own}
    if op.platform is not None:
        found["platform"] = _platform(op.platform)
    if op.constraints is not None:
        found["constraints"] = filled(filter=list(op.constraints))
    return found


def _platform(platform: Platform) -> dict[str, Any]:
    return filled(
        Architecture=platform.architecture,
        OS=platform.os,
        Variant=platform.variant,
        OSVersion=platform.os_version,
        OSFeatures=list(platform.os_features),
    )


def _exec(op: ExecOp) -> dict[str, Any]:
    meta = op.meta
    proxy = meta.proxy_env
    return filled(
        meta=filled(
            args=list(meta.args),
            env=list(meta.env),
            cwd=meta.cwd,
            user=meta.user,
            proxy_env=filled(**msgspec.structs.asdict(proxy)) if proxy is not None else None,
            extraHosts=[filled(Host=item.host, IP=item.ip) for item in meta.extra_hosts],
            hostname=meta.hostname,
            ulimit=[filled(Name=item.name, Soft=item.soft, Hard=item.hard) for item in meta.ulimits],
            cgroupParent=meta.cgroup_parent,
            removeMountStubsRecursive=meta.remove_mount_stubs_recursive,
            validExitCodes=list(meta.valid_exit_codes),
        ),
        mounts=[_mount(item) for item in op.mounts],
        network=int(op.network),
        security=int(op.security),
        secretenv=[filled(ID=item.id, name=item.name, optional=item.optional) for item in op.secret_env],
        cdiDevices=[filled(name=item.name, optional=item.optional) for item in op.cdi_devices],
    )


def _mount(mount: Mount) -> dict[str, Any]:
    grants = {}
    for name, lent in (("secretOpt", mount.secret_opt), ("SSHOpt", mount.ssh_opt)):
        if lent is not None:
            grants[name] = grant_json(lent)
    found = filled(
        input=mount.input,
        selector=mount.selector,
        dest=mount.dest,
        output=mount.output,
        readonly=mount.readonly,
        mountType=int(mount.mount_type),
        contentCache=int(mount.content_cache),
    )
    if mount.tmpfs_opt is not None:
        found["TmpfsOpt"] = filled(size=mount.tmpfs_opt.size)
    if mount.cache_opt is not None:
        found["cacheOpt"] = filled(ID=mount.cache_opt.id, sharing=int(mount.cache_opt.sharing))
    return found | grants


def _file_action(item: FileAction) -> dict[str, Any]:
    action = item.action
    owner = None if isinstance(action, ActionRm) or action.owner is None else owner_json(action.owner)
    name, own = action_json(action, owner or None)
    return {
        "input": item.input,
        "secondaryInput": item.secondary_input,
        "output": item.output,
        "Action": {name: own},
    }
