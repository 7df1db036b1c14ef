"""Debian packages as files: what is kept of them for twins, and which of many are the wanted ones (deb(5)).

Kept are programs, libraries and what dpkg would know of them: a tree as `Packages` reads it. No tool of the
machine is needed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tarfile
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from anyarch.archive.decompression import open_decompressed
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.errors import AnyarchError, NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

__all__ = ["KeptFile", "compare_versions", "equal_files", "kept_files", "wanted_files"]

_KEPT = r"(usr/)?(bin|sbin|lib|lib64|libexec)/"
_UNKEPT = re.compile(r"\.(a|o|h|py|py3|gresource|x[a-z]*)$|/plugin/include/|/include/|/share/|/ldscripts/")
_NAME = re.compile(r"(?:.*/)?(?P<name>[^_/]+)_(?P<version>[^_/]+)_(?P<architecture>[a-z0-9-]+)\.deb")
_MAGIC, _HEADER = b"!<arch>\n", 60


class KeptFile(msgspec.Struct, frozen=True):
    """A file or (with `link`) a symbolic link of a package."""

    path: str
    mode: int
    mtime: int
    data: bytes = b""
    link: str = ""


def wanted_files(paths: Iterable[str], packages: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Of files called `NAME_VERSION_ARCH.deb` the newest of each wanted `NAME:ARCH`. Raises `NotSupported`
    when one of `packages` is not among them."""
    newest: dict[str, tuple[str, str]] = {}
    for path in sorted(paths):
        match = _NAME.fullmatch(path)
        if match is None:
            continue
        version = unquote(match["version"])
        key = f"{match['name']}:{match['architecture']}"
        if key not in newest or compare_versions(newest[key][0], version) < 0:
            newest[key] = (version, path)
    missing = [name for name in packages if name not in newest]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise NotSupported(f"these packages are not there: {', '.join(missing[:8])}{more}")
    return [newest[name][1] for name in (*packages, *optional) if name in newest]


def equal_files(paths: Iterable[str], wanted: Mapping[str, str], host: str) -> list[str]:
    """Of files called `NAME_VERSION_ARCH.deb` those in the `wanted` versions by name, or of the same source,
    that are for `host` (Debian's name) or for all. Raises `NotSupported` when one is not among them."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        match = _NAME.fullmatch(path)
        if match is None or match["architecture"] not in (host, "all"):
            continue
        name, version = match["name"], unquote(match["version"])
        # no epoch stands in the name of a file
        own, its = version.rpartition(":")[2], wanted.get(name, "").rpartition(":")[2]
        if name in wanted and (not its or is_same_source(own, its)):
            found[name] = path
    missing = [f"{name} {version}" for name, version in sorted(wanted.items()) if name not in found]
    if missing:
        raise NotSupported(f"these packages are not there: {', '.join(missing)}")
    return [found[name] for name in sorted(found)]


def kept_files(packages: Iterable[tuple[str, BinaryIO]], *, kept: str = _KEPT) -> dict[str, list[KeptFile]]:
    """The files of packages (name to tell them by, content) whose paths match `kept`, by architecture, with
    dpkg's database. Raises `NotSupported` for what is no package."""
    found: dict[str, list[KeptFile]] = {}
    status: dict[str, list[str]] = {}
    for what, file in packages:
        try:
            control, text, files = _unpacked(file, re.compile(kept))
        except (AnyarchError, tarfile.TarError, ValueError, KeyError, EOFError) as error:
            raise NotSupported(f"{what} is not a Debian package that can be read: {error}") from None
        architecture = control["Architecture"]
        found.setdefault(architecture, []).extend(files)
        status.setdefault(architecture, []).append(f"Status: install ok installed\n{text.strip()}\n")
    for architecture, paragraphs in status.items():
        raw = "\n".join(paragraphs).encode()
        found[architecture].append(KeptFile("var/lib/dpkg/status", 0o644, 0, raw))
    return found


def _unpacked(file: BinaryIO, kept: re.Pattern[str]) -> tuple[Mapping[str, str], str, list[KeptFile]]:
    control, text = {}, ""
    files: list[KeptFile] = []
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as an archive of ar does")
    for name, data in _members(file):
        if not name.startswith(("control.tar", "data.tar")):
            continue
        plain = io.BufferedReader(open_decompressed(io.BytesIO(data)))
        with tarfile.open(fileobj=plain, mode="r|") as members:
            if name.startswith("control.tar"):
                text = _control(members)
                control = dict(
                    line.split(": ", 1) for line in text.splitlines() if ": " in line and line[0] != " "
                )
            else:
                files = list(_files(members, control, kept))
    if not {"Package", "Version", "Architecture"} <= control.keys():
        raise ValueError("its control file says too little")
    return control, text, files


def _members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    while header := file.read(_HEADER):
        size = int(header[48:58])
        data = file.read(size)
        if len(header) < _HEADER or header[58:60] != b"`\n" or len(data) < size:
            raise ValueError("it ends early")
        file.read(size % 2)
        yield header[:16].decode("ascii").rstrip(" /"), data


def _control(members: tarfile.TarFile) -> str:
    for member in members:
        if member.name.removeprefix("./") == "control" and member.isreg():
            content = members.extractfile(member)
            assert content is not None
            return content.read().decode("utf-8", "replace")
    raise ValueError("it has no control file")


def _files(members: tarfile.TarFile, control: Mapping[str, str], kept: re.Pattern[str]) -> Iterator[KeptFile]:
    listed, sums = [], []
    data: dict[str, bytes] = {}
    for member in members:
        name = member.name.removeprefix("./")
        if not kept.match(name) or _UNKEPT.search(name) or ".." in name.split("/"):
            continue
        # on both sides as on a system whose /bin and /lib are links into /usr
        place = name if name.startswith("usr/") else f"usr/{name}"
        if member.issym():
            yield KeptFile(place, 0o777, int(member.mtime), link=member.linkname)
        elif member.isreg() or member.islnk():
            if member.islnk():
                raw = data.get(member.linkname.removeprefix("./"), b"")
            else:
                content = members.extractfile(member)
                assert content is not None
                raw = content.read()
            data[name] = raw
            yield KeptFile(place, member.mode, int(member.mtime), raw)
            sums.append(f"{hashlib.md5(raw, usedforsecurity=False).hexdigest()}  {place}\n")
        else:
            continue
        listed.append(f"/{place}\n")
    stem = control["Package"]
    if control.get("Multi-Arch") == "same":
        stem += f":{control['Architecture']}"
    for kind, lines in (("list", listed), ("md5sums", sums)):
        yield KeptFile(f"var/lib/dpkg/info/{stem}.{kind}", 0o644, 0, "".join(lines).encode())


def compare_versions(one: str, other: str) -> int:
    """Below zero, zero or above: as deb-version(7) orders them."""
    for own, its in zip(_split(one), _split(other), strict=True):
        found = _compare(own, its)
        if found:
            return found
    return 0


@functools.lru_cache(maxsize=1024)
def _split(version: str) -> tuple[str, str, str]:
    epoch, mark, rest = version.partition(":")
    if not mark:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return epoch, upstream, revision


def _compare(one: str, other: str) -> int:
    while one or other:
        own, its = (re.match(r"[^0-9]*", text)[0] for text in (one, other))  # type: ignore[index]
        one, other = one[len(own) :], other[len(its) :]
        for position in range(max(len(own), len(its))):
            a, b = (_order(text[position : position + 1]) for text in (own, its))
            if a != b:
                return a - b
        number, its_number = (re.match(r"[0-9]*", text)[0] for text in (one, other))  # type: ignore[index]
        one, other = one[len(number) :], other[len(its_number) :]
        if int(number or 0) != int(its_number or 0):
            return int(number or 0) - int(its_number or 0)
    return 0


def _order(letter: str) -> int:
    if letter == "~":
        return -1
    if not letter:
        return 0
    return ord(letter) if letter.isalpha() else ord(letter) + 256
