"""From a request to the operations of the child: pure, so every claim is about the plan."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.errors import SandboxError
from anyarch.sandbox.compile import DEFAULT_CAPABILITIES, MAX_LAYERS, compile_plan
from anyarch.sandbox.plan import (
    Bind,
    ExecRequest,
    FileMount,
    OverlayMount,
    RootFS,
    Tmpfs,
    Ulimit,
)

if TYPE_CHECKING:
    from anyarch.sandbox.compile import Plan
    from anyarch.sandbox.plan import (
        Mount,
    )

ROOT = RootFS(("/layers/a", "/layers/b"), "/work/upper", "/work/work")


def compiled(*mounts: Mount, root: RootFS = ROOT, overlay: str = "trusted", **fields: object) -> Plan:
    request = msgspec.structs.replace(ExecRequest(("/bin/true",), root, mounts=mounts), **fields)
    return compile_plan(request, overlay=overlay, machine="x86_64")


def test_default_step_has_dockers_mounts_in_order() -> None:
    assert compiled().describe() == [
        "root /layers/a:/layers/b /work/upper /work/work False True",
        "proc proc",
        "dev dev 67108864 False",
        "sys sys False",
        "readonly proc/bus",
        "readonly proc/fs",
        "readonly proc/irq",
        "readonly proc/sys",
        "readonly proc/sysrq-trigger",
        "mask proc/acpi",
        "mask proc/asound",
        "mask proc/kcore",
        "mask proc/keys",
        "mask proc/latency_stats",
        "mask proc/timer_list",
        "mask proc/timer_stats",
        "mask proc/sched_debug",
        "mask proc/scsi",
        "mask sys/firmware",
        "mask sys/devices/virtual/powercap",
    ]


def test_parents_are_mounted_before_what_lies_in_them() -> None:
    plan = compiled(Bind("/host/deep", "/a/b/c"), Tmpfs("/a"), FileMount("/a/b", b"x"))

    assert [op[1] for op in plan.operations if op[0] in ("bind", "tmpfs", "file")] == [b"a", b"a/b", b"a/b/c"]


def test_last_mount_at_a_place_wins() -> None:
    plan = compiled(Tmpfs("/a"), Bind("/host", "/a/"))

    assert [op[:3] for op in plan.operations if op[0] in ("bind", "tmpfs")] == [("bind", b"a", b"/host")]


def test_destinations_and_selectors_cannot_name_a_parent() -> None:
    plan = compiled(
        Bind("/host", "/../../etc", selector="../../x"), OverlayMount(ROOT, "b/../c", selector="/d/..")
    )

    mounts = [op for op in plan.operations if op[0] in ("bind", "tree")]
    assert mounts[0][1:4] == (b"etc", b"/host", b"x")
    assert mounts[1][6:] == (b"c", b"")


def test_tree_without_upper_is_read_only() -> None:
    assert compiled(root=RootFS(("/a",))).operations[0] == ("root", (b"/a",), b"", b"", True, True)


def test_insecure_step_hides_nothing_and_keeps_everything() -> None:
    plan = compiled(insecure=True)

    assert not [op for op in plan.operations if op[0] in ("mask", "readonly")]
    assert plan.seccomp[1] == b""
    assert plan.capabilities > DEFAULT_CAPABILITIES
    assert plan.operations[0][5] is False  # devices may be used


def test_default_capabilities_are_dockers_fourteen() -> None:
    assert DEFAULT_CAPABILITIES == 0xA80425FB


def test_overlay_in_a_user_namespace_uses_user_attributes() -> None:
    assert compiled(overlay="user").overlay_options == b"userxattr"
    assert b"userxattr" not in compiled().overlay_options


def test_loopback_only_network_is_a_namespace() -> None:
    assert not compiled().namespaces & 0x40000000
    assert compiled(network="none").namespaces & 0x40000000


def test_environment_keeps_the_last_of_a_name_and_drops_texts_without() -> None:
    plan = compiled(env=("A=1", "A=2", "B=", "C=x=y", "=z"))

    assert plan.env == {b"A": b"2", b"B": b"", b"C": b"x=y"}


def test_limits_go_by_their_kernel_numbers() -> None:
    plan = compiled(ulimits=(Ulimit("nofile", 10, 20), Ulimit("RLIMIT_CORE", -1, -1)))

    assert plan.rlimits == ((7, 10, 20), (4, -1, -1))


def test_plan_survives_the_way_to_the_child() -> None:
    fields = msgspec.structs.asdict(compiled(FileMount("/f", b"\0\xff"), env=("A=\udcff",)))

    assert marshal.loads(marshal.dumps(fields)) == fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"argv": ()}, "no command"),
        ({"network": "bridge"}, "bridge"),
        ({"argv": ("a\0b",)}, "NUL"),
        ({"mounts": (Tmpfs("/"),)}, "root directory"),
        ({"mounts": (Tmpfs("/a/.."),)}, "root directory"),
        ({"root": RootFS(("/l",) * (MAX_LAYERS + 1))}, "500 layers"),
        ({"root": RootFS((), "/upper")}, "work directory"),
        ({"ulimits": (Ulimit("files", 1, 1),)}, "files"),
    ],
)
def test_impossible_requests_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SandboxError, match=message):
        compiled(**fields)
