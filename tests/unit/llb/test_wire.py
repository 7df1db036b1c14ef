from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import AnyarchError, NotSupported, UsageError
from anyarch.llb.definition import Definition, SourceInfo, SourceMap
from anyarch.llb.ops import (
    Chown,
    DiffOp,
    FileOp,
    Input,
    LinuxResources,
    Op,
    OpMetadata,
    SourceOp,
)
from anyarch.llb.wire import marshal_op, op_digest, unmarshal_definition, unmarshal_op
from anyarch.spec.platform import Platform
from tests.unit.llb.oracle import canonical, message
from tests.unit.llb.values import key, maps, ops, text, to_message

if TYPE_CHECKING:
    from anyarch.llb.definition import Location


@settings(max_examples=150, deadline=None)
@given(ops)
def test_op_bytes_equal_those_of_the_protobuf_runtime_in_go_order(op: Op) -> None:
    assert marshal_op(op) == canonical(to_message(op))


@settings(max_examples=150, deadline=None)
@given(ops)
def test_op_survives_the_way_there_and_back(op: Op) -> None:
    assert unmarshal_op(marshal_op(op)) == op


@settings(max_examples=100, deadline=None)
@given(ops)
def test_op_is_read_in_natural_field_order_too(op: Op) -> None:
    """Clients that are not written in Go put the kind before the platform."""
    assert unmarshal_op(to_message(op).SerializeToString()) == op


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_read_or_refused_with_an_error_of_ours(raw: bytes) -> None:
    for read in (unmarshal_op, unmarshal_definition):
        try:
            read(raw)
        except AnyarchError:
            continue


@settings(max_examples=100, deadline=None)
@given(ops, st.data())
def test_damaged_ops_are_read_or_refused_with_an_error_of_ours(op: Op, data: st.DataObject) -> None:
    raw = bytearray(marshal_op(op))
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        unmarshal_op(bytes(raw))
    except AnyarchError:
        return


def test_digest_is_the_one_that_go_computes() -> None:
    """The value comes from BuildKit's client."""
    image = "busybox:latest@sha256:de68ccc327e508f44a3a150fc877a442581bb03dd53e24b418fbc425ece79d52"
    op = Op((), SourceOp(f"docker-image://docker.io/library/{image}"), Platform("linux", "amd64"))
    expected = "sha256:e0c48a473db0a274bc7ec3fd9d4b53035f5833d7d4606b4b11afe44a414bf371"
    assert op_digest(op) == expected
    assert op_digest(marshal_op(op)) == expected


def test_minus_one_is_a_varint_of_ten_bytes() -> None:
    raw = marshal_op(Op((), DiffOp(-1, 0)))
    assert b"\x08" + b"\xff" * 9 + b"\x01" in raw


def test_owner_of_id_0_is_written_though_it_is_a_default() -> None:
    from anyarch.llb.ops import ActionMkdir, FileAction

    raw = marshal_op(Op((), FileOp((FileAction(ActionMkdir("/a", 0o755, owner=Chown(0, None))),))))
    assert b"\x22\x04\x0a\x02\x10\x00" in raw


def test_empty_constraints_are_written_for_a_kind_and_not_for_the_last_op() -> None:
    assert marshal_op(Op((), SourceOp("x"))).startswith(b"\x5a\x00")
    assert marshal_op(Op((Input("d"),), None)) == b"\x0a\x03\x0a\x01d"


def test_undecodable_path_bytes_are_kept() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    op = Op((), SourceOp(name))
    assert b"\xff\xfe" in marshal_op(op)
    assert unmarshal_op(marshal_op(op)) == op


def test_unknown_kind_is_refused() -> None:
    """An action of a file operation that this release does not know."""
    with pytest.raises(NotSupported, match="action that is not supported"):
        unmarshal_op(b"\x22\x04\x12\x02\x4a\x00")


def test_cut_message_is_refused() -> None:
    raw = marshal_op(Op((Input("sha256:x"),), SourceOp("docker-image://x")))
    with pytest.raises(UsageError, match="malformed LLB"):
        unmarshal_op(raw[:-1])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        key,
        st.builds(
            OpMetadata,
            st.booleans(),
            maps,
            st.none() | st.booleans(),
            st.lists(key, max_size=3, unique=True).map(sorted).map(tuple),
            st.none() | st.tuples(text, text, st.booleans()),
            st.none() | st.builds(LinuxResources, st.integers(0, 2**40), st.integers(-1, 9)),
        ),
        max_size=2,
    ),
    st.dictionaries(
        key,
        st.lists(st.tuples(st.integers(0, 3), st.just(((1, 2), (4, 4), (5, 6, 7, 0)))), max_size=2).map(
            tuple
        ),
        max_size=2,
    ),
)
def test_definition_is_the_message_that_the_protobuf_runtime_reads(
    metadata: dict[str, OpMetadata], locations: dict[str, tuple[Location, ...]]
) -> None:
    source = SourceMap((SourceInfo("Dockerfile", b"FROM x\n", "Dockerfile"),), locations)
    definition = Definition((b"\x0a\x00", b"abc"), metadata, source)
    raw = definition.marshal()
    assert Definition.unmarshal(raw) == definition
    oracle = message("Definition")
    oracle.ParseFromString(raw)
    assert list(getattr(oracle, "def")) == list(definition.ops)
    assert set(oracle.metadata) == set(metadata)
    for digest, value in metadata.items():
        found = oracle.metadata[digest]
        assert found.ignore_cache == value.ignore_cache
        assert dict(found.description) == value.description
        assert found.HasField("export_cache") == (value.export_cache is not None)
        assert sorted(found.caps) == list(value.caps)
        assert all(found.caps.values())
    assert oracle.Source.infos[0].data == b"FROM x\n"
    for digest, places in locations.items():
        lines = [
            tuple(
                (item.start.line, item.end.line, item.start.character, item.end.character)
                for item in place.ranges
            )
            for place in oracle.Source.locations[digest].locations
        ]
        assert lines == [tuple((*one, 0, 0)[:4] for one in ranges) for _, ranges in places]
