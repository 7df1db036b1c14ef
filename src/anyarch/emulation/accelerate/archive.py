"""Native packages from a distribution's archive, by an apt that leaves the machine's own alone.

Repositories and keys are those of the images that the twins are for; proxies are the machine's.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.accelerate.deb import kept_files
from anyarch.emulation.accelerate.packages import is_same_source, names
from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from anyarch.emulation.accelerate.deb import KeptFile
    from anyarch.snapshot.tree import TreeView

__all__ = ["Archive", "PrivateApt", "Release", "Repository", "archive_of", "fetch_equal", "release_of"]

_DEFAULTS = {
    "debian": ("http://deb.debian.org/debian", "http://deb.debian.org/debian"),
    "ubuntu": ("http://archive.ubuntu.com/ubuntu", "http://ports.ubuntu.com/ubuntu-ports"),
}
"""For this machine's packages, if it is amd64, and for those of others."""
_KEYS = ("usr/share/keyrings", "etc/apt/trusted.gpg.d")
_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>https?://\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")


class Release(msgspec.Struct, frozen=True):
    """A distribution, as `/etc/os-release` has it, and the codename of its release."""

    distribution: str = ""
    codename: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.codename}"


class Repository(msgspec.Struct, frozen=True):
    """One line of apt's sources."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    architectures: tuple[str, ...] = ()


class Archive(msgspec.Struct, frozen=True):
    """Repositories, and keys by file name."""

    repositories: tuple[Repository, ...]
    keys: dict[str, bytes]


def release_of(tree: TreeView) -> Release:
    """`debian bookworm`; empty where nothing tells."""
    fields = dict(
        line.split("=", 1) for line in _read(tree, "etc/os-release").decode().splitlines() if "=" in line
    )
    return Release(fields.get("ID", "").strip('"'), fields.get("VERSION_CODENAME", "").strip('"'))


def archive_of(trees: Mapping[str, TreeView], release: Release) -> Archive:
    """The repositories that images use, each for its own architecture (Debian's name of it): Ubuntu's of most
    architectures are elsewhere."""
    wanted: dict[Repository, list[str]] = {}
    keys: dict[str, bytes] = {}
    for architecture, tree in trees.items():
        found = [
            one
            for one in _repositories(tree)
            if one.suite.startswith(release.codename)
            and release.distribution in one.uri
            and "launchpad" not in one.uri  # personal archives
        ]
        uri = _DEFAULTS[release.distribution][architecture != "amd64"]
        for one in found or [Repository(uri, release.codename)]:
            wanted.setdefault(one, []).append(architecture)
        for directory in _KEYS:
            for name in names(tree, directory):
                if _is_key(name):
                    keys[name] = _read(tree, f"{directory}/{name}")
    repositories = [
        msgspec.structs.replace(one, architectures=tuple(dict.fromkeys(each))) for one, each in wanted.items()
    ]
    return Archive(tuple(repositories), keys or _machine_keys(release.distribution))


def _repositories(tree: TreeView) -> list[Repository]:
    found: list[Repository] = []
    texts = [_read(tree, "etc/apt/sources.list").decode("utf-8", "replace")]
    directory = "etc/apt/sources.list.d"
    for name in names(tree, directory):
        text = _read(tree, f"{directory}/{name}").decode("utf-8", "replace")
        if name.endswith(".list"):
            texts.append(text)
        elif name.endswith(".sources"):
            found += _stanzas(text)
    for text in texts:
        for line in text.splitlines():
            match = _LINE.match(line.strip())
            if match and "main" in match["components"].split():
                uri, components = match["uri"].rstrip("/"), tuple(match["components"].split())
                found.append(Repository(uri, match["suite"], components))
    return found


def _is_key(name: str) -> bool:
    return name.endswith((".gpg", ".asc", ".pgp")) and "removed" not in name


def _machine_keys(distribution: str) -> dict[str, bytes]:
    """Those of this machine, for an image that has none."""
    found = {}
    for directory in _KEYS:
        for path in sorted(Path("/", directory).glob(f"{distribution}-*")):
            if _is_key(path.name):
                found[path.name] = path.read_bytes()
    return found


def _stanzas(text: str) -> Iterator[Repository]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            line.split(":", 1)[0].lower(): line.split(":", 1)[1].split()
            for line in stanza.splitlines()
            if ":" in line and not line[:1].isspace() and not line.startswith("#")
        }
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield Repository(uri.rstrip("/"), suite, tuple(fields["components"]))


class PrivateApt:
    """An apt in `directory`, which is new, with the lists of an archive. `host` is Debian's name of this
    machine's architecture, `architectures` are those of packages.

    Every method raises `NotSupported` when the machine has no apt, or apt cannot do it.
    """

    def __init__(self, directory: Path, archive: Archive, *, host: str, architectures: Iterable[str]) -> None:
        self._directory = directory
        _configure(directory, archive, host, sorted({host, *architectures}))
        self._run(["apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any"])

    def depends(self, package: str) -> list[str]:
        """The names of the packages that one depends on."""
        said = self._run(["apt-cache", "depends", "--important", package])
        return [line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def download(self, packages: Sequence[str], optional: Sequence[str]) -> list[Path]:
        """The files of `NAME:ARCH` packages, somewhere below the directory; of `optional` those there are."""
        shown = self._run(["apt-cache", "policy", *optional]) if optional else ""
        known = set(
            re.findall(r"^(\S+):\n  Installed: [^\n]*\n  Candidate: (?!\(none\))", shown, re.MULTILINE)
        )
        extra = [name for name in optional if name in known or name.rpartition(":")[0] in known]
        return self._downloaded([*packages, *extra])

    def download_equal(self, wanted: Mapping[str, str]) -> list[Path]:
        """The files of packages in given versions, or of the same source."""
        known: dict[str, list[str]] = {}
        for line in self._run(["apt-cache", "madison", *wanted]).splitlines():
            name, version, _ = (field.strip() for field in line.split("|", 2))
            known.setdefault(name, []).append(version)
        chosen = []
        for name, version in sorted(wanted.items()):
            same = [one for one in known.get(name, []) if not version or is_same_source(one, version)]
            if not same:
                has = ", ".join(dict.fromkeys(known.get(name, []))) or "none"
                raise NotSupported(f"{name} {version} is not in the archive, which has {has}")
            chosen.append(f"{name}={version if version in same else same[0]}")
        return self._downloaded(chosen)

    def _downloaded(self, packages: Sequence[str]) -> list[Path]:
        place = self._directory / "packages"
        place.mkdir()
        self._run(["apt-get", "-q", "download", *packages], cwd=place)
        return sorted(place.glob("*.deb"))

    def _run(self, argv: list[str], *, cwd: Path | None = None) -> str:
        return _run(self._directory, argv, cwd=cwd)


def fetch_equal(
    directory: Path, archive: Archive, *, host: str, wanted: Mapping[str, str], kept: str
) -> dict[str, list[KeptFile]]:
    """The files of this machine's packages in given versions (empty: the newest), or of the same source, as
    far as they match `kept`; by architecture.

    Raises `NotSupported` when the machine has no apt, or the archive has one of them in other versions only.
    """
    paths = PrivateApt(directory, archive, host=host, architectures=[host]).download_equal(wanted)
    with ExitStack() as stack:
        return kept_files(((path.name, stack.enter_context(path.open("rb"))) for path in paths), kept=kept)


def _configure(directory: Path, archive: Archive, host: str, architectures: Iterable[str]) -> None:
    for name in ("lists/partial", "cache/archives/partial", "etc/trusted.gpg.d", "etc/apt.conf.d"):
        (directory / name).mkdir(parents=True)
    (directory / "status").write_bytes(b"")
    for name, data in archive.keys.items():
        # apt knows keyrings by .gpg and .asc only
        (
            directory
            / "etc/trusted.gpg.d"
            / f"{name.rpartition('.')[0]}.{'asc' if _is_text(data) else 'gpg'}"
        ).write_bytes(data)
    lines = [
        *_machine_settings(),
        'APT::Sandbox::User "root";',
        f'APT::Architecture "{host}";',
        "APT::Architectures { " + " ".join(f'"{name}";' for name in architectures) + " };",
        'Acquire::Languages "none";',
        'Acquire::Retries "3";',
        'Acquire::GzipIndexes "true";',
        f'Dir::State "{directory}";',
        f'Dir::State::lists "{directory}/lists/";',
        f'Dir::State::status "{directory}/status";',
        f'Dir::Cache "{directory}/cache";',
        f'Dir::Etc "{directory}/etc";',
        'Dir::Log "/dev/null";',
    ]
    (directory / "apt.conf").write_text("\n".join(lines) + "\n")
    (directory / "etc/sources.list").write_text(
        "".join(
            f"deb [arch={','.join(one.architectures)}] {one.uri} {one.suite} {' '.join(one.components)}\n"
            for one in archive.repositories
        )
    )


def _is_text(data: bytes) -> bool:
    return data.startswith(b"-----BEGIN")


def _machine_settings() -> list[str]:
    """How this machine reaches archives, and how old it lets their lists be."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    names = ((line, line.partition(" ")[0].lower()) for line in done.stdout.splitlines())
    return [line for line, name in names if "proxy" in name or "valid" in name]


def _run(directory: Path, argv: list[str], *, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "APT_CONFIG": str(directory / "apt.conf")}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise NotSupported(f"{argv[0]} is not on this machine, so no packages can be fetched") from None
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-2:]
        raise NotSupported(f"{' '.join(argv[:3])} failed: " + "; ".join(words))
    return done.stdout.decode(errors="replace")


def _read(tree: TreeView, path: str) -> bytes:
    try:
        node = tree.lookup(tree.resolve(path))
        if node is None:
            return b""
        with tree.open(node) as file:
            return file.read()
    except PathNotFound:
        return b""
