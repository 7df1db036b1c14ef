"""Merging cache documents: nothing that is alive is lost, nothing dead is kept, foreign forms survive."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.cache.config import (
    UNCOMPRESSED,
    CacheConfig,
    CacheInput,
    CacheLayer,
    CacheRecord,
    CacheResult,
    ChainedResult,
    KeyedResult,
    Part,
    parse,
    write,
)
from anyarch.cache.merge import MAX_AGE_S, MOST, OVERLAP_S, Document, living, merge
from anyarch.spec.oci import Descriptor
from anyarch.spec.snapshot import Snapshot

NOW = 1_700_000_000.0
KEYS = [f"{number:064x}" for number in range(12)]
BLOBS = [f"sha256:{number:064x}" for number in range(100, 108)]


def blob(digest: str) -> Descriptor:
    return Descriptor("application/x", digest, 1, annotations={UNCOMPRESSED: digest})


def document(results: list[KeyedResult], ident: str, *, slot: str = "s", at: float = NOW) -> Document:
    config = write(results)
    part = Part(ident, slot, at, own=tuple(range(len(config.own))))
    return Document(
        CacheConfig(config.layers, own=config.own, parts=(part,)),
        {layer.blob: blob(layer.blob) for layer in config.layers},
    )


chains = st.lists(st.sampled_from(BLOBS), min_size=1, max_size=4).map(tuple)


@st.composite
def builds(draw: st.DrawFn) -> list[KeyedResult]:
    """What one build writes: some keys with inputs among earlier ones. The same key has the same chain in
    every build."""
    results = []
    for number, key in enumerate(KEYS):
        if not draw(st.booleans()):
            continue
        inputs = tuple(draw(st.lists(st.sampled_from(KEYS[:number]), max_size=2))) if number else ()
        rng = random.Random(number)
        chain = Snapshot(rng.choice(BLOBS) for _ in range(1 + number % 3))
        outputs = tuple(chain for _ in range(1 + number % 2))
        aliases = (f"{number + 500:064x}",) if draw(st.booleans()) else ()
        results.append(KeyedResult(key, (key, *aliases), inputs, outputs))
    return results


@settings(max_examples=60, deadline=None)
@given(st.lists(builds(), min_size=1, max_size=4))
def test_what_any_document_knows_the_merged_one_knows(written: list[list[KeyedResult]]) -> None:
    documents = [document(results, str(number)) for number, results in enumerate(written)]
    merged = merge(documents, NOW)
    found = parse(merged.config, merged.blobs)
    for one in documents:
        own = parse(one.config, one.blobs)
        assert own.results.items() <= found.results.items()
        assert own.links.items() <= found.links.items()
    assert merged.ids == {str(number) for number in range(len(written))}


@settings(max_examples=40, deadline=None)
@given(st.lists(builds(), min_size=2, max_size=4))
def test_merging_again_adds_nothing_and_the_order_does_not_matter(written: list[list[KeyedResult]]) -> None:
    documents = [document(results, str(number)) for number, results in enumerate(written)]
    merged = merge(documents, NOW)
    assert merge([merged, *documents], NOW) == merged
    facts = parse(merged.config, merged.blobs)
    for order in itertools.islice(itertools.permutations(documents), 4):
        other = merge(list(order), NOW)
        assert parse(other.config, other.blobs) == facts
        assert len(other.config.own) == len(merged.config.own)


def test_what_two_builds_share_is_there_once() -> None:
    base = KeyedResult(KEYS[0], (KEYS[0],), (), (Snapshot((BLOBS[0],)),))
    one = document([base, KeyedResult(KEYS[1], (), (KEYS[0],), (Snapshot((BLOBS[0], BLOBS[1])),))], "1")
    two = document([base, KeyedResult(KEYS[2], (), (KEYS[0],), (Snapshot((BLOBS[0], BLOBS[2])),))], "2")
    merged = merge([one, two], NOW)
    assert len(merged.config.own) == 3
    assert len(merged.config.layers) == 3
    assert sum(layer.blob == BLOBS[0] for layer in merged.config.layers) == 1


def test_parts_die_of_age_and_of_a_later_build_of_their_kind() -> None:
    def alive(*parts: Part) -> list[str]:
        return [part.id for part in living(parts, NOW)]

    assert alive(Part("a", "x", NOW - MAX_AGE_S - 1), Part("b", "x", NOW - MAX_AGE_S + 1)) == ["b"]
    assert alive(Part("a", "x", NOW - OVERLAP_S - 1), Part("b", "x", NOW)) == ["b"]
    assert alive(Part("a", "x", NOW - OVERLAP_S + 1), Part("b", "x", NOW)) == ["b", "a"]
    assert alive(Part("a", "x", NOW - OVERLAP_S - 1), Part("b", "y", NOW)) == ["b", "a"]
    assert len(alive(*(Part(str(number), str(number), NOW - number) for number in range(100)))) == MOST


def test_the_records_of_a_dead_part_go_and_shared_ones_stay() -> None:
    base = KeyedResult(KEYS[0], (), (), (Snapshot((BLOBS[0],)),))
    old = document(
        [base, KeyedResult(KEYS[1], (), (KEYS[0],), (Snapshot((BLOBS[1],)),))], "1", at=NOW - 2 * OVERLAP_S
    )
    both = merge([old, document([base], "2", at=NOW - 2 * OVERLAP_S)], NOW)
    assert len(both.config.own) == 2
    later = merge([both, document([base], "3")], NOW)
    assert {record.digest for record in later.config.own} == {f"sha256:{KEYS[0]}"}
    assert set(later.blobs) == {BLOBS[0]}


def test_results_of_buildkits_form_and_hostile_links_survive_or_go() -> None:
    records = (
        CacheRecord(digest="sha256:a", layers=(CacheResult(0), CacheResult(7))),
        CacheRecord(
            digest="sha256:b",
            chains=(ChainedResult((0, 1)), ChainedResult((9,))),
            inputs=((CacheInput("/sel", 0), CacheInput("", 2), CacheInput("", 99)), ()),
        ),
        CacheRecord(digest="sha256:c", inputs=((CacheInput("", 1),),)),
    )
    layers = (
        CacheLayer(BLOBS[0], -1),
        CacheLayer(BLOBS[1], 0),
        CacheLayer(BLOBS[2], 3),
        CacheLayer(BLOBS[3], 2),
    )
    config = CacheConfig(layers, records, parts=(Part("p", "s", NOW, (0, 1, 2, 55, -3)),))
    merged = merge([Document(config, {digest: blob(digest) for digest in BLOBS})], NOW)
    by_digest = {record.digest: record for record in merged.config.records}
    assert [result.layer for result in by_digest["sha256:a"].layers] == [0]
    b = by_digest["sha256:b"]
    assert [chain.layers for chain in b.chains] == [(0, 1)]
    assert len(b.inputs) == 2  # the place of a group is the number of an input
    assert b.inputs[0][0].selector == "/sel"
