"""What the kernel refused, in words."""

from __future__ import annotations

import errno

import pytest

from anyarch.elf.tiny import tiny_executable
from anyarch.sandbox.gates import refusal


@pytest.mark.parametrize(
    ("gate", "code", "message", "hint"),
    [
        ("unshare user", errno.EPERM, "user namespace", "forbids user namespaces"),
        ("unshare user", errno.ENOSPC, "CLONE_NEWUSER", "max_user_namespaces"),
        ("unshare", errno.EPERM, "CLONE_NEWNS", "CAP_SYS_ADMIN"),
        ("binfmt_misc", errno.EPERM, "binfmt_misc in a user namespace", "6.7"),
        ("mount proc", errno.EPERM, "/proc", "systempaths"),
        ("overlay", errno.ENODEV, "overlay", "modprobe"),
        ("user", errno.EINVAL, "user x", "/etc/subuid"),
        ("groups", errno.EPERM, "group x", "/etc/subuid"),
        ("mountpoint", errno.ENOTDIR, "/x", "directory"),
        ("bind", errno.ENOSYS, "5.12", ""),
        ("pivot_root", errno.EINVAL, "pivot_root", ""),
    ],
)
def test_each_gate_says_what_refused_and_what_to_do(gate: str, code: int, message: str, hint: str) -> None:
    error = refusal(gate, b"x", code)

    assert message in error.message
    assert hint in (error.hint or "")


def test_missing_program_is_told_from_a_missing_loader() -> None:
    script = refusal("exec", b"/run", errno.ENOENT, b"#! /bin/bash -e\nset -x\n")

    assert refusal("exec", b"/run", errno.ENOENT).message == "exec /run: no such file or directory"
    assert script.hint == "/run is there, but /bin/bash, which is to run it, is not"
    assert refusal("exec", b"run", errno.ENOENT).message == "exec run: executable file not found in $PATH"


def test_program_of_another_architecture_is_named() -> None:
    error = refusal("exec", b"/bin/sh", errno.ENOEXEC, tiny_executable("s390x"))

    assert error.message == "exec /bin/sh: exec format error"
    assert "s390x" in (error.hint or "")
    assert "qemu-user-static" in (error.hint or "")


def test_script_without_interpreter_is_explained() -> None:
    assert "#!/bin/sh" in (refusal("exec", b"/x", errno.ENOEXEC, b"echo hello\n").hint or "")
