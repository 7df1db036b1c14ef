"""Chains of layers: values that share what lies below."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyarch.spec.digest import Digest
from anyarch.spec.snapshot import Snapshot

_chains = st.lists(st.sampled_from("abc"), max_size=5)


@given(_chains, _chains)
def test_chains_are_equal_when_their_layers_are(one: list[str], two: list[str]) -> None:
    assert (Snapshot(one) == Snapshot(two)) == (one == two)
    if one == two:
        assert hash(Snapshot(one)) == hash(Snapshot(two))
    assert Snapshot(one).layers == tuple(one)


@given(_chains, st.sampled_from("abc"))
def test_a_chain_with_one_more_layer_lies_on_the_first(layers: list[str], more: str) -> None:
    below = Snapshot(layers)
    chain = below.on(more)
    assert chain == Snapshot([*layers, more])
    assert (chain.below, chain.top, chain.depth) == (below, more, len(layers) + 1)
    assert below.layers == tuple(layers)


def test_chains_of_thousands_of_layers_are_hashed_and_compared() -> None:
    chains = [Snapshot(map(str, range(5000))) for _ in range(2)]
    assert chains[0] == chains[1]
    assert len(set(chains)) == 1
    assert chains[0] != Snapshot(map(str, range(1, 5001)))


def test_digests_are_kept_as_text() -> None:
    assert type(Snapshot([Digest.of(b"x")]).top) is str
    assert type(Snapshot().on(Digest.of(b"x")).top) is str
