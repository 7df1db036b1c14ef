"""apk's database of a tree: Alpine and what is made of its packages.

One file holds all: a paragraph a package, lines of a letter, a colon and a value. `P` is the name, `V` the
version, `A` the architecture, `o` the source that it was built from; `F` a directory, `R` a file in it, `Z`
that file's checksum (`apk-installed(5)`). A checksum is `Q` (base64) or `X` (hexadecimal), `1` for SHA-1 or
`2` for SHA-256, and the digest, of which apk 3 keeps 20 bytes.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.packages import Checksum, Package

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Apk"]

_DATABASES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
"""The latter where /lib is no link and apk is 3."""


class Apk:
    """What apk knows of a tree. `read` gives the contents of its files, empty for what is not there."""

    kind = "apk"

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self.installed: dict[str, Package] = {}
        self._files: dict[str, dict[str, str]] = {}
        raw = next((found for path in _DATABASES if (found := read(path))), b"")
        for paragraph in raw.decode("utf-8", "surrogateescape").split("\n\n"):
            self._add(paragraph)

    def _add(self, paragraph: str) -> None:
        fields: dict[str, str] = {}
        files: dict[str, str] = {}
        directory = path = ""
        for line in paragraph.splitlines():
            letter, mark, value = line[:1], line[1:2], line[2:]
            if mark != ":":
                continue
            match letter:
                case "F":
                    directory, path = value, ""
                case "R":
                    path = f"{directory}/{value}" if directory else value
                    files[path] = ""
                case "Z":
                    if path:
                        files[path] = value
                case "P" | "V" | "A" | "o":
                    fields[letter] = value
        name = fields.get("P", "")
        if name:
            version, architecture = fields.get("V", ""), fields.get("A", "")
            self.installed[name] = Package(name, version, architecture, fields.get("o", ""))
            self._files[name] = files

    def files(self, name: str) -> list[str]:
        """Paths as the package has them, without leading slash."""
        return list(self._files.get(name, ()))

    def checksum(self, name: str, path: str) -> Checksum | None:
        """What a file of the package had when it was made; None when not known."""
        text = self._files.get(name, {}).get(path, "")
        try:
            if text[:1] == "Q":
                digest = base64.b64decode(text[2:], validate=True)
            else:
                digest = bytes.fromhex(text[2:] if text[:1] == "X" else "")
        except (binascii.Error, ValueError):
            return None
        match text[1:2], len(digest):
            case "1", 20:
                return Checksum("sha1", digest.hex())
            case ("1", 32) | ("2", 20 | 32):
                return Checksum("sha256", digest.hex())
        return None
