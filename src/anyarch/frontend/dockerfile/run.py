"""Conversion of RUN: the process, its here-documents, mounts, network and security."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError
from anyarch.llb.ops import ActionMkdir, ActionMkfile, CacheSharing, CDIDevice, Chown, NetMode, SecurityMode
from anyarch.llb.state import Constraints, ExecMount, ExecSecret, ExecSsh, State

from .heredoc import chomp_tabs, parse_heredoc
from .instructions import Run
from .mount import resolve_mount
from .naming import shown, step_name, summary
from .ospath import clean, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .instructions import Mount
    from .stage import Command, Scope, Stage, Work

__all__ = ["mount_stage_names", "run", "secret_id"]

_SHARING = {
    "private": CacheSharing.PRIVATE,
    "locked": CacheSharing.LOCKED,
    "shared": CacheSharing.SHARED,
    "": CacheSharing.SHARED,
}
_NETWORK = {"none": NetMode.NONE, "host": NetMode.HOST}
_INTERNAL = Constraints.named("[internal] preparing inline document")


def mount_stage_names(instruction: Run) -> list[str]:
    """The `from` of each mount, `scratch` where there is none. It holds no variables, so nothing is
    expanded."""
    names = []
    for spec in instruction.mounts:
        name = ""
        for field in spec.fields:
            if field.key == "from":
                name = field.value or ""
        names.append(name or "scratch")
    return names


def run(stage: Stage, work: Work, command: Command, scope: Scope) -> None:
    instruction = command.instruction
    assert isinstance(instruction, Run)
    if instruction.devices and not scope.is_labs:
        raise DockerfileError(
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
            hint="let the file begin with `# syntax=docker/dockerfile:1-labs`",
        )
    work.paths.add("/")  # a process may read any file
    env = work.state.env.values
    args, mounts, title = _process(work, instruction)
    secrets: list[ExecSecret] = []
    ssh: list[ExecSsh] = []
    masked = dict(env)
    for spec, source in zip(instruction.mounts, command.sources, strict=True):
        mount = resolve_mount(spec, lambda word: scope.expand(word, env))
        if mount.type == "secret":
            secrets.append(_secret(mount))
            if mount.env is not None:
                masked[mount.env] = "****"
        elif mount.type == "ssh":
            ssh.append(_ssh(mount))
        else:
            mounts.append(_mount(work, mount, source, scope))
    options = scope.options
    if options.shm_size:
        mounts.append(ExecMount("/dev/shm", tmpfs=True, size=options.shm_size))
    title = shown(title, masked, scope.escape, keep=True)
    constraints = scope.constraints(
        step_name(scope, stage, work, title, env), instruction.lines, command=instruction.original
    )
    state = work.state
    if instruction.network in _NETWORK:
        state = state.set_network(_NETWORK[instruction.network])
    if instruction.security == "insecure":
        state = state.set_security(SecurityMode.INSECURE)
    for host in options.extra_hosts:
        state = state.add_host(host.host, host.ip)
    for limit in options.ulimits:
        state = state.add_ulimit(limit.name, limit.soft, limit.hard)
    if options.cgroup_parent:
        state = state.set_cgroup_parent(options.cgroup_parent)
    done = state.run(
        args,
        mounts=mounts,
        secrets=secrets,
        ssh=ssh,
        devices=[CDIDevice(device.name, not device.required) for device in instruction.devices],
        proxy_env=options.proxy_env,
        constraints=_limited(constraints, stage, scope),
    )
    work.state = work.state.with_output(done.root.output)
    work.image.commit("RUN " + _history_text(args, work.build_args, env) + " # buildkit", layer=True)


def _limited(constraints: Constraints, stage: Stage, scope: Scope) -> Constraints:
    if not stage.no_cache and scope.options.linux_resources is None:
        return constraints
    return msgspec.structs.replace(
        constraints, ignore_cache=stage.no_cache, linux_resources=scope.options.linux_resources
    )


def _process(work: Work, instruction: Run) -> tuple[tuple[str, ...], list[ExecMount], str]:
    """The arguments, the mount that a script needs, and the text for people."""
    args = instruction.cmdline
    title = instruction.original
    mounts: list[ExecMount] = []
    if instruction.heredocs:
        if len(args) != 1 or not instruction.prepend_shell:
            raise DockerfileError(f"parsing produced an invalid run command: [{' '.join(args)}]")
        first = instruction.heredocs[0]
        if parse_heredoc(args[0]) is None:
            # More than a lone here-document: the shell gets it all back and reads the here-documents itself.
            parts = [args[0], *(f"{item.content}{item.name}" for item in instruction.heredocs)]
            args = ("\n".join(parts),)
        else:
            title += f" ({summary(first.content)})"
            script = chomp_tabs(first.content) if first.chomp else first.content
            if script.startswith("#!") and work.image.os != "windows":
                data = script.encode("utf-8", "surrogateescape")
                files = State().file(ActionMkfile(first.name, 0o755, data), constraints=_INTERNAL)
                mounts.append(ExecMount("/dev/pipes/", files, selector="/", readonly=True))
                args = (join("/dev/pipes/", first.name),)
            else:
                args = (script,)
    if instruction.prepend_shell:
        args = (*work.image.default_shell(), " ".join(args))
    return args, mounts, title


def _history_text(args: tuple[str, ...], build_args: Mapping[str, str], env: Mapping[str, str]) -> str:
    pairs = [f"{name}={env.get(name, value)}" for name, value in build_args.items()]
    return " ".join([f"|{len(pairs)}", *pairs, *args] if pairs else args)


def _mount(work: Work, mount: Mount, source: Stage, scope: Scope) -> ExecMount:
    from_ = mount.from_ or ("scratch" if mount.type == "cache" else "")
    state: State | None = scope.context
    if from_:
        if not source.is_dispatched:
            raise DockerfileError(
                f'cannot mount from stage "{from_}" to "{mount.target}", '
                "stage needs to be defined before current command"
            )
        state = source.done().state
    target = mount.target
    if not clean(target).startswith("/"):
        target = join("/", work.state.dir, target)
    if target == "/":
        raise DockerfileError(
            f'invalid mount target "{target}"',
            hint="give the mount a target=… that is not the root directory",
        )
    selector = ""
    path = join("/", mount.source)
    owned = (mount.uid, mount.gid, mount.mode) != (None, None, None)
    if mount.type == "tmpfs":
        state = None
    elif path != "/":
        selector = path
    elif owned:
        # The first use of a cache starts with this directory, so that it belongs to who is to use it.
        owner = Chown(mount.uid or 0, mount.gid or 0)
        mode = 0o755 if mount.mode is None else mount.mode & 0o777
        state = (state or State()).file(
            ActionMkdir("/cache", mode, owner=owner),
            constraints=Constraints.named("[internal] setting cache mount permissions"),
        )
        selector = "/cache"
    if not from_:
        if mount.type == "bind":
            work.context_paths.add(path)
    else:
        source.done().paths.add(path)
    if mount.type == "tmpfs":
        selector = path if path != "/" else ""
        return ExecMount(target, selector=selector, readonly=mount.readonly, tmpfs=True, size=mount.size)
    cache_id = ""
    if mount.type == "cache":
        cache_id = f"{scope.options.cache_namespace}/{mount.id or clean(mount.target)}"
    return ExecMount(
        target,
        state,
        selector=selector,
        readonly=mount.readonly,
        no_output=mount.type == "bind" and not mount.readonly,
        cache_id=cache_id,
        sharing=_SHARING[mount.sharing],
    )


def secret_id(mount: Mount) -> str:
    """Which secret a mount of one asks for."""
    id_ = mount.source or mount.id
    if not id_:
        if not mount.target:
            raise DockerfileError("one of source, target required")
        id_ = posixpath.basename(mount.target.rstrip("/")) or "/"
    return id_


def _secret(mount: Mount) -> ExecSecret:
    id_ = secret_id(mount)
    target = mount.target or None
    if mount.env is None and target is None:
        target = "/run/secrets/" + posixpath.basename(id_.rstrip("/"))
    return ExecSecret(
        id_,
        target,
        mount.env,
        mode=0o400 if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
        optional=not mount.required,
    )


def _ssh(mount: Mount) -> ExecSsh:
    if mount.source:
        raise DockerfileError("ssh does not support source")
    return ExecSsh(
        mount.id,
        mount.target,
        mode=0o600 if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
        optional=not mount.required,
    )
