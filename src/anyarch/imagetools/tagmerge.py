"""Merging into a tag of a registry that others merge into at the same time, without losing anything.

Registries have no conditional PUT. So a writer first publishes what it wants to change as a document of its
own, under a tag that nobody else writes (`TAG.part-PLATFORM-DIGEST`); then it lists all such documents,
makes the index of what the tag names and of all that they say, writes it, and looks again until the tag
names just that. Whoever writes last has published before, and so has everybody whose document it could not
see and who is still to write. The index that a reader finds meanwhile may hold a part of the platforms.

A document is an index of type `application/vnd.anyarch.part.v1`: the entries that it adds, and in its
annotations what it replaces or removes, as the writer saw it (an observed-remove set: two writers that saw
nothing of one another never undo one another's work). Documents are removed when they are old; by then the
index itself holds what they say.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import ManifestNotFound, NetworkError, RegistryError, UsageError
from anyarch.http.cancel import pause
from anyarch.imagetools.parts import Group, check_platforms, groups_of, make_index
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Index, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.registry.client import Registry
    from anyarch.spec.reference import Reference

__all__ = ["PART_TYPE", "Change", "merge_into_tag"]

PART_TYPE = "application/vnd.anyarch.part.v1"
_NOTE = "dev.anyarch.part."
_BASE = "base"
_TRIES = 60


class Change(msgspec.Struct, frozen=True):
    """What a merge wants of a tag: groups to add or put in the place of their platform's, platforms to
    remove, annotations of the index; with `only` nothing of what the tag names stays."""

    groups: tuple[Group, ...] = ()
    remove: tuple[str, ...] = ()
    notes: dict[str, str] = {}
    only: bool = False


class _Part(msgspec.Struct, frozen=True):
    """A published document. `supersedes` are tokens: `<digest of a part, or base>@<digest of an entry>`."""

    digest: str
    created: int
    groups: tuple[Group, ...]
    supersedes: frozenset[str]
    notes: dict[str, str]
    only: bool


class _State(msgspec.Struct, frozen=True):
    """What base and parts amount to. `tokens` name, for each image's digest, those that say it is there."""

    groups: tuple[Group, ...]
    notes: dict[str, str]
    tokens: dict[str, tuple[str, ...]]


def merge_into_tag(
    registry: Registry,
    ref: Reference,
    change: Change,
    *,
    order: Sequence[str] = (),
    keep_s: float = 3600.0,
    on_step: Callable[[str], None] = lambda text: None,
    cancel: Cancel | None = None,
    now: Callable[[], float] = time.time,
) -> Blob:
    """Change what the tag `ref` names, and answer the index that it names then. The blobs and manifests of
    the groups must be in the repository already.

    Documents older than `keep_s` seconds are removed. Raises `UsageError` when two writers put different
    images for one platform there at the same time, or a platform to remove is not there; `RegistryError`.
    """
    tag = _Tag(registry, ref, cancel, any_base=change.only)
    base, parts = tag.base(), tag.parts()
    state = _fold(base, parts)
    part = _plan(tag, change, state, now())
    name = tag.publish(part, change)
    on_step(f"publishing {name}")
    for attempt in range(_TRIES):
        base, parts = tag.base(), tag.parts()
        state = _fold(base, parts)
        _refuse_rivals(ref, state)
        wanted = make_index(state.groups, state.notes, order)
        if base is not None and (base.raw == wanted.raw or (attempt and _says_the_same(base, wanted))):
            tag.clean(parts, now() - keep_s, on_step)
            return base
        if attempt > 2:  # others write as well: not all at once
            pause(random.random() * 0.02 * attempt, cancel)
        registry.push_manifest(ref, wanted, tag=ref.tag, cancel=cancel)
        on_step(f"pushing {wanted.digest} to {ref}")
    raise RegistryError(
        f"{ref}: it did not come to rest after {_TRIES} tries",
        hint="others write the same tag all the time, perhaps with another tool; try again",
    )


def _says_the_same(base: Blob, wanted: Blob) -> bool:
    """Equal but for the order of entries: writers that want different orders must not go on for ever."""
    if base.media_type != wanted.media_type:
        return False
    first, second = (decode(Index, blob.raw) for blob in (base, wanted))
    return first.annotations == second.annotations and sorted(map(encode, first.manifests)) == sorted(
        map(encode, second.manifests)
    )


def _refuse_rivals(ref: Reference, state: _State) -> None:
    seen: dict[str, str] = {}
    for group in state.groups:
        other = seen.setdefault(group.platform or group.image.digest, group.image.digest)
        if other != group.image.digest:
            raise UsageError(
                f"{ref}: two merges put different images for {group.platform} there at the same time: "
                f"{other} and {group.image.digest}",
                hint="run the one that is wanted again: it replaces both",
            )


def _plan(tag: _Tag, change: Change, state: _State, now: float) -> _Part:
    """The document of a change, given what is there."""
    replaced: set[str] = set()
    by_platform: dict[str, list[Group]] = {}
    for group in state.groups:
        if group.platform:
            by_platform.setdefault(group.platform, []).append(group)
    for name in change.remove:
        if name not in by_platform:
            known = ", ".join(sorted(by_platform)) or "none"
            raise UsageError(f"{tag.ref}: it has no image for {name}", hint=f"it has {known}")
        for old in by_platform[name]:
            replaced.update(state.tokens[old.image.digest])
    for group in change.groups:
        for old in by_platform.get(group.platform, ()):
            if old.image.digest != group.image.digest:
                replaced.update(state.tokens[old.image.digest])
    if change.only:
        replaced.update(token for tokens in state.tokens.values() for token in tokens)
    return _Part("", int(now * 1e9), change.groups, frozenset(replaced), change.notes, change.only)


def _fold(base: Blob | None, parts: Sequence[_Part]) -> _State:
    gone = frozenset().union(*(part.supersedes for part in parts)) if parts else frozenset()
    governed = {group.image.digest for part in parts for group in part.groups}
    kept = {
        group.image.digest
        for part in parts
        for group in part.groups
        if f"{part.digest}@{group.image.digest}" not in gone
    }
    groups: dict[str, Group] = {}
    tokens: dict[str, list[str]] = {}
    notes: dict[str, str] = {}

    def add(group: Group, token: str) -> None:
        digest = group.image.digest
        tokens.setdefault(digest, []).append(token)
        groups[digest] = group if digest not in groups else check_platforms([groups[digest], group], {})[0]

    if base is not None:
        index = decode(Index, base.raw)
        notes.update(index.annotations or {})
        found = groups_of(index.manifests)
        present = {group.image.digest for group in found}
        for group in found:
            token = f"{_BASE}@{group.image.digest}"
            # What parts say of an image counts: a writer that had not seen all may have put it back.
            if token not in gone and group.image.digest in (kept | (present - governed)):
                add(group, token)
    for part in parts:
        if part.only:
            notes = {}
        notes.update(part.notes)
        for group in part.groups:
            token = f"{part.digest}@{group.image.digest}"
            if token not in gone:
                add(group, token)
    return _State(tuple(groups.values()), notes, {digest: tuple(some) for digest, some in tokens.items()})


class _Tag:
    """The tag, and the documents that lie beside it."""

    def __init__(
        self, registry: Registry, ref: Reference, cancel: Cancel | None, *, any_base: bool = False
    ) -> None:
        """With `any_base` a tag that names no index counts as one that names nothing."""
        self._any_base = any_base
        self.registry = registry
        self.ref = ref
        self.cancel = cancel
        self._prefix = f"{ref.tag[:60]}.part-"
        self._known: dict[str, _Part | None] = {}

    def base(self) -> Blob | None:
        """What the tag names now; None for nothing. Raises `UsageError` when it is no index."""
        try:
            blob = self.registry.manifest(self.ref, cancel=self.cancel)
        except ManifestNotFound:
            return None
        if blob.media_type not in media.INDEXES:
            if self._any_base:
                return None
            raise UsageError(
                f"{self.ref}: it names a single image, not an index",
                hint="give it as a source and start anew with --only, or choose another tag",
            )
        return blob

    def parts(self) -> list[_Part]:
        """All documents of the tag, the oldest first."""
        found = []
        try:
            names = self.registry.tags(self.ref, cancel=self.cancel)
        except ManifestNotFound:
            return []
        for name in names:
            if name.startswith(self._prefix):
                if name not in self._known:
                    self._known[name] = self._read(name)
                part = self._known[name]
                if part is not None:
                    found.append(part)
        return sorted(found, key=lambda part: (part.created, part.digest))

    def _read(self, name: str) -> _Part | None:
        """None for a tag that only looks like one of ours, or that is gone meanwhile."""
        try:
            blob = self.registry.manifest(self.ref.with_tag(name), cancel=self.cancel)
        except ManifestNotFound:
            return None
        if blob.media_type not in media.INDEXES:
            return None
        index = decode(Index, blob.raw)
        notes = index.annotations or {}
        if index.artifact_type != PART_TYPE or notes.get(f"{_NOTE}tag") != self.ref.tag:
            return None
        own = f"{_NOTE}note."
        return _Part(
            blob.digest,
            int(notes.get(f"{_NOTE}created", "0")),
            tuple(groups_of(index.manifests)),
            frozenset(notes.get(f"{_NOTE}supersedes", "").split()),
            {key.removeprefix(own): value for key, value in notes.items() if key.startswith(own)},
            f"{_NOTE}only" in notes,
        )

    def publish(self, part: _Part, change: Change) -> str:
        """Store the document; answers its tag."""
        notes = {
            f"{_NOTE}tag": self.ref.tag,
            f"{_NOTE}created": str(part.created),
            f"{_NOTE}nonce": f"{random.getrandbits(64):016x}",
            **{f"{_NOTE}note.{key}": value for key, value in part.notes.items()},
        }
        if part.supersedes:
            notes[f"{_NOTE}supersedes"] = " ".join(sorted(part.supersedes))
        if part.only:
            notes[f"{_NOTE}only"] = "true"
        entries = [e for group in part.groups for e in (group.image, *group.attestations)]
        index = Index(
            schema_version=2,
            media_type=media.OCI_INDEX,
            artifact_type=PART_TYPE,
            manifests=tuple(entries),
            annotations=notes,
        )
        blob = Blob.of(media.OCI_INDEX, encode(index))
        platforms = [group.platform for group in part.groups] or list(change.remove) or ["none"]
        what = "+".join(platforms)[:40].strip("+")
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in what)
        name = f"{self._prefix}{safe}-{blob.digest.hex[:12]}"
        self.registry.push_manifest(self.ref, blob, tag=name, cancel=self.cancel)
        return name

    def clean(self, parts: Sequence[_Part], before: float, on_step: Callable[[str], None]) -> None:
        """Remove documents older than `before` (Unix seconds), the oldest first: one that replaces another is
        never removed before it."""
        for part in parts:
            if part.created >= before * 1e9:
                break
            try:
                self.registry.delete(self.ref, Digest(part.digest), cancel=self.cancel)
            except ManifestNotFound:
                continue  # somebody else did it
            except (RegistryError, NetworkError) as error:
                on_step(f"old parts stay: {error.message}")
                return
