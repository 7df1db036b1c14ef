"""The two sides of a contest: anyarch and Debian's buildah, each with a store of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x")


class CommandFailed(Exception):
    """A measured command failed; the text holds what it said."""


def run(argv: Sequence[str], env: dict[str, str], *, cwd: Path | None = None) -> float:
    """Run a command quietly; its wall time in seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    elapsed = time.perf_counter() - started
    if done.returncode:
        words = done.stdout.decode(errors="replace")[-3000:]
        raise CommandFailed(f"{' '.join(argv)}\nended with status {done.returncode}:\n{words}")
    return elapsed


class Anyarch:
    """Fresh processes of the command line, on a store in whose place `forget` puts a new one.

    The old ones lie there until the end of the benchmark: for minutes after files were removed, ext4 looks
    at each of their inodes before it makes a new file (`recently_deleted` in fs/ext4/ialloc.c), which made
    files three times as expensive for whoever came next.
    """

    name = "anyarch"

    def __init__(self, directory: Path, registry: str) -> None:
        self.directory = directory / "anyarch"
        self.directory.mkdir()
        # As installed: with the bytecode that pip compiles and that some environments forbid to write.
        unwanted = ("ANYARCH_", "PYTHONDONTWRITEBYTECODE")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        self._stores = 0
        self.forget()
        self.env["ANYARCH_REGISTRY_MIRRORS"] = f"docker.io={registry}"
        self._program = [str(Path(sys.executable).parent / "anyarch")]
        self._outputs = 0

    def version(self) -> float:
        return run([*self._program, "--version"], self.env)

    def build(self, context: Path, *options: str, platforms: Sequence[str] = (), oci: bool = False) -> float:
        """`anyarch build` of a context, for this machine's platform or `platforms`; `oci` writes a layout."""
        argv = [*self._program, "build", "--progress=quiet", *options]
        if platforms:
            argv.append("--platform=" + ",".join(platforms))
        if oci:
            self._outputs += 1
            output = self.directory / f"output{self._outputs}"
            argv.append(f"--output=type=oci,tar=false,dest={output}")
        else:
            argv.append("--output=type=cacheonly")
        return run([*argv, str(context)], self.env)

    def push(self, context: Path, name: str) -> None:
        run([*self._program, "build", "--progress=quiet", "--push", f"--tag={name}", str(context)], self.env)

    def forget(self) -> None:
        self._stores += 1
        self.env["ANYARCH_ROOT"] = str(self.directory / f"store{self._stores}")


class Buildah:
    """Debian's buildah as root, with runc (crun refuses hybrid cgroup layouts)."""

    name = "buildah"

    def __init__(self, directory: Path, registry: str) -> None:
        self.directory = directory / "buildah"
        self.directory.mkdir()
        registries = self.directory / "registries.conf"
        registries.write_text(
            'unqualified-search-registries = ["docker.io"]\n'
            'short-name-mode = "permissive"\n'
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{registry}"\ninsecure = true\n'
        )
        policy = self.directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
        self.env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(registries), "BUILDAH_ISOLATION": "oci"}
        self._policy = f"--signature-policy={policy}"
        self._count = 0
        self._stores = 1

    def version(self) -> float:
        return run(["buildah", "--version"], self.env)

    def release(self) -> str:
        done = subprocess.run(["buildah", "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split("(")[0].strip()

    def build(self, context: Path, *options: str, platforms: Sequence[str] = (), oci: bool = False) -> float:
        """`buildah build`, then for `oci` the push of the image or manifest list into a layout."""
        self._count += 1
        name = f"bench{self._count}"  # building under a list's name again would add to it
        store = self._store()
        argv = [*store, "build", "--quiet", "--layers", "--runtime=runc", self._policy, *options]
        if platforms:
            argv += ["--platform=" + ",".join(platforms), f"--manifest={name}"]
        else:
            argv.append(f"--tag={name}")
        elapsed = run([*argv, str(context)], self.env)
        if oci:
            push = ["manifest", "push", "--all"] if platforms else ["push"]
            output = self.directory / f"output{self._count}"
            elapsed += run([*store, *push, "--quiet", self._policy, name, f"oci:{output}"], self.env)
        return elapsed

    def pull_and_mount(self, image: str) -> float:
        """Until the image's root file system is mounted."""
        store = self._store()
        elapsed = run([*store, "pull", "--quiet", self._policy, image], self.env)
        elapsed += run([*store, "from", "--pull-never", "--name=bench-mount", self._policy, image], self.env)
        return elapsed + run([*store, "mount", "bench-mount"], self.env)

    def forget(self) -> None:
        """As `Anyarch.forget`; nothing stays mounted."""
        if (self.directory / f"store{self._stores}").exists():
            run([*self._store(), "rm", "--all"], self.env)
        self._stores += 1

    def _store(self) -> list[str]:
        store = self.directory / f"store{self._stores}"
        return ["buildah", f"--root={store}/root", f"--runroot={store}/run", "--storage-driver=overlay"]


# ELF class, data encoding and machine of the foreign platforms (the ELF specification's numbers).
_ELF = {"aarch64": (2, 1, 183), "arm": (1, 1, 40), "s390x": (2, 2, 22)}


@contextmanager
def host_emulation() -> Iterator[None]:
    """QEMU registered for the whole machine, as buildah needs it; only what is absent, only meanwhile."""
    directory = Path("/proc/sys/fs/binfmt_misc")
    mounted = not (directory / "register").exists()
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(directory)], check=True)
    ours = []
    try:
        present = " ".join(entry.name for entry in directory.iterdir())
        for arch, (width, data, machine) in _ELF.items():
            if arch not in present:
                order = "little" if data == 1 else "big"
                kind, number = (2).to_bytes(2, order), machine.to_bytes(2, order)
                magic = b"\x7fELF" + bytes([width, data, 1, 0]) + bytes(8) + kind + number
                either = b"\xfe\xff" if data == 1 else b"\xff\xfe"  # executables and shared objects
                mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + either + b"\xff\xff"
                name = f"anyarch-bench-{arch}"
                text = [
                    f":{name}:M::",
                    _hex(magic),
                    ":",
                    _hex(mask),
                    f":/usr/bin/qemu-{arch}-static:OCPF",
                ]  # P: qemu is told argv[0]
                (directory / "register").write_text("".join(text))
                ours.append(name)
        yield
    finally:
        for name in ours:
            (directory / name).write_text("-1")
        if mounted:
            subprocess.run(["umount", str(directory)], check=True)


def _hex(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
