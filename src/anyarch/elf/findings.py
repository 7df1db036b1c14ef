"""Is a program right for a platform, and does the image hold what it needs to start? Pure: the image is seen
through `Files`."""

from __future__ import annotations

import posixpath
from functools import cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.elf.libraries import Libraries
from anyarch.spec.platform import compatible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.elf.binary import Binary
    from anyarch.spec.platform import Platform

__all__ = ["Files", "Finding", "check_binary", "check_command"]

_FORMATS = {"linux": "elf", "freebsd": "elf", "windows": "pe", "darwin": "macho"}
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_NAMES = 20  # that a finding tells
_MOST_SCRIPTS = 5  # interpreters that are scripts themselves (Linux: 4)


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """`kind` is base, machine, loader, library or command; `path` the file, absolute, empty for the image as
    a whole; `message` says what is wrong with it."""

    kind: str
    path: str
    message: str


class Files(Protocol):
    """The files of an image. Paths are absolute; links are followed inside the image."""

    def exists(self, path: str) -> bool:
        """Whether a file is there."""

    def head(self, path: str) -> tuple[bytes, int] | None:
        """The first bytes and the mode of a file; None when there is none."""

    def binary(self, path: str) -> Binary | None:
        """What the file is, if it is a program or library."""

    def library(self, path: str) -> Binary | None:
        """Like `binary`, with what a library needs in turn; None too when it is out of reach."""

    def named(self, name: str) -> bool:
        """Whether a file of this name is anywhere in the image."""

    def library_directories(self) -> Sequence[str]:
        """What the image adds to the loader's directories (ld.so.conf, LD_LIBRARY_PATH)."""


def check_binary(
    path: str, binary: Binary, platform: Platform, files: Files, *, libraries: Libraries | None = None
) -> list[Finding]:
    """What is wrong with a program or library that the build added for `platform`. `libraries` are those of
    the image, where they have been looked at before.

    Files of a format that the system does not run are data to it (a Windows installer in a Linux image).
    """
    if binary.format != _FORMATS.get(platform.os) or not binary.is_native:
        return []
    wrong = _machine(binary, platform)
    if wrong:
        return [Finding("machine", path, wrong)]
    if platform.os != "linux" or not binary.interpreter:
        return []
    if not files.exists(binary.interpreter):
        return [Finding("loader", path, f"its loader {binary.interpreter} is not in the image")]
    lacking = (libraries or Libraries(files)).lacking(path, binary)
    if not lacking:
        return []
    are = "libraries that are" if len(lacking) > 1 else "a library that is"
    names = [f"{name} (for {of})" if of else name for name, of in lacking[:_MOST_NAMES]]
    if len(lacking) > len(names):
        names.append(f"and {len(lacking) - len(names)} more")
    return [Finding("library", path, f"it needs {are} not in the image: {', '.join(names)}")]


@cache
def _architectures_of(platform: Platform) -> frozenset[str]:
    """Those whose programs it runs."""
    return frozenset(item.architecture for item in compatible(platform))


def _machine(binary: Binary, platform: Platform) -> str:
    """What `binary` is for, when that is not `platform`; empty when it fits."""
    if _architectures_of(platform).isdisjoint(binary.architectures):
        return f"it is for {' and '.join(binary.architectures)}, the image for {platform}"
    is_dynamic = bool(binary.interpreter or binary.needed)
    # Programs of the soft float ABI run on newer processors too, if their own loader and libraries are there.
    if platform.variant == "v5" and binary.float_abi == "hard" and is_dynamic:
        return f"it uses the hard float ABI, which {platform} does not have"
    return ""


def check_command(
    argv: Sequence[str], *, env: Iterable[str], directory: str, platform: Platform, files: Files
) -> list[Finding]:
    """What keeps ENTRYPOINT and CMD (together `argv`) from running on `platform`."""
    if not argv or platform.os != "linux":
        return []
    path = _program(argv[0], env, directory, files)
    if path is None:
        return [Finding("command", argv[0], "it is the image's command, and is not in the image")]
    for _ in range(_MOST_SCRIPTS):
        found = files.head(path)
        if found is None:
            return [Finding("command", path, "the image's command needs it, and it is not in the image")]
        head, mode = found
        if not mode & 0o111:
            return [Finding("command", path, "the image's command runs it, and it is not executable")]
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n", 1)[0].split()
            if not words:
                return []
            path = words[0].decode("utf-8", "surrogateescape")
            continue
        break
    else:
        return []
    binary = files.binary(path)
    if binary is None:
        return []
    if binary.format != "elf":
        return [Finding("command", path, f"the image's command runs it, and it is no program of {platform}")]
    return [
        Finding("command", item.path, f"the image's command runs it, but {item.message}")
        for item in check_binary(path, binary, platform, files)
    ]


def _program(name: str, env: Iterable[str], directory: str, files: Files) -> str | None:
    if "/" in name:
        path = posixpath.normpath(posixpath.join("/", directory, name))
        return path if files.exists(path) else None
    variables = dict(item.partition("=")[::2] for item in env)
    for place in variables.get("PATH", _DEFAULT_PATH).split(":"):
        path = posixpath.normpath(posixpath.join("/", directory, place, name))
        if files.exists(path):
            return path
    return None
