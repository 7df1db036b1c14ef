from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.lexer import MAX_LINE_BYTES, Source, detect_syntax, find_directives


def statements(data: bytes) -> list[tuple[str, int, int]]:
    source = Source(data, "Dockerfile")
    found = []
    while statement := source.statement():
        found.append((statement.text, statement.start, statement.end))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRUN b", [("FROM a", 1, 1), ("RUN b", 2, 2)]),
        ("\n\n  FROM a\n", [("FROM a", 3, 3)]),
        ("FROM a\r\nRUN b\r\n", [("FROM a", 1, 1), ("RUN b", 2, 2)]),
        ("\ufeffFROM a", [("FROM a", 1, 1)]),
        ("RUN a \\\n  b", [("RUN a   b", 1, 2)]),
        ("RUN a\\\nb", [("RUN ab", 1, 2)]),
        ("RUN a \\ \t\nb", [("RUN a b", 1, 2)]),
        ("RUN a \\\n# gone\n   # gone too\n b", [("RUN a  b", 1, 4)]),
        ("RUN a \\\n\n \t\n b", [("RUN a  b", 1, 4)]),
        ("RUN a \\", [("RUN a ", 1, 1)]),
        ("RUN a \\\\\nb", [("RUN a \\\\", 1, 1), ("b", 2, 2)]),
        ("RUN a \\\\\\\nb", [("RUN a \\\\\\", 1, 1), ("b", 2, 2)]),
        ("RUN a \\\n\\\nb", [("RUN a b", 1, 3)]),
        ("RUN a # b", [("RUN a # b", 1, 1)]),
        ("# escape=`\nRUN a `\nb \\\n", [("RUN a b \\", 2, 3)]),
        ("# x\n# escape=`\nRUN a `\nb", [("RUN a `", 3, 3), ("b", 4, 4)]),
    ],
)
def test_lines_join_to_statements(text, expected):
    assert statements(text.encode()) == expected


def test_a_blank_line_in_a_continuation_is_noted():
    assert Source(b"RUN a \\\n\nb", "D").statement().has_blank_continuation
    assert not Source(b"RUN a \\\n#\nb", "D").statement().has_blank_continuation


def test_comments_above_a_statement_are_kept_and_a_bare_one_forgets_them():
    source = Source(b"# one\n  #two\nFROM a\n# three\n#\n# four\nRUN b\nRUN c", "D")
    assert [source.statement().comments for _ in range(3)] == [("one", "two"), ("four",), ()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# syntax=a/b:1", {"syntax": "a/b:1"}),
        ("#syntax = a/b:1 more words ", {"syntax": "a/b:1 more words"}),
        (
            "  #  SYNTAX  =  a\n# Escape=`\n# check=skip=all",
            {"syntax": "a", "escape": "`", "check": "skip=all"},
        ),
        ("# unknown=1\n# syntax=a", {}),
        ("\n# syntax=a", {}),
        ("# comment\n# syntax=a", {}),
        ("FROM a\n# syntax=a", {}),
        ("# syntax=", {}),
        ("# syntax", {}),
        ("# syn tax=a", {}),
        ("# 1x=a", {}),
    ],
)
def test_directives_stand_at_the_very_top(text, expected):
    assert {name: found.value for name, found in find_directives(text.encode()).items()} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# escape=x", "line 1: invalid escape token 'x' does not match ` or \\"),
        ("# escape=\\\\", "line 1: invalid escape token '\\\\' does not match"),
        ("# syntax=a\n# check=skip=all\n# syntax=b", "line 3: only one syntax parser directive can be used"),
        ("#escape=`\n#ESCAPE=`", "line 2: only one escape parser directive can be used"),
    ],
)
def test_bad_directives_are_refused_with_their_line(text, message):
    with pytest.raises(DockerfileError) as caught:
        Source(text.encode(), "D")
    assert f"dockerfile parse error on {message}" in caught.value.message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"# syntax=docker/dockerfile:1\nFROM a", ("docker/dockerfile:1", "docker/dockerfile:1", 1)),
        (b"# escape=`\n# syntax=a b c\n", ("a", "a b c", 2)),
        (b"\xef\xbb\xbf# syntax=a\n", ("a", "a", 1)),
        (b"#!/usr/bin/env x\n# syntax=a\n", ("a", "a", 2)),
        (b"// syntax=a\n// other", ("a", "a", 1)),
        (b'{"syntax": "a", "x": [1]}', ("a", "a", 1)),
        (b'#!/x\n{"syntax": "a"}', ("a", "a", 1)),
        (b'{"syntax": 1}', None),
        (b'{"syntax": "a"', None),
        (b'["syntax"]', None),
        (b"FROM a\n# syntax=a", None),
        (b"", None),
    ],
)
def test_syntax_is_detected_in_three_forms(data, expected):
    found = detect_syntax(data)
    assert (found and (found.reference, found.cmdline, found.line)) == expected


def test_a_line_may_have_65535_bytes_and_no_more():
    longest = b"RUN " + b"x" * (MAX_LINE_BYTES - 4)
    assert statements(b"FROM a\n" + longest + b"\nCMD b")[1][1:] == (2, 2)
    for data in (b"FROM a\n" + longest + b"y\n", b"FROM a\n" + longest + b"y"):
        with pytest.raises(DockerfileError) as caught:
            Source(data, "D")
        assert caught.value.message.endswith("line 2: dockerfile line greater than max allowed size of 65535")
        assert caught.value.source.start == 2
    # The limit is in bytes, not characters.
    with pytest.raises(DockerfileError, match="65535"):
        Source(b"RUN " + "é".encode() * 32_766, "D")


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_recognised(mark):
    with pytest.raises(DockerfileError, match="UTF-16") as caught:
        Source(mark + "FROM a".encode("utf-16-le"), "D")
    assert "UTF-8" in caught.value.hint


@given(st.binary(max_size=400))
def test_statements_cover_every_line_once_in_order(data):
    try:
        found = statements(data)
    except DockerfileError:
        return
    last = 0
    for _, start, end in found:
        assert last < start <= end
        last = end
    assert last <= data.count(b"\n") + 1
