"""Make the image of anyarch's daemon, with anyarch itself: `make image`.

    python tools/image.py [--platform linux/amd64,linux/arm64] [anyarch build's outputs and tags ...]

Nothing foreign is run: Debian's packages are only unpacked (`mmdebstrap --variant=extract`), wheels are those
of the target's platform, and the Dockerfile has no RUN. So any machine makes it for all platforms. Downloads
and root file systems are kept in .cache/image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

from anyarch.testing.debian_archive import machine_mirror, machine_proxies

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "image"
EPOCH = "1735689600"
PACKAGES = ("ca-certificates", "git", "libseccomp2", "openssh-client", "python3")
PYTHON = "3.11"
"""Of the Debian release below."""
UNNEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache",
    "var/lib/apt",
)
PROGRAMS = {
    "anyarch": "anyarch.cli.main",
    "anyarchd": "anyarch.daemon.main",
    "buildkitd": "anyarch.daemon.main",
    "buildctl": "anyarch.cli.buildctl",
}
"""Drivers of builders look for a daemon's programs under the names that they have in BuildKit's image."""


class Target(NamedTuple):
    debian: str
    machine: str

    @property
    def wheels(self) -> tuple[str, ...]:
        """Platforms of wheels that run there."""
        return tuple(
            f"{name}_{self.machine}" for name in ("manylinux_2_17", "manylinux2014", "manylinux_2_28")
        )


TARGETS = {"linux/amd64": Target("amd64", "x86_64"), "linux/arm64": Target("arm64", "aarch64")}
"""Those for which all that anyarch needs is published as wheels."""


def main() -> int:
    parser = ArgumentParser(description="Make the image of anyarch's daemon")
    parser.add_argument("--platform", default=",".join(TARGETS))
    known, outputs = parser.parse_known_args()
    platforms = known.platform.split(",")
    unknown = [name for name in platforms if name not in TARGETS]
    if unknown:
        print(f"no wheels are known for {', '.join(unknown)}; there is {', '.join(TARGETS)}", file=sys.stderr)
        return 1
    for name in platforms:
        root_file_system(TARGETS[name].debian)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        context = Path(directory)
        for name in platforms:
            tar = f"rootfs-{TARGETS[name].debian}.tar"
            os.link(CACHE / tar, context / tar)
            site_packages(TARGETS[name], context / f"site-{TARGETS[name].debian}")
        programs(context / "bin")
        return build(context, platforms, outputs or ["--tag", "anyarchd"])


def root_file_system(architecture: str) -> None:
    """`rootfs-ARCH.tar`: Debian with Python, made once."""
    target = CACHE / f"rootfs-{architecture}.tar"
    if target.exists():
        return
    print(f"unpacking Debian's packages for {architecture}", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        raw = Path(directory) / "raw.tar"
        run(
            *("mmdebstrap", "--quiet", "--variant=extract", f"--architectures={architecture}"),
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            f"--include={','.join(PACKAGES)}",
            *(f"--aptopt={line}" for line in ('Acquire::Languages "none";', *machine_proxies())),
            *("bookworm", str(raw), machine_mirror()),
            env={"SOURCE_DATE_EPOCH": EPOCH},
        )
        trimmed = Path(directory) / "trimmed.tar"
        trim(raw, trimmed)
        trimmed.replace(target)


def trim(source: Path, target: Path) -> None:
    """Leave out what a daemon does not need, and put the certificates together as their package would."""
    import io

    certificates: list[bytes] = []
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for item in old:
            name = item.name.removeprefix("./")
            if name.startswith("usr/share/ca-certificates/") and item.isfile():
                content = old.extractfile(item)
                assert content is not None
                certificates.append(content.read())
            if name.startswith((*UNNEEDED, "dev/")):
                continue
            new.addfile(item, old.extractfile(item) if item.isfile() else None)
        bundle = b"".join(certificates)
        entry = tarfile.TarInfo("etc/ssl/certs/ca-certificates.crt")
        entry.size, entry.mtime = len(bundle), int(EPOCH)
        new.addfile(entry, io.BytesIO(bundle))


def requirements(target: Target) -> list[str]:
    """What anyarch needs there, its reader of YAML included."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["yaml"]])
    there = {"platform_machine": target.machine, "python_version": PYTHON, "sys_platform": "linux"}
    return [
        f"{one.name}{one.specifier}" for one in wanted if one.marker is None or one.marker.evaluate(there)
    ]


def site_packages(target: Target, directory: Path) -> None:
    """anyarch and what it needs, as wheels of the target."""
    wheels = CACHE / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as built:
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, str(ROOT))
        own = next(Path(built).glob("anyarch-*.whl"))
        run(
            *(*pip, "download", "--dest", str(wheels), "--only-binary=:all:", f"--python-version={PYTHON}"),
            *(f"--platform={name}" for name in target.wheels),
            *("--find-links", str(wheels), *requirements(target)),
        )
        install = (*pip, "install", "--target", str(directory), "--no-index", "--no-compile")
        run(
            *(*install, "--find-links", str(wheels), "--only-binary=:all:", f"--python-version={PYTHON}"),
            *(f"--platform={name}" for name in target.wheels),
            *requirements(target),
        )
        run(*install, "--no-deps", str(own))
    shutil.rmtree(directory / "bin", ignore_errors=True)


def programs(directory: Path) -> None:
    directory.mkdir()
    for name, module in PROGRAMS.items():
        path = directory / name
        path.write_text(f"#!/usr/bin/python3\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
        path.chmod(0o755)


def build(context: Path, platforms: list[str], outputs: list[str]) -> int:
    return subprocess.run(
        [
            *(sys.executable, "-m", "anyarch", "build", "--platform", ",".join(platforms)),
            *("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
            *("--file", str(ROOT / "image" / "Dockerfile"), *outputs, str(context)),
        ],
        check=False,
    ).returncode


def run(*argv: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        argv,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip()}")


if __name__ == "__main__":
    sys.exit(main())
