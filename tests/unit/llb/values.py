"""Random LLB ops, and their translation into the oracle's messages."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

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
from anyarch.spec.platform import Platform
from tests.unit.llb.oracle import message

# A few telling strings: empty, wide, of a length that takes two bytes. Random ones cost much and find no
# more.
text = st.sampled_from(["", "a", "key", "/usr/bin", "naïve ✓", "x" * 130])
# The oracle's runtime sorts a key behind those it is a prefix of, Go before them; so no prefixes here.
key = st.sampled_from(["b", "a1", "a2", "é", "z" * 130])
texts = st.lists(text, max_size=3).map(tuple)
small = st.integers(-1, 300)
int32 = st.integers(-(2**31), 2**31 - 1) | small
int64 = st.integers(-(2**63), 2**63 - 1) | small
uint32 = st.integers(0, 2**32 - 1)
flag = st.booleans()


def many(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=2).map(tuple)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


users = uint32 | st.builds(UserByName, text, small)
owners = maybe(st.builds(Chown, maybe(users), maybe(users)))
grants = {"id": text, "uid": uint32, "gid": uint32, "mode": uint32, "optional": flag}
mounts = st.builds(
    Mount,
    dest=text,
    input=small,
    selector=text,
    output=small,
    readonly=flag,
    mount_type=st.sampled_from(MountType),
    tmpfs_opt=maybe(st.builds(TmpfsOpt, int64)),
    cache_opt=maybe(st.builds(CacheOpt, text, st.sampled_from(CacheSharing))),
    secret_opt=maybe(st.builds(SecretOpt, **grants)),
    ssh_opt=maybe(st.builds(SSHOpt, **grants)),
    result_id=text,
    content_cache=st.sampled_from(ContentCache),
)
metas = st.builds(
    Meta,
    args=texts,
    env=texts,
    cwd=text,
    user=text,
    proxy_env=maybe(st.builds(ProxyEnv, text, text, text, text, text)),
    extra_hosts=many(st.builds(HostIP, text, text)),
    hostname=text,
    ulimits=many(st.builds(Ulimit, text, int64, int64)),
    cgroup_parent=text,
    remove_mount_stubs_recursive=flag,
    valid_exit_codes=many(int32),
)
execs = st.builds(
    ExecOp,
    meta=metas,
    mounts=many(mounts),
    network=st.sampled_from(NetMode),
    security=st.sampled_from(SecurityMode),
    secret_env=many(st.builds(SecretEnv, text, text, flag)),
    cdi_devices=many(st.builds(CDIDevice, text, flag)),
)
actions = st.one_of(
    st.builds(
        ActionCopy,
        src=text,
        dest=text,
        owner=owners,
        mode=int32,
        follow_symlink=flag,
        dir_copy_contents=flag,
        attempt_unpack_docker_compat=flag,
        create_dest_path=flag,
        allow_wildcard=flag,
        allow_empty_wildcard=flag,
        timestamp=int64,
        include_patterns=texts,
        exclude_patterns=texts,
        always_replace_existing_dest_paths=flag,
        mode_str=text,
        required_paths=texts,
    ),
    st.builds(ActionMkfile, text, int32, st.binary(max_size=9), owners, int64),
    st.builds(ActionMkdir, text, int32, flag, owners, int64),
    st.builds(ActionRm, text, flag, flag),
    st.builds(ActionSymlink, text, text, owners, int64),
)
maps = st.dictionaries(key, text, max_size=3)
kinds = st.one_of(
    execs,
    st.builds(SourceOp, text, maps),
    st.builds(FileOp, many(st.builds(FileAction, actions, small, small, small))),
    st.builds(BuildOp, int64, st.dictionaries(key, small, max_size=3), maps),
    st.builds(MergeOp, many(small)),
    st.builds(DiffOp, small, small),
    st.builds(PassthroughOp, text, many(int64)),
)
inputs = many(st.builds(Input, text, small))
platforms = maybe(st.builds(Platform, text, text, text, text, texts))
ops = st.builds(Op, inputs, kinds, platforms, maybe(texts)) | st.builds(
    Op, inputs, st.none(), platforms, maybe(texts.filter(bool))
)


def to_message(op: Op) -> Any:
    """The oracle's form of `op`."""
    result = message("Op")
    for item in op.inputs:
        result.inputs.add(digest=item.digest, index=item.index)
    if op.platform is not None:
        platform = op.platform
        result.platform.SetInParent()
        result.platform.Architecture, result.platform.OS = platform.architecture, platform.os
        result.platform.Variant, result.platform.OSVersion = platform.variant, platform.os_version
        result.platform.OSFeatures.extend(platform.os_features)
    if op.constraints is not None:
        result.constraints.SetInParent()
        result.constraints.filter.extend(op.constraints)
    match op.kind:
        case ExecOp():
            _exec(result.exec, op.kind)
        case SourceOp(identifier, attrs):
            result.source.SetInParent()
            result.source.identifier = identifier
            result.source.attrs.update(attrs)
        case FileOp(items):
            result.file.SetInParent()
            for item in items:
                _file_action(result.file.actions.add(), item)
        case BuildOp(builder, named, attrs):
            result.build.SetInParent()
            result.build.builder = builder
            for name, index in named.items():
                result.build.inputs[name].input = index
            result.build.attrs.update(attrs)
        case MergeOp(indices):
            result.merge.SetInParent()
            for index in indices:
                result.merge.inputs.add(input=index)
        case DiffOp(lower, upper):
            result.diff.lower.SetInParent()
            result.diff.upper.SetInParent()
            result.diff.lower.input, result.diff.upper.input = lower, upper
        case PassthroughOp(name, indices):
            result.passthrough.SetInParent()
            result.passthrough.id = name
            result.passthrough.outputs.extend(indices)
    return result


def _exec(result: Any, op: ExecOp) -> None:
    result.SetInParent()
    meta = op.meta
    target = result.meta
    target.SetInParent()
    target.args.extend(meta.args)
    target.env.extend(meta.env)
    target.cwd, target.user, target.hostname = meta.cwd, meta.user, meta.hostname
    target.cgroupParent = meta.cgroup_parent
    target.removeMountStubsRecursive = meta.remove_mount_stubs_recursive
    target.validExitCodes.extend(meta.valid_exit_codes)
    if meta.proxy_env is not None:
        target.proxy_env.SetInParent()
        for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"):
            setattr(target.proxy_env, name, getattr(meta.proxy_env, name))
    for host in meta.extra_hosts:
        target.extraHosts.add(Host=host.host, IP=host.ip)
    for limit in meta.ulimits:
        target.ulimit.add(Name=limit.name, Soft=limit.soft, Hard=limit.hard)
    for mount in op.mounts:
        _mount(result.mounts.add(), mount)
    result.network, result.security = int(op.network), int(op.security)
    for env in op.secret_env:
        result.secretenv.add(ID=env.id, name=env.name, optional=env.optional)
    for device in op.cdi_devices:
        result.cdiDevices.add(name=device.name, optional=device.optional)


def _mount(result: Any, mount: Mount) -> None:
    result.input, result.selector, result.dest = mount.input, mount.selector, mount.dest
    result.output, result.readonly, result.mountType = mount.output, mount.readonly, int(mount.mount_type)
    result.resultID, result.contentCache = mount.result_id, mount.content_cache
    if mount.tmpfs_opt is not None:
        result.TmpfsOpt.SetInParent()
        result.TmpfsOpt.size = mount.tmpfs_opt.size
    if mount.cache_opt is not None:
        result.cacheOpt.SetInParent()
        result.cacheOpt.ID, result.cacheOpt.sharing = mount.cache_opt.id, int(mount.cache_opt.sharing)
    for target, grant in ((result.secretOpt, mount.secret_opt), (result.SSHOpt, mount.ssh_opt)):
        if grant is not None:
            target.SetInParent()
            target.ID, target.uid, target.gid = grant.id, grant.uid, grant.gid
            target.mode, target.optional = grant.mode, grant.optional


def _owner(result: Any, owner: Chown | None) -> None:
    if owner is None:
        return
    result.SetInParent()
    for target, user in ((result.user, owner.user), (result.group, owner.group)):
        if isinstance(user, UserByName):
            target.byName.SetInParent()
            target.byName.name, target.byName.input = user.name, user.input
        elif user is not None:
            target.byID = user


def _file_action(result: Any, item: FileAction) -> None:
    result.input, result.secondaryInput, result.output = item.input, item.secondary_input, item.output
    action = item.action
    match action:
        case ActionCopy():
            copy = result.copy
            copy.SetInParent()
            copy.src, copy.dest, copy.mode, copy.timestamp = (
                action.src,
                action.dest,
                action.mode,
                action.timestamp,
            )
            copy.followSymlink, copy.dirCopyContents = action.follow_symlink, action.dir_copy_contents
            copy.attemptUnpackDockerCompatibility = action.attempt_unpack_docker_compat
            copy.createDestPath, copy.modeStr = action.create_dest_path, action.mode_str
            copy.allowWildcard, copy.allowEmptyWildcard = action.allow_wildcard, action.allow_empty_wildcard
            copy.alwaysReplaceExistingDestPaths = action.always_replace_existing_dest_paths
            copy.include_patterns.extend(action.include_patterns)
            copy.exclude_patterns.extend(action.exclude_patterns)
            copy.required_paths.extend(action.required_paths)
            _owner(copy.owner, action.owner)
        case ActionMkfile(path, mode, data, owner, timestamp):
            result.mkfile.SetInParent()
            result.mkfile.path, result.mkfile.mode = path, mode
            result.mkfile.data, result.mkfile.timestamp = data, timestamp
            _owner(result.mkfile.owner, owner)
        case ActionMkdir(path, mode, parents, owner, timestamp):
            result.mkdir.SetInParent()
            result.mkdir.path, result.mkdir.mode = path, mode
            result.mkdir.makeParents, result.mkdir.timestamp = parents, timestamp
            _owner(result.mkdir.owner, owner)
        case ActionRm(path, missing, wildcard):
            result.rm.SetInParent()
            result.rm.path, result.rm.allowNotFound, result.rm.allowWildcard = path, missing, wildcard
        case ActionSymlink(old, new, owner, timestamp):
            result.symlink.SetInParent()
            result.symlink.oldpath, result.symlink.newpath = old, new
            result.symlink.timestamp = timestamp
            _owner(result.symlink.owner, owner)
