from __future__ import annotations

import pytest

from anyarch.builder.placement import Candidate, group, place, place_fixed
from anyarch.errors import BuilderError
from anyarch.spec.platform import Platform


def platforms(text):
    return tuple(Platform.parse(part) for part in text.split())


def node(name, detected="", fixed=""):
    return Candidate(name=name, detected=platforms(detected), fixed=platforms(fixed))


AMD = node("amd", "linux/amd64 linux/amd64/v2 linux/386")
ARM = node("arm", "linux/arm64 linux/arm/v7")
BOTH = node("both", "linux/amd64 linux/arm64 linux/riscv64")


def placed(wanted, *nodes, **options):
    return [(item.node, item.how) for item in place(platforms(wanted), nodes, **options)]


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        ("linux/amd64 linux/arm64", (AMD, ARM), [(0, "native"), (1, "native")]),
        # A node that only emulates comes after a native one, wherever it stands.
        ("linux/arm64", (BOTH, ARM), [(1, "native")]),
        ("linux/riscv64", (AMD, BOTH), [(1, "emulated")]),
        # A node covers what its processor runs besides.
        ("linux/386", (node("a", "linux/arm64"), node("b", "linux/amd64")), [(1, "native")]),
        ("linux/arm/v6", (AMD, ARM), [(1, "native")]),
        ("linux/arm/v5", (node("a", "linux/arm/v7"),), [(0, "native")]),
        # The closer variant wins, else the first.
        ("linux/arm/v7", (node("a", "linux/arm64"), node("b", "linux/arm/v7")), [(1, "native")]),
        ("linux/amd64/v2", (node("a", "linux/amd64/v3"), node("b", "linux/amd64/v2")), [(1, "native")]),
        ("linux/arm64/v8", (AMD, ARM), [(1, "native")]),
        # What the user fixed wins over everything detected.
        ("linux/arm64", (ARM, node("x", "linux/amd64", fixed="linux/arm64")), [(1, "fixed")]),
        ("linux/arm64", (node("x", fixed="linux/arm64"), ARM), [(0, "fixed")]),
        # Fixed platforms cover others as detected ones do.
        ("linux/arm/v7", (AMD, node("x", fixed="linux/arm64")), [(1, "native")]),
        # Equal nodes share.
        ("linux/amd64 linux/amd64/v2", (AMD, AMD), [(0, "native"), (1, "native")]),
        (
            "linux/arm64 linux/riscv64 linux/amd64",
            (BOTH, BOTH),
            [(0, "emulated"), (1, "emulated"), (0, "native")],
        ),
    ],
)
def test_each_platform_goes_to_the_node_that_suits_it_best(wanted, nodes, expected):
    assert placed(wanted, *nodes) == expected


def test_the_same_question_has_the_same_answer():
    wanted = "linux/amd64 linux/arm64 linux/riscv64 linux/386"
    assert placed(wanted, BOTH, BOTH) == placed(wanted, BOTH, BOTH)


def test_work_that_is_there_already_counts():
    assert placed("linux/amd64", AMD, AMD, load=[2, 1]) == [(1, "native")]


def test_a_platform_that_nobody_can_run_is_an_error_that_lists_what_each_node_can():
    with pytest.raises(BuilderError, match="no node of the builder can run linux/s390x") as caught:
        placed("linux/amd64 linux/s390x", AMD, node("silent"), ARM)
    hint = caught.value.hint
    assert "node amd: linux/amd64, linux/amd64/v2, linux/386" in hint
    assert "node silent: told no platform" in hint
    assert "node arm: linux/arm64, linux/arm/v7" in hint
    assert "--platform linux/s390x" in hint


def test_where_nothing_has_to_run_the_first_node_takes_it():
    assert placed("linux/s390x linux/arm64", AMD, ARM, must_run=False) == [(0, "unknown"), (1, "native")]


def test_a_newer_level_than_a_node_has_is_no_match():
    with pytest.raises(BuilderError):
        placed("linux/arm64/v9", ARM)
    assert placed("linux/arm64/v9", node("new", "linux/arm64/v9")) == [(0, "native")]


def test_without_nodes_there_is_nothing_to_choose():
    with pytest.raises(BuilderError, match="no node is there to build linux/amd64"):
        placed("linux/amd64", must_run=False)


def test_fixed_platforms_alone_are_enough_when_all_are_exactly_there():
    fixed = [node("a", fixed="linux/amd64"), node("b", fixed="linux/arm64 linux/arm/v7")]
    found = place_fixed(platforms("linux/arm64 linux/amd64"), fixed)
    assert [(item.node, item.how) for item in found] == [(1, "fixed"), (0, "fixed")]
    assert place_fixed(platforms("linux/arm64 linux/386"), fixed) is None
    assert place_fixed(platforms("linux/amd64"), [AMD]) is None


def test_platforms_are_grouped_by_node_in_the_order_wanted():
    found = place(platforms("linux/arm64 linux/amd64 linux/arm/v7"), [AMD, ARM])
    assert {number: [str(item) for item in items] for number, items in group(found).items()} == {
        0: ["linux/amd64"],
        1: ["linux/arm64", "linux/arm/v7"],
    }
