"""Source policies: which rule decides, what a conversion gives, and what becomes of the graph."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.sourcepolicy import (
    Action,
    Condition,
    Constraint,
    Match,
    Rule,
    apply_rules,
    normalized,
    policed,
)
from anyarch.errors import BuildError
from anyarch.llb.ops import ActionMkfile, SourceOp
from anyarch.llb.source import image

if TYPE_CHECKING:
    from anyarch.spec.platform import Platform

ALPINE = "docker-image://docker.io/library/alpine:3.20"
ALLOW, DENY, CONVERT = Action.ALLOW, Action.DENY, Action.CONVERT


def source(text: str = ALPINE, **attrs: str) -> SourceOp:
    return SourceOp(text, attrs)


@pytest.mark.parametrize(
    ("rules", "denied"),
    [
        ([Rule(DENY, ALPINE)], True),
        ([Rule(DENY, ALPINE, Match.EXACT), Rule(ALLOW, ALPINE, Match.EXACT)], False),
        ([Rule(ALLOW, "*"), Rule(DENY, "docker-image://*alpine*")], True),
        ([Rule(DENY, "*"), Rule(ALLOW, "docker-image://docker.io/*")], False),
        ([Rule(DENY, "docker-image://*:3.2")], False),
        ([Rule(DENY, "alpine", Match.REGEX)], True),
        ([Rule(DENY, "^alpine", Match.REGEX)], False),
        ([Rule(DENY, "*", constraints=(Constraint("k", "v", Condition.EQUAL),))], True),
        ([Rule(DENY, "*", constraints=(Constraint("k", "v", Condition.NOTEQUAL),))], False),
        ([Rule(DENY, "*", constraints=(Constraint("k", "^[uvw]$", Condition.MATCHES),))], True),
    ],
)
def test_the_last_rule_that_matches_decides(rules: list[Rule], denied: bool) -> None:
    op = source(k="v")
    if not denied:
        assert apply_rules([rules], op) == op
        return
    with pytest.raises(BuildError, match="denied by policy: source denied by policy"):
        apply_rules([rules], op)


def test_one_policy_does_not_allow_what_another_denies() -> None:
    with pytest.raises(BuildError, match="denied"):
        apply_rules([[Rule(DENY, ALPINE)], [Rule(ALLOW, ALPINE)]], source())


@pytest.mark.parametrize(
    ("rule", "becomes"),
    [
        (Rule(CONVERT, ALPINE, updates=("docker-image://busybox", {})), "docker-image://busybox"),
        (
            Rule(CONVERT, "docker-image://*/library/*:*", updates=("docker-image://mirror/${2}:$3-$1", {})),
            "docker-image://mirror/alpine:3.20-docker.io",
        ),
        (
            Rule(
                CONVERT,
                r"^(.*)://docker[.]io/",
                Match.REGEX,
                updates=("$1://m.example/", {}),
            ),
            "docker-image://m.example/library/alpine:3.20",
        ),
        (Rule(CONVERT, "*alpine*", updates=("$$x${none}y", {})), "$xy"),
    ],
)
def test_a_conversion_names_another_source(rule: Rule, becomes: str) -> None:
    assert apply_rules([[rule]], source()).identifier == becomes


def test_a_conversion_may_add_attributes_only_and_is_judged_anew() -> None:
    pin = Rule(CONVERT, ALPINE, updates=("", {"image.checksum": "sha256:0"}))
    assert apply_rules([[pin]], source(a="b")) == source(**{"a": "b", "image.checksum": "sha256:0"})
    moved = Rule(CONVERT, ALPINE, updates=("docker-image://evil", {}))
    with pytest.raises(BuildError, match='"docker-image://evil" denied'):
        apply_rules([[moved, Rule(DENY, "docker-image://evil")]], source())


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([Rule(CONVERT, ALPINE)], "missing destination for convert rule"),
        ([Rule(9000, ALPINE)], "unknown type"),
        ([Rule(DENY, "x**")], "invalid wildcard"),
        ([Rule(DENY, "(", Match.REGEX)], "invalid regex"),
        (
            [Rule(CONVERT, "*:a", updates=("$1:b", {})), Rule(CONVERT, "*:b", updates=("$1:a", {}))],
            "too many mutations on a single source",
        ),
    ],
)
def test_rules_that_make_no_sense_are_errors(rules: list[Rule], says: str) -> None:
    op = source("docker-image://x:a") if len(rules) == 2 else source()
    with pytest.raises(BuildError, match=says):
        apply_rules([rules], op)


def test_a_pattern_that_never_ends_is_given_up() -> None:
    with pytest.raises(BuildError, match="takes too long"):
        apply_rules([[Rule(DENY, "(a+)+$", Match.REGEX)]], source("a" * 60 + "!"))


@pytest.mark.parametrize(
    ("op", "is_"),
    [
        (source("docker-image://alpine"), "docker-image://docker.io/library/alpine:latest"),
        (source("git://host/r.git#main:../a/./b"), "git://host/r.git#main:a/b"),
        (
            source("git://nice.example/r.git", **{"git.fullurl": "https://u:p@host:1/x/../r.git"}),
            "git://host:1/r.git",
        ),
        (source("local://x"), "local://x"),
    ],
)
def test_rules_see_what_is_taken_indeed(op: SourceOp, is_: str) -> None:
    assert normalized(op).identifier == is_


class Rename:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def evaluate(self, op: SourceOp, platform: Platform | None) -> SourceOp:
        self.asked.append(op.identifier)
        return SourceOp(op.identifier.replace("alpine", "busybox"), op.attrs)


def test_a_graph_with_a_converted_source_is_the_graph_of_that_source() -> None:
    def graph(name: str) -> object:
        return image(name).file(ActionMkfile("/f", 0o644, b"x")).marshal()

    policy = Rename()
    made = asyncio.run(policed(graph("alpine"), policy))  # type: ignore[arg-type]
    assert made.ops == graph("busybox").ops  # type: ignore[attr-defined]
    assert asyncio.run(policed(made, policy)) is made
    assert len(policy.asked) == 2
