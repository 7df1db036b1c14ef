"""Sources of a single file (downloads, blobs): what the file is called, its mode, its owner."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.spec.digest import Digest
    from anyarch.worker.worker import Worker

__all__ = ["OneFile", "number", "safe_name"]


class OneFile(msgspec.Struct, frozen=True):
    name: str
    mode: int = 0o600
    uid: int = 0
    gid: int = 0

    @classmethod
    def of(cls, attrs: Mapping[str, str], *, default: str) -> OneFile:
        """From `http.filename`, `http.perm`, `http.uid`, `http.gid`; `default` is the name without the first.
        Raises `BuildError`."""
        return cls(
            safe_name(attrs.get("http.filename", "") or default),
            (number(attrs, "http.perm") or 0o600) & 0o7777,
            number(attrs, "http.uid"),
            number(attrs, "http.gid"),
        )

    @property
    def key(self) -> str:
        return f"{self.name}\0{self.mode:o} {self.uid} {self.gid}"

    def layer(self, worker: Worker, digest: Digest, *, mtime_ns: int = 0, description: str = "") -> str:
        """The id of a layer that holds the file, whose content is in the content store."""
        size = worker.store.content.size(digest)
        entry = Entry(
            self.name,
            Kind.FILE,
            self.mode,
            self.uid,
            self.gid,
            mtime_ns,
            size,
            digest=bytes.fromhex(digest.hex) if digest.algorithm == "sha256" else b"",
        )
        with (
            worker.layers.new_tar(description=description) as layer,
            worker.store.content.open(digest) as stream,
        ):
            layer.add(entry, stream)
            return layer.commit().id


def safe_name(text: str) -> str:
    """A name that stays in its directory; `download` where the text has none."""
    name = posixpath.basename(text.strip().rstrip("/"))
    if name in ("", ".", "..") or any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        return "download"
    return name


def number(attrs: Mapping[str, str], name: str) -> int:
    """As Go reads numbers: 0644 and 0o644 are octal, 0x1a4 hexadecimal."""
    text = attrs.get(name, "")
    if not text:
        return 0
    try:
        if len(text) > 1 and text[0] == "0" and text[1].isdigit():
            return int(text, 8)
        value = int(text, 0)
    except ValueError:
        raise BuildError(f"invalid value for {name}: {text!r}", hint="give a number") from None
    if value < 0:
        raise BuildError(f"invalid value for {name}: {text!r}", hint="it must not be negative")
    return value
