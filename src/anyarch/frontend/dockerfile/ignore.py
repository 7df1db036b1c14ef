"""Ignore files and their patterns, as in `.dockerignore` and `COPY --exclude`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MatchState", "PatternMatcher", "parse_ignore"]


def parse_ignore(data: bytes) -> list[str]:
    """Patterns of an ignore file, cleaned, in order; `!` kept. Raises `DockerfileError`."""
    raise DockerfileError("ignore files are being written")


class MatchState(msgspec.Struct, frozen=True):
    """What a directory's match means for its children; opaque: give it to `PatternMatcher.match_child`."""

    matched: bool
    hits: int = 0


class PatternMatcher:
    """A list of patterns, the last matching one decides. Thread-safe; compiled once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises `DockerfileError` for a malformed pattern."""
        raise DockerfileError("ignore files are being written")

    @property
    def has_exclusions(self) -> bool:
        """True if any pattern starts with `!`."""
        raise DockerfileError("ignore files are being written")

    @property
    def root(self) -> MatchState:
        """State to start a walk with (for the children of the root directory)."""
        raise DockerfileError("ignore files are being written")

    def matches(self, path: str) -> bool:
        """True if `path` (relative, `/` as separator) or one of its parents is matched, last pattern deciding."""
        raise DockerfileError("ignore files are being written")

    def match_child(self, path: str, parent: MatchState) -> MatchState:
        """The same as `matches` for one path of a walk, with the state of its parent directory reused."""
        raise DockerfileError("ignore files are being written")

    def can_skip_directory(self, path: str) -> bool:
        """True if a matched directory holds nothing that a `!` pattern could bring back."""
        raise DockerfileError("ignore files are being written")
