from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.ignore import parse_ignore
from anyarch.spec.pattern import PatternMatcher, clean_path

if TYPE_CHECKING:
    from anyarch.spec.pattern import MatchState


@pytest.mark.parametrize(
    ("data", "patterns"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\n b \t\r\n\r\n", ["a", "b"]),
        (b"# comment\n #not\na#b", ["#not", "a#b"]),
        (b"/a\n//b\n!/c\n! /d", ["a", "b", "!c", "!d"]),
        (b"a/../b\na/./b/\n./a\n../x\na/b/../..", ["b", "a/b", "a", "../x", "."]),
        (b"!\n/\n.", ["!", "/", "."]),
        ("ä\u00a0\n".encode(), ["ä"]),
        (b"caf\xe9", ["caf\udce9"]),
        (b"a\\ b\n\\#c\n\\!d", ["a\\ b", "\\#c", "\\!d"]),
    ],
)
def test_lines_become_clean_patterns(data, patterns):
    assert parse_ignore(data) == patterns


def test_a_line_has_a_longest_length():
    assert parse_ignore(b"a" * 65_535) == ["a" * 65_535]
    with pytest.raises(DockerfileError):
        parse_ignore(b"a" * 65_536)


CASES = [
    (["a"], {"a": 1, "a/b": 1, "b": 0, "b/a": 0, "ab": 0, "A": 0}),
    (["a/b"], {"a": 0, "a/b": 1, "a/b/c": 1, "a/bc": 0, "x/a/b": 0}),
    (["*"], {"a": 1, "a/b": 1, ".x": 1}),
    (["*.go"], {"x.go": 1, "a/x.go": 0, ".go": 1, "x.go/y": 1, "x.gox": 0}),
    (["*/x"], {"a/x": 1, "x": 0, "a/b/x": 0, "a/x/y": 1}),
    (["a?c"], {"abc": 1, "ac": 0, "a/c": 0}),
    (["a[b-d]e"], {"abe": 1, "ade": 1, "aee": 0}),
    (["a[^b-d]e"], {"abe": 0, "aee": 1}),
    (["[!a]"], {"!": 1, "a": 1, "b": 0}),
    (["a[\\]]"], {"a]": 1}),
    (["a\\*b"], {"a*b": 1, "axb": 0}),
    (["**/x"], {"x": 1, "a/x": 1, "a/b/x": 1, "a/bx": 0, "x/y": 1}),
    (["**/*.pyc"], {"x.pyc": 1, "a/b/x.pyc": 1, "x.py": 0}),
    (["a/**"], {"a": 0, "a/b": 1, "a/b/c": 1, "ab/c": 0}),
    (["a/**/z"], {"a/z": 1, "a/b/z": 1, "a/b/c/z": 1, "az": 0, "b/a/z": 0}),
    (["**"], {"a": 1, "a/b": 1}),
    (["**/**"], {"a": 1}),
    (["**x"], {"x": 1, "ax": 1, "a/bx": 1, "xa": 0}),
    (["x**"], {"x": 1, "xa": 1, "xa/b": 1, "a/x": 0}),
    (["a**b"], {"ab": 1, "ax/b": 1, "a/x/b": 1, "axb": 0}),
    (["."], {"a": 0, ".": 1}),
    (["../a"], {"a": 0}),
    (["!../a", "*"], {"a": 1}),
    (["*", "!a"], {"a": 0, "a/b": 0, "b": 1}),
    (["*", "!a/b"], {"a": 1, "a/b": 0, "a/b/c": 0, "a/c": 1}),
    (["a", "!a/*.md", "a/secret.md"], {"a/x": 1, "a/x.md": 0, "a/secret.md": 1}),
    (["!a", "a"], {"a": 1}),
    (["a", "!a", "a"], {"a": 1}),
    (["x/y", "!x"], {"x/y": 0}),
    (["a", "!a/b", "a*"], {"a/b": 1}),
    (["ä*"], {"äö": 1}),
    (["a.b(c)+$|{d}^"], {"a.b(c)+$|{d}^": 1, "aXb(c)+$|{d}^": 0}),
    (["^*"], {"^a": 1, "a": 0}),
]


@pytest.mark.parametrize(("patterns", "answers"), CASES)
def test_the_last_matching_pattern_decides(patterns, answers):
    matcher = PatternMatcher(patterns)
    assert {path: int(matcher.matches(path)) for path in answers} == answers


@pytest.mark.parametrize(
    "pattern", ["[", "[a", "a[]b]", "[-a]", "[a-]", "a\\", "[a\\", "[b-a]", "[^]", "![", "**/["]
)
def test_malformed_patterns_are_refused(pattern):
    with pytest.raises(DockerfileError) as caught:
        PatternMatcher(["ok", pattern])
    assert caught.value.message == "syntax error in pattern"


def test_a_lone_exclamation_mark_is_refused():
    with pytest.raises(DockerfileError) as caught:
        PatternMatcher(parse_ignore(b"a\n!\n"))
    assert caught.value.message == 'illegal exclusion pattern: "!"'


def test_blank_patterns_do_not_count():
    matcher = PatternMatcher(["", "  ", " !a "])
    assert [(pattern.text, pattern.is_exclusion) for pattern in matcher.patterns] == [("a", True)]
    assert matcher.has_exclusions
    assert not PatternMatcher(["a"]).has_exclusions
    assert not PatternMatcher([]).matches("a")


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["a"], "a", True),
        (["a"], "b", False),
        (["a", "!b"], "a", True),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b"], "a/c", True),
        (["a", "!a/b/c"], "a/b", False),
        (["a", "!*/b"], "a", False),
        (["a", "!*/b"], "a/b", False),
        (["a", "!x*/b"], "a", True),
        (["a", "!**/b"], "a/x/y", False),
        (["!a/b", "a"], "a", True),
        (["*", "!a[^b]c"], "a", False),
        (["*", "!a\\/b"], "a", False),
        (["*", "!a\\/b"], "b", True),
    ],
)
def test_a_directory_is_skipped_when_nothing_below_can_come_back(patterns, directory, expected):
    matcher = PatternMatcher(patterns)
    assert matcher.can_skip_directory(directory, walk(matcher, directory)) is expected
    if expected is False:
        assert matcher.can_skip_directory(directory) is False


def walk(matcher: PatternMatcher, path: str) -> MatchState:
    """The state of a path, reached from the root directory by directory."""
    state = matcher.root
    parts = path.split("/")
    for depth in range(len(parts)):
        state = matcher.match_child("/".join(parts[: depth + 1]), state)
    return state


# The slow, obvious way: characters against pattern, one at a time, parents too, pattern by pattern.


def takes(pattern: str, path: str) -> bool:
    if not pattern:
        return not path
    if pattern == "**":
        return True
    if pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        starts = [0, *(index + 1 for index, char in enumerate(path) if char == "/")]
        return any(takes(rest, path[start:]) for start in starts)
    if pattern[0] == "*":
        end = (path + "/").index("/")
        return any(takes(pattern[1:], path[cut:]) for cut in range(end + 1))
    if not path:
        return False
    if pattern[0] == "?":
        return path[0] != "/" and takes(pattern[1:], path[1:])
    if pattern[0] == "[":
        end = pattern.index("]")
        members = pattern[1:end].removeprefix("^")
        return (path[0] in members) != pattern.startswith("[^") and takes(pattern[end + 1 :], path[1:])
    if pattern[0] == "\\":
        pattern = pattern[1:]
    return pattern[0] == path[0] and takes(pattern[1:], path[1:])


def takes_suffix(pattern: str, path: str) -> bool:
    """`**name` is the one form in which `**` may end inside a path element."""
    is_suffix = (
        pattern.startswith("**") and not pattern.startswith("**/") and not set(pattern[2:]) & set("*?[\\")
    )
    return path.endswith(pattern[2:]) if is_suffix else takes(pattern, path)


def slow_match(patterns: list[str], path: str) -> bool:
    parts = path.split("/")
    parents = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    matched = False
    for pattern in patterns:
        if any(takes_suffix(clean_path(pattern.removeprefix("!")), parent) for parent in parents):
            matched = not pattern.startswith("!")
    return matched


ELEMENTS = st.sampled_from(
    ["a", "b", "ab", "a.b", "*", "**", "?", "a*", "*b", "[ab]", "[^a]", "**b", "a**", "\\a"]
)
PATTERN = st.builds(
    lambda mark, parts: mark + "/".join(parts),
    st.sampled_from(["", "", "", "!"]),
    st.lists(ELEMENTS, min_size=1, max_size=4),
)
PATH = st.lists(st.sampled_from(["a", "b", "ab", "a.b", "c"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=400)
@given(st.lists(PATTERN, min_size=1, max_size=5), st.lists(PATH, min_size=1, max_size=6))
def test_matching_agrees_with_the_obvious_way_from_the_root_and_step_by_step(patterns, paths):
    matcher = PatternMatcher(patterns)
    for path in paths:
        expected = slow_match(patterns, path)
        assert matcher.matches(path) is expected, path
        assert walk(matcher, path).matched is expected, path


@settings(max_examples=300)
@given(st.lists(PATTERN, min_size=1, max_size=4), PATH, PATH)
def test_nothing_below_a_skipped_directory_is_wanted(patterns, directory, below):
    matcher = PatternMatcher(patterns)
    state = walk(matcher, directory)
    for skip in (matcher.can_skip_directory(directory, state), matcher.can_skip_directory(directory)):
        if skip:
            assert state.matched
            assert matcher.matches(f"{directory}/{below}")


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data):
    try:
        matcher = PatternMatcher(parse_ignore(data))
    except DockerfileError:
        return
    matcher.matches("a/b")
    matcher.can_skip_directory("a/b")


def test_many_patterns_are_matched_by_few_lookups():
    matcher = PatternMatcher(
        [*(f"dir{n}" for n in range(500)), *(f"**/name{n}" for n in range(500)), "!keep"]
    )
    assert matcher.matches("dir499/x")
    assert matcher.matches("a/b/name499/c")
    assert not matcher.matches("a/b/name500/c")
