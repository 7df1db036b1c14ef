"""Native packages from a distribution's archive, by an apt that leaves the machine's own alone.

Repositories and keys are those of the image that the twins are for; proxies are the machine's. What is kept
of a package are its programs, libraries and what dpkg would know of it: a tree as `Packages` reads them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NotSupported, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anyarch.snapshot.view import TreeView

__all__ = ["Archive", "KeptFile", "archive_of", "codename_of", "fetch"]

_DEFAULT = "http://deb.debian.org/debian"
_KEYS = ("usr/share/keyrings", "etc/apt/trusted.gpg.d")
_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>https?://\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")
_KEPT = re.compile(r"(usr/)?(bin|sbin|lib|lib64|libexec)/")
_UNKEPT = re.compile(r"\.(a|o|h|py|py3|gresource|x[a-z]*)$|/plugin/include/|/include/|/share/|/ldscripts/")


class KeptFile(msgspec.Struct, frozen=True):
    """A file or (with `link`) a symbolic link of a package."""

    path: str
    mode: int
    mtime: int
    data: bytes = b""
    link: str = ""


class Archive(msgspec.Struct, frozen=True):
    """Repositories (URI, suite) and keys by file name."""

    repositories: tuple[tuple[str, str], ...]
    keys: dict[str, bytes]


def codename_of(tree: TreeView) -> str:
    """`bookworm`; empty for what is not Debian."""
    fields = dict(
        line.split("=", 1) for line in _read(tree, "etc/os-release").decode().splitlines() if "=" in line
    )
    return fields.get("VERSION_CODENAME", "").strip('"') if fields.get("ID") == "debian" else ""


def archive_of(tree: TreeView, codename: str) -> Archive:
    """The Debian repositories that an image uses."""
    found: list[tuple[str, str]] = []
    texts = [_read(tree, "etc/apt/sources.list").decode("utf-8", "replace")]
    directory = "etc/apt/sources.list.d"
    for name in _names(tree, directory):
        text = _read(tree, f"{directory}/{name}").decode("utf-8", "replace")
        if name.endswith(".list"):
            texts.append(text)
        elif name.endswith(".sources"):
            found += _stanzas(text)
    for text in texts:
        for line in text.splitlines():
            match = _LINE.match(line.strip())
            if match and "main" in match["components"].split():
                found.append((match["uri"].rstrip("/"), match["suite"]))
    wanted = [one for one in dict.fromkeys(found) if one[1].startswith(codename) and "debian" in one[0]]
    keys = {
        name: _read(tree, f"{directory}/{name}")
        for directory in _KEYS
        for name in _names(tree, directory)
        if _is_key(name)
    }
    return Archive(tuple(wanted) or ((_DEFAULT, codename),), keys or _machine_keys())


def _is_key(name: str) -> bool:
    return name.endswith((".gpg", ".asc", ".pgp")) and "removed" not in name


def _machine_keys() -> dict[str, bytes]:
    """Those of this machine, for an image that has none."""
    found = {}
    for directory in _KEYS:
        for path in sorted(Path("/", directory).glob("debian-archive-*")):
            if _is_key(path.name):
                found[path.name] = path.read_bytes()
    return found


def _stanzas(text: str) -> Iterator[tuple[str, str]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            line.split(":", 1)[0].lower(): line.split(":", 1)[1].split()
            for line in stanza.splitlines()
            if ":" in line and not line[:1].isspace() and not line.startswith("#")
        }
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield uri.rstrip("/"), suite


def fetch(
    directory: Path, archive: Archive, *, host: str, packages: Sequence[str], optional: Sequence[str]
) -> dict[str, list[KeptFile]]:
    """The kept files of `NAME:ARCH` packages, by architecture. `host` is Debian's name of this machine's.

    Raises `NotSupported` when the machine has no apt, or apt cannot get one of `packages`.
    """
    architectures = sorted({package.rpartition(":")[2] for package in (*packages, *optional)} | {host})
    _configure(directory, archive, host, architectures)
    _run(directory, ["apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any"])
    shown = _run(directory, ["apt-cache", "policy", *optional]) if optional else ""
    known = set(re.findall(r"^(\S+):\n  Installed: [^\n]*\n  Candidate: (?!\(none\))", shown, re.MULTILINE))
    extra = [name for name in optional if name in known or name.rpartition(":")[0] in known]
    (directory / "packages").mkdir()
    _run(directory, ["apt-get", "-q", "download", *packages, *extra], cwd=directory / "packages")
    found: dict[str, list[KeptFile]] = {}
    status: dict[str, list[str]] = {}
    for path in sorted((directory / "packages").glob("*.deb")):
        fields = _run(directory, ["dpkg-deb", "--field", str(path)])
        control = dict(line.split(": ", 1) for line in fields.splitlines() if ": " in line and line[0] != " ")
        architecture = control["Architecture"]
        files = found.setdefault(architecture, [])
        files += _unpacked(path, control)
        status.setdefault(architecture, []).append(f"Status: install ok installed\n{fields.strip()}\n")
    for architecture, paragraphs in status.items():
        text = "\n".join(paragraphs).encode()
        found[architecture].append(KeptFile("var/lib/dpkg/status", 0o644, 0, text))
    return found


def _unpacked(path: Path, control: dict[str, str]) -> Iterator[KeptFile]:
    listed, sums = [], []
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=io.BytesIO(process.stdout.read())) as files:
            for member in files:
                name = member.name.removeprefix("./")
                if not _KEPT.match(name) or _UNKEPT.search(name):
                    continue
                # on both sides as on a system whose /bin and /lib are links into /usr
                place = name if name.startswith("usr/") else f"usr/{name}"
                if member.issym():
                    yield KeptFile(place, 0o777, int(member.mtime), link=member.linkname)
                elif member.isreg() or member.islnk():
                    content = files.extractfile(member)
                    assert content is not None
                    data = content.read()
                    yield KeptFile(place, member.mode, int(member.mtime), data)
                    sums.append(f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {place}\n")
                else:
                    continue
                listed.append(f"/{place}\n")
    stem = control["Package"]
    if control.get("Multi-Arch") == "same":
        stem += f":{control['Architecture']}"
    for kind, lines in (("list", listed), ("md5sums", sums)):
        yield KeptFile(f"var/lib/dpkg/info/{stem}.{kind}", 0o644, 0, "".join(lines).encode())


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
        *(line for line in _machine_settings() if "proxy" in line.partition(" ")[0].lower()),
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
            f"deb [arch={','.join(architectures)}] {uri} {suite} main\n"
            for uri, suite in archive.repositories
        )
    )


def _is_text(data: bytes) -> bool:
    return data.startswith(b"-----BEGIN")


def _machine_settings() -> list[str]:
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


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


def _names(tree: TreeView, path: str) -> list[str]:
    try:
        return tree.listdir(path)
    except PathNotFound:
        return []
