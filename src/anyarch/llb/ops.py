"""LLB operations as values, field for field those of BuildKit's `solver/pb/ops.proto` (see
docs/dev/llb.md).

An `Op` is one node. Its identity is the sha256 of its wire bytes (`llb.wire`), which hold the digests of
its inputs. Index conventions: `Input.index` is the output of the op it names; in mounts and file actions,
an input of -1 is the empty root (scratch) and an output of -1 is "not an output".
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from anyarch.spec.platform import Platform

__all__ = [
    "ActionCopy",
    "ActionMkdir",
    "ActionMkfile",
    "ActionRm",
    "ActionSymlink",
    "BuildOp",
    "CDIDevice",
    "CacheOpt",
    "CacheSharing",
    "Chown",
    "ContentCache",
    "DiffOp",
    "ExecOp",
    "FileAction",
    "FileOp",
    "HostIP",
    "Input",
    "LinuxResources",
    "MergeOp",
    "Meta",
    "Mount",
    "MountType",
    "NetMode",
    "Op",
    "OpMetadata",
    "PassthroughOp",
    "ProxyEnv",
    "SSHOpt",
    "SecretEnv",
    "SecretOpt",
    "SecurityMode",
    "SourceOp",
    "TmpfsOpt",
    "Ulimit",
    "UserByName",
]


class NetMode(IntEnum):
    UNSET = 0
    HOST = 1
    NONE = 2


class SecurityMode(IntEnum):
    SANDBOX = 0
    INSECURE = 1


class MountType(IntEnum):
    BIND = 0
    SECRET = 1
    SSH = 2
    CACHE = 3
    TMPFS = 4


class CacheSharing(IntEnum):
    SHARED = 0
    PRIVATE = 1
    LOCKED = 2


class ContentCache(IntEnum):
    """Whether a mount's input counts by its content: where that is safe (but for the root), always, never."""

    DEFAULT = 0
    ON = 1
    OFF = 2


class Input(msgspec.Struct, frozen=True):
    digest: str
    index: int = 0


class HostIP(msgspec.Struct, frozen=True):
    host: str
    ip: str


class Ulimit(msgspec.Struct, frozen=True):
    name: str
    soft: int
    hard: int


class ProxyEnv(msgspec.Struct, frozen=True):
    http_proxy: str = ""
    https_proxy: str = ""
    ftp_proxy: str = ""
    no_proxy: str = ""
    all_proxy: str = ""


class SecretEnv(msgspec.Struct, frozen=True):
    id: str
    name: str
    optional: bool = False


class CDIDevice(msgspec.Struct, frozen=True):
    name: str
    optional: bool = False


class TmpfsOpt(msgspec.Struct, frozen=True):
    size: int = 0


class CacheOpt(msgspec.Struct, frozen=True):
    id: str
    sharing: CacheSharing = CacheSharing.SHARED


class SecretOpt(msgspec.Struct, frozen=True):
    id: str
    uid: int = 0
    gid: int = 0
    mode: int = 0
    optional: bool = False


class SSHOpt(msgspec.Struct, frozen=True):
    id: str
    uid: int = 0
    gid: int = 0
    mode: int = 0
    optional: bool = False


class Mount(msgspec.Struct, frozen=True):
    dest: str
    input: int = -1
    selector: str = ""
    output: int = -1
    readonly: bool = False
    mount_type: MountType = MountType.BIND
    tmpfs_opt: TmpfsOpt | None = None
    cache_opt: CacheOpt | None = None
    secret_opt: SecretOpt | None = None
    ssh_opt: SSHOpt | None = None
    result_id: str = ""
    content_cache: ContentCache = ContentCache.DEFAULT


class Meta(msgspec.Struct, frozen=True):
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    proxy_env: ProxyEnv | None = None
    extra_hosts: tuple[HostIP, ...] = ()
    hostname: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    remove_mount_stubs_recursive: bool = False
    valid_exit_codes: tuple[int, ...] = ()


class ExecOp(msgspec.Struct, frozen=True):
    meta: Meta
    mounts: tuple[Mount, ...]
    network: NetMode = NetMode.UNSET
    security: SecurityMode = SecurityMode.SANDBOX
    secret_env: tuple[SecretEnv, ...] = ()
    cdi_devices: tuple[CDIDevice, ...] = ()


class SourceOp(msgspec.Struct, frozen=True):
    """`identifier` is `scheme://…`; `attrs` are those of wire.md section 7."""

    identifier: str
    attrs: dict[str, str] = {}


class UserByName(msgspec.Struct, frozen=True):
    """A user or group name, looked up in the passwd/group file of op input `input`."""

    name: str
    input: int


class Chown(msgspec.Struct, frozen=True):
    """Owner to set; each part a number, a name to look up, or None (not set)."""

    user: int | UserByName | None = None
    group: int | UserByName | None = None


class ActionCopy(msgspec.Struct, frozen=True):
    """Copy `src` of the secondary input to `dest` of the primary. `mode` and `timestamp` -1: keep."""

    src: str
    dest: str
    owner: Chown | None = None
    mode: int = -1
    follow_symlink: bool = False
    dir_copy_contents: bool = False
    attempt_unpack_docker_compat: bool = False
    create_dest_path: bool = False
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    timestamp: int = -1
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    always_replace_existing_dest_paths: bool = False
    mode_str: str = ""
    required_paths: tuple[str, ...] = ()


class ActionMkfile(msgspec.Struct, frozen=True):
    path: str
    mode: int
    data: bytes
    owner: Chown | None = None
    timestamp: int = -1


class ActionMkdir(msgspec.Struct, frozen=True):
    path: str
    mode: int
    make_parents: bool = False
    owner: Chown | None = None
    timestamp: int = -1


class ActionRm(msgspec.Struct, frozen=True):
    path: str
    allow_not_found: bool = False
    allow_wildcard: bool = False


class ActionSymlink(msgspec.Struct, frozen=True):
    oldpath: str
    newpath: str
    owner: Chown | None = None
    timestamp: int = -1


class FileAction(msgspec.Struct, frozen=True):
    """`input` and `secondary_input` below the number of op inputs name those; from there on, earlier
    actions."""

    action: ActionCopy | ActionMkfile | ActionMkdir | ActionRm | ActionSymlink
    input: int = -1
    secondary_input: int = -1
    output: int = -1


class FileOp(msgspec.Struct, frozen=True):
    actions: tuple[FileAction, ...]


class MergeOp(msgspec.Struct, frozen=True):
    """Indices into the op's inputs, lowest layer first; -1 is scratch."""

    inputs: tuple[int, ...]


class DiffOp(msgspec.Struct, frozen=True):
    lower: int
    upper: int


class BuildOp(msgspec.Struct, frozen=True):
    """A nested definition, built by `builder` (-1: the solver itself)."""

    builder: int
    inputs: dict[str, int] = {}
    attrs: dict[str, str] = {}


class PassthroughOp(msgspec.Struct, frozen=True):
    """Gives inputs on as outputs: output n is input `outputs[n]`. `id` only tells it from others."""

    id: str
    outputs: tuple[int, ...]


class Op(msgspec.Struct, frozen=True):
    """A vertex. `kind` None is the last op of a definition, whose single input is the result.

    `constraints` None says that the message is absent: Go clients always send it, even empty, but for the
    last op.
    """

    inputs: tuple[Input, ...]
    kind: ExecOp | SourceOp | FileOp | BuildOp | MergeOp | DiffOp | PassthroughOp | None
    platform: Platform | None = None
    constraints: tuple[str, ...] | None = ()


class LinuxResources(msgspec.Struct, frozen=True):
    """Limits of a step, 0 or empty for none; memory in bytes, CPU times in microseconds."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


class OpMetadata(msgspec.Struct, frozen=True):
    """What rides beside an op outside its digest. `description["llb.customname"]` is the name shown."""

    ignore_cache: bool = False
    description: dict[str, str] = {}
    export_cache: bool | None = None
    caps: tuple[str, ...] = ()
    progress_group: tuple[str, str, bool] | None = None
    linux_resources: LinuxResources | None = None
