"""A machine of another architecture: Debian arm64 under QEMU's system emulation, running the daemon natively.

Everything is made of Debian packages and Python wheels: the kernel boots with a small initial file system
that loads the drivers of QEMU's virtual devices and goes on to an ext4 disk, whose init starts `anyarchd` on
a TCP port that QEMU forwards to loopback. The machine's `10.0.2.2` is this machine's loopback.
"""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.testing.debian_archive import DebianArchive, run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROJECT = Path(__file__).resolve().parents[2]
HOST = "10.0.2.2"
"""This machine's loopback, as the foreign machine reaches it."""

DAEMON_PORT = 1234
"""Where it listens over there."""
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "overlay")
_PACKAGES = ("python3", "busybox-static", "ca-certificates")
_BOOT_TIMEOUT_S = 240

_FIRST_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module; done
until /bin/busybox mount -t ext4 /dev/vda /root 2>/dev/null; do /bin/busybox sleep 0.1; done
exec /bin/busybox switch_root /root /init
"""
_INIT = """#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs shm /dev/shm
$b mount -t tmpfs tmp /tmp
$b mount -t tmpfs run /run
$b hostname foreign
$b ip link set lo up
$b ip addr add 10.0.2.15/24 dev eth0
$b ip link set eth0 up
$b ip route add default via 10.0.2.2
export PYTHONPATH=/opt/anyarch PYTHONUNBUFFERED=1
python3 -c "import sys; from anyarch.daemon.main import main; sys.exit(main())" {arguments}
echo "the daemon ended: $?"
$b poweroff -f
"""


class Machine:
    """What a foreign machine boots from: kernel, initial file system, disk."""

    def __init__(self, directory: Path) -> None:
        self.kernel = directory / "vmlinuz"
        self.initial = directory / "initial.cpio"
        self.disk = directory / "disk.ext4"


def prepare(cache: Path, work: Path, arguments: Sequence[str], files: Mapping[str, str]) -> Machine:
    """Make it below `work` of packages kept below `cache`; the daemon gets `arguments`, the machine `files`
    (contents by absolute path). Takes half a minute."""
    debs, kernel_deb = _packages(cache / "foreign-node")
    kernel = work / "kernel"
    run_tool(["dpkg-deb", "-x", str(kernel_deb), str(kernel)])
    machine = Machine(work)
    shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), machine.kernel)

    root = work / "root"
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        unpack = f"dpkg-deb --fsys-tarfile '{deb}' | tar -x --keep-directory-symlink -C '{root}'"
        subprocess.run(["sh", "-c", unpack], check=True)
    for name in ("proc", "sys", "dev", "tmp", "run", "root"):
        (root / name).mkdir(exist_ok=True)
    _wheels(cache / "foreign-node" / "wheels", root / "opt" / "anyarch")
    for path, text in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    init = root / "init"
    init.write_text(_INIT.format(arguments=" ".join(arguments)))
    init.chmod(0o755)
    run_tool(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(machine.disk), "1500M"])

    names, files = _drivers(kernel)
    content = {
        "init": (0o100755, _FIRST_INIT.format(modules=" ".join(names)).encode()),
        "bin/busybox": (0o100755, (root / "bin" / "busybox").read_bytes()),
        **{f"modules/{path.name}": (0o100644, path.read_bytes()) for path in files},
    }
    machine.initial.write_bytes(_cpio(content))
    shutil.rmtree(root)
    shutil.rmtree(kernel)
    return machine


@contextmanager
def running(machine: Machine, log: Path) -> Iterator[int]:
    """Boot it and wait until its daemon answers; the port on loopback that leads there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [
        *(
            "qemu-system-aarch64",
            "-machine",
            "virt",
            "-cpu",
            "max,pauth-impdef=on",
            "-smp",
            "2",
            "-m",
            "2048",
        ),
        *("-accel", "tcg,thread=multi", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"),
        *(
            "-kernel",
            str(machine.kernel),
            "-initrd",
            str(machine.initial),
            "-append",
            "console=ttyAMA0 quiet",
        ),
        *(
            "-drive",
            f"file={machine.disk},format=raw,if=none,id=disk",
            "-device",
            "virtio-blk-pci,drive=disk",
        ),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{DAEMON_PORT}"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _BOOT_TIMEOUT_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the foreign machine did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    """QEMU accepts by itself, so the daemon's first bytes are waited for."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.settimeout(5)
            return bool(connection.recv(1))
    except OSError:
        return False


def _packages(directory: Path) -> tuple[list[Path], Path]:
    """The packages of the root file system with all that they depend on, and the kernel's."""
    found = directory / "packages"
    archive = DebianArchive(directory / "apt", {"bookworm": ["arm64"]}, architecture="arm64")
    if not (found / "complete").exists():
        shutil.rmtree(found, ignore_errors=True)
        archive.download_with_dependencies(_PACKAGES, found)
        kernel = archive.dependencies("linux-image-arm64")[0]
        archive.download([f"{kernel}:arm64"], directory / "kernel")
        (found / "complete").touch()
    return sorted(found.glob("*.deb")), next((directory / "kernel").glob("linux-image-*.deb"))


def _wheels(cache: Path, target: Path) -> None:
    """anyarch and what it depends on, for the foreign machine."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    names = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 17)]
    options = ["--only-binary=:all:", *names, "--platform=manylinux2014_aarch64", "--python-version=3.11"]
    for old in cache.glob("anyarch-*.whl"):
        old.unlink()
    run_tool([*pip, "wheel", "--no-deps", f"--wheel-dir={cache}", str(PROJECT)])
    ours = next(cache.glob("anyarch-*.whl"))
    run_tool([*pip, "download", *options, f"--dest={cache}", str(ours)])
    for wheel in cache.glob("*.whl"):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(target)


def _drivers(kernel: Path) -> tuple[list[str], list[Path]]:
    """The drivers' files in the order in which they have to be loaded."""
    known = {path.stem.replace("-", "_"): path for path in kernel.glob("lib/modules/**/*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        path = known.get(name)
        if path is None or name in order:
            return
        raw = path.read_bytes()
        start = raw.index(b"depends=") + len(b"depends=")
        for needed in raw[start : raw.index(b"\0", start)].decode().split(","):
            add(needed.replace("-", "_"))
        order.append(name)

    for name in _DRIVERS:
        add(name)
    # Names by which the kernel asks for them at run time, not by dependency.
    for name in ("crc32c_generic", "crc32c"):
        if name in known and name not in order:
            order.insert(0, name)
    return [known[name].name for name in order], [known[name] for name in order]


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """An archive in the "newc" form (cpio(5)), which the kernel unpacks."""
    out = bytearray()
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in (*directories, "proc", "dev", "root")]
    entries += [(name, mode, content) for name, (mode, content) in files.items()]
    for number, (name, mode, content) in enumerate((*entries, ("TRAILER!!!", 0, b"")), 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        out += bytes(-len(out) % 4)
        out += content
        out += bytes(-len(out) % 4)
    return bytes(out)
