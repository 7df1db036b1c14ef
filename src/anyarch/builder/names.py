"""Names for builders that were given none: an adjective and someone who worked on compilers, kernels or
machines."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from anyarch.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "random_name",
]  # fmt: skip

_ADJECTIVES = [
    "able", "amber", "brave", "breezy", "bright", "calm", "candid", "clever", "crisp", "daring", "deft",
    "eager", "earnest", "fair", "fleet", "fluent", "gentle", "glad", "golden", "handy", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry", "mighty",
    "modest", "neat", "nimble", "noble", "patient", "placid", "plain", "proud", "quick", "quiet", "rapid",
    "ready", "robust", "serene", "sharp", "silent", "sincere", "snug", "spry", "stable", "steady", "sunny",
    "swift", "tidy", "trusty", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
]  # fmt: skip
_PEOPLE = [
    "aho", "allen", "backus", "bartik", "bell", "cerf", "church", "codd", "conway", "cray", "dijkstra",
    "engelbart", "estrin", "floyd", "goldberg", "gosling", "hamilton", "hamming", "hoare", "hopper",
    "iverson", "johnson", "kay", "kernighan", "kilby", "kleene", "knuth", "lamport", "lampson", "liskov",
    "lovelace", "mcilroy", "metcalfe", "milner", "minsky", "moore", "nygaard", "perlis", "pike", "postel",
    "ritchie", "shannon", "stallman", "stroustrup", "sutherland", "tarjan", "thompson", "torvalds",
    "turing", "ullman", "wheeler", "wilkes", "wirth", "zuse",
]  # fmt: skip


def random_name(is_taken: Callable[[str], bool], *, choose: random.Random | None = None) -> str:
    """A name that is free. Raises `BuilderError` when none was found."""
    choose = choose or random.Random()
    for attempt in range(12):
        name = f"{choose.choice(_ADJECTIVES)}_{choose.choice(_PEOPLE)}"
        if attempt > 5:
            name += str(choose.randrange(10_000))
        if not is_taken(name):
            return name
    raise BuilderError("failed to generate random name", hint="choose one with --name")
