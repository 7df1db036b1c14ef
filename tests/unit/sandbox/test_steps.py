"""Steps that run: what they see, what they leave behind, how they end."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import executable, tiny_executable
from anyarch.errors import SandboxError
from anyarch.sandbox.plan import Bind, FileMount, OverlayMount, RootFS, Tmpfs, Ulimit

from .conftest import tree_of
from .processes import mounts_below

if TYPE_CHECKING:
    from .conftest import Steps

pytestmark = pytest.mark.root

_CRASH = b"\xf4"  # hlt: forbidden to a program, on amd64


def native_program(directory: Path, name: str, content: bytes, mode: int = 0o755) -> None:
    (directory / name).write_bytes(content)
    (directory / name).chmod(mode)


# how a step ends


def test_exit_code_and_both_streams_are_returned(steps: Steps) -> None:
    assert steps.run("sh", "-c", "echo out; echo err >&2; exit 7") == 7
    assert (steps.out, steps.err) == (b"out\n", b"err\n")


def test_signal_gives_128_and_its_number(steps: Steps) -> None:
    layer = steps.layer("crash")
    native_program(layer, "crash", executable("amd64", _CRASH))

    assert steps.run("/crash", root=RootFS((str(layer),))) == 128 + 11


def test_missing_program_is_named(steps: Steps) -> None:
    with pytest.raises(SandboxError, match=r"^exec /bin/nothing: no such file or directory$"):
        steps.run("/bin/nothing")
    with pytest.raises(SandboxError, match=r"^exec nothing: executable file not found in \$PATH$"):
        steps.run("nothing")


def test_file_without_permission_is_named(steps: Steps) -> None:
    with pytest.raises(SandboxError, match=r"^exec /tmp: permission denied$"):
        steps.run("/tmp")


def test_missing_loader_is_told_from_a_missing_program(steps: Steps) -> None:
    layer = steps.layer("script")
    native_program(layer, "run", b"#!/bin/bash\n")

    with pytest.raises(SandboxError, match=r"^exec /run: no such file or directory$") as caught:
        steps.run("/run", root=steps.root(str(layer)))
    assert caught.value.hint == "/run is there, but /bin/bash, which is to run it, is not"


def test_program_of_another_architecture_is_explained(steps: Steps) -> None:
    layer = steps.layer("foreign")
    native_program(layer, "sh", tiny_executable("s390x"))

    with pytest.raises(SandboxError, match=r"^exec /sh: exec format error$") as caught:
        steps.run("/sh", root=RootFS((str(layer),)))
    assert "s390x" in (caught.value.hint or "")


def test_background_processes_end_with_the_step(steps: Steps) -> None:
    # they hold the output open; were they alive, the end of the output would not come
    assert steps.run("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo started") == 0
    assert steps.out == b"started\n"


def test_much_output_passes_in_bounded_pieces(steps: Steps) -> None:
    sizes = []
    request = steps.request("dd", "if=/dev/zero", "bs=1M", "count=24")

    code = steps.executor.run(request, on_output=lambda stream, data: sizes.append((stream, len(data))))

    assert code == 0
    assert sum(size for stream, size in sizes if stream == 1) == 24 << 20
    assert max(size for _, size in sizes) <= 1 << 16


def test_input_is_empty_unless_given(steps: Steps, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("hello")

    assert steps.sh("cat") == ""
    with given.open() as file:
        assert steps.sh("cat", stdin=file.fileno()) == "hello"


def test_streams_of_the_caller_can_be_handed_over(steps: Steps, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        code = steps.executor.run(
            steps.request("sh", "-c", "echo a; echo b >&2"),
            on_output=lambda _stream, _data: pytest.fail("nothing should come this way"),
            stdio=(0, out.fileno(), err.fileno()),
        )

    assert code == 0
    assert (tmp_path / "out").read_bytes() == b"a\n"
    assert (tmp_path / "err").read_bytes() == b"b\n"


def test_steps_run_at_the_same_time(steps: Steps) -> None:
    """Each of four steps waits for the three others."""
    shared = steps.layer("shared")
    codes: list[int] = []
    script = "touch /shared/$0; while test $(ls /shared | wc -l) -lt 4; do sleep 0.01; done"

    def run(name: str, root: RootFS) -> None:
        request = steps.request("sh", "-c", script, name, root=root, mounts=(Bind(str(shared), "/shared"),))
        codes.append(steps.executor.run(request, on_output=lambda _stream, _data: None))

    threads = [threading.Thread(target=run, args=(str(number), steps.root())) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert codes == [0, 0, 0, 0]


# what it leaves


def test_what_is_mounted_on_the_host_later_can_be_used(root_steps: Steps) -> None:
    """The supervisor has a mount namespace of its own, and may live long."""
    root_steps.sh("true")
    place = root_steps.layer("later")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    try:
        (place / "file").write_text("x")
        assert root_steps.sh("cat /m/file", mounts=(Bind(str(place), "/m"),)) == "x"
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert mounts_below(place) == []


def test_only_what_the_step_wrote_is_in_the_upper_directory(steps: Steps) -> None:
    """The layer has no /proc, /dev, /sys or /etc: their mountpoints never show."""
    root = steps.root()
    mounts = (
        FileMount("/etc/resolv.conf", b"nameserver 192.0.2.1\n"),
        Tmpfs("/scratch/deep"),
        Bind(steps.base, "/cache/x"),
    )

    steps.sh("cat /etc/resolv.conf; touch /new /cache/x/../../tmp/file", root=root, mounts=mounts)

    assert steps.out == b"nameserver 192.0.2.1\n"
    assert tree_of(root.upper) == ["new", "tmp", "tmp/file"]


def test_removed_files_are_whiteouts_and_replaced_directories_opaque(steps: Steps) -> None:
    base = steps.layer("below")
    (base / "gone").write_text("x")
    (base / "again").mkdir()
    (base / "again" / "old").write_text("x")
    root = steps.root(steps.base, str(base))

    steps.sh("rm /gone; rm -r /again; mkdir /again; touch /again/new", root=root)

    info = os.lstat(os.path.join(root.upper, "gone"))
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0
    attribute = f"{steps.executor.overlay}.overlay.opaque"
    assert os.getxattr(os.path.join(root.upper, "again"), attribute) == b"y"


def test_renamed_directory_of_a_layer_is_copied_whole(steps: Steps) -> None:
    """No redirects and no metadata-only copies: the upper directory must stand for itself."""
    base = steps.layer("below")
    (base / "old").mkdir()
    (base / "old" / "file").write_text("content")
    root = steps.root(steps.base, str(base))

    steps.sh("chmod 600 /old/file; mv /old /new", root=root)

    assert Path(root.upper, "new", "file").read_text() == "content"


def test_root_directory_keeps_the_mode_of_the_layer_below(steps: Steps) -> None:
    base = steps.layer("below")
    base.chmod(0o711)

    assert steps.sh("stat -c %a /", root=steps.root(steps.base, str(base))) == "711\n"


def test_read_only_root_takes_no_writing(steps: Steps) -> None:
    assert steps.run("touch", "/x", root=RootFS((steps.base,))) == 1
    assert b"Read-only" in steps.err


def test_program_runs_on_nothing_but_itself(steps: Steps) -> None:
    layer = steps.layer("scratch")
    native_program(layer, "p", tiny_executable("amd64", 5))

    assert steps.run("/p", root=steps.root(str(layer))) == 5


def test_step_without_layers_starts_empty(steps: Steps) -> None:
    with pytest.raises(SandboxError, match="no such file"):
        steps.run("/p", root=RootFS((), *_upper(steps)))


def _upper(steps: Steps) -> tuple[str, str]:
    root = steps.root()
    return root.upper, root.work


def test_hundreds_of_layers_are_stacked(steps: Steps) -> None:
    lowers = []
    for number in range(300):
        layer = steps.layer(f"a-rather-long-name-of-a-layer-directory-{number:04}")
        (layer / "top").write_text(str(number))
        (layer / f"file-{number}").touch()
        lowers.append(str(layer))

    assert steps.sh("cat /top; ls / | grep -c file-", root=steps.root(steps.base, *lowers)) == "299300\n"


def test_nothing_stays_mounted_anywhere(steps: Steps) -> None:
    steps.sh("true", mounts=(Tmpfs("/a"), Bind(steps.base, "/b")))

    assert mounts_below(steps.directory) == []


# what it sees


def test_environment_directory_and_name_are_as_asked(steps: Steps) -> None:
    out = steps.sh("pwd; hostname; env", cwd="/made/here", env=("PATH=/bin", "A=b c"), hostname="builder")

    assert out.splitlines()[:2] == ["/made/here", "builder"]
    assert set(out.splitlines()[2:]) == {"PATH=/bin", "A=b c", "PWD=/made/here", "SHLVL=1"}
    assert steps.sh("hostname") == "buildkitsandbox\n"


def test_step_sees_its_init_and_no_other_processes(steps: Steps) -> None:
    out = steps.sh("echo $$ $PPID; cat /proc/1/cmdline; echo; ls -d /proc/[0-9]*; readlink /proc/1/exe")

    assert out.split()[:3] == ["2", "1", "init\0"]
    assert {word for word in out.split() if word.startswith("/proc/")} <= {f"/proc/{n}" for n in (1, 2, 3, 4)}
    assert "memfd:anyarch-init" in out


def test_only_the_three_streams_are_open(steps: Steps) -> None:
    assert steps.run("ls", "/proc/self/fd") == 0
    assert steps.out.split() in ([b"0", b"1", b"2", b"3"], [b"0", b"1", b"2"])  # 3 is the listing itself


def test_signals_and_mask_are_as_at_boot(steps: Steps) -> None:
    assert steps.run("cat", "/proc/self/status") == 0
    status = dict(line.split(":\t") for line in steps.out.decode().splitlines())

    of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33, which glibc's posix_spawn ignores
    assert int(status["SigIgn"], 16) & ~of_the_c_library == 0
    assert int(status["SigBlk"], 16) == 0
    assert steps.sh("umask") == "0022\n"


def test_devices_are_the_usual_ones_and_work(steps: Steps) -> None:
    out = steps.sh(
        "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; ls /dev; "
        "test -c /dev/pts/ptmx; touch /dev/shm/x; readlink /dev/fd"
    )

    assert out.split() == [
        "3",
        "8",
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
        "/proc/self/fd",
    ]


def test_shm_has_the_size_asked_for(steps: Steps) -> None:
    assert "size=8k" in steps.sh("grep /dev/shm /proc/mounts", shm_size=8192)


def test_kernel_settings_are_read_only_and_secrets_masked(steps: Steps) -> None:
    assert steps.run("sh", "-c", "echo 1 >/proc/sys/kernel/panic") != 0
    assert b"Read-only" in steps.err
    assert steps.sh(
        "cat /proc/keys /proc/timer_list; ls /sys/firmware /proc/acpi 2>/dev/null || true"
    ).split() in (
        [],
        ["/sys/firmware:"],
        ["/proc/acpi:", "/sys/firmware:"],
        ["/sys/firmware:", "/proc/acpi:"],
    )
    assert steps.run("mkdir", "/sys/x") != 0
    assert steps.sh("ls /sys/fs/cgroup") == ""


def test_network_none_has_a_working_loopback_only(steps: Steps) -> None:
    assert steps.sh("ls /sys/class/net", network="none").split() == ["lo"]
    assert "LOOPBACK,UP" in steps.sh("ip addr show lo", network="none")
    assert steps.sh("readlink /proc/self/ns/net").strip() == os.readlink("/proc/self/ns/net")


def test_limits_are_set(steps: Steps) -> None:
    assert (
        steps.sh("ulimit -n; ulimit -c", ulimits=(Ulimit("nofile", 100, 200), Ulimit("core", 0, 0)))
        == "100\n0\n"
    )


# mounts


def test_bind_mounts_are_writable_or_not_as_asked(steps: Steps) -> None:
    cache = steps.layer("cache")
    mounts = (Bind(str(cache), "/rw"), Bind(str(cache), "/ro", readonly=True))

    assert steps.run("sh", "-c", "echo x >/rw/file; cat /ro/file; touch /ro/other", mounts=mounts) != 0
    assert steps.out == b"x\n"
    assert b"Read-only" in steps.err
    assert (cache / "file").read_text() == "x\n"


def test_selector_of_a_bind_cannot_leave_its_source(steps: Steps, tmp_path: Path) -> None:
    """A step may have put a link into a cache; the next one must not get the host's directory by it."""
    cache = steps.layer("cache")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("of the host")
    (cache / "absolute").symlink_to(tmp_path / "secret")
    (cache / "relative").symlink_to("../secret")
    (cache / "inside").mkdir()
    (cache / "inside" / "file").touch()
    (cache / "link").symlink_to("/inside")

    assert steps.sh("ls /x", mounts=(Bind(str(cache), "/x", selector="link"),)) == "file\n"
    for selector in ("absolute", "relative", "../secret"):
        with pytest.raises(SandboxError, match="source of a mount"):
            steps.run("true", mounts=(Bind(str(cache), "/x", selector=selector),))


def test_single_file_is_mounted_on_a_file(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one file")

    assert steps.sh("cat /etc/one", mounts=(Bind(str(tmp_path / "one"), "/etc/one"),)) == "one file"


def test_private_files_have_their_mode_and_stay_in_memory(steps: Steps) -> None:
    root = steps.root()
    secret = FileMount("/run/secrets/key", b"s3cret", mode=0o400)

    assert (
        steps.sh("stat -c %a /run/secrets/key; cat /run/secrets/key", root=root, mounts=(secret,))
        == "400\ns3cret"
    )
    assert steps.run("sh", "-c", "echo x >/run/secrets/key", mounts=(secret,)) != 0
    assert tree_of(root.upper) == []


def test_tmpfs_has_its_size_and_mode(steps: Steps) -> None:
    out = steps.sh("stat -c %a /t; grep ' /t ' /proc/mounts", mounts=(Tmpfs("/t", size=65536, mode=0o700),))

    assert out.startswith("700\n")
    assert "size=64k" in out


def test_tree_of_another_stage_is_mounted_whole_or_in_part(steps: Steps) -> None:
    lower = steps.layer("stage")
    (lower / "sub").mkdir()
    (lower / "sub" / "file").write_text("x")
    upper_layer = steps.layer("stage-top")
    (upper_layer / "sub").mkdir()
    (upper_layer / "sub" / "more").touch()
    stage = RootFS((str(lower), str(upper_layer)))
    scratch = RootFS((str(lower),), *_upper(steps))

    assert steps.sh("ls /m/sub", mounts=(OverlayMount(stage, "/m"),)) == "file\nmore\n"
    assert steps.sh("ls /m", mounts=(OverlayMount(stage, "/m", selector="sub"),)) == "file\nmore\n"
    assert steps.run("touch", "/m/x", mounts=(OverlayMount(RootFS((str(lower),)), "/m"),)) != 0
    assert steps.sh("echo y >/m/sub/file; cat /m/sub/file", mounts=(OverlayMount(scratch, "/m"),)) == "y\n"
    assert (lower / "sub" / "file").read_text() == "x"


def test_mountpoint_behind_a_dangling_link_is_made_where_it_points(steps: Steps) -> None:
    """As resolv.conf of images with systemd: a link to a file in /run that is not there."""
    layer = steps.layer("links")
    (layer / "etc").mkdir()
    (layer / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub.conf")
    (layer / "var").symlink_to("/data/var")
    root = steps.root(steps.base, str(layer))
    mounts = (FileMount("/etc/resolv.conf", b"nameserver ::1\n"), Tmpfs("/var/cache"))

    out = steps.sh("cat /run/systemd/resolve/stub.conf; touch /data/var/cache/x", root=root, mounts=mounts)

    assert out == "nameserver ::1\n"
    assert tree_of(root.upper) == []


def test_mount_in_a_mount_is_made_there(steps: Steps) -> None:
    cache = steps.layer("cache")
    mounts = (Bind(str(cache), "/cache"), Tmpfs("/cache/in/side"), FileMount("/cache/file", b"x"))

    assert steps.sh("ls /cache; cat /cache/file", mounts=mounts) == "file\nin\nx"


def test_link_at_proc_is_refused(steps: Steps) -> None:
    layer = steps.layer("evil")
    (layer / "proc").symlink_to("/tmp")

    with pytest.raises(SandboxError, match="/proc") as caught:
        steps.run("true", root=steps.root(steps.base, str(layer)))
    assert "link" in (caught.value.hint or "")


def test_mount_of_a_directory_on_a_file_is_refused_by_name(steps: Steps) -> None:
    with pytest.raises(SandboxError, match="/bin/busybox"):
        steps.run("true", mounts=(Tmpfs("/bin/busybox"),))


def test_missing_layer_is_named(steps: Steps) -> None:
    with pytest.raises(SandboxError, match="/nowhere"):
        steps.run("true", root=RootFS((steps.base, "/nowhere")))
