"""The cache config document: what is written is what is read, in BuildKit's form."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.cache.config import (
    UNCOMPRESSED,
    CacheConfig,
    CacheLayer,
    CacheRecord,
    ForeignRecord,
    KeyedResult,
    decode_config,
    encode_records,
    parse,
    write,
)
from anyarch.errors import UnsupportedMedia
from anyarch.spec.oci import Descriptor
from anyarch.spec.snapshot import Snapshot


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def blob(name: str) -> str:
    return f"sha256:{key(name)}"


def descriptors(*names: str) -> dict[str, Descriptor]:
    return {
        blob(name): Descriptor("m", blob(name), 1, annotations={UNCOMPRESSED: blob(f"diff {name}")})
        for name in names
    }


def through_json(config: CacheConfig) -> CacheConfig:
    return decode_config(msgspec.json.encode(config))


names = st.sampled_from("abcdef")
chains = st.lists(names, min_size=1, max_size=5).map(tuple)
results = st.dictionaries(
    names, st.tuples(st.lists(chains, max_size=3), st.sets(st.sampled_from("uvwxyz"), max_size=3)), max_size=6
)


@given(results)
def test_what_is_written_is_read(wanted: dict[str, tuple[list[tuple[str, ...]], set[str]]]) -> None:
    taken: set[str] = set()
    items = []
    for name, (outputs, keys) in sorted(wanted.items()):
        mine = keys - taken
        taken |= mine
        items.append(
            KeyedResult(
                key(name),
                tuple(map(key, sorted(mine))),
                outputs=tuple(Snapshot(map(blob, chain)) for chain in outputs),
            )
        )
    found = parse(through_json(write(items)), descriptors(*"abcdef"))
    assert found.links == {k: item.canonical for item in items for k in item.keys}
    assert found.results == {item.canonical: item.outputs for item in items if item.outputs}


@given(st.permutations([KeyedResult(key(n), outputs=(Snapshot((blob("a"), blob(n))),)) for n in "abcd"]))
def test_the_order_of_results_does_not_matter(items: list[KeyedResult]) -> None:
    assert write(items) == write(sorted(items, key=lambda item: item.canonical))


def test_shared_layers_are_written_once_below_one_another() -> None:
    config = write(
        [
            KeyedResult(key("1"), outputs=(Snapshot((blob("a"),)),)),
            KeyedResult(key("2"), inputs=(key("1"),), outputs=(Snapshot((blob("a"), blob("b"))),)),
        ]
    )
    assert {layer.blob: layer.parent for layer in config.layers} == {
        blob("a"): -1,
        blob("b"): [layer.blob for layer in config.layers].index(blob("a")),
    }
    raw = msgspec.json.decode(msgspec.json.encode(config))
    (second,) = [record for record in raw["anyarchRecords"] if record["digest"] == f"sha256:{key('2')}"]
    (group,) = second["inputs"]
    assert raw["anyarchRecords"][group[0].get("link", 0)]["digest"] == f"sha256:{key('1')}"


def test_a_result_whose_blob_is_gone_is_passed_over() -> None:
    config = write([KeyedResult(key("1"), (key("2"),), outputs=(Snapshot((blob("a"), blob("b"))),))])
    found = parse(config, descriptors("b"))
    assert found.results == {}
    assert found.links == {key("2"): key("1")}


def test_of_a_step_with_one_of_its_outputs_gone_the_others_are_known() -> None:
    config = write([KeyedResult(key("1"), outputs=(Snapshot((blob("a"),)), Snapshot((blob("b"),))))])
    (first, second) = parse(config, descriptors("b")).results[key("1")]
    assert first is None
    assert second is not None
    assert second.layers == (blob("b"),)


def test_an_image_tells_where_layers_without_entries_are() -> None:
    chain = Snapshot((blob("a"), "", blob("b"), ""))
    config = write([KeyedResult(key("1"), outputs=(chain,))], present=[blob("a"), blob("b")])
    assert config.layers == ()
    records = msgspec.json.decode(encode_records(config.own), type=tuple[CacheRecord, ...])
    image = CacheConfig((CacheLayer(blob("a"), -1), CacheLayer(blob("b"), 0)), own=records)
    found = parse(image, descriptors("a", "b"))
    (outputs,) = found.results.values()
    assert outputs == (chain,)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"layers":[{"blob":"BLOB","parent":0}],"anyarchRecords":[{"digest":"sha256:a","layers":[{"layer":0}]}]}',
        b'{"layers":[{"blob":"BLOB","parent":7}],"anyarchRecords":[{"digest":"sha256:a","layers":[{"layer":0}]}]}',
        b'{"anyarchRecords":[{"digest":"sha256:a","layers":[{"layer":-5}]}]}',
        b'{"anyarchRecords":[{"digest":"sha256:a","inputs":[[{"selector":"anyarch.key","link":9}]]}]}',
        b'{"anyarchRecords":[{"digest":"sha256:a","inputs":[[{"selector":"anyarch.output=x","link":0}]]}]}',
        b'{"anyarchRecords":[{"digest":"","inputs":[[]],"chains":[{"layers":[3],"createdAt":"x"}]}]}',
        b"{}",
    ],
)
def test_a_document_that_makes_no_sense_gives_nothing(raw: bytes) -> None:
    assert parse(decode_config(raw.replace(b"BLOB", blob("x").encode())), descriptors("x")).results == {}


@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor("m", blob("a"), 1),
        Descriptor("m", blob("a"), 1, annotations={UNCOMPRESSED: ""}),
        Descriptor("m", blob("a"), 1, annotations={UNCOMPRESSED: f"{blob('a')}0"}),
        Descriptor("m", blob("a"), -1, annotations={UNCOMPRESSED: blob("a")}),
        Descriptor("m", "x", 1, annotations={UNCOMPRESSED: blob("a")}),
    ],
    ids=["no diff ID", "an empty one", "a long one", "negative size", "no digest"],
)
def test_results_of_impossible_blobs_are_passed_over(descriptor: Descriptor) -> None:
    config = write([KeyedResult(key("1"), outputs=(Snapshot((descriptor.digest,)),))])
    assert parse(config, {descriptor.digest: descriptor}).results == {}


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"records":3}', b'{"anyarchRecords":3}', b"\xff"])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        decode_config(raw)


def test_what_is_ours_is_where_buildkit_does_not_look_and_its_records_are_as_it_writes_them() -> None:
    step = ForeignRecord("sha256:step", ((("", 0), ("selector", 1)),), Snapshot((blob("a"), blob("b"))))
    config = write(
        [KeyedResult(key("1"), (key("2"),), outputs=(Snapshot((blob("a"), blob("b"))),))],
        foreign=[ForeignRecord("sha256:image"), ForeignRecord("sha256:content"), step],
    )
    raw = msgspec.json.decode(msgspec.json.encode(config))
    assert [record["digest"] for record in raw["records"]] == [
        "sha256:image",
        "sha256:content",
        "sha256:step",
    ]
    assert raw["records"][2]["inputs"] == [[{"link": 0}, {"selector": "selector", "link": 1}]]
    assert {record["digest"] for record in raw["anyarchRecords"]} == {f"sha256:{key(n)}" for n in "12"}
    found = parse(through_json(config), descriptors("a", "b"))
    assert list(found.results) == [key("1")]
