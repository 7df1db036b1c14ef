"""The cache keys of BuildKit's own solver, for operations whose key follows from their definition.

A record of BuildKit has the digest of `KEY@OUTPUT`, where KEY is the SHA-256 of a JSON document of the
operation (Go's encoding, fields in Go's order) or, for an image, of `buildkit.source.v0:` and the chain ID of
its layers. It links to the records of the inputs. That was read from its sources and compared with what its
daemon of August 2026 writes (`tests/unit/cache/test_stock.py` has values).

Covered are images, RUN, file operations and merges whose inputs are covered. What is copied or mounted from a
stage has, besides the key of its content, one of the stage and the paths. What comes from a build context has
the key of its content alone: it is covered where that is given (`cache.contents`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.cache.config import ForeignRecord, chains_of, described
from anyarch.cache.contents import accounts
from anyarch.llb.gojson import action_json, filled, grant_json, owner_json
from anyarch.llb.ops import (
    ActionCopy,
    ActionRm,
    ActionSymlink,
    ExecOp,
    FileOp,
    MergeOp,
    MountType,
    SourceOp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyarch.cache.config import CacheConfig
    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import CacheOpt, Mount, Op
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.platform import Platform
    from anyarch.spec.snapshot import Snapshot

__all__ = ["CONTENT", "StockKey", "chain_id", "foreign_records", "match", "stock_keys"]

_TREES = (MountType.BIND, MountType.CACHE)


CONTENT = "content:"
"""Begins what stands for a vertex where a record is that of a content."""


class StockKey(msgspec.Struct, frozen=True):
    """The record of one vertex: `digest` with `@OUTPUT` hashed for each output, `inputs` are (vertex,
    output, selector), in the order of the operation's inputs."""

    digest: str
    inputs: tuple[tuple[str, int, str], ...] = ()

    def record(self, output: int = 0) -> str:
        """The digest that a record for an output has."""
        return f"sha256:{hashlib.sha256(f'{self.digest}@{output}'.encode()).hexdigest()}"


def chain_id(diff_ids: Sequence[str]) -> str:
    """The digest that stands for a stack of layers (OCI image-spec config.md, "Layer ChainID")."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def stock_keys(
    definitions: Iterable[Definition],
    layers_of: Callable[[str], Sequence[str] | None],
    platform: Platform,
    contents: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, StockKey]:
    """The keys of all vertices that have one, in topological order. `layers_of` gives the diff IDs of an
    image source (by the vertex's digest), None when it is not known; `platform` is the machine's; `contents`
    has for file operations and steps the digests of what they use of inputs (by position) that have no key
    themselves (`cache.contents`).
    """
    found: dict[str, StockKey] = {}
    contents = contents or {}
    for definition in definitions:
        for digest, op in definition.decoded.items():
            if digest in found:
                continue
            key = _key(op, digest, layers_of, platform, contents.get(digest, {}))
            if key is None:
                continue
            for vertex, _, _ in key.inputs:
                if vertex.startswith(CONTENT):
                    found.setdefault(vertex, StockKey(vertex.removeprefix(CONTENT)))
            if all(vertex in found for vertex, _, _ in key.inputs):
                found[digest] = key
    return found


def match(
    keys: Mapping[str, StockKey], config: CacheConfig, blobs: Mapping[str, Descriptor]
) -> dict[str, tuple[Snapshot | None, ...]]:
    """The results (a chain of blobs for each output, None for one it does not have) that a document has for
    `keys`, by vertex. A record is that of a vertex only when its links lead to records of the vertex's
    inputs."""
    # By digest and a record that the first input links to: a thousand equal steps on one another have one
    # digest.
    by_digest: dict[tuple[str, int], list[int]] = {}
    for number, record in enumerate(config.records):
        for link in {item.link for item in record.inputs[0]} if record.inputs else (-1,):
            by_digest.setdefault((record.digest, link), []).append(number)
    chain_of = chains_of(config, described(config, blobs))
    records: dict[tuple[str, int], set[int]] = {}
    found: dict[str, tuple[Snapshot | None, ...]] = {}

    def candidates(digest: str, key: StockKey) -> Iterable[int]:
        below = records.get(key.inputs[0][:2], ()) if key.inputs else (-1,)
        return {number for link in below for number in by_digest.get((digest, link), ())}

    def fits(number: int, key: StockKey) -> bool:
        groups = config.records[number].inputs
        if not key.inputs:
            return not groups
        return len(groups) >= len(key.inputs) and all(
            any(
                item.selector == selector and item.link in records.get((vertex, output), ()) for item in group
            )
            for group, (vertex, output, selector) in zip(groups, key.inputs, strict=False)
        )

    used: dict[str, set[int]] = {}
    for key in keys.values():
        for at, output, _ in key.inputs:
            used.setdefault(at, set()).add(output)
    for vertex, key in keys.items():
        wanted = used.get(vertex, set()) | {0}
        outputs: dict[int, Snapshot] = {}
        for output in wanted:
            numbers = {number for number in candidates(key.record(output), key) if fits(number, key)}
            records[vertex, output] = numbers
            if key.inputs:
                chains = [chain_of(config.records[number]) for number in sorted(numbers)]
                chain = next((chain for chain in chains if chain is not None), None)
                if chain is not None:
                    outputs[output] = chain
        if outputs:
            found[vertex] = tuple(outputs.get(number) for number in range(max(outputs) + 1))
    return found


def foreign_records(
    keys: Mapping[str, StockKey],
    outputs: Mapping[str, Sequence[Snapshot | None]],
    created_at: Callable[[str], float],
) -> list[ForeignRecord]:
    """What is to be written under `keys`: `outputs` gives the chains of blobs of a vertex, None where there
    is none, `created_at` the time of its result."""
    positions: dict[tuple[str, int], int] = {}
    made: list[ForeignRecord] = []
    for vertex, key in keys.items():
        if vertex.startswith(CONTENT):
            positions[vertex, -1] = len(made)
            made.append(ForeignRecord(key.record(-1), (), None, 0.0))
            continue
        chains = outputs.get(vertex)
        if chains is None or any((at, output) not in positions for at, output, _ in key.inputs):
            continue
        links = tuple((selector, positions[at, output]) for at, output, selector in key.inputs)
        for number, chain in enumerate(chains):
            positions[vertex, number] = len(made)
            kept = chain if key.inputs else None  # a base image is never a result
            made.append(ForeignRecord(key.record(number), links, kept, created_at(vertex) if kept else 0.0))
    return made


def _key(
    op: Op,
    digest: str,
    layers_of: Callable[[str], Sequence[str] | None],
    platform: Platform,
    contents: Mapping[int, str],
) -> StockKey | None:
    match op.kind:
        case SourceOp(identifier=identifier) if identifier.startswith("docker-image://"):
            layers = layers_of(digest)
            if not layers:
                return None
            return StockKey(_sha(f"buildkit.source.v0:{chain_id(layers)}".encode()))
        case ExecOp():
            return _exec(op, op.kind, op.platform or platform, contents)
        case FileOp():
            return _file(op, op.kind, contents)
        case MergeOp():
            return _merge(op, op.kind)
    return None


def _exec(op: Op, kind: ExecOp, platform: Platform, contents: Mapping[int, str]) -> StockKey | None:
    roots = [mount for mount in kind.mounts if mount.dest == "/"]
    if len(roots) != 1 or roots[0].selector not in ("", "/"):
        return None
    selectors: dict[int, list[str]] = {}
    for mount in kind.mounts:
        if mount.input >= 0 and mount.mount_type in _TREES:
            selectors.setdefault(mount.input, []).append(posixpath.normpath("/" + mount.selector.lstrip("/")))
    if set(selectors) != set(range(len(op.inputs))):
        return None
    meta = kind.meta
    mounts: list[Any] = [_mount(mount) for mount in kind.mounts]
    root = roots[0]
    if len(mounts) == 1 and not root.readonly and not root.selector and not root.result_id:
        mounts = []  # as early versions had it, and the later ones kept
    document = {
        "Type": "buildkit.exec.v0",
        "Exec": filled(
            meta=filled(
                args=list(meta.args),
                env=list(meta.env),
                cwd=meta.cwd,
                user=meta.user,
                extraHosts=[{"Host": host.host} for host in meta.extra_hosts],
                hostname=meta.hostname,
                ulimit=[filled(Name=u.name, Soft=u.soft, Hard=u.hard) for u in meta.ulimits],
                cgroupParent=meta.cgroup_parent,
                removeMountStubsRecursive=meta.remove_mount_stubs_recursive,
                validExitCodes=list(meta.valid_exit_codes),
            ),
            mounts=mounts,
            network=int(kind.network),
            security=int(kind.security),
            secretenv=[
                filled(ID=item.id, name=item.name, optional=item.optional) for item in kind.secret_env
            ],
            cdiDevices=[filled(name=item.name, optional=item.optional) for item in kind.cdi_devices],
        ),
        "OS": platform.os,
        "Arch": platform.architecture,
        **filled(
            Variant=platform.variant,
            OSVersion=platform.os_version,
            OSFeatures=list(platform.os_features),
        ),
    }
    inputs = tuple(
        (f"{CONTENT}{contents[number]}", -1, "")
        if number in contents
        else (item.digest, item.index, _paths(selectors[number]))
        for number, item in enumerate(op.inputs)
    )
    return StockKey(_sha(_json(document)), inputs)


def _mount(mount: Mount) -> dict[str, Any]:
    secret, ssh, cache = mount.secret_opt, mount.ssh_opt, mount.cache_opt
    return filled(
        input=mount.input,
        dest=mount.dest,
        output=mount.output,
        readonly=mount.readonly,
        mountType=int(mount.mount_type),
        TmpfsOpt=None if mount.tmpfs_opt is None else filled(size=mount.tmpfs_opt.size),
        cacheOpt=None if cache is None else _cache(mount, cache),
        secretOpt=None if secret is None else grant_json(secret),
        SSHOpt=None if ssh is None else grant_json(ssh),
        resultID=mount.result_id,
        contentCache=int(mount.content_cache),
        keep=("TmpfsOpt", "cacheOpt", "secretOpt", "SSHOpt"),
    )


def _cache(mount: Mount, cache: CacheOpt) -> dict[str, Any]:
    """Name and sharing count only where they are the default ones."""
    is_default = int(cache.sharing) == 0 and mount.dest in (cache.id, cache.id.partition("/")[2])
    if not is_default or mount.mount_type is not MountType.CACHE:
        return {}
    return filled(ID=cache.id)


def _file(op: Op, kind: FileOp, contents: Mapping[int, str]) -> StockKey | None:
    actions, indexes = [], []
    bases: set[int] = set()
    selected: dict[int, list[str]] = {}
    for item in kind.actions:
        action = item.action
        owner: dict[str, Any] | None = None
        if not isinstance(action, ActionRm) and action.owner is not None:
            owner = owner_json(action.owner)
            if not isinstance(action, ActionSymlink):
                for named, path in accounts(action.owner):
                    selected.setdefault(named, []).append(path)
        bases.add(item.input)
        if isinstance(action, ActionCopy) and 0 <= item.secondary_input < len(op.inputs):
            source = action.src
            selected.setdefault(item.secondary_input, []).append(source)
            source = posixpath.basename(source.rstrip("/")) or ("/" if source else ".")
            action = msgspec.structs.replace(action, src=source)
        _, made = action_json(action, owner)
        actions.append(base64.b64encode(_json(made)).decode())
        indexes.append([item.input, item.secondary_input, item.output])
    document: dict[str, Any] = {"Type": "buildkit.file.v0", "Actions": actions}
    if not _is_usual(indexes):
        document["indexes"] = indexes
    inputs: list[tuple[str, int, str]] = []
    for number, edge in enumerate(op.inputs):
        if number in bases or number not in selected:
            inputs.append((edge.digest, edge.index, ""))
        elif number in contents:
            inputs.append((f"{CONTENT}{contents[number]}", -1, ""))
        else:
            paths = sorted(selected[number], key=os.fsencode, reverse=True)  # as its first versions had them
            inputs.append((edge.digest, edge.index, _paths(paths)))
    return StockKey(_sha(_json(document)), tuple(inputs))


def _merge(op: Op, kind: MergeOp) -> StockKey:
    document = {
        "Type": "buildkit.merge.v0",
        "Merge": filled(inputs=[filled(input=number) for number in kind.inputs]),
    }
    return StockKey(_sha(_json(document)), tuple((item.digest, item.index, "") for item in op.inputs))


def _paths(paths: Sequence[str]) -> str:
    """The selector of what is used of an input."""
    return _sha(b"\0".join(os.fsencode(path) for path in paths))


def _is_usual(indexes: list[list[int]]) -> bool:
    """Each action on the result of the one before, the last giving the output: then they are left out."""
    count = len(indexes)
    for number, (first, second, output) in enumerate(indexes):
        if first != (0 if number == 0 else count + number - 1):
            return False
        if second not in (1, -1) or output != (0 if number == count - 1 else -1):
            return False
    return count > 0


_GO_ESCAPES = (
    ("&", "\\u0026"),
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


def _json(document: Any) -> bytes:
    """As Go's encoding/json writes it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for plain, escaped in _GO_ESCAPES:
        text = text.replace(plain, escaped)
    return text.encode("utf-8", "replace")


def _sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
