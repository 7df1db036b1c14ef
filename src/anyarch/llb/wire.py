"""Protobuf bytes of LLB, exactly as Go's deterministic marshaller writes them.

The digest of an op is that of these bytes, so they must not differ in one bit from what the Go client makes
of the same op: fields by number, default values absent, maps sorted by key with key and value always
written, negative numbers as ten-byte varints, and the members of `Op`'s oneof after all its other fields
(field tables: docs/dev/llb.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from anyarch.errors import UsageError
from anyarch.llb.decode import map_entry, text_map, unmarshal_op
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    BuildOp,
    DiffOp,
    ExecOp,
    FileOp,
    LinuxResources,
    MergeOp,
    OpMetadata,
    PassthroughOp,
    SourceOp,
    UserByName,
)
from anyarch.llb.protobuf import (
    collect,
    fields,
    put_bool,
    put_bytes,
    put_int,
    put_message,
    put_message_map,
    put_str,
    put_str_map,
    put_strs,
    signed,
    text,
    varint,
)
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyarch.llb.definition import Definition, LineRange, Location
    from anyarch.llb.ops import (
        Chown,
        FileAction,
        Input,
        Meta,
        Mount,
        Op,
        SecretOpt,
        SSHOpt,
    )
    from anyarch.spec.platform import Platform

__all__ = [
    "marshal_definition",
    "marshal_op",
    "op_digest",
    "unmarshal_definition",
    "unmarshal_op",
]


def op_digest(op: Op | bytes) -> Digest:
    """The identity of an op: the sha256 of its wire bytes."""
    return Digest.of(op if isinstance(op, bytes) else marshal_op(op))


# --- ops: encode ------------------------------------------------------------------------------------------


def marshal_op(op: Op) -> bytes:
    """The wire bytes of `op`."""
    parts = [_input(item) for item in op.inputs]
    if op.platform is not None:
        parts.append(put_message(10, _platform(op.platform)))
    kind = op.kind
    if op.constraints or (op.constraints is not None and kind is not None):
        parts.append(put_message(11, put_strs(1, op.constraints)))
    match kind:
        case None:
            pass
        case ExecOp():
            parts.append(put_message(2, _exec(kind)))
        case SourceOp():
            parts.append(put_message(3, put_str(1, kind.identifier) + put_str_map(2, kind.attrs)))
        case FileOp():
            parts.append(
                put_message(4, b"".join([put_message(2, _file_action(action)) for action in kind.actions]))
            )
        case BuildOp():
            inputs = {name: put_int(1, index) for name, index in kind.inputs.items()}
            parts.append(
                put_message(
                    5, put_int(1, kind.builder) + put_message_map(2, inputs) + put_str_map(4, kind.attrs)
                )
            )
        case MergeOp():
            parts.append(
                put_message(6, b"".join([put_message(1, put_int(1, index)) for index in kind.inputs]))
            )
        case DiffOp():
            parts.append(
                put_message(
                    7, put_message(1, put_int(1, kind.lower)) + put_message(2, put_int(1, kind.upper))
                )
            )
        case PassthroughOp():
            outputs = b"".join([varint(index) for index in kind.outputs])
            packed = put_message(2, outputs) if outputs else b""
            parts.append(put_message(8, put_str(1, kind.id) + packed))
        case _:
            assert_never(kind)
    return b"".join(parts)


def _input(item: Input) -> bytes:
    return put_message(1, put_str(1, item.digest) + put_int(2, item.index))


_platforms: dict[Platform, bytes] = {}


def _platform(platform: Platform) -> bytes:
    data = _platforms.get(platform)
    if data is None:
        data = _platforms[platform] = (
            put_str(1, platform.architecture)
            + put_str(2, platform.os)
            + put_str(3, platform.variant)
            + put_str(4, platform.os_version)
            + put_strs(5, platform.os_features)
        )
    return data


def _exec(op: ExecOp) -> bytes:
    parts = [put_message(1, _meta(op.meta))]
    parts += [put_message(2, _mount(mount)) for mount in op.mounts]
    parts.append(put_int(3, op.network))
    parts.append(put_int(4, op.security))
    for env in op.secret_env:
        parts.append(put_message(5, put_str(1, env.id) + put_str(2, env.name) + put_bool(3, env.optional)))
    for device in op.cdi_devices:
        parts.append(put_message(6, put_str(1, device.name) + put_bool(2, device.optional)))
    return b"".join(parts)


def _meta(meta: Meta) -> bytes:
    parts = [put_strs(1, meta.args), put_strs(2, meta.env), put_str(3, meta.cwd), put_str(4, meta.user)]
    proxy = meta.proxy_env
    if proxy is not None:
        data = (
            put_str(1, proxy.http_proxy)
            + put_str(2, proxy.https_proxy)
            + put_str(3, proxy.ftp_proxy)
            + put_str(4, proxy.no_proxy)
            + put_str(5, proxy.all_proxy)
        )
        parts.append(put_message(5, data))
    parts += [put_message(6, put_str(1, host.host) + put_str(2, host.ip)) for host in meta.extra_hosts]
    parts.append(put_str(7, meta.hostname))
    parts += [
        put_message(9, put_str(1, limit.name) + put_int(2, limit.soft) + put_int(3, limit.hard))
        for limit in meta.ulimits
    ]
    parts.append(put_str(10, meta.cgroup_parent))
    parts.append(put_bool(11, meta.remove_mount_stubs_recursive))
    if meta.valid_exit_codes:
        parts.append(put_message(12, b"".join([varint(code) for code in meta.valid_exit_codes])))
    return b"".join(parts)


def _mount(mount: Mount) -> bytes:
    parts = [
        put_int(1, mount.input),
        put_str(2, mount.selector),
        put_str(3, mount.dest),
        put_int(4, mount.output),
        put_bool(5, mount.readonly),
        put_int(6, mount.mount_type),
    ]
    if mount.tmpfs_opt is not None:
        parts.append(put_message(19, put_int(1, mount.tmpfs_opt.size)))
    if mount.cache_opt is not None:
        parts.append(put_message(20, put_str(1, mount.cache_opt.id) + put_int(2, mount.cache_opt.sharing)))
    if mount.secret_opt is not None:
        parts.append(put_message(21, _granted(mount.secret_opt)))
    if mount.ssh_opt is not None:
        parts.append(put_message(22, _granted(mount.ssh_opt)))
    parts.append(put_str(23, mount.result_id))
    parts.append(put_int(24, mount.content_cache))
    return b"".join(parts)


def _granted(opt: SecretOpt | SSHOpt) -> bytes:
    return (
        put_str(1, opt.id)
        + put_int(2, opt.uid)
        + put_int(3, opt.gid)
        + put_int(4, opt.mode)
        + put_bool(5, opt.optional)
    )


def _file_action(item: FileAction) -> bytes:
    head = put_int(1, item.input) + put_int(2, item.secondary_input) + put_int(3, item.output)
    action = item.action
    match action:
        case ActionCopy():
            return head + put_message(4, _copy(action))
        case ActionMkfile():
            data = put_str(1, action.path) + put_int(2, action.mode) + put_bytes(3, action.data)
            return head + put_message(5, data + _owner(4, action.owner) + put_int(5, action.timestamp))
        case ActionMkdir():
            data = put_str(1, action.path) + put_int(2, action.mode) + put_bool(3, action.make_parents)
            return head + put_message(6, data + _owner(4, action.owner) + put_int(5, action.timestamp))
        case ActionRm():
            data = (
                put_str(1, action.path)
                + put_bool(2, action.allow_not_found)
                + put_bool(3, action.allow_wildcard)
            )
            return head + put_message(7, data)
        case ActionSymlink():
            data = put_str(1, action.oldpath) + put_str(2, action.newpath)
            return head + put_message(8, data + _owner(3, action.owner) + put_int(4, action.timestamp))
        case _:
            assert_never(action)


def _copy(action: ActionCopy) -> bytes:
    return b"".join(
        [
            put_str(1, action.src),
            put_str(2, action.dest),
            _owner(3, action.owner),
            put_int(4, action.mode),
            put_bool(5, action.follow_symlink),
            put_bool(6, action.dir_copy_contents),
            put_bool(7, action.attempt_unpack_docker_compat),
            put_bool(8, action.create_dest_path),
            put_bool(9, action.allow_wildcard),
            put_bool(10, action.allow_empty_wildcard),
            put_int(11, action.timestamp),
            put_strs(12, action.include_patterns),
            put_strs(13, action.exclude_patterns),
            put_bool(14, action.always_replace_existing_dest_paths),
            put_str(15, action.mode_str),
            put_strs(16, action.required_paths),
        ]
    )


def _owner(number: int, owner: Chown | None) -> bytes:
    if owner is None:
        return b""
    data = b""
    if owner.user is not None:
        data += put_message(1, _user(owner.user))
    if owner.group is not None:
        data += put_message(2, _user(owner.group))
    return put_message(number, data)


def _user(user: int | UserByName) -> bytes:
    if isinstance(user, UserByName):
        return put_message(1, put_str(1, user.name) + put_int(2, user.input))
    return b"\x10" + varint(user)  # a oneof member: written even when it is 0


# --- definitions ------------------------------------------------------------------------------------------


def marshal_definition(definition: Definition) -> bytes:
    """The message `pb.Definition`."""
    parts = [put_message(1, raw) for raw in definition.ops]
    parts.append(
        put_message_map(2, {digest: _metadata(value) for digest, value in definition.metadata.items()})
    )
    source = definition.source
    if source.infos or source.locations:
        infos = [
            put_message(
                2,
                put_str(1, info.filename)
                + put_bytes(2, info.data)
                + put_bytes(3, info.definition)
                + put_str(4, info.language),
            )
            for info in source.infos
        ]
        locations = {digest: _locations(items) for digest, items in source.locations.items()}
        parts.append(put_message(3, put_message_map(1, locations) + b"".join(infos)))
    return b"".join(parts)


def _locations(items: Iterable[Location]) -> bytes:
    parts = []
    for index, ranges in items:
        lines = []
        for start, end, *columns in ranges:
            first, last = columns or (0, 0)
            ends = put_message(1, _position(start, first)) + put_message(2, _position(end, last))
            lines.append(put_message(2, ends))
        parts.append(put_message(1, put_int(1, index) + b"".join(lines)))
    return b"".join(parts)


def _position(line: int, column: int) -> bytes:
    return put_int(1, line) + put_int(2, column)


def _metadata(value: OpMetadata) -> bytes:
    parts = [put_bool(1, value.ignore_cache), put_str_map(2, value.description)]
    if value.export_cache is not None:
        parts.append(put_message(4, put_bool(1, value.export_cache)))
    parts.append(_caps(value.caps))
    if value.progress_group is not None:
        group, name, weak = value.progress_group
        parts.append(put_message(6, put_str(1, group) + put_str(2, name) + put_bool(3, weak)))
    limits = value.linux_resources
    if limits is not None:
        data = put_int(1, limits.memory) + put_int(2, limits.memory_swap) + put_int(3, limits.cpu_shares)
        data += put_int(4, limits.cpu_period) + put_int(5, limits.cpu_quota)
        parts.append(put_message(7, data + put_str(6, limits.cpuset_cpus) + put_str(7, limits.cpuset_mems)))
    return b"".join(parts)


def _caps(caps: Iterable[str]) -> bytes:
    return b"".join([put_message(5, put_message(1, cap.encode()) + b"\x10\x01") for cap in sorted(caps)])


def unmarshal_definition(raw: bytes) -> Definition:
    """A definition from a client; its ops are decoded when asked for. Raises `UsageError` when malformed."""
    from anyarch.llb.definition import Definition, SourceInfo, SourceMap

    ops: list[bytes] = []
    metadata: dict[str, OpMetadata] = {}
    infos: list[SourceInfo] = []
    locations: dict[str, tuple[Location, ...]] = {}
    try:
        for number, value in fields(raw):
            if number == 1:
                ops.append(value)
            elif number == 2:
                digest, data = map_entry(value)
                metadata[digest] = _decode_metadata(data or b"")
            elif number == 3:
                for source_number, item in fields(value):
                    if source_number == 1:
                        digest, data = map_entry(item)
                        locations[digest] = _decode_locations(data or b"")
                    elif source_number == 2:
                        found = collect(item, {1: "filename", 2: "data", 3: "definition", 4: "language"})
                        filename, language = (
                            text(found.get("filename", b"")),
                            text(found.get("language", b"")),
                        )
                        infos.append(
                            SourceInfo(
                                filename, found.get("data", b""), language, found.get("definition", b"")
                            )
                        )
    except (TypeError, ValueError, AttributeError):
        raise UsageError("malformed LLB: a field of the definition does not hold what it should") from None
    return Definition(tuple(ops), metadata, SourceMap(tuple(infos), locations))


def _decode_locations(raw: bytes) -> tuple[Location, ...]:
    result: list[Location] = []
    for number, value in fields(raw):
        if number != 1:
            continue
        ranges: list[bytes] = []
        index = signed(collect(value, {1: "index", 2: "ranges"}, ranges=ranges).get("index", 0))
        lines: list[LineRange] = []
        for item in ranges:
            ends = collect(item, {1: "start", 2: "end"})
            (start, first), (end, last) = (_decode_position(ends.get(name, b"")) for name in ("start", "end"))
            lines.append((start, end, first, last) if first or last else (start, end))
        result.append((index, tuple(lines)))
    return tuple(result)


def _decode_position(raw: bytes) -> tuple[int, int]:
    found = collect(raw, {1: "line", 2: "column"})
    return signed(found.get("line", 0)), signed(found.get("column", 0))


_METADATA = {1: "ignore_cache", 2: "description", 4: "export_cache", 5: "caps", 6: "group", 7: "limits"}
_LIMITS = {
    1: "memory",
    2: "memory_swap",
    3: "cpu_shares",
    4: "cpu_period",
    5: "cpu_quota",
    6: "cpuset_cpus",
    7: "cpuset_mems",
}


def _decode_metadata(raw: bytes) -> OpMetadata:
    description: list[bytes] = []
    caps: list[bytes] = []
    found = collect(raw, _METADATA, description=description, caps=caps)
    export_cache = group = limits = None
    if "export_cache" in found:
        export_cache = bool(collect(found["export_cache"], {1: "value"}).get("value"))
    if "group" in found:
        item = collect(found["group"], {1: "id", 2: "name", 3: "weak"})
        group = text(item.get("id", b"")), text(item.get("name", b"")), bool(item.get("weak"))
    if "limits" in found:
        limits = _decode_limits(found["limits"])
    names = [key for key, value in map(map_entry, caps) if value]
    return OpMetadata(
        bool(found.get("ignore_cache")), text_map(description), export_cache, tuple(names), group, limits
    )


def _decode_limits(raw: bytes) -> LinuxResources:
    values: dict[str, Any] = {}
    for name, value in collect(raw, _LIMITS).items():
        values[name] = text(value) if name.startswith("cpuset") else signed(value)
    return LinuxResources(**values)
