"""Dynamic loaders for native programs in a foreign root: copies that look into one directory alone.

What a root has for its own programs they do not read: /etc/ld.so.cache, /etc/ld.so.preload, and musl's
/etc/ld-musl-ARCH.path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anyarch.elf.edit import Program
from anyarch.emulation.accelerate.selection import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OF_LOADER", "GlibcLoader", "Loader", "MuslLoader", "loaders"]

OF_LOADER = "libc.musl-"
"""What libraries are called that musl's loader is itself, whatever it is asked for (its name goes on with the
architecture)."""


class Loader(Protocol):
    """Of one C library. `path` is what programs ask for."""

    path: str

    def patched(self, raw: bytes, directory: str) -> bytes:
        """The loader that looks for libraries in `directory`. Raises `NotSupported`."""


def loaders(host: str) -> Sequence[Loader]:
    """Those that programs of an architecture may ask for."""
    return (GlibcLoader(host), MuslLoader(host))


class GlibcLoader:
    """glibc's, as Debian builds it."""

    def __init__(self, host: str) -> None:
        self.path = {"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}[host]
        self._multiarch = TARGETS[host].multiarch

    def patched(self, raw: bytes, directory: str) -> bytes:
        """The loader that looks for libraries in `directory`. Raises `NotSupported`."""
        program = Program(raw, "the dynamic loader")
        directories = {
            f"/lib/{self._multiarch}/": f"{directory}/",
            f"/usr/lib/{self._multiarch}/": f"{directory}/",
            "/lib/": "/../",
            "/usr/lib/": "/../",
        }
        # The loader knows their lengths: so they keep them, by further slashes.
        pairs = {old.encode(): new.ljust(len(old), "/").encode() for old, new in directories.items()}
        pairs |= dict.fromkeys((b"/etc/ld.so.cache", b"/etc/ld.so.preload"), b"")
        program.replace_texts(pairs)
        return program.finished()


class MuslLoader:
    """musl's, which is the C library too."""

    def __init__(self, host: str) -> None:
        self._machine = {"amd64": "x86_64", "arm64": "aarch64"}[host]
        self.path = f"/lib/ld-musl-{self._machine}.so.1"

    def patched(self, raw: bytes, directory: str) -> bytes:
        """The loader that looks for libraries in `directory`. Raises `NotSupported`."""
        program = Program(raw, "the dynamic loader")
        program.replace_texts(
            {
                b"/lib:/usr/local/lib:/usr/lib": directory.encode(),
                # a file that is missing stands for the default
                f"%.*s/etc/ld-musl-{self._machine}.path".encode(): b"",
            }
        )
        return program.finished()
