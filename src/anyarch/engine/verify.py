"""Whether a result is for the platforms that were asked for. Where it is not, that is a warning, in
BuildKit's words: a frontend may know better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import InvalidPlatform
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["platform_warnings"]


def platform_warnings(asked: Sequence[str], made: Sequence[Platform], *, is_multi: bool) -> list[str]:
    """`asked` are texts as the frontend was given them, `made` the platforms of the result; `is_multi`: it
    has a place for each of several."""
    warnings: list[str] = []
    wanted: dict[str, Platform] = {}
    for text in asked:
        try:
            platform = Platform.parse(text)
        except InvalidPlatform as error:
            warnings.append(f'Invalid platform result requested "{text}": {error.message}')
            continue
        if platform.format_all() in wanted:
            warnings.append(f'Duplicate platform result requested "{text}"')
        wanted[platform.format_all()] = platform
    if warnings:
        return warnings
    there = [platform.format_all() for platform in made]
    if len(wanted) == 1 and len(made) == 1:
        (only,) = wanted.values()
        # Who asks for no version of the system is content with any.
        plain = made[0] if only.os_version else msgspec.structs.replace(made[0], os_version="")
        if plain.format_all() not in wanted and there[0] not in wanted:
            return [f'Requested platform "{asked[0]}" does not match result platform "{there[0]}"']
        return []
    if not is_multi and len(wanted) > 1:
        return ["Multiple platforms requested but result is not multi-platform"]
    if set(there) != set(wanted) or len(there) != len(wanted):
        both = [",".join(sorted(names)) for names in (wanted, there)]
        return [f"Requested platforms {both[0]} do not match result platforms {both[1]}"]
    return []
