"""Parts of an image and how they become one index, canonically: the same parts give the same bytes, in
whatever order they come, and the bytes that one build of all platforms gives. Pure.

An entry of an index belongs to a group: an image with the attestations that describe it. Groups are told
apart by their platform; two images for the same platform are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import UsageError
from anyarch.spec import media
from anyarch.spec.intoto import REFERENCE_DIGEST, REFERENCE_TYPE
from anyarch.spec.oci import Blob, Descriptor, Index, encode
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


__all__ = ["Group", "check_platforms", "groups_of", "join_notes", "make_index", "platform_name"]

CREATED = "org.opencontainers.image.created"


class Group(msgspec.Struct, frozen=True):
    """One image of an index and what describes it. `platform` is empty for an entry without one."""

    platform: str
    image: Descriptor
    attestations: tuple[Descriptor, ...] = ()


def platform_name(entry: Descriptor) -> str:
    """The platform of an entry, with the version of its OS if it has one; empty when it has none."""
    spec = entry.platform
    if spec is None or not (spec.os or spec.architecture):
        return ""
    return Platform.of_spec(spec).format_all()


def groups_of(entries: Iterable[Descriptor]) -> list[Group]:
    """The groups of an index's entries, in order. An attestation of an image that is not there is one of its
    own."""
    known = list(entries)
    images = {e.digest: e for e in known if REFERENCE_TYPE not in (e.annotations or {})}
    attestations: dict[str, list[Descriptor]] = {}
    alone = []
    for entry in known:
        if entry.digest in images:
            continue
        subject = (entry.annotations or {}).get(REFERENCE_DIGEST, "")
        if subject in images:
            attestations.setdefault(subject, []).append(entry)
        else:
            alone.append(entry)
    groups = [Group(platform_name(e), e, tuple(attestations.get(e.digest, ()))) for e in images.values()]
    return groups + [Group("", entry) for entry in alone]


def check_platforms(groups: Sequence[Group], named: dict[str, str]) -> list[Group]:
    """The groups with the same image met twice joined. Raises `UsageError` for two images of one platform;
    `named` says where each digest comes from."""
    found: dict[str, Group] = {}
    for group in groups:
        key = group.platform or group.image.digest
        other = found.get(key)
        if other is None:
            found[key] = group
        elif other.image.digest == group.image.digest:
            found[key] = _joined(other, group)
        else:
            first, second = (named.get(g.image.digest, "") for g in (other, group))
            raise UsageError(
                f"two different images for {key}: {other.image.digest} of {first}, "
                f"{group.image.digest} of {second}",
                hint="an index holds one image a platform: leave one of them out",
            )
    return list(found.values())


def _joined(first: Group, second: Group) -> Group:
    notes = {**(first.image.annotations or {}), **(second.image.annotations or {})}
    image = msgspec.structs.replace(first.image, annotations=notes or None)
    unique = {entry.digest: entry for entry in (*first.attestations, *second.attestations)}
    return Group(first.platform, image, tuple(unique.values()))


def join_notes(many: Iterable[tuple[str, dict[str, str]]]) -> dict[str, str]:
    """The annotations of an index made of parts (where each comes from, and its annotations). Raises
    `UsageError` where they disagree, but for the time of creation, of which the latest counts."""
    result: dict[str, str] = {}
    origin: dict[str, str] = {}
    for where, notes in many:
        for key, value in notes.items():
            old = result.get(key)
            if old is None or old == value or key == CREATED:
                result[key] = max(old, value) if old is not None else value
                origin[key] = where
            else:
                raise UsageError(
                    f"the parts disagree on the annotation {key}: {old!r} in {origin[key]}, {value!r} in "
                    f"{where}",
                    hint=f"say which it is: --annotation index:{key}=…",
                )
    return result


def make_index(groups: Sequence[Group], notes: dict[str, str], order: Sequence[str] = ()) -> Blob:
    """The index: images in the order of `order` (platforms), the others after them sorted, then all
    attestations in the same order."""
    position = {name: number for number, name in enumerate(order)}
    ordered = sorted(groups, key=lambda g: (position.get(g.platform, len(position)), _rank(g)))
    entries = [g.image for g in ordered] + [a for g in ordered for a in g.attestations]
    is_docker = bool(entries) and all(e.media_type.startswith("application/vnd.docker.") for e in entries)
    kind = media.DOCKER_INDEX if is_docker else media.OCI_INDEX
    index = Index(schema_version=2, media_type=kind, manifests=tuple(entries), annotations=notes or None)
    return Blob.of(kind, encode(index))


def _rank(group: Group) -> tuple[object, ...]:
    spec = group.image.platform
    if not group.platform or spec is None:
        return (1, "", "", "", "", group.image.digest)  # what is for no platform comes last
    found = Platform.of_spec(spec)
    return (0, found.os, found.architecture, found.variant, spec.os_version, spec.os_features)
