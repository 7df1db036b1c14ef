"""Packages of any Debian architecture, fetched through an apt that leaves the machine's own alone.

`DebianArchive` keeps lists, configuration and packages in one directory, so that neither root nor a change to
dpkg's architectures is needed. It takes the mirror, the proxy and the other `Acquire` settings from the
machine's apt. What is done with the packages is left to `debian_images`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "DEFAULT_MIRROR",
    "DebianArchive",
    "DebianError",
    "machine_mirror",
    "machine_proxies",
    "native_architecture",
    "run_tool",
]

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_SUITES = frozenset({"bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"})
_NEXT_SUITE = {"trixie": "forky", "forky": "sid"}
_ONE_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)")


class DebianError(AnyarchError):
    """A Debian package could not be fetched or unpacked; the message holds the failing tool's last words."""


class DebianArchive:
    """A private apt in `directory`, for the architectures of each suite (`{"bookworm": ["amd64"]}`)."""

    def __init__(
        self,
        directory: Path,
        suites: Mapping[str, Sequence[str]],
        *,
        mirror: str | None = None,
        architecture: str | None = None,
    ) -> None:
        """`architecture` is the one that dependencies are resolved for (default: this machine's)."""
        self.directory = directory.absolute()
        self.suites = suites
        self.mirror = mirror or machine_mirror()
        self.architecture = architecture or native_architecture()

    def download(self, packages: Sequence[str], destination: Path) -> list[Path]:
        """Fetch the newest `NAME:ARCH` packages into `destination`, verified by the archive's signatures.

        Lists are fetched anew and removed afterwards. Returns the package files in the order of `packages`.
        Raises `DebianError`.
        """
        try:
            self._update()
            destination.mkdir(parents=True, exist_ok=True)
            for package in packages:
                for old in _files(destination, package):
                    old.unlink()
            self._apt(["apt-get", "-q", "download", *packages], cwd=destination)
        finally:
            self._forget()
        return [_file(destination, package) for package in packages]

    def download_with_dependencies(self, packages: Sequence[str], destination: Path) -> list[Path]:
        """Fetch packages and all that they depend on; the package files, sorted. Raises `DebianError`."""
        try:
            self._update()
            command = ["apt-get", "-q", "-y", "--no-install-recommends", "install", "--download-only"]
            self._apt([*command, *packages])
            destination.mkdir(parents=True, exist_ok=True)
            for file in (self.directory / "cache" / "archives").glob("*.deb"):
                shutil.move(file, destination / file.name)
        finally:
            self._forget()
        return sorted(destination.glob("*.deb"))

    def dependencies(self, package: str) -> list[str]:
        """The names that a package depends on. Raises `DebianError`."""
        try:
            self._update()
            said = self._apt(["apt-cache", "depends", "--important", package])
        finally:
            self._forget()
        return [line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def _forget(self) -> None:
        """Remove lists and packages that would be stale at the next use (80 MB)."""
        shutil.rmtree(self.directory / "lists", ignore_errors=True)
        shutil.rmtree(self.directory / "cache", ignore_errors=True)

    def _update(self) -> None:
        """Fetch the lists. Where a mirror is being synchronised (its lists and their digests do not match),
        the next suite that has the same packages serves as well."""
        while True:
            self._configure()
            try:
                self._apt(["apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any"])
                return
            except DebianError:
                later = {_NEXT_SUITE.get(suite, suite): names for suite, names in self.suites.items()}
                if set(later) == set(self.suites):
                    raise
                self.suites = later

    def _configure(self) -> None:
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").write_bytes(b"")
        architectures = sorted({architecture for each in self.suites.values() for architecture in each})
        lines = [
            *_machine_acquire(),
            'APT::Sandbox::User "root";',
            f'APT::Architecture "{self.architecture}";',
            "APT::Architectures { " + " ".join(f'"{name}";' for name in architectures) + " };",
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            'Acquire::GzipIndexes "true";',  # as fetched: nothing is gained by unpacking 400 MB of lists
            f'Dir::State "{self.directory}";',
            f'Dir::State::lists "{self.directory}/lists/";',
            f'Dir::State::status "{self.directory}/status";',
            f'Dir::Cache "{self.directory}/cache";',
            f'Dir::Etc "{self.directory}/etc";',
            'Dir::Etc::netrc "/etc/apt/auth.conf";',
            'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
            'Dir::Log "/dev/null";',
        ]
        (self.directory / "apt.conf").write_text("\n".join(lines) + "\n")
        # A suite is signed by the previous suite's key too, so the machine's keyring may be one suite older.
        signed_by = f"signed-by={KEYRING} " if KEYRING.exists() else ""
        (self.directory / "etc/sources.list").write_text(
            "".join(
                f"deb [{signed_by}arch={','.join(architectures)}] {self.mirror} {suite} main\n"
                for suite, architectures in self.suites.items()
            )
        )

    def _apt(self, argv: list[str], *, cwd: Path | None = None) -> str:
        return run_tool(argv, cwd=cwd, env={"APT_CONFIG": str(self.directory / "apt.conf")})


def native_architecture() -> str:
    """Debian's name of this machine's architecture (`amd64`)."""
    return run_tool(["dpkg", "--print-architecture"]).strip()


def machine_mirror(etc: Path = Path("/etc/apt")) -> str:
    """The URL of the Debian archive that this machine's apt uses, else `DEFAULT_MIRROR`.

    Reads classic lines and deb822 stanzas. Only an entry for a main suite counts: security and backports live
    elsewhere on the mirror, and other vendors' archives do not have the packages.
    """
    files = [etc / "sources.list"]
    for pattern in ("*.list", "*.sources"):
        files += sorted((etc / "sources.list.d").glob(pattern))
    for file in files:
        try:
            text = file.read_text()
        except OSError:
            continue
        for uri, suite in _deb822(text) if file.suffix == ".sources" else _one_line(text):
            if suite in _SUITES and uri.rstrip("/").endswith("debian") and not uri.startswith("cdrom:"):
                return uri.rstrip("/")
    return DEFAULT_MIRROR


def _one_line(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.strip()):
            yield match["uri"], match["suite"]


def _deb822(text: str) -> Iterator[tuple[str, str]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.setdefault(name, []).extend(line.split())
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.split()
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in (
            "no",
            "false",
            "0",
        ):
            continue
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield uri, suite


def machine_proxies() -> list[str]:
    """The proxy settings of the machine's apt, as configuration lines."""
    return [line for line in _machine_acquire() if "proxy" in line.partition(" ")[0].lower()]


def _machine_acquire() -> list[str]:
    """Proxies, validity and other `Acquire` settings of the machine's apt, as configuration lines."""
    try:
        dump = run_tool(["apt-config", "dump"])
    except DebianError:
        return []
    return [line for line in dump.splitlines() if line.startswith("Acquire::")]


def _files(directory: Path, package: str) -> list[Path]:
    name, _, architecture = package.partition(":")
    return sorted(directory.glob(f"{name}_*_{architecture}.deb"))


def _file(directory: Path, package: str) -> Path:
    found = _files(directory, package)
    if not found:
        raise DebianError(f"apt-get download left no package {package} in {directory}")
    return found[-1]


def run_tool(argv: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The output of a command; `DebianError` with its last words when it is absent or fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise DebianError(
            f"{argv[0]} is not installed",
            hint="base images are made from Debian packages: use a Debian or Ubuntu machine",
        ) from None
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        words = (output + done.stderr.decode(errors="replace")).strip().splitlines()[-12:]
        raise DebianError(
            f"{' '.join(argv[:3])} failed with status {done.returncode}:\n" + "\n".join(words),
            hint="check that the machine's Debian mirror can be reached: `apt-get update` should work",
        )
    return output
