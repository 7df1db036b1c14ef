"""What BuildKit's cache keys call a source: the key of its vertex is the SHA-256 of `buildkit.source.v0:` and
one of these names. Read from its sources (`source/containerimage`, `source/git`, `source/http`), and compared
with what its daemon writes (tests/engine/test_cache_stock.py).
"""

from __future__ import annotations

from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from anyarch.llb.gojson import encode, filled
from anyarch.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.source.git import GitSource, Resolved
    from anyarch.spec.platform import Platform

__all__ = ["chain_id", "git_name", "http_name", "image_names"]


def chain_id(diff_ids: Sequence[str]) -> str:
    """The digest that stands for a stack of layers (OCI image-spec config.md, "Layer ChainID")."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = Digest.of(f"{chain} {diff_id}".encode())
    return chain


def image_names(digest: str, platform: Platform, limit: int | None, diff_ids: Sequence[str]) -> list[str]:
    """By its layers, where it has some, and by what its name leads to: the daemon asks for the latter
    first."""
    document = filled(
        keep=("OS", "Arch"),
        Digest=digest,
        OS=platform.os,
        Arch=platform.architecture,
        Variant=platform.variant,
        OSVersion=platform.os_version,
        OSFeatures=list(platform.os_features),
        Limit=limit,
    )
    by_name = Digest.of(encode(document))
    return [chain_id(diff_ids), by_name] if diff_ids else [by_name]


def git_name(source: GitSource, resolved: Resolved) -> str:
    """By the commit; with a git directory the ref counts, and the tag's own object."""
    name = resolved.object if source.keep_git_dir else resolved.commit
    if source.keep_git_dir:
        name += f".git#{resolved.ref}"
    if source.subdir:
        name += f":{source.subdir}"
    if not source.submodules:
        name += "(skip-submodules)"
    if source.mtime not in ("", "checkout"):
        name += f"(mtime={source.mtime})"
    return f"{name}(bundle)" if source.as_bundle else name


def http_name(
    attrs: Mapping[str, str], *, name: str, owner: tuple[int, int], perm: int, digest: str, last_modified: str
) -> str:
    """By the file and what was asked: `name` is that of the file, `perm` the mode that was asked for (0 for
    none), `digest` its content's, `last_modified` the server's word, if its answer counts."""
    headers = [
        (key, attrs[f"http.header.{key.lower()}"])
        for key in ("Accept", "User-Agent")
        if f"http.header.{key.lower()}" in attrs
    ]
    document = filled(
        keep=("Filename", "Perm", "UID", "GID"),
        Filename=name,
        Perm=perm,
        UID=owner[0],
        GID=owner[1],
        Checksum=digest,
        LastModTime=_time(last_modified),
        AuthHeaderSecret=attrs.get("http.authheadersecret", ""),
        Header=[{"Name": key, "Value": value} for key, value in headers],
    )
    return Digest.of(encode(document))


def _time(text: str) -> str:
    try:
        return format_datetime(parsedate_to_datetime(text), usegmt=True) if text else ""
    except (ValueError, TypeError):
        return ""
