"""Content digests as the OCI image specification defines them (descriptor.md, "Digests").

A `Digest` is a `str` of the form `sha256:<64 hex digits>`, so it can go into JSON, SQL and paths as it is.
"""

from __future__ import annotations

import hashlib
import re

from anyarch.errors import InvalidDigest

__all__ = ["EMPTY", "Digest"]

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_PATTERN = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)\Z")


class Digest(str):
    """A checked digest. `Digest.parse` is the way in for foreign text, `Digest.of` for bytes."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """The sha256 digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def from_hex(cls, hexdigits: str) -> Digest:
        """A sha256 digest of which the 64 hex digits are known (not checked)."""
        return cls("sha256:" + hexdigits)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check `text`; raises `InvalidDigest`."""
        match = _PATTERN.match(text)
        if match is None or len(match[2]) != _HEX_LENGTH[match[1]]:
            raise InvalidDigest(
                f"invalid digest {text!r}",
                hint="a digest looks like sha256: followed by 64 lower-case hex digits",
            )
        return cls(text)

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex[:12]


EMPTY = Digest.of(b"")
