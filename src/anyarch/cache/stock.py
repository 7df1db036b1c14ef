"""The cache keys of BuildKit's own solver, for operations whose key follows from their definition.

A record of BuildKit has the digest of `KEY@OUTPUT`, where KEY is the SHA-256 of a JSON document of the
operation (Go's encoding, fields in Go's order) or, for an image, of `buildkit.source.v0:` and the chain ID of
its layers. It links to the records of the inputs. That was read from its sources and compared with what its
daemon of August 2026 writes (`tests/engine/test_cache_stock.py` has values).

Covered are images, git and HTTP sources, RUN, file operations and merges whose inputs are covered. An input
may be known in several ways, of which each will do: what is copied or mounted is known by what it was made of
and the paths, and by its content where that is given (`cache.contents`); what comes from a build context by
its content alone.
"""

from __future__ import annotations

import base64
import os
import posixpath
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.cache.config import ForeignRecord, chains_of, described
from anyarch.cache.contents import accounts
from anyarch.llb.gojson import action_json, encode, filled, grant_json, owner_json
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
from anyarch.spec.digest import Digest
from anyarch.spec.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyarch.cache.config import CacheConfig
    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import CacheOpt, Mount, Op
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.platform import Platform

__all__ = [
    "CONTENT",
    "Matched",
    "StockKey",
    "content_record",
    "foreign_records",
    "match",
    "stock_keys",
]

_TREES = (MountType.BIND, MountType.CACHE)


CONTENT = "content:"
"""Begins what stands for a vertex where a record is that of a content: the digest of the record follows."""

Link = tuple[str, int, str]
"""A vertex (or content), its output, a selector."""


class StockKey(msgspec.Struct, frozen=True):
    """The record of one vertex: `digest` with `@OUTPUT` hashed for each output. `inputs` are, in the order of
    the operation's inputs, the links by which each is known. A source may be known by `others` too."""

    digest: str
    inputs: tuple[tuple[Link, ...], ...] = ()
    others: tuple[str, ...] = ()

    def record(self, output: int = 0) -> str:
        """The digest that a record for an output has."""
        return _record(self.digest, output)

    def records(self, output: int = 0) -> list[str]:
        return [_record(digest, output) for digest in (self.digest, *self.others)]


def _record(digest: str, output: int) -> str:
    return str(Digest.of(f"{digest}@{output}".encode()))


def content_record(digest: str) -> str:
    """The digest of the record of a content, whose own digest is given (`cache.contents`)."""
    return _record(digest, -1)


def stock_keys(
    definitions: Iterable[Definition],
    sources: Mapping[str, Sequence[str]],
    platform: Platform,
    contents: Mapping[str, Mapping[int, Sequence[str]]] | None = None,
) -> dict[str, StockKey]:
    """The keys of all vertices that have one, in topological order. `sources` has what BuildKit calls the
    source of a vertex; `platform` is the machine's; `contents` has for file operations and steps, by
    position, the digests of records of what they use of an input (`content_record`).
    """
    found: dict[str, StockKey] = {}
    contents = contents or {}
    for definition in definitions:
        for digest, op in definition.decoded.items():
            if digest in found:
                continue
            own = contents.get(digest, {})
            key = _key(op, sources.get(digest, ()), platform)
            if key is None:
                continue
            groups = []
            for number, (vertex, output, selector) in enumerate(link for (link,) in key.inputs):
                group = [(vertex, output, selector)] if vertex in found else []
                for record in own.get(number, ()):
                    found.setdefault(f"{CONTENT}{record}", StockKey(record))
                    group.append((f"{CONTENT}{record}", -1, ""))
                groups.append(tuple(group))
            if all(groups):
                found[digest] = msgspec.structs.replace(key, inputs=tuple(groups))
    return found


class Matched(msgspec.Struct, frozen=True):
    """What a document has for keys: by vertex the results (a chain of blobs for each output, None for one it
    does not have), and by vertex and input the records of contents that it knows the input by too. `records`
    are the vertices of which it has a record, be it without a result."""

    results: dict[str, tuple[Snapshot | None, ...]]
    contents: dict[str, dict[int, list[str]]]
    records: set[str]


def match(keys: Mapping[str, StockKey], config: CacheConfig, blobs: Mapping[str, Descriptor]) -> Matched:
    """What a document has for `keys`. A record is that of a vertex only when its links lead to records of
    the vertex's inputs."""
    # By digest and a record that the first input links to: a thousand equal steps on one another have one
    # digest.
    by_digest: dict[tuple[str, int], list[int]] = {}
    for number, record in enumerate(config.records):
        for link in {item.link for item in record.inputs[0]} if record.inputs else (-1,):
            by_digest.setdefault((record.digest, link), []).append(number)
    chain_of = chains_of(config, described(config, blobs))
    records: dict[tuple[str, int], set[int]] = {}
    found = Matched({}, {}, set())

    def below(links: Sequence[Link]) -> set[int]:
        return {number for vertex, output, _ in links for number in records.get((vertex, output), ())}

    def candidates(digest: str, key: StockKey) -> set[int]:
        links = below(key.inputs[0]) if key.inputs else {-1}
        return {number for link in links for number in by_digest.get((digest, link), ())}

    def fits(number: int, key: StockKey) -> bool:
        groups = config.records[number].inputs
        if not key.inputs:
            return not groups
        return len(groups) >= len(key.inputs) and all(
            any(
                item.selector == selector and item.link in records.get((vertex, output), ())
                for item in group
                for vertex, output, selector in links
            )
            for group, links in zip(groups, key.inputs, strict=False)
        )

    def learn(vertex: str, key: StockKey, numbers: Iterable[int]) -> None:
        for number in numbers:
            for position, links in enumerate(key.inputs):
                known = below(links)
                for item in config.records[number].inputs[position]:
                    if item.selector or not 0 <= item.link < len(config.records) or item.link in known:
                        continue
                    root = config.records[item.link]
                    if not root.inputs and links[0][2]:
                        found.contents.setdefault(vertex, {}).setdefault(position, []).append(root.digest)

    used: dict[str, set[int]] = {}
    for key in keys.values():
        for links in key.inputs:
            for at, output, _ in links:
                used.setdefault(at, set()).add(output)
    roots = {record.digest: number for number, record in enumerate(config.records) if not record.inputs}
    for vertex, key in keys.items():
        if vertex.startswith(CONTENT):
            records[vertex, -1] = {roots[key.digest]} if key.digest in roots else set()
            continue
        wanted = used.get(vertex, set()) | {0}
        outputs: dict[int, Snapshot] = {}
        for output in wanted:
            numbers = {
                number
                for digest in key.records(output)
                for number in candidates(digest, key)
                if fits(number, key)
            }
            records[vertex, output] = numbers
            learn(vertex, key, numbers)
            if numbers:
                found.records.add(vertex)
            if key.inputs:
                chains = [chain_of(config.records[number]) for number in sorted(numbers)]
                chain = next((chain for chain in chains if chain is not None), None)
                if chain is not None:
                    outputs[output] = chain
        if outputs:
            found.results[vertex] = tuple(outputs.get(number) for number in range(max(outputs) + 1))
    return found


def foreign_records(
    keys: Mapping[str, StockKey],
    outputs: Mapping[str, Sequence[Snapshot | None]],
    created_at: Callable[[str], float],
) -> list[ForeignRecord]:
    """What is to be written under `keys`: `outputs` gives the chains of blobs of a vertex, None where there
    is none, `created_at` the time of its result."""
    positions: dict[tuple[str, int], list[int]] = {}
    made: list[ForeignRecord] = []
    for vertex, key in keys.items():
        if vertex.startswith(CONTENT):
            positions[vertex, -1] = [len(made)]
            made.append(ForeignRecord(key.digest))
            continue
        chains = outputs.get(vertex)
        if chains is None:
            continue
        links = tuple(
            tuple(
                (selector, position)
                for at, output, selector in group
                for position in positions.get((at, output), ())
            )
            for group in key.inputs
        )
        if not all(links):
            continue
        for number, chain in enumerate(chains):
            kept = chain if key.inputs else None  # a base image is never a result
            born = created_at(vertex) if kept is not None else 0.0
            for digest in key.records(number):
                positions.setdefault((vertex, number), []).append(len(made))
                made.append(ForeignRecord(digest, links, kept, born))
    return made


def _key(op: Op, sources: Sequence[str], platform: Platform) -> StockKey | None:
    """The key of an operation, each input known by what it was made of."""
    match op.kind:
        case SourceOp():
            digests = [Digest.of(f"buildkit.source.v0:{name}".encode()) for name in sources]
            return StockKey(digests[0], others=tuple(digests[1:])) if digests else None
        case ExecOp():
            return _exec(op, op.kind, op.platform or platform)
        case FileOp():
            return _file(op, op.kind)
        case MergeOp():
            return _merge(op, op.kind)
    return None


def _exec(op: Op, kind: ExecOp, platform: Platform) -> StockKey | None:
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
        ((item.digest, item.index, _paths(selectors[number])),) for number, item in enumerate(op.inputs)
    )
    return StockKey(Digest.of(encode(document)), inputs)


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


def _file(op: Op, kind: FileOp) -> StockKey | None:
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
        actions.append(base64.b64encode(encode(made)).decode())
        indexes.append([item.input, item.secondary_input, item.output])
    document: dict[str, Any] = {"Type": "buildkit.file.v0", "Actions": actions}
    if not _is_usual(indexes):
        document["indexes"] = indexes
    inputs: list[tuple[Link, ...]] = []
    for number, edge in enumerate(op.inputs):
        if number in bases or number not in selected:
            inputs.append(((edge.digest, edge.index, ""),))
        else:
            paths = sorted(selected[number], key=os.fsencode, reverse=True)  # as its first versions had them
            inputs.append(((edge.digest, edge.index, _paths(paths)),))
    return StockKey(Digest.of(encode(document)), tuple(inputs))


def _merge(op: Op, kind: MergeOp) -> StockKey:
    document = {
        "Type": "buildkit.merge.v0",
        "Merge": filled(inputs=[filled(input=number) for number in kind.inputs]),
    }
    return StockKey(
        Digest.of(encode(document)), tuple(((item.digest, item.index, ""),) for item in op.inputs)
    )


def _paths(paths: Sequence[str]) -> str:
    """The selector of what is used of an input."""
    return str(Digest.of(b"\0".join(os.fsencode(path) for path in paths)))


def _is_usual(indexes: list[list[int]]) -> bool:
    """Each action on the result of the one before, the last giving the output: then they are left out."""
    count = len(indexes)
    for number, (first, second, output) in enumerate(indexes):
        if first != (0 if number == 0 else count + number - 1):
            return False
        if second not in (1, -1) or output != (0 if number == count - 1 else -1):
            return False
    return count > 0
