"""What the kernel refused, in words: which gate, why it may be shut, and how to open it."""

from __future__ import annotations

import errno
import os

from anyarch.errors import SandboxError

__all__ = ["refusal"]

_USERNS_SETTINGS = (
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", 15000),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", 1),
)
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_MOUNTPOINT_HINTS = {
    errno.ENOTDIR: "a file lies where a directory is needed, or the reverse",
    errno.ELOOP: "the image has a link there",
}
_IDS_HINT = (
    "give your user further ids in /etc/subuid and /etc/subgid and install newuidmap (package uidmap) "
    "or build as root"
)
_TEXT = {
    errno.ENOENT: "no such file or directory",
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "exec format error",
    errno.E2BIG: "argument list too long",
}


def refusal(gate: str, subject: bytes, code: int, detail: bytes = b"") -> SandboxError:
    """The error for a report of the child (`anyarch.sandbox.supervisor.report.Refused`)."""
    what = os.fsdecode(subject)
    why = _TEXT.get(code) or os.strerror(code).lower()
    match gate:
        case "exec":
            return _exec_refusal(what, code, why, detail)
        case "unshare user" | "emulator namespace":
            return SandboxError(
                f"the kernel refused a new user namespace (unshare CLONE_NEWUSER): {why}",
                hint=_userns_hint(code),
            )
        case "unshare":
            return SandboxError(
                f"the kernel refused new namespaces (unshare CLONE_NEWNS, CLONE_NEWPID): {why}",
                hint="inside a container, give it the capability CAP_SYS_ADMIN and no seccomp profile",
            )
        case "map ids":
            return SandboxError(
                f"the ids of the user namespace could not be set (/proc/self/uid_map): {why}",
                hint="a policy of this machine forbids it" + _apparmor_hint(),
            )
        case "binfmt_misc":
            return SandboxError(
                f"the kernel refused binfmt_misc in a user namespace: {why}",
                hint="that needs Linux 6.7 or later; on an older kernel register the emulators for the whole "
                "machine: apt-get install qemu-user-static binfmt-support",
            )
        case "register":
            return SandboxError(f"binfmt_misc refused the emulator {what}: {why}")
        case "mount proc":
            return SandboxError(
                f"the kernel refused to mount /proc for the step: {why}",
                hint="inside a container, parts of /proc are hidden and the kernel allows no new one; run "
                "the container with --security-opt systempaths=unconfined, or privileged",
            )
        case "overlay":
            return SandboxError(
                f"the layers of the step could not be mounted (overlay): {why}", hint=_overlay_hint(code)
            )
        case "layer":
            return SandboxError(f"a layer directory cannot be used: {what}: {why}")
        case "source":
            return SandboxError(f"the source of a mount cannot be used: {what}: {why}")
        case "mountpoint" | "bind" | "mount tmpfs" if gate == "mountpoint" or code == errno.ENOTDIR:
            return SandboxError(
                f"nothing can be mounted at /{what}: {why}",
                hint=_MOUNTPOINT_HINTS.get(code),
            )
        case "chdir":
            return SandboxError(f"the working directory {what} cannot be entered: {why}")
        case "user" | "groups" if code in (errno.EINVAL, errno.EPERM):
            return SandboxError(
                f"{'user' if gate == 'user' else 'group'} {what} does not exist in this user namespace",
                hint=_IDS_HINT,
            )
        case "file" if code == errno.EINVAL:
            return SandboxError(f"the owner of /{what} does not exist in this user namespace", hint=_IDS_HINT)
        case "limit":
            return SandboxError(f"resource limit {what} cannot be set: {why}")
        case "cgroup value":
            return SandboxError(
                f"the kernel does not take the limit {what}: {why}",
                hint="see how many CPUs and how much memory this machine, or the group above, has",
            )
        case "cgroup":
            return SandboxError(f"the step could not join its control group {what}: {why}")
        case "fork":
            return SandboxError(f"no process could be started for the step (fork): {why}")
        case "bind" | "readonly" | "mask" if code == errno.ENOSYS:
            return SandboxError("the sandbox needs Linux 5.12 or later (mount_setattr)")
        case "find" if code == errno.ENOSYS:
            return SandboxError("the sandbox needs Linux 5.12 or later (openat2)")
        case "internal":
            return SandboxError(f"the sandbox failed: {what}")
    place = f" on {what}" if what else ""
    return SandboxError(f"the sandbox could not be set up: {gate}{place}: {why}")


def _exec_refusal(path: str, code: int, why: str, head: bytes) -> SandboxError:
    from anyarch.elf.header import interpreter_of, machine_name

    hint = None
    if code == errno.ENOENT and head:
        interpreter = _script_interpreter(head) or interpreter_of(head)
        if interpreter:
            hint = f"{path} is there, but {interpreter}, which is to run it, is not"
    elif code == errno.ENOENT and path == "/bin/sh":
        hint = 'there is no shell in it (FROM scratch is empty); a program without one: RUN ["/program", "…"]'
    elif code == errno.ENOENT and "/" not in path:
        return _with_status(SandboxError(f"exec {path}: executable file not found in $PATH"), code)
    elif code == errno.ENOEXEC:
        name = machine_name(head)
        if name:
            hint = f"it is a program for {name}; that needs an emulator: apt-get install qemu-user-static"
        elif head[:4] == b"\x7fELF":
            hint = "it is a damaged program file"
        elif head[:2] != b"#!":
            hint = "a script needs a first line that names its interpreter, such as #!/bin/sh"
    return _with_status(SandboxError(f"exec {path}: {why}", hint=hint), code)


def _with_status(error: SandboxError, code: int) -> SandboxError:
    """The exit status that shells and `docker run` have for a program that is missing or cannot be run."""
    error.exit_code = 127 if code == errno.ENOENT else 126
    return error


def _script_interpreter(head: bytes) -> str:
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].split(b"\n", 1)[0].split()
    return os.fsdecode(words[0]) if words else ""


def _userns_hint(code: int) -> str:
    for path, shut, name, opened in _USERNS_SETTINGS:
        if _read(path) == shut:
            return f"{name} is {shut}; an administrator can allow it: sysctl {name}={opened}"
    if code == errno.ENOSPC:
        return "the limit user.max_user_namespaces is reached"
    return "a policy of this machine or container forbids user namespaces" + (
        _apparmor_hint() or "; build as root"
    )


def _apparmor_hint() -> str:
    if _read(_APPARMOR) == "1":
        return "; an administrator can allow it: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return ""


def _overlay_hint(code: int) -> str | None:
    if code == errno.ENODEV:
        return "the kernel has no overlay file system: modprobe overlay"
    if code in (errno.EPERM, errno.EINVAL):
        return (
            "the store may lie on a file system that overlayfs cannot write to (another overlay, NFS); set "
            " ANYARCH_ROOT to a directory on ext4, xfs, btrfs or tmpfs. An ordinary user needs Linux 5.11"
        )
    return None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
