"""LLB ops from their wire bytes: the way back of `llb.wire`, for definitions that clients send."""

from __future__ import annotations

from typing import Any

from anyarch.errors import NotSupported, UsageError
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    BuildOp,
    CacheOpt,
    CacheSharing,
    CDIDevice,
    Chown,
    ContentCache,
    DiffOp,
    ExecOp,
    FileAction,
    FileOp,
    HostIP,
    Input,
    MergeOp,
    Meta,
    Mount,
    MountType,
    NetMode,
    Op,
    PassthroughOp,
    ProxyEnv,
    SecretEnv,
    SecretOpt,
    SecurityMode,
    SourceOp,
    SSHOpt,
    TmpfsOpt,
    Ulimit,
    UserByName,
)
from anyarch.llb.protobuf import collect, fields, read_varint, signed, text
from anyarch.spec.platform import Platform

__all__ = ["text_map", "unmarshal_op"]


def map_entry(raw: bytes) -> tuple[str, Any]:
    found = collect(raw, {1: "key", 2: "value"})
    return text(found.get("key", b"")), found.get("value", b"")


def text_map(entries: list[bytes]) -> dict[str, str]:
    return {key: text(value) for key, value in map(map_entry, entries)}


def unmarshal_op(raw: bytes) -> Op:
    """An op from its wire bytes. Raises `UsageError` when malformed, `NotSupported` for an unknown op."""
    inputs: list[Input] = []
    platform: Platform | None = None
    constraints: tuple[str, ...] | None = None
    kind: ExecOp | SourceOp | FileOp | BuildOp | MergeOp | DiffOp | PassthroughOp | None = None
    for number, value in fields(raw):
        try:
            match number:
                case 1:
                    found = collect(value, {1: "digest", 2: "index"})
                    inputs.append(Input(text(found.get("digest", b"")), signed(found.get("index", 0))))
                case 2:
                    kind = _decode_exec(value)
                case 3:
                    attrs: list[bytes] = []
                    found = collect(value, {1: "identifier", 2: "attrs"}, attrs=attrs)
                    kind = SourceOp(text(found.get("identifier", b"")), text_map(attrs))
                case 4:
                    kind = FileOp(tuple([_decode_file_action(item) for n, item in fields(value) if n == 2]))
                case 5:
                    kind = _decode_build(value)
                case 6:
                    kind = MergeOp(tuple([_index(item) for n, item in fields(value) if n == 1]))
                case 7:
                    found = collect(value, {1: "lower", 2: "upper"})
                    kind = DiffOp(_index(found.get("lower", b"")), _index(found.get("upper", b"")))
                case 8:
                    outputs: list[Any] = []
                    found = collect(value, {1: "id", 2: "outputs"}, outputs=outputs)
                    kind = PassthroughOp(text(found.get("id", b"")), tuple(_numbers(outputs)))
                case 10:
                    platform = _decode_platform(value)
                case 11:
                    constraints = tuple([text(item) for n, item in fields(value) if n == 1])
        except (TypeError, ValueError, AttributeError):
            raise UsageError(f"malformed LLB: field {number} of an op does not hold what it should") from None
    return Op(tuple(inputs), kind, platform, constraints)


def _index(raw: bytes) -> int:
    return signed(collect(raw, {1: "input"}).get("input", 0))


_PLATFORM = {1: "architecture", 2: "os", 3: "variant", 4: "os_version", 5: "os_features"}


def _decode_platform(raw: bytes) -> Platform:
    features: list[bytes] = []
    found = collect(raw, _PLATFORM, os_features=features)
    return Platform(
        text(found.get("os", b"")),
        text(found.get("architecture", b"")),
        text(found.get("variant", b"")),
        text(found.get("os_version", b"")),
        tuple([text(feature) for feature in features]),
    )


_EXEC = {1: "meta", 2: "mounts", 3: "network", 4: "security", 5: "secret_env", 6: "devices"}


def _decode_exec(raw: bytes) -> ExecOp:
    mounts: list[bytes] = []
    secrets: list[bytes] = []
    devices: list[bytes] = []
    found = collect(raw, _EXEC, mounts=mounts, secret_env=secrets, devices=devices)
    secret_env = []
    for item in secrets:
        env = collect(item, {1: "id", 2: "name", 3: "optional"})
        secret_env.append(
            SecretEnv(text(env.get("id", b"")), text(env.get("name", b"")), bool(env.get("optional")))
        )
    cdi_devices = []
    for item in devices:
        device = collect(item, {1: "name", 2: "optional"})
        cdi_devices.append(CDIDevice(text(device.get("name", b"")), bool(device.get("optional"))))
    for field, known, what in (
        ("network", NetMode, "network mode"),
        ("security", SecurityMode, "security mode"),
    ):
        value = found.get(field, 0)
        if value not in {int(item) for item in known}:
            raise UsageError(f"invalid {what} {value}")
    return ExecOp(
        _decode_meta(found.get("meta", b"")),
        tuple([_decode_mount(mount) for mount in mounts]),
        NetMode(found.get("network", 0)),
        SecurityMode(found.get("security", 0)),
        tuple(secret_env),
        tuple(cdi_devices),
    )


_META = {
    1: "args",
    2: "env",
    3: "cwd",
    4: "user",
    5: "proxy",
    6: "hosts",
    7: "hostname",
    9: "ulimits",
    10: "cgroup",
    11: "stubs",
    12: "codes",
}
_PROXY = {1: "http_proxy", 2: "https_proxy", 3: "ftp_proxy", 4: "no_proxy", 5: "all_proxy"}


def _decode_meta(raw: bytes) -> Meta:
    args: list[bytes] = []
    env: list[bytes] = []
    host_items: list[bytes] = []
    limit_items: list[bytes] = []
    codes: list[Any] = []
    found = collect(raw, _META, args=args, env=env, hosts=host_items, ulimits=limit_items, codes=codes)
    proxy = None
    if "proxy" in found:
        proxy = ProxyEnv(**{name: text(value) for name, value in collect(found["proxy"], _PROXY).items()})
    hosts = []
    for item in host_items:
        host = collect(item, {1: "host", 2: "ip"})
        hosts.append(HostIP(text(host.get("host", b"")), text(host.get("ip", b""))))
    ulimits = []
    for item in limit_items:
        limit = collect(item, {1: "name", 2: "soft", 3: "hard"})
        soft, hard = signed(limit.get("soft", 0)), signed(limit.get("hard", 0))
        ulimits.append(Ulimit(text(limit.get("name", b"")), soft, hard))
    return Meta(
        args=tuple([text(item) for item in args]),
        env=tuple([text(item) for item in env]),
        cwd=text(found.get("cwd", b"")),
        user=text(found.get("user", b"")),
        proxy_env=proxy,
        extra_hosts=tuple(hosts),
        hostname=text(found.get("hostname", b"")),
        ulimits=tuple(ulimits),
        cgroup_parent=text(found.get("cgroup", b"")),
        remove_mount_stubs_recursive=bool(found.get("stubs")),
        valid_exit_codes=tuple(_numbers(codes)),
    )


def _numbers(items: list[Any]) -> list[int]:
    """A repeated number, packed or not: the format allows both."""
    numbers: list[int] = []
    for item in items:
        if isinstance(item, int):
            numbers.append(signed(item))
            continue
        position = 0
        while position < len(item):
            try:
                number, position = read_varint(item, position)
            except IndexError:
                raise UsageError("malformed LLB: message is cut short") from None
            numbers.append(signed(number))
    return numbers


_MOUNT = {
    1: "input",
    2: "selector",
    3: "dest",
    4: "output",
    5: "readonly",
    6: "mount_type",
    19: "tmpfs",
    20: "cache",
    21: "secret",
    22: "ssh",
    23: "result_id",
    24: "content_cache",
}
_GRANT = {1: "id", 2: "uid", 3: "gid", 4: "mode", 5: "optional"}


def _decode_mount(raw: bytes) -> Mount:
    found = collect(raw, _MOUNT)
    tmpfs = cache = secret = ssh = None
    if "tmpfs" in found:
        tmpfs = TmpfsOpt(signed(collect(found["tmpfs"], {1: "size"}).get("size", 0)))
    if "cache" in found:
        item = collect(found["cache"], {1: "id", 2: "sharing"})
        cache = CacheOpt(text(item.get("id", b"")), CacheSharing(item.get("sharing", 0)))
    if "secret" in found:
        secret = SecretOpt(**_decode_grant(found["secret"]))
    if "ssh" in found:
        ssh = SSHOpt(**_decode_grant(found["ssh"]))
    return Mount(
        dest=text(found.get("dest", b"")),
        input=signed(found.get("input", 0)),
        selector=text(found.get("selector", b"")),
        output=signed(found.get("output", 0)),
        readonly=bool(found.get("readonly")),
        mount_type=MountType(found.get("mount_type", 0)),
        tmpfs_opt=tmpfs,
        cache_opt=cache,
        secret_opt=secret,
        ssh_opt=ssh,
        result_id=text(found.get("result_id", b"")),
        content_cache=ContentCache(found.get("content_cache", 0)),
    )


def _decode_grant(raw: bytes) -> dict[str, Any]:
    found = collect(raw, _GRANT)
    found["id"] = text(found.get("id", b""))
    found["optional"] = bool(found.get("optional"))
    return found


def _decode_file_action(raw: bytes) -> FileAction:
    place = {1: 0, 2: 0, 3: 0}
    action: ActionCopy | ActionMkfile | ActionMkdir | ActionRm | ActionSymlink | None = None
    for number, value in fields(raw):
        match number:
            case 1 | 2 | 3:
                place[number] = signed(value)
            case 4:
                action = _decode_copy(value)
            case 5:
                found = collect(value, {1: "path", 2: "mode", 3: "data", 4: "owner", 5: "timestamp"})
                action = ActionMkfile(
                    text(found.get("path", b"")),
                    signed(found.get("mode", 0)),
                    found.get("data", b""),
                    _decode_owner(found.get("owner")),
                    signed(found.get("timestamp", 0)),
                )
            case 6:
                found = collect(value, {1: "path", 2: "mode", 3: "parents", 4: "owner", 5: "timestamp"})
                action = ActionMkdir(
                    text(found.get("path", b"")),
                    signed(found.get("mode", 0)),
                    bool(found.get("parents")),
                    _decode_owner(found.get("owner")),
                    signed(found.get("timestamp", 0)),
                )
            case 7:
                found = collect(value, {1: "path", 2: "missing", 3: "wildcard"})
                action = ActionRm(
                    text(found.get("path", b"")), bool(found.get("missing")), bool(found.get("wildcard"))
                )
            case 8:
                found = collect(value, {1: "old", 2: "new", 3: "owner", 4: "timestamp"})
                action = ActionSymlink(
                    text(found.get("old", b"")),
                    text(found.get("new", b"")),
                    _decode_owner(found.get("owner")),
                    signed(found.get("timestamp", 0)),
                )
    if action is None:
        raise NotSupported("LLB file op holds an action that is not supported")
    return FileAction(action, place[1], place[2], place[3])


_COPY = {
    1: "src",
    2: "dest",
    3: "owner",
    4: "mode",
    5: "follow_symlink",
    6: "dir_copy_contents",
    7: "attempt_unpack_docker_compat",
    8: "create_dest_path",
    9: "allow_wildcard",
    10: "allow_empty_wildcard",
    11: "timestamp",
    12: "include_patterns",
    13: "exclude_patterns",
    14: "always_replace_existing_dest_paths",
    15: "mode_str",
    16: "required_paths",
}


def _decode_copy(raw: bytes) -> ActionCopy:
    include: list[bytes] = []
    exclude: list[bytes] = []
    required: list[bytes] = []
    found = collect(raw, _COPY, include_patterns=include, exclude_patterns=exclude, required_paths=required)
    return ActionCopy(
        src=text(found.get("src", b"")),
        dest=text(found.get("dest", b"")),
        owner=_decode_owner(found.get("owner")),
        mode=signed(found.get("mode", 0)),
        follow_symlink=bool(found.get("follow_symlink")),
        dir_copy_contents=bool(found.get("dir_copy_contents")),
        attempt_unpack_docker_compat=bool(found.get("attempt_unpack_docker_compat")),
        create_dest_path=bool(found.get("create_dest_path")),
        allow_wildcard=bool(found.get("allow_wildcard")),
        allow_empty_wildcard=bool(found.get("allow_empty_wildcard")),
        timestamp=signed(found.get("timestamp", 0)),
        include_patterns=tuple([text(item) for item in include]),
        exclude_patterns=tuple([text(item) for item in exclude]),
        always_replace_existing_dest_paths=bool(found.get("always_replace_existing_dest_paths")),
        mode_str=text(found.get("mode_str", b"")),
        required_paths=tuple([text(item) for item in required]),
    )


def _decode_owner(raw: bytes | None) -> Chown | None:
    if raw is None:
        return None
    found = collect(raw, {1: "user", 2: "group"})
    return Chown(_decode_user(found.get("user")), _decode_user(found.get("group")))


def _decode_user(raw: bytes | None) -> int | UserByName | None:
    if raw is None:
        return None
    result: int | UserByName | None = None
    for number, value in fields(raw):
        if number == 1:
            found = collect(value, {1: "name", 2: "input"})
            result = UserByName(text(found.get("name", b"")), signed(found.get("input", 0)))
        elif number == 2:
            result = int(value)
    return result


def _decode_build(raw: bytes) -> BuildOp:
    inputs: list[bytes] = []
    attrs: list[bytes] = []
    found = collect(raw, {1: "builder", 2: "inputs", 4: "attrs"}, inputs=inputs, attrs=attrs)
    by_name = {key: _index(value) for key, value in map(map_entry, inputs)}
    return BuildOp(signed(found.get("builder", 0)), by_name, text_map(attrs))
