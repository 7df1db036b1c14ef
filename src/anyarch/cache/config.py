"""The cache config document (`application/vnd.buildkit.cacheconfig.v0`) and what it says about our keys.

BuildKit's form: `layers` are blobs, each naming the layer it lies on; `records` are keys with their results
and links to other records. Under BuildKit's own keys (`cache.stock`) all is as it writes it.

What we know under keys of our own is in a member that others pass over, `anyarchRecords`, or beside that of
BuildKit's records in an image's config (`anyarch.cache.v0`). Its records have the same form and link to one
another. The digest is that of a key of our solver:

- of a canonical key: its result is the first output of the vertex; it links to the records of the vertex's
  inputs, one group an input;
- of a further output: it links to the canonical key's record with the selector `anyarch.output=N`;
- of another key that leads to a canonical one: the selector is `anyarch.key`, there is no result;
- `anyarch.layers=0,-,1` links to nothing that matters: it tells where in a chain layers without entries are,
  which an image (cache `inline`) does not have among its layers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import InvalidDigest
from anyarch.spec.digest import Digest
from anyarch.spec.number import natural
from anyarch.spec.oci import Descriptor, decode
from anyarch.spec.snapshot import Snapshot, renamed
from anyarch.spec.timestamp import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "BASE",
    "CACHE_CONFIG",
    "CREATED_AT",
    "INLINE_KEY",
    "OWN_INLINE_KEY",
    "UNCOMPRESSED",
    "CacheConfig",
    "CacheLayer",
    "CacheRecord",
    "ForeignRecord",
    "Found",
    "KeyedResult",
    "LayerAnnotations",
    "Part",
    "annotated",
    "chains_of",
    "decode_config",
    "described",
    "descriptors_of",
    "encode_records",
    "parse",
    "write",
]

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
INLINE_KEY = "moby.buildkit.cache.v0"
OWN_INLINE_KEY = "anyarch.cache.v0"
UNCOMPRESSED = "containerd.io/uncompressed"
CREATED_AT = "buildkit/createdat"
BASE = "anyarch/base"
"""Marks a layer that came with an image: no step made it."""

_ALIAS = "anyarch.key"
_OUTPUT = "anyarch.output="
_LAYERS = "anyarch.layers="


class LayerAnnotations(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a layer's descriptor says, where there is no manifest that has descriptors (object stores).
    `is_base` is ours: the layer came with an image."""

    media_type: str = ""
    diff_id: str = msgspec.field(default="", name="diffID")
    size: int = 0
    created_at: str = ""
    is_base: bool = False


class CacheLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob; `parent` is the position of the layer below it, -1 for none."""

    blob: str = ""
    parent: int = 0
    annotations: LayerAnnotations | None = None


class CacheResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A chain: the layer at this position, and what it lies on."""

    layer: int = msgspec.field(default=-1)
    created_at: str = ""


class ChainedResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    layers: tuple[int, ...] = ()
    created_at: str = ""


class CacheInput(msgspec.Struct, frozen=True, omit_defaults=True):
    selector: str = ""
    link: int = -1


class CacheRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    layers: tuple[CacheResult, ...] = ()
    chains: tuple[ChainedResult, ...] = ()
    digest: str = ""
    inputs: tuple[tuple[CacheInput, ...], ...] = ()


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one build wrote: `records` and `own` are positions. `slot` is the same for builds of one kind
    (target and platforms), `at` seconds since the epoch."""

    id: str
    slot: str
    at: float
    records: tuple[int, ...] = ()
    own: tuple[int, ...] = ()


class CacheConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """`own` (records under keys of ours) and `parts` (see `cache.merge`) are passed over by other tools."""

    layers: tuple[CacheLayer, ...] = ()
    records: tuple[CacheRecord, ...] = ()
    own: tuple[CacheRecord, ...] = msgspec.field(default=(), name="anyarchRecords")
    parts: tuple[Part, ...] = msgspec.field(default=(), name="anyarchParts")


class KeyedResult(msgspec.Struct, frozen=True):
    """What is to be written of one vertex: its canonical key (hex), the keys that lead to it, the canonical
    keys of its inputs, and the chain of blobs of each output (None where there is none to be written; "" is
    a layer without entries, where those have no blob).
    `created_at` in seconds since the epoch, 0 leaves it out; `vertex` is the digest of the vertex."""

    canonical: str
    keys: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[Snapshot | None, ...] = ()
    created_at: float = 0.0
    vertex: str = ""


class ForeignRecord(msgspec.Struct, frozen=True):
    """A record with a key that is not ours. `inputs` are, for each input, what it is known by: (selector,
    position among the foreign records); `chain` the blobs of the result, None where there is none to be
    written."""

    digest: str
    inputs: tuple[tuple[tuple[str, int], ...], ...] = ()
    chain: Snapshot | None = None
    created_at: float = 0.0


def _digest(key: str) -> str:
    return f"sha256:{key}"


def _output_digest(key: str, number: int) -> str:
    return f"sha256:{hashlib.sha256(f'{key}@{number}'.encode()).hexdigest()}"


def write(
    results: Iterable[KeyedResult],
    *,
    present: Sequence[str] | None = None,
    foreign: Sequence[ForeignRecord] = (),
) -> CacheConfig:
    """The document for `results`. Layers and records are in an order that depends on nothing but them.
    `foreign` are records with other tools' keys.

    `present` (for `inline`) gives the layers, lowest first; the chains must be parts of it, with "" for a
    layer without entries. What it does not begin with is told by the positions of its layers.
    """
    known = {item.canonical: item for item in sorted(results, key=lambda item: item.canonical)}
    layers = _Layers(present or ())
    positions: dict[str, int] = {}
    groups: list[tuple[str, list[tuple[CacheInput, ...]], Snapshot | None, float]] = []

    def add(digest: str, inputs: list[tuple[CacheInput, ...]], chain: Snapshot | None, at: float) -> int:
        positions[digest] = len(groups)
        groups.append((digest, inputs, chain, at))
        return positions[digest]

    for item in known.values():
        add(_digest(item.canonical), [], item.outputs[0] if item.outputs else None, item.created_at)
    for item in known.values():
        number = positions[_digest(item.canonical)]
        links = [positions.get(_digest(key)) for key in item.inputs]
        groups[number][1].extend((CacheInput(link=link),) for link in links if link is not None)
        for output, chain in enumerate(item.outputs[1:], 1):
            selector = CacheInput(f"{_OUTPUT}{output}", number)
            add(_output_digest(item.canonical, output), [(selector,)], chain, item.created_at)
        for key in sorted(set(item.keys) - {item.canonical}):
            if _digest(key) not in positions:
                add(_digest(key), [(CacheInput(_ALIAS, number),)], None, 0.0)
    anchor = add(_output_digest("anyarch", 0), [], None, 0.0) if present is not None else -1
    count = len(groups)
    for record in foreign:
        above: list[tuple[CacheInput, ...]] = [
            tuple(CacheInput(selector, link) for selector, link in links) for links in record.inputs
        ]
        chain = record.chain
        is_whole = chain is not None and layers.blobs(chain).depth == chain.depth
        groups.append((record.digest, above, chain if is_whole else None, record.created_at))
    records = []
    for digest, inputs, chain, created_at in groups:
        result: tuple[CacheResult, ...] = ()
        chained: tuple[ChainedResult, ...] = ()
        if chain is not None and chain.depth:
            blobs = layers.blobs(chain)
            at = format_time(created_at) if created_at else ""
            top = layers.top(blobs, grow=present is None)
            if top >= 0:
                result = (CacheResult(top, at),)
                if blobs.depth != chain.depth:
                    inputs = [*inputs, (CacheInput(_LAYERS + _positions(chain.layers), anchor),)]
            elif blobs.depth == chain.depth and (first := layers.place(blobs)) >= 0:
                chained = (ChainedResult(tuple(range(first, first + blobs.depth)), at),)
        records.append(CacheRecord(layers=result, chains=chained, digest=digest, inputs=tuple(inputs)))
    made = tuple(layers.made) if present is None else ()
    return CacheConfig(made, tuple(records[count:]), tuple(records[:count]))


class _Layers:
    """Chains as a tree: each layer knows the one below. A chain costs what is new of it."""

    def __init__(self, present: Sequence[str]) -> None:
        self.made: list[CacheLayer] = []
        self._above: dict[tuple[int, str], int] = {}  # by the position of the layer below, and the blob
        self._tops: dict[Snapshot, int] = {Snapshot(): -1}
        self._blobs: dict[Snapshot, Snapshot] = {}
        self._present = present
        self._ends: dict[str, list[int]] = {}
        below = -1
        for end, blob in enumerate(present, 1):
            self._ends.setdefault(blob, []).append(end)
            below = self._add(below, blob)

    def blobs(self, chain: Snapshot) -> Snapshot:
        """`chain` but for the layers that have no blob."""
        return renamed(chain, lambda blob: blob or None, self._blobs)

    def top(self, chain: Snapshot, *, grow: bool) -> int:
        """The position of the uppermost layer of `chain`; -1 for none, and without `grow` for a new chain."""
        new = []
        at = chain
        while at not in self._tops and at.below is not None:
            new.append(at)
            at = at.below
        position = self._tops[at]
        for at in reversed(new):
            if position >= 0 or at.depth == 1:
                known = self._above.get((position, at.top), -1)
                position = self._add(position, at.top) if known < 0 and grow else known
            self._tops[at] = position
        return position

    def _add(self, below: int, blob: str) -> int:
        self.made.append(CacheLayer(blob, below))
        position = self._above[below, blob] = len(self.made) - 1
        return position

    def place(self, part: Snapshot) -> int:
        """Where `part`, which does not begin the layers that are there, is among them; -1 for nowhere."""
        for end in self._ends.get(part.top, ()):
            begin = end - part.depth
            if begin > 0 and tuple(self._present[begin:end]) == part.layers:
                return begin
        return -1


def _positions(chain: Sequence[str]) -> str:
    """`0,-,1` for a chain whose second layer has no entries."""
    count = 0
    texts = []
    for blob in chain:
        texts.append(str(count) if blob else "-")
        count += bool(blob)
    return ",".join(texts)


def encode_records(records: Sequence[CacheRecord]) -> bytes:
    """Records alone, as an image has them."""
    return msgspec.json.encode(records)


class Found(msgspec.Struct):
    """What a cache knows. `links` leads from keys to canonical keys, `results` from those to a chain of blobs
    for each output, None where nothing is known of it; a blob "" is a layer without entries. `blobs` has the
    descriptors of all, with their diff IDs. `documents` are what it was read from, for whoever looks for
    other keys in them."""

    links: dict[str, str] = {}
    results: dict[str, tuple[Snapshot | None, ...]] = {}
    blobs: dict[str, Descriptor] = {}
    documents: list[tuple[CacheConfig, dict[str, Descriptor]]] = []

    def add(self, other: Found) -> None:
        self.links.update(other.links)
        self.results.update(other.results)
        self.blobs = {**other.blobs, **self.blobs}
        self.documents.extend(other.documents)


def parse(config: CacheConfig, blobs: dict[str, Descriptor]) -> Found:
    """Read what a document has under our keys; `blobs` are those of its manifest. What is not of our form, or
    whose blobs are not there, is passed over."""
    found = Found(blobs=described(config, blobs), documents=[(config, blobs)])
    outputs: dict[str, dict[int, Snapshot]] = {}
    chain_of = chains_of(config, found.blobs)
    for record in config.own:
        hexdigits = record.digest.partition(":")[2]
        chain = chain_of(record)
        links = [item for group in record.inputs for item in group]
        special = next((item for item in links if item.selector.startswith(("anyarch.key", _OUTPUT))), None)
        if special is None:
            if chain is not None:
                outputs.setdefault(hexdigits, {})[0] = chain
            continue
        if not 0 <= special.link < len(config.own):
            continue
        canonical = config.own[special.link].digest.partition(":")[2]
        if special.selector == _ALIAS:
            found.links[hexdigits] = canonical
        elif chain is not None:
            output = natural(special.selector.removeprefix(_OUTPUT))
            if output is not None:
                outputs.setdefault(canonical, {})[output] = chain
    announced: dict[str, set[str]] = {}
    for record in config.own:
        for item in (item for group in record.inputs for item in group):
            if item.selector.startswith(_OUTPUT) and 0 <= item.link < len(config.own):
                canonical = config.own[item.link].digest.partition(":")[2]
                announced.setdefault(canonical, set()).add(item.selector)
    for canonical, by_number in outputs.items():
        count = len(announced.get(canonical, ())) + 1
        found.results[canonical] = tuple(by_number.get(number) for number in range(count))
    return found


def chains_of(
    config: CacheConfig, blobs: Mapping[str, Descriptor]
) -> Callable[[CacheRecord], Snapshot | None]:
    """A function that gives the first result of a record whose blobs are all among `blobs` (`described`).
    Chains share what they lie on."""
    known: dict[int, Snapshot | None] = {-1: Snapshot()}

    def up_to(position: int) -> Snapshot | None:
        """The chain whose uppermost layer that is; what was asked for before is the begin of others."""
        new: list[int] = []
        while position not in known:
            if not 0 <= position < len(config.layers) or len(new) > len(config.layers):
                return None  # no layer, or a circle
            new.append(position)
            position = config.layers[position].parent
        chain = known[position]
        for at in reversed(new):
            blob = config.layers[at].blob
            chain = known[at] = chain.on(blob) if chain is not None and blob in blobs else None
        return chain

    def chain_of(record: CacheRecord) -> Snapshot | None:
        for result in record.layers:
            chain = up_to(result.layer)
            if chain is not None and chain.depth:
                return _with_empty(record, chain)
        for chained in record.chains:
            positions = chained.layers
            if positions and all(0 <= position < len(config.layers) for position in positions):
                names = [config.layers[position].blob for position in positions]
                if all(name in blobs for name in names):
                    return Snapshot(names)
        return None

    return chain_of


def _with_empty(record: CacheRecord, chain: Snapshot) -> Snapshot | None:
    for group in record.inputs:
        for item in group:
            if item.selector.startswith(_LAYERS):
                texts = item.selector.removeprefix(_LAYERS).split(",")
                if [t for t in texts if t != "-"] != [str(n) for n in range(chain.depth)]:
                    return None
                names = iter(chain.layers)
                return Snapshot("" if text == "-" else next(names) for text in texts)
    return chain


def annotated(config: CacheConfig, blobs: Mapping[str, Descriptor]) -> CacheConfig:
    """`config` with what `blobs` say written into it, for a place that has no manifest."""
    layers = []
    for layer in config.layers:
        descriptor = blobs[layer.blob]
        notes = descriptor.annotations or {}
        annotations = LayerAnnotations(
            descriptor.media_type,
            notes.get(UNCOMPRESSED, ""),
            descriptor.size,
            notes.get(CREATED_AT, ""),
            is_base=BASE in notes,
        )
        layers.append(msgspec.structs.replace(layer, annotations=annotations))
    return msgspec.structs.replace(config, layers=tuple(layers))


def descriptors_of(config: CacheConfig) -> dict[str, Descriptor]:
    """The blobs of a document that came without a manifest."""
    found = {}
    for layer in config.layers:
        told = layer.annotations
        if told is None or not told.diff_id or not told.media_type:
            continue
        notes = {UNCOMPRESSED: told.diff_id}
        if told.created_at and not told.created_at.startswith("0001-"):
            notes[CREATED_AT] = told.created_at
        if told.is_base:
            notes[BASE] = "true"
        found[layer.blob] = Descriptor(told.media_type, layer.blob, told.size, annotations=notes)
    return found


def described(config: CacheConfig, blobs: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
    """The blobs of a document's layers that are among `blobs` and whose diff ID is known, which they have as
    annotation. One whose digests or size are none is passed over."""
    found = {}
    for layer in config.layers:
        descriptor = blobs.get(layer.blob)
        if descriptor is None or layer.blob in found:
            continue
        notes = dict(descriptor.annotations or {})
        if layer.annotations is not None and layer.annotations.diff_id:
            notes.setdefault(UNCOMPRESSED, layer.annotations.diff_id)
        if descriptor.size >= 0 and _is_digest(layer.blob) and _is_digest(notes.get(UNCOMPRESSED, "")):
            found[layer.blob] = msgspec.structs.replace(descriptor, annotations=notes)
    return found


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidDigest:
        return False
    return True


def decode_config(raw: bytes) -> CacheConfig:
    """Raises `UnsupportedMedia`."""
    return decode(CacheConfig, raw)
