"""dpkg's database of a tree (deb-control(5), dpkg(1))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.emulation.accelerate.packages import Checksum, Package

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dpkg"]

_DIRECTORY = "var/lib/dpkg"


class Dpkg:
    """What dpkg knows of a tree. `read` gives the contents of its files, empty for what is not there."""

    kind = "dpkg"

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._digests: dict[str, dict[str, str]] = {}
        self.installed = _installed(read(f"{_DIRECTORY}/status"))

    def files(self, name: str) -> list[str]:
        """Paths as the package has them, without leading slash."""
        lines = self._info(name, "list").decode("utf-8", "surrogateescape").splitlines()
        return [line.lstrip("/") for line in lines if line not in ("", "/.")]

    def checksum(self, name: str, path: str) -> Checksum | None:
        """What a file of the package had when it was made; None when not known."""
        known = self._digests.get(name)
        if known is None:
            lines = self._info(name, "md5sums").decode("utf-8", "surrogateescape").splitlines()
            pairs = (line.split("  ", 1) for line in lines if "  " in line)
            known = self._digests[name] = {path: digest for digest, path in pairs}
        digest = known.get(path, "")
        return Checksum("md5", digest) if digest else None

    def _info(self, name: str, kind: str) -> bytes:
        package = self.installed.get(name)
        if package is None:
            return b""
        for stem in (name, f"{name}:{package.architecture}"):
            raw = self._read(f"{_DIRECTORY}/info/{stem}.{kind}")
            if raw:
                return raw
        return b""


def _installed(status: bytes) -> dict[str, Package]:
    found = {}
    for paragraph in status.decode("utf-8", "replace").split("\n\n"):
        fields = {}
        for line in paragraph.splitlines():
            name, mark, value = line.partition(":")
            if mark and not line[:1].isspace():
                fields[name] = value.strip()
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            name = fields["Package"]
            found[name] = Package(name, fields.get("Version", ""), fields.get("Architecture", ""))
    return found
