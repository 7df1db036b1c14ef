"""Variable expansion of Dockerfile words (section "Environment replacement" of the Dockerfile reference)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Expansion", "expand", "expand_words"]


class Expansion(msgspec.Struct, frozen=True):
    """`value` is the text with variables replaced and quotes removed; `matched` and `unmatched` are the names of the
    variables that were looked up and found or not, in order of first use, each once."""

    value: str
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def expand(
    word: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    windows: bool = False,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    keep_unset: bool = False,
    quotes: bool = True,
) -> Expansion:
    """Expand one word. Raises `DockerfileError` for a bad substitution or an unfinished quote.

    `raw_quotes` and `raw_escapes` keep quotes and escape characters in the result, `keep_unset` leaves references to
    unset variables as they are, `quotes=False` treats quotes as plain characters (bodies of inline files).
    `windows` compares names case-insensitively.
    """
    raise DockerfileError("expansion is being written")


def expand_words(
    word: str, env: Mapping[str, str], *, escape: str = "\\", windows: bool = False
) -> list[str]:
    """Expand, then split on blanks that are not quoted; blanks inside variable values split too."""
    raise DockerfileError("expansion is being written")
