"""Package URLs of images, as BuildKit writes them into attestations.

<https://github.com/package-url/purl-spec>
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from anyarch.spec.platform import Platform
    from anyarch.spec.reference import Reference

__all__ = ["image_purl"]

_PATH_SAFE = "$&+=:@"


def image_purl(
    kind: str, name: Reference, platform: Platform | None = None, *, more: tuple[tuple[str, str], ...] = ()
) -> str:
    """`kind` is docker for images of a registry, oci for others; `more` are further qualifiers."""
    qualifiers: list[tuple[str, str]] = []
    if name.digest is not None:
        qualifiers.append(("digest", str(name.digest)))
    if platform is not None:
        qualifiers.append(("platform", str(platform)))
    path = "/".join(quote(part, safe="") for part in name.familiar_name.split("/"))
    version = f"@{quote(name.tag, safe=_PATH_SAFE)}" if name.tag else ""
    said = "&".join(f"{key}={quote(value, safe=_PATH_SAFE)}" for key, value in (*qualifiers, *more))
    return f"pkg:{kind}/{path}{version}{'?' if said else ''}{said}"
