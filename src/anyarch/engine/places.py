"""Where a step stands in the Dockerfile, read from the name that the frontend gave it:
`[linux/amd64->arm64 build 2/5] RUN make`."""

from __future__ import annotations

import re

import msgspec

__all__ = ["ONLY_STAGE", "Place", "place_of"]

ONLY_STAGE = "stage-0"
"""What a stage without a name is called, as BuildKit calls the first of several."""

_NAME = re.compile(r"\[(?:(?P<platform>\S+/\S+) )?(?:(?P<stage>[^\s/\]]+) +)? *\d+/\d+\] (?P<text>.*)", re.S)


class Place(msgspec.Struct, frozen=True):
    """`stage` is empty for what belongs to no stage; `text` the instruction."""

    stage: str
    text: str


def place_of(name: str) -> Place:
    match = _NAME.match(name)
    if match is None:
        return Place("", name)
    return Place(match["stage"] or ONLY_STAGE, match["text"])
