"""Giving devices to a step: which of those it asks for it may have, and what that changes in its sandbox."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, NotSupported
from anyarch.llb.ops import CDIDevice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.sandbox.plan import DeviceNode, ExecRequest, Mount
    from anyarch.worker.cdi import Devices, Edits, MountEdit, NodeEdit
    from anyarch.worker.session import DeviceGrants

__all__ = ["granted", "with_devices"]

_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_PLAIN_OPTIONS = frozenset(
    (
        "bind",
        "rbind",
        "rw",
        "suid",
        "dev",
        "exec",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "nodev",
        "relatime",
    )
)


def granted(wanted: Sequence[CDIDevice], grants: DeviceGrants | None, devices: Devices) -> tuple[str, ...]:
    """The names of the devices that a step gets. `grants` are those of `--allow device`, None without.

    Raises `BuildError` for what is not allowed, or has to be there and is not.
    """
    aliases = grants.devices if grants is not None else {}
    direct = [CDIDevice(aliases[item.name], item.optional) for item in wanted if aliases.get(item.name)]
    named = devices.find(direct)
    found = devices.find([item for item in wanted if not aliases.get(item.name)])
    if grants is not None and grants.is_all:
        return tuple(dict.fromkeys([*named, *found]))
    allowed = set(
        devices.find([CDIDevice(name, optional=True) for name, real in aliases.items() if not real])
    )
    refused = [name for name in found if name not in allowed and not devices.is_auto_allowed(name)]
    if refused:
        is_one = len(refused) == 1
        raise BuildError(
            f"device{'' if is_one else 's'} {', '.join(refused)} {'is' if is_one else 'are'} requested by "
            "the build but not allowed",
            hint=f"if you trust this build, run it with --allow device={refused[0]}, or --allow device for "
            "all of them",
        )
    return tuple(dict.fromkeys([*named, *found]))


def with_devices(request: ExecRequest, names: Sequence[str], devices: Devices) -> ExecRequest:
    """`request` with what the devices need. Raises `BuildError` where the machine lacks it, `NotSupported`
    for devices that need what this runtime does not do."""
    edits = devices.edits(names)
    _refuse(edits, names)
    replaced = {item.partition("=")[0] for item in edits.env}
    kept = [item for item in request.env if item.partition("=")[0] not in replaced]
    nodes: list[Mount] = [_node(item, request.uid, request.gid) for item in edits.device_nodes]
    mounts: list[Mount] = [_mount(item) for item in edits.mounts]
    groups = dict.fromkeys((*request.groups, *(gid for gid in edits.additional_gids if gid)))
    return msgspec.structs.replace(
        request,
        env=(*kept, *edits.env),
        mounts=(*request.mounts, *nodes, *mounts),
        groups=tuple(groups),
    )


def _refuse(edits: Edits, names: Sequence[str]) -> None:
    needed = ""
    if edits.hooks:
        needed = f"the program {edits.hooks[0].path} run as a {edits.hooks[0].hook_name} hook"
    elif edits.net_devices:
        needed = "a network interface"
    elif edits.intel_rdt is not None:
        needed = "a class of Intel RDT"
    if needed:
        raise NotSupported(
            f"device {', '.join(names)} needs {needed}, which is not supported",
            hint="use a CDI file without it: device nodes, mounts, variables and groups are supported",
        )


def _node(edit: NodeEdit, uid: int, gid: int) -> DeviceNode:
    from anyarch.sandbox.plan import DeviceNode

    host_path = edit.host_path or edit.path
    kind = _TYPES.get(edit.type, 0)
    if edit.type and not kind:
        raise BuildError(f"CDI device {edit.path}: {edit.type!r} is no type of device", hint="c, b or p")
    is_complete = bool(edit.type) and (edit.major != 0 or edit.type == "p")
    number = os.makedev(edit.major, edit.minor)
    mode = edit.file_mode
    try:
        info = os.lstat(host_path)
    except OSError as error:
        if not is_complete:
            raise BuildError(
                f'failed to stat CDI host device "{host_path}": {error.strerror}',
                hint="is the device there, and its driver loaded?",
            ) from None
    else:
        found = stat.S_IFMT(info.st_mode)
        if found not in _TYPES.values() or (kind and found != kind):
            if not is_complete:
                raise BuildError(f'CDI host device "{host_path}" is not a device of the type that is needed')
        else:
            mode = stat.S_IMODE(info.st_mode) if mode is None else mode
            if not is_complete:
                kind = found
                number = info.st_rdev if edit.major == 0 else number
    return DeviceNode(
        edit.path,
        host_path,
        kind | (0o666 if mode is None else mode & 0o7777),
        number,
        uid if edit.uid is None else edit.uid,
        gid if edit.gid is None else edit.gid,
    )


def _mount(edit: MountEdit) -> Mount:
    from anyarch.sandbox.plan import Bind, Tmpfs

    if edit.type == "tmpfs":
        return Tmpfs(edit.container_path)
    if edit.type not in ("", "bind", "none"):
        raise NotSupported(f"the CDI mount {edit.container_path} of type {edit.type} is not supported")
    readonly = nosuid = noexec = False
    for option in edit.options:
        match option:
            case "ro":
                readonly = True
            case "nosuid":
                nosuid = True
            case "noexec":
                noexec = True
            case _ if option not in _PLAIN_OPTIONS:
                raise NotSupported(
                    f"the option {option} of the CDI mount {edit.container_path} is not supported"
                )
    if not os.path.exists(edit.host_path):
        raise BuildError(f'the CDI mount "{edit.host_path}" is not on this machine')
    return Bind(edit.host_path, edit.container_path, readonly, nosuid=nosuid, noexec=noexec)
