from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import UsageError
from anyarch.imagetools.template import execute, to_json

DATA = {"Name": "n", "Manifest": {"Items": [1, "two", None, True], "os.version": "10"}, "Empty": []}

PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{{-",
        "-}}",
        ".Name",
        ".Manifest",
        ".Items",
        ".",
        "$",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        "json",
        "index",
        "len",
        "print",
        "printf",
        "eq",
        "not",
        "and",
        "or",
        "range",
        "if",
        "else",
        "end",
        "with",
        '"a"',
        "`b`",
        '"\\q"',
        "0",
        "7",
        "-1",
        "nil",
        "true",
        "/*",
        "*/",
        "text",
        "\n",
    ]
)


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_no_template_raises_anything_but_a_usage_error(template):
    with contextlib.suppress(UsageError):
        execute(template, DATA)


@given(st.text(max_size=30).filter(lambda text: "{{" not in text))
def test_text_without_actions_stays(text):
    assert execute(text, DATA) == text


def test_deep_nesting_is_an_error():
    with pytest.raises(UsageError, match="nested too deeply"):
        execute("{{" + "(" * 100_000 + "}}", DATA)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.Manifest.Items}}", "[1 two <no value> true]"),
        ("{{.Manifest.OSVersion}}", "10"),
        ("{{.Manifest.Nothing.Below}}", "<no value>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $n, $v := .Manifest.Items}}{{$n}}:{{$v}},{{end}}", "0:1,1:two,2:<no value>,3:true,"),
        ("{{range .Manifest.Items}}{{$.Name}}{{end}}", "nnnn"),
        ('{{printf "%5s|%-5s|%q|%%" .Name .Name .Name}}', '    n|n    |"n"|%'),
        ("{{println .Name 1}}", "n 1\n"),
        ("{{not .Empty}} {{and .Name .Empty}} {{or .Empty .Name}}", "true [] n"),
        ("{{index .Manifest.Items 1 | upper}}", "TWO"),
        ('{{if ne .Name "n"}}a{{else if eq .Name "m" "n"}}b{{end}}', "b"),
        ("{{.}}", "map[Empty:[] Manifest:map[Items:[1 two <no value> true] os.version:10] Name:n]"),
    ],
)
def test_values_are_shown_as_go_shows_them(template, expected):
    assert execute(template, DATA) == expected


def test_json_is_escaped_as_go_escapes_it():
    assert to_json({"a": ["<&>", "\u2028é"], "b": {}}) == (
        '{\n  "a": [\n    "\\u003c\\u0026\\u003e",\n    "\\u2028é"\n  ],\n  "b": {}\n}'
    )
