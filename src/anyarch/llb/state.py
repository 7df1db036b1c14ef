"""`State`: the fluent builder of LLB graphs.

base = image("docker.io/library/busybox:latest", platform=Platform.parse("linux/arm64")) done =
base.set_dir("/src").run(["make"], mounts=[ExecMount("/src", local("context"), readonly=True)]).root
definition = done.marshal()

A state is a root filesystem (an output of a vertex, or nothing: scratch) together with what the next `run`
inherits: environment, directory, user, platform. States are immutable; every method gives a new one.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from anyarch.errors import UsageError
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    CacheOpt,
    CacheSharing,
    Chown,
    ContentCache,
    DiffOp,
    ExecOp,
    FileAction,
    FileOp,
    HostIP,
    LinuxResources,
    MergeOp,
    Meta,
    Mount,
    MountType,
    NetMode,
    OpMetadata,
    SecretEnv,
    SecretOpt,
    SecurityMode,
    SSHOpt,
    TmpfsOpt,
    Ulimit,
    UserByName,
)
from anyarch.llb.vertex import Output, SourcePlace, Vertex, define
from anyarch.spec.platform import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.llb.definition import Definition
    from anyarch.llb.ops import (
        CDIDevice,
        ProxyEnv,
    )

__all__ = [
    "Constraints",
    "CopySource",
    "Env",
    "ExecMount",
    "ExecSecret",
    "ExecSsh",
    "Executed",
    "State",
    "chown",
    "diff",
    "merge",
    "scratch",
]


class Env:
    """Environment variables in the order of their last assignment. Immutable."""

    __slots__ = ("_list", "values")

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values: Mapping[str, str] = values or {}
        self._list: tuple[str, ...] | None = None

    def set(self, name: str, value: str) -> Env:
        """With `name` assigned; it moves to the end."""
        values = dict(self.values)
        values.pop(name, None)
        values[name] = value
        return Env(values)

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def to_list(self) -> tuple[str, ...]:
        """`NAME=value` texts."""
        if self._list is None:
            self._list = tuple([f"{name}={value}" for name, value in self.values.items()])
        return self._list


_NO_ENV = Env()


class Constraints(msgspec.Struct, frozen=True):
    """What goes with an op whatever its kind. All but `platform` stays outside its digest."""

    platform: Platform | None = None
    description: dict[str, str] = {}
    ignore_cache: bool = False
    export_cache: bool | None = None
    progress_group: tuple[str, str, bool] | None = None
    linux_resources: LinuxResources | None = None
    places: tuple[SourcePlace, ...] = ()

    @classmethod
    def named(cls, name: str, **more: Any) -> Constraints:
        """With the name that progress shows."""
        return cls(description={"llb.customname": name}, **more)

    def metadata(self) -> OpMetadata:
        return OpMetadata(
            self.ignore_cache,
            self.description,
            self.export_cache,
            (),
            self.progress_group,
            self.linux_resources,
        )


_PLAIN = Constraints()


class ExecMount(msgspec.Struct, frozen=True):
    """A mount of a `run` beside its root. `state` None is an empty directory, `selector` a path inside it.

    `cache_id` makes it a cache mount, `tmpfs` a tmpfs of `size` bytes (0: no limit). A writable bind mount
    is an output of the op unless `no_output`.
    """

    target: str
    state: State | None = None
    selector: str = ""
    readonly: bool = False
    no_output: bool = False
    cache_id: str = ""
    sharing: CacheSharing = CacheSharing.SHARED
    tmpfs: bool = False
    size: int = 0
    content_cache: ContentCache = ContentCache.DEFAULT


class ExecSecret(msgspec.Struct, frozen=True):
    """A secret as a file at `target`, as the environment variable `env`, or both."""

    id: str
    target: str | None = None
    env: str | None = None
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    optional: bool = False


class ExecSsh(msgspec.Struct, frozen=True):
    """The socket of an SSH agent; an empty `target` is `/run/buildkit/ssh_agent.N`."""

    id: str = ""
    target: str = ""
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    optional: bool = False


class CopySource(msgspec.Struct, frozen=True):
    """A copy action before it is bound to a state: where it takes the files from, and the rest of the action.

    A relative `src` starts at the directory of `state`.
    """

    state: State
    action: ActionCopy


Action = CopySource | ActionMkfile | ActionMkdir | ActionRm | ActionSymlink


class State(msgspec.Struct, frozen=True, eq=False):
    """A filesystem and the circumstances of the next step; see the module."""

    output: Output | None = None
    platform: Platform | None = None
    env: Env = _NO_ENV
    dir: str = "/"
    user: str = ""
    hostname: str = ""
    network: NetMode = NetMode.UNSET
    security: SecurityMode = SecurityMode.SANDBOX
    extra_hosts: tuple[HostIP, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    valid_exit_codes: tuple[int, ...] = ()

    def with_output(self, output: Output | None) -> State:
        """The same circumstances on another filesystem."""
        return replace(self, output=output)

    def add_env(self, name: str, value: str) -> State:
        return replace(self, env=self.env.set(name, value))

    def set_env(self, env: Env) -> State:
        return replace(self, env=env)

    def set_dir(self, path: str) -> State:
        """Change directory; a relative path starts at the present one."""
        return replace(
            self, dir=path if path.startswith("/") else posixpath.normpath(posixpath.join(self.dir, path))
        )

    def set_user(self, user: str) -> State:
        return replace(self, user=user)

    def set_hostname(self, hostname: str) -> State:
        return replace(self, hostname=hostname)

    def set_platform(self, platform: Platform) -> State:
        return replace(self, platform=_normal(platform))

    def set_network(self, mode: NetMode) -> State:
        return replace(self, network=mode)

    def set_security(self, mode: SecurityMode) -> State:
        return replace(self, security=mode)

    def add_host(self, host: str, ip: str) -> State:
        return replace(self, extra_hosts=(*self.extra_hosts, HostIP(host, ip)))

    def add_ulimit(self, name: str, soft: int, hard: int) -> State:
        return replace(self, ulimits=(*self.ulimits, Ulimit(name, soft, hard)))

    def set_cgroup_parent(self, path: str) -> State:
        return replace(self, cgroup_parent=path)

    def set_valid_exit_codes(self, *codes: int) -> State:
        return replace(self, valid_exit_codes=codes)

    def run(
        self,
        args: Sequence[str],
        *,
        mounts: Sequence[ExecMount] = (),
        secrets: Sequence[ExecSecret] = (),
        ssh: Sequence[ExecSsh] = (),
        proxy_env: ProxyEnv | None = None,
        devices: Sequence[CDIDevice] = (),
        readonly_root: bool = False,
        constraints: Constraints = _PLAIN,
    ) -> Executed:
        """Run a process in this filesystem. Raises `UsageError` for an impossible combination."""
        if not args:
            raise UsageError("run needs a program to run")
        platform = constraints.platform or self.platform or host_platform()
        root = ExecMount("/", self, readonly=readonly_root)
        ordered = sorted([root, *mounts], key=lambda mount: mount.target.encode("utf-8", "surrogateescape"))
        sources: list[Output] = []
        items: list[Mount] = []
        outputs: dict[str, int] = {}
        for mount in ordered:
            source = mount.state.output if mount.state is not None else None
            if mount.tmpfs and source is not None:
                raise UsageError(f"tmpfs mount at {mount.target} cannot have content")
            index = -1
            if source is not None:
                index = len(sources)
                sources.append(source)
            output = -1
            if not (mount.no_output or mount.readonly or mount.cache_id or mount.tmpfs):
                output = len(outputs)
                outputs[mount.target] = output
            items.append(_mount(mount, index, output))
        secret_env = [SecretEnv(item.id, item.env, item.optional) for item in secrets if item.env is not None]
        for secret in secrets:
            if secret.target is not None:
                # Go's client leaves the output of these mounts at 0; it means nothing.
                opt = SecretOpt(secret.id, secret.uid, secret.gid, secret.mode, secret.optional)
                items.append(Mount(secret.target, output=0, mount_type=MountType.SECRET, secret_opt=opt))
        env = self.env
        for number, agent in enumerate(ssh):
            target = agent.target or f"/run/buildkit/ssh_agent.{number}"
            if number == 0 and env.get("SSH_AUTH_SOCK") is None:
                env = env.set("SSH_AUTH_SOCK", target)
            grant = SSHOpt(agent.id, agent.uid, agent.gid, agent.mode, agent.optional)
            items.append(Mount(target, output=0, mount_type=MountType.SSH, ssh_opt=grant))
        meta = Meta(
            args=tuple(args),
            env=env.to_list(),
            cwd=self.dir,
            user=self.user,
            proxy_env=proxy_env,
            extra_hosts=self.extra_hosts,
            hostname=self.hostname,
            ulimits=self.ulimits,
            cgroup_parent=self.cgroup_parent,
            remove_mount_stubs_recursive=True,
            valid_exit_codes=self.valid_exit_codes,
        )
        kind = ExecOp(meta, tuple(items), self.network, self.security, tuple(secret_env), tuple(devices))
        vertex = Vertex(
            kind,
            sources,
            platform=platform,
            metadata=constraints.metadata(),
            places=constraints.places,
            distinct=True,
        )
        return Executed(self, vertex, ordered, outputs)

    def file(self, *actions: Action, constraints: Constraints = _PLAIN) -> State:
        """Apply file actions one after the other; relative paths start at the state's directory."""
        sources: list[Output] = [] if self.output is None else [self.output]
        base = -1 if self.output is None else 0
        secondary = []
        for item in actions:
            output = item.state.output if isinstance(item, CopySource) else None
            if output is None:
                secondary.append(-1)
                continue
            known = [i for i, source in enumerate(sources) if source is output]
            secondary.append(known[0] if known else len(sources))
            if not known:
                sources.append(output)
        items = []
        for number, item in enumerate(actions):
            previous = base if number == 0 else len(sources) + number - 1
            bound = _bind(item, self.dir, base)
            last = number == len(actions) - 1
            items.append(FileAction(bound, previous, secondary[number], 0 if last else -1))
        vertex = Vertex(
            FileOp(tuple(items)),
            sources,
            metadata=constraints.metadata(),
            places=constraints.places,
            distinct=True,
        )
        return self.with_output(Output(vertex))

    def marshal(self) -> Definition:
        """The definition whose result is this state's filesystem."""
        return define(self.output)


class Executed:
    """What a `run` gave: its root filesystem, and its writable mounts."""

    __slots__ = ("_mounts", "_outputs", "_state", "vertex")

    def __init__(
        self, state: State, vertex: Vertex, mounts: Sequence[ExecMount], outputs: Mapping[str, int]
    ) -> None:
        self._state = state
        self.vertex = vertex
        self._mounts = {mount.target: mount for mount in mounts}
        self._outputs = outputs

    @property
    def root(self) -> State:
        return self.mount("/")

    def mount(self, target: str) -> State:
        """The filesystem of the mount at `target` afterwards. Raises `UsageError` when it is no output."""
        mount = self._mounts.get(target)
        if mount is None:
            raise UsageError(f"nothing is mounted at {target}")
        index = self._outputs.get(target)
        if index is not None:
            base = mount.state or State()
            return replace(
                base, output=Output(self.vertex, index), platform=normal_or_none(self.vertex.platform)
            )
        if mount.readonly and not mount.cache_id and not mount.tmpfs:
            return mount.state or State()
        raise UsageError(f"the mount at {target} is no output of its step")


def _normal(platform: Platform) -> Platform:
    return Platform.make(*msgspec.structs.astuple(platform))


def normal_or_none(platform: Platform | None) -> Platform | None:
    return None if platform is None else _normal(platform)


def _mount(mount: ExecMount, index: int, output: int) -> Mount:
    kind, cache, tmpfs = MountType.BIND, None, None
    if mount.cache_id:
        kind, cache = MountType.CACHE, CacheOpt(mount.cache_id, mount.sharing)
    if mount.tmpfs:
        kind, tmpfs = MountType.TMPFS, TmpfsOpt(mount.size)
    return Mount(
        dest=mount.target,
        input=index,
        selector=mount.selector,
        output=output,
        readonly=mount.readonly,
        mount_type=kind,
        tmpfs_opt=tmpfs,
        cache_opt=cache,
        content_cache=mount.content_cache,
    )


def _bind(
    item: Action, directory: str, base: int
) -> ActionCopy | ActionMkfile | ActionMkdir | ActionRm | ActionSymlink:
    """The action as the op holds it: paths absolute, names of owners looked up in input `base`."""
    match item:
        case CopySource():
            src = posixpath.normpath(posixpath.join(item.state.dir, item.action.src or "."))
            return replace(
                item.action,
                src=_one_root(src),
                dest=_clean(directory, item.action.dest, keep_slash=True),
                owner=_bind_owner(item.action.owner, base),
            )
        case ActionMkfile() | ActionMkdir():
            path = _clean(directory, item.path)
            return replace(item, path=path, owner=_bind_owner(item.owner, base))
        case ActionRm():
            return replace(item, path=_clean(directory, item.path))
        case ActionSymlink():
            return replace(item, owner=_bind_owner(item.owner, base))


def _one_root(path: str) -> str:
    return "/" + path.lstrip("/")  # normpath keeps a leading double slash, which means nothing here


def _clean(directory: str, path: str, *, keep_slash: bool = False) -> str:
    """`path` absolute and clean; with `keep_slash` an ending `/` or `/.` stays, as it says "into this
    directory"."""
    clean = _one_root(posixpath.normpath(posixpath.join("/", directory, path)))
    if keep_slash:
        if path.endswith("/"):
            clean = clean if clean == "/" else clean + "/"
        elif path.endswith("/."):
            clean = "/." if clean == "/" else clean + "/."
    return clean


def _bind_owner(owner: Chown | None, base: int) -> Chown | None:
    if owner is None:
        return None
    user, group = owner.user, owner.group
    if isinstance(user, UserByName):
        user = UserByName(user.name, base)
    if isinstance(group, UserByName):
        group = UserByName(group.name, base)
    return Chown(user, group)


def chown(text: str) -> Chown:
    """An owner from `user[:group]`, names or numbers; `root` is 0 and needs no look-up."""
    user, colon, group = text.partition(":")
    return Chown(_account(user), _account(group) if colon else None)


def _account(text: str) -> int | UserByName | None:
    if text == "root":
        return 0
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits.isascii() and digits.isdigit():
        number = int(text)
        if -(1 << 31) <= number < 1 << 31:
            return number & 0xFFFF_FFFF
    # An empty name is uid 0 to Go's client.
    return UserByName(text, -1) if text else 0


def scratch() -> State:
    """The empty filesystem."""
    return State()


def merge(states: Sequence[State], *, constraints: Constraints = _PLAIN) -> State:
    """The layers of `states` over one another, the last on top; circumstances are those of the first."""
    filled = [state for state in states if state.output is not None]
    if not filled:
        return State()
    if len(filled) == 1:
        return filled[0]
    sources = [state.output for state in filled if state.output is not None]
    kind = MergeOp(tuple(range(len(sources))))
    vertex = Vertex(kind, sources, metadata=constraints.metadata(), places=constraints.places)
    return filled[0].with_output(Output(vertex))


def diff(lower: State, upper: State, *, constraints: Constraints = _PLAIN) -> State:
    """What `upper` changes of `lower`, as layers; circumstances are those of `lower`."""
    if lower.output is None:
        return upper
    sources = [lower.output]
    if upper.output is not None:
        sources.append(upper.output)
    kind = DiffOp(0, 1 if upper.output is not None else -1)
    vertex = Vertex(kind, sources, metadata=constraints.metadata(), places=constraints.places)
    return lower.with_output(Output(vertex))
