"""Image references: `[registry/]repository[:tag][@digest]`, with Docker's defaults.

Grammar: distribution's reference package (as documented in the OCI distribution specification and Docker's
CLI).
"""

from __future__ import annotations

import re

import msgspec

from anyarch.errors import BadReference, InvalidDigest
from anyarch.spec.digest import Digest

__all__ = ["Reference"]

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]+)?\Z"
)


class Reference(msgspec.Struct, frozen=True):
    """A normalised reference. `tag` is empty when only a digest was given; both may be present."""

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Normalise `text` (`busybox` is `docker.io/library/busybox:latest`). Raises `BadReference`."""
        name, at, digest_text = text.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except InvalidDigest as error:
                raise BadReference(f"invalid reference {text!r}: {error.message}", hint=error.hint) from None
        head, slash, rest = name.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head):
            domain, remainder = head, rest
        else:
            domain, remainder = DEFAULT_DOMAIN, name
        path, colon, tag = remainder.partition(":")
        if domain == _LEGACY_DOMAIN:
            domain = DEFAULT_DOMAIN
        if domain == DEFAULT_DOMAIN and "/" not in path:
            path = "library/" + path
        if colon and not _TAG.match(tag):
            raise BadReference(
                f"invalid reference {text!r}: bad tag {tag!r}",
                hint="a tag is letters, digits, _ . - (at most 128)",
            )
        if not _DOMAIN.match(domain):
            raise BadReference(f"invalid reference {text!r}: bad registry name {domain!r}")
        if not _PATH.match(path) or len(path) > 255:
            if path.lower() != path:
                raise BadReference(
                    f"invalid reference {text!r}: repository name must be lower case",
                    hint=f"write {text.lower()!r}",
                )
            raise BadReference(
                f"invalid reference {text!r}: bad repository name {path!r}",
                hint="a reference is written [registry/]repository[:tag][@digest]",
            )
        if not tag and digest is None:
            tag = "latest"
        return cls(domain, path, tag, digest)

    @property
    def name(self) -> str:
        """`docker.io/library/busybox`"""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`busybox`, as people write it."""
        if self.domain == DEFAULT_DOMAIN:
            return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path
        return self.name

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    @property
    def object(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def with_digest(self, digest: Digest) -> Reference:
        return Reference(self.domain, self.path, self.tag, digest)

    def with_tag(self, tag: str) -> Reference:
        return Reference(self.domain, self.path, tag)
