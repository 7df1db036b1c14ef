"""What a step must not be able to do, tried from inside."""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import executable
from anyarch.errors import SandboxError
from anyarch.sandbox.plan import Bind, RootFS, Tmpfs

if TYPE_CHECKING:
    from .conftest import Steps

pytestmark = pytest.mark.root

_EPERM, _ENOSYS = 1, 38


def call_amd64(nr: int, first: int = 0) -> bytes:
    """A program that makes one system call and ends with its errno."""
    call = struct.pack("<BIBI", 0xB8, nr, 0xBF, first) + b"\x31\xf6\x31\xd2\x0f\x05"  # esi = edx = 0
    return executable("amd64", call + b"\xf7\xd8\x89\xc7\xb8\xe7\0\0\0\x0f\x05")  # edi = -eax; exit_group


def call_386(nr: int) -> bytes:
    call = struct.pack("<BI", 0xB8, nr) + b"\x31\xdb\x31\xc9\x31\xd2\xcd\x80"
    return executable("386", call + b"\xf7\xd8\x89\xc3\xb8\xfc\0\0\0\xcd\x80")


def run_program(steps: Steps, program: bytes, *, mode: int = 0o755, **fields: object) -> int:
    layer = steps.layer(f"program-{len(os.listdir(steps.directory))}")
    (layer / "p").write_bytes(program)
    (layer / "p").chmod(mode)
    return steps.run("/p", root=RootFS((str(layer),)), **fields)


def status(steps: Steps, **fields: object) -> dict[str, str]:
    assert steps.run("cat", "/proc/self/status", **fields) == 0
    return dict(line.split(":\t") for line in steps.out.decode().splitlines())


def test_root_has_dockers_capabilities_and_cannot_get_more(steps: Steps) -> None:
    found = status(steps)

    sets = {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {
        "CapInh": 0,
        "CapPrm": 0xA80425FB,
        "CapEff": 0xA80425FB,
        "CapBnd": 0xA80425FB,
        "CapAmb": 0,
    }
    assert found["Seccomp"] == "2"
    assert found["NoNewPrivs"] == "0"


def test_other_users_have_no_capabilities(root_steps: Steps) -> None:
    found = status(root_steps, uid=1000, gid=100, groups=(4, 27))

    assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == int(found["CapAmb"], 16) == 0
    assert found["Uid"].split() == ["1000"] * 4
    assert found["Gid"].split() == ["100"] * 4
    assert found["Groups"].split() == ["4", "27"]


def test_setuid_programs_work(root_steps: Steps) -> None:
    geteuid = executable("amd64", b"\xb8\x6b\0\0\0\x0f\x05\x89\xc7\xb8\xe7\0\0\0\x0f\x05")

    assert run_program(root_steps, geteuid, uid=33, gid=33) == 33
    assert run_program(root_steps, geteuid, uid=33, gid=33, mode=0o4755) == 0


def test_user_without_an_id_here_is_refused(user_steps: Steps) -> None:
    with pytest.raises(SandboxError, match="user 77000000 does not exist") as caught:
        user_steps.run("true", uid=77000000)
    assert "/etc/subuid" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("nr", "first", "errno"),
    [
        (165, 0, _EPERM),  # mount
        (272, 0x10000000, _EPERM),  # unshare(CLONE_NEWUSER)
        (56, 0x10000011, _EPERM),  # clone(CLONE_NEWUSER)
        (435, 0, _ENOSYS),  # clone3
        (425, 0, _EPERM),  # io_uring_setup
        (250, 0, _EPERM),  # keyctl
        (248, 0, _EPERM),  # add_key
        (249, 0, _EPERM),  # request_key
        (321, 0, _EPERM),  # bpf
        (323, 0, _EPERM),  # userfaultfd
        (298, 0, _EPERM),  # perf_event_open
        (246, 0, _EPERM),  # kexec_load
        (175, 0, _EPERM),  # init_module
        (304, 0, _EPERM),  # open_by_handle_at
        (308, 0, _EPERM),  # setns
        (169, 0, _EPERM),  # reboot
        (167, 0, _EPERM),  # swapon
        (428, 0, _EPERM),  # open_tree
        (430, 0, _EPERM),  # fsopen
        (0x40000000 | 39, 0, _ENOSYS),  # getpid of the x32 table
        (9999, 0, _ENOSYS),
    ],
)
def test_forbidden_call_fails(steps: Steps, nr: int, first: int, errno: int) -> None:
    assert run_program(steps, call_amd64(nr, first)) == errno


@pytest.mark.parametrize("nr", [21, 52, 310, 288])  # mount umount2 unshare keyctl
def test_forbidden_call_fails_by_the_32_bit_table(steps: Steps, nr: int) -> None:
    assert run_program(steps, call_386(nr)) == _EPERM


def test_32_bit_programs_run(steps: Steps) -> None:
    assert run_program(steps, executable("386", b"\xb8\xfc\0\0\0\xbb\x07\0\0\0\xcd\x80")) == 7


def test_hosts_disk_cannot_be_read_through_a_device_node(root_steps: Steps) -> None:
    """A step may make nodes, as with Docker; there need be no device cgroup to stop it opening them."""
    disk = os.stat("/").st_dev
    layer = root_steps.layer("with-node")
    os.mknod(layer / "of-the-image", stat.S_IFBLK | 0o666, disk)
    cache = root_steps.layer("cache")
    places = "/of-the-step /cache/node /tmpfs/node /dev/node /dev/shm/node"
    script = (
        f"for node in {places}; do mknod $node b {os.major(disk)} {os.minor(disk)}; done; "
        f"for node in /of-the-image {places}; do dd if=$node count=1 2>&1 >/dev/null && echo READ; done; true"
    )

    out = root_steps.sh(
        script,
        root=root_steps.root(root_steps.base, str(layer)),
        mounts=(Bind(str(cache), "/cache"), Tmpfs("/tmpfs")),
    )

    assert "READ" not in out
    assert out.count("Permission denied") == 6


def test_ordinary_users_step_makes_no_device_nodes(user_steps: Steps) -> None:
    assert user_steps.run("mknod", "/node", "b", "8", "0") == 1
    assert b"Operation not permitted" in user_steps.err


def test_hosts_mounts_and_files_are_out_of_reach(steps: Steps) -> None:
    assert str(steps.directory) not in steps.sh("cat /proc/self/mountinfo /proc/1/environ; ls -l /proc/1/fd")
    assert steps.sh("ls /proc/1/root /proc/self/cwd/.. ; cd /; cd ..; ls").count("bin") == 3


def test_names_of_the_hosts_cgroups_are_not_seen(steps: Steps) -> None:
    lines = steps.sh("cat /proc/self/cgroup").splitlines()

    assert {line.rpartition(":")[2] for line in lines} <= {"/"}


def test_insecure_step_may_mount_and_use_devices(steps: Steps) -> None:
    out = steps.sh(
        "mount -t tmpfs none /tmp; touch /tmp/x; umount /tmp; ls /dev; grep CapEff /proc/self/status",
        insecure=True,
    )

    assert {"null", "kmsg"} <= set(out.split())
    assert int(out.split()[-1], 16).bit_count() > 35
    assert status(steps, insecure=True)["Seccomp"] == "0"


def test_insecure_step_of_another_user_has_all_capabilities(root_steps: Steps) -> None:
    assert int(status(root_steps, insecure=True, uid=1000, gid=1000)["CapEff"], 16).bit_count() > 35


@pytest.mark.parametrize("place", ["fd/{}", "fd/{}/.."])
def test_working_directory_does_not_lead_out_by_what_is_open(steps: Steps, place: str) -> None:
    """The sandbox has directories of the machine open while it is set up."""
    for number in range(3, 24):
        try:
            steps.run("ls", "-la", cwd="/proc/self/" + place.format(number))
        except SandboxError:
            continue
        else:
            assert b"busybox" not in steps.out
            assert str(steps.directory).encode() not in steps.out
            assert b"boot" not in steps.out


@pytest.mark.parametrize("path", ["/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/self/exe"])
def test_working_directory_is_not_one_of_the_links_of_proc(steps: Steps, path: str) -> None:
    with pytest.raises(SandboxError, match="cannot be entered"):
        steps.run("true", cwd=path)


def test_working_directory_by_links_of_the_image_stays_inside(steps: Steps) -> None:
    layer = steps.layer("links")
    (layer / "up").symlink_to("../../../../../../..")
    (layer / "out").symlink_to("/made/by/step")

    def work(cwd: str) -> str:
        return steps.sh("pwd; ls", cwd=cwd, root=steps.root(steps.base, str(layer)))

    assert work("/up").split()[:2] == ["/", "bin"]
    assert work("/out/deep").split() == ["/made/by/step/deep"]
