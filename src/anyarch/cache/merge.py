"""Several builds in one cache: each is a part of the document, and documents are merged part by part.

A cache that is written by several platforms, nodes or runners holds what all of them wrote. A part goes when
it is a week old, when a build of the same kind (slot) has been writing for longer than an hour since, or when
there are more than 64; so a cache does not grow for ever, and builds at the same time never remove one
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.cache.config import CacheConfig, CacheInput, CacheRecord, Part
from anyarch.spec.oci import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.cache.config import CacheLayer

__all__ = ["Document", "living", "merge"]

MAX_AGE_S = 7 * 86400.0
OVERLAP_S = 3600.0
MOST = 64


class Document(msgspec.Struct, frozen=True):
    """A cache config and the blobs it names, by digest."""

    config: CacheConfig
    blobs: dict[str, Descriptor]

    @property
    def ids(self) -> frozenset[str]:
        """The parts in it."""
        return frozenset(part.id for part in self.config.parts)


def living(parts: Iterable[Part], now: float) -> list[Part]:
    """Those that are to be kept, newest first."""
    ordered = sorted({part.id: part for part in parts}.values(), key=lambda part: (-part.at, part.id))
    newest: dict[str, float] = {}
    kept = []
    for part in ordered:
        latest = newest.setdefault(part.slot, part.at)
        if now - part.at <= MAX_AGE_S and latest - part.at <= OVERLAP_S:
            kept.append(part)
    return kept[:MOST]


def merge(documents: Sequence[Document], now: float) -> Document:
    """One document with the living parts of all. What belongs to no part (another tool's cache) is left out,
    as that tool would overwrite ours."""
    kept = living((part for item in documents for part in item.config.parts), now)
    order = {part.id: number for number, part in enumerate(kept)}
    chosen: dict[str, tuple[Document, Part]] = {}
    for document in documents:
        for part in document.config.parts:
            if part.id in order:
                chosen.setdefault(part.id, (document, part))
    union = _Union()
    parts = []
    for part in kept:
        document, own = chosen[part.id]
        config = document.config
        records = union.add(union.records, document, config.records, own.records)
        ours = union.add(union.own, document, config.own, own.own)
        parts.append(Part(part.id, part.slot, part.at, tuple(records), tuple(ours)))
    blobs = {layer.blob: union.blobs[layer.blob] for layer in union.layers if layer.blob in union.blobs}
    made, own_made = tuple(union.records.made), tuple(union.own.made)
    return Document(CacheConfig(tuple(union.layers), made, own_made, tuple(parts)), blobs)


class _Records:
    """Records that link to one another, those that are equal once; `seen` has by document what was moved."""

    def __init__(self) -> None:
        self.made: list[CacheRecord] = []
        self.numbers: dict[CacheRecord, int] = {}
        self.seen: dict[int, dict[int, int]] = {}


class _Union:
    """Records and layers of several documents, those that are equal once."""

    def __init__(self) -> None:
        self.layers: list[CacheLayer] = []
        self.records = _Records()
        self.own = _Records()
        self.blobs: dict[str, Descriptor] = {}
        self._layer_numbers: dict[tuple[int, str], int] = {}
        self._seen: dict[int, dict[int, int]] = {}

    def add(
        self, into: _Records, document: Document, given: Sequence[CacheRecord], wanted: Sequence[int]
    ) -> list[int]:
        """The new positions of `wanted` of the records `given`; what they link to comes along. Links that
        lead in a circle, or nowhere, are dropped (groups stay: the place of one is an input's number)."""
        config = document.config
        self.blobs |= {key: value for key, value in document.blobs.items() if key not in self.blobs}
        layers = self._seen.setdefault(id(document), {})
        records = into.seen.setdefault(id(document), {})
        open_: set[int] = set()
        for first in wanted:
            stack = [first] if 0 <= first < len(given) else []
            while stack:
                number = stack[-1]
                if number in records:
                    stack.pop()
                    continue
                record = given[number]
                links = {item.link for group in record.inputs for item in group}
                missing = [
                    link
                    for link in sorted(links)
                    if 0 <= link < len(given) and link not in records and link not in open_
                ]
                open_.add(number)
                if missing:
                    stack += missing
                    continue
                stack.pop()
                moved = self._moved(config, record, layers, records)
                records[number] = into.numbers.setdefault(moved, len(into.made))
                if records[number] == len(into.made):
                    into.made.append(moved)
        return sorted({records[number] for number in wanted if number in records})

    def _moved(
        self, config: CacheConfig, record: CacheRecord, layers: dict[int, int], records: dict[int, int]
    ) -> CacheRecord:
        inputs = tuple(
            tuple(CacheInput(item.selector, records[item.link]) for item in group if item.link in records)
            for group in record.inputs
        )
        return CacheRecord(
            layers=tuple(
                msgspec.structs.replace(result, layer=self._layer(config, result.layer, layers))
                for result in record.layers
                if 0 <= result.layer < len(config.layers)
            ),
            chains=tuple(
                msgspec.structs.replace(
                    chain, layers=tuple(self._layer(config, number, layers) for number in chain.layers)
                )
                for chain in record.chains
                if all(0 <= number < len(config.layers) for number in chain.layers)
            ),
            digest=record.digest,
            inputs=inputs,
        )

    def _layer(self, config: CacheConfig, number: int, layers: dict[int, int]) -> int:
        """The new position of a layer, with all below it."""
        chain: list[int] = []
        current = number
        most = len(config.layers)
        while 0 <= current < most and current not in layers and len(chain) <= most:
            chain.append(current)
            current = config.layers[current].parent
        for position in reversed(chain):
            layer = config.layers[position]
            below = layers.get(layer.parent, -1)
            key = (below, layer.blob)
            made = self._layer_numbers.get(key)
            if made is None:
                made = self._layer_numbers[key] = len(self.layers)
                self.layers.append(msgspec.structs.replace(layer, parent=below))
            layers[position] = made
        return layers[number]
