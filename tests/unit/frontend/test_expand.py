from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.expand import expand, expand_words

ENV = {"v": "val", "e": "", "p": "/foo/bar/foo.txt", "two": "a b", "Ä": "umlaut", "star": "a*b?c"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$v", "val"),
        ("${v}", "val"),
        ("$v.x", "val.x"),
        ("$vx", ""),
        ("${v}x", "valx"),
        ("$Ä", "umlaut"),
        ("$", "$"),
        ("a$", "a$"),
        ("$.", "$."),
        ("$ v", "$ v"),
        # names that start with a digit, special names
        ("$1x", "x"),
        ("$12x", "x"),
        ("${1}", ""),
        ("$@x$*$#$?$-$$$!$0", "x"),
        ("${@}${?:-d}", "d"),
        # defaults and alternatives
        ("${u:-w}", "w"),
        ("${e:-w}", "w"),
        ("${v:-w}", "val"),
        ("${u-w}", "w"),
        ("${e-w}", ""),
        ("${u:+w}", ""),
        ("${e:+w}", ""),
        ("${v:+w}", "w"),
        ("${e+w}", "w"),
        ("${u+w}", ""),
        ("${u:-a b}", "a b"),
        ("${u:-${v}}", "val"),
        ("${u:-${x:-$v}}", "val"),
        ("${u:-'}'}", "}"),
        ("${u:-\\}}", "}"),
        ('${u:-"}"}', "}"),
        ("${u:-{}", "{"),
        ("${v}}", "val}"),
        # must be set
        ("${v?}${v:?x}${e?}", "valval"),
        # prefixes and suffixes
        ("${p#*/}", "foo/bar/foo.txt"),
        ("${p##*/}", "foo.txt"),
        ("${p%/*}", "/foo/bar"),
        ("${p%%/*}", ""),
        ("${p%.txt}", "/foo/bar/foo"),
        ("${p#x}", "/foo/bar/foo.txt"),
        ("${p#/???}", "/bar/foo.txt"),
        ("${v#}", "val"),
        ("${star#*\\*}", "b?c"),
        ("${star%\\?*}", "a*b"),
        ("${star#a[*]}", "a*b?c"),
        ("${p#$u/foo}", "/bar/foo.txt"),
        # replacement
        ("${p/foo/X}", "/X/bar/foo.txt"),
        ("${p//foo/X}", "/X/bar/X.txt"),
        ("${p//\\//_}", "_foo_bar_foo.txt"),
        ("${p/f*o/X}", "/X.txt"),
        ("${p//o/}", "/f/bar/f.txt"),
        ("${p/nothing/X}", "/foo/bar/foo.txt"),
        ("${v//?/-}", "---"),
        ("${v//*/-}", "-"),
        ("${v///-}", "-v-a-l-"),
        ("${v/l/$p}", "va/foo/bar/foo.txt"),
        ("${u/a/b}", ""),
        # quotes
        ("'$v'", "$v"),
        ('"$v"', "val"),
        ("a'b c'd", "ab cd"),
        ('"a\\"b"', 'a"b'),
        ('"\\$v"', "$v"),
        ('"\\\\"', "\\"),
        ('"\\n"', "\\n"),
        ('"it\'s"', "it's"),
        ("'\"'", '"'),
        ("''", ""),
        # escapes
        ("\\$v", "$v"),
        ("\\\\$v", "\\val"),
        ("\\n", "n"),
        ("\\'", "'"),
        ("a\\", "a"),
        ("$v\\", "val"),
    ],
)
def test_words_expand(word, expected):
    assert expand(word, ENV).value == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${}", "syntax error: bad substitution"),
        ("${:-x}", "syntax error: bad substitution"),
        ("${{", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("${v", "syntax error: missing '}'"),
        ("${v:-x", "syntax error: missing '}'"),
        ("${v:-'x}", "syntax error: missing '}'"),
        ("${v:1}", "unsupported modifier (:1) in substitution"),
        ("${v:=x}", "unsupported modifier (:=) in substitution"),
        ("${v:#x}", "unsupported modifier (:#) in substitution"),
        ("${v^}", "unsupported modifier (^) in substitution"),
        ("${.}", "unsupported modifier (.) in substitution"),
        ("${u?}", "u: is not allowed to be unset"),
        ("${u:?}", "u: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${u:?give $v}", "u: give val"),
        ("${p/foo}", "syntax error: missing '/' in ${}"),
        ("${p//foo", "syntax error: missing '/' in ${}"),
        ("${p/foo/x", "syntax error: missing '}'"),
        ("${p#\\q}", "invalid pattern (\\q) in substitution: invalid escape '\\q'"),
        ("'x", "unexpected end of statement while looking for matching single-quote"),
        ('"x', "unexpected end of statement while looking for matching double-quote"),
        ('"x\\"', "unexpected end of statement while looking for matching double-quote"),
    ],
)
def test_what_does_not_expand_says_why(word, message):
    with pytest.raises(DockerfileError) as caught:
        expand(word, ENV)
    assert caught.value.message.startswith('failed to process "')
    assert caught.value.message.endswith(f": {message}")


def test_the_names_looked_up_are_told_once_each_in_order():
    expansion = expand("$b $a $v ${c:-$d} $a '$q' \\$z", ENV)
    assert (expansion.matched, expansion.unmatched) == (("v",), ("b", "a", "d", "c"))


def test_the_escape_character_can_be_a_backtick():
    assert expand('`$v \\ "`"" `a', ENV, escape="`").value == '$v \\ " a'


def test_windows_names_have_no_case():
    assert expand("$PATH $path", {"Path": "x"}, windows=True).value == "x x"
    assert expand("$PATH", {"Path": "x"}).value == ""


@pytest.mark.parametrize(
    ("options", "word", "expected"),
    [
        ({"quotes": False}, "'$v' \"$v\" \\n \\$v", "'val' \"val\" n $v"),
        ({"raw_quotes": True}, "'$v' \"$v\"", "'$v' \"val\""),
        ({"raw_escapes": True}, '\\$v "\\$" \\n', "\\$v \\$ \\n"),
        (
            {"keep_unset": True},
            "$u ${u} ${u:-w$v} ${u#p} ${u/a/b} $v",
            "$u ${u} ${u:-wval} ${u#p} ${u/a/b} val",
        ),
    ],
)
def test_options_keep_parts_as_written(options, word, expected):
    assert expand(word, ENV, **options).value == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("80 443", ["80", "443"]),
        ("  80\t 443 ", ["80", "443"]),
        ("$two", ["a", "b"]),
        ("x${two}y", ["xa", "by"]),
        ('"$two"', ["a b"]),
        ("'a b'c", ["a bc"]),
        ("a\\ b", ["a b"]),
        ("$e", []),
        ('""', []),
        ("", []),
        ("a${u:-b}", ["ab"]),
        ("80/${proto:-tcp}", ["80/tcp"]),
        ("a\u00a0b\u2003c", ["a", "b", "c"]),
        ("a\x1cb", ["a\x1cb"]),
        ("<< EOF", ["<< EOF"]),
    ],
)
def test_words_split_after_expansion(word, expected):
    assert expand_words(word, ENV) == expected


def test_nesting_has_a_limit_far_from_the_stack():
    deep = "${a:-" * 90 + "x" + "}" * 90
    assert expand(deep, {}).value == "x"
    with pytest.raises(DockerfileError, match="nested"):
        expand("${a:-" * 20_000, {})


def test_patterns_that_choke_backtracking_match_in_linear_time():
    assert expand("${x#*a*a*a*a*a*a*a*a*a*a*b}", {"x": "a" * 3000}).value == "a" * 3000


@given(st.text(st.characters(exclude_characters="$'\"\\", codec="utf-8")))
def test_text_without_special_characters_is_unchanged(text):
    assert expand(text, ENV).value == text
    assert expand(text, ENV, quotes=False, keep_unset=True).value == text


@given(st.text("$v{}:-+?#%/'\"\\ aé<"), st.sampled_from("\\`"))
def test_expansion_raises_nothing_but_dockerfile_errors(text, escape):
    for function in (expand, expand_words):
        with contextlib.suppress(DockerfileError):
            function(text, ENV, escape=escape)


@given(st.text("ab*?[", max_size=5), st.text("ab[", max_size=8))
def test_trimming_agrees_with_trying_every_cut(pattern, value):
    regex = re.compile(
        "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in pattern), re.DOTALL
    )
    heads = [cut for cut in range(len(value) + 1) if regex.fullmatch(value[:cut])]
    tails = [cut for cut in range(len(value) + 1) if regex.fullmatch(value[cut:])]
    env = {"x": value, "w": pattern}
    assert expand("${x#$w}", env).value == (value[heads[0] :] if heads else value)
    assert expand("${x##$w}", env).value == (value[heads[-1] :] if heads else value)
    assert expand("${x%$w}", env).value == (value[: tails[-1]] if tails else value)
    assert expand("${x%%$w}", env).value == (value[: tails[0]] if tails else value)
    assert expand("${x//$w/-}", env).value == _replace_all(regex, value)


def _replace_all(regex: re.Pattern[str], value: str) -> str:
    """The longest match at each place, no empty match right behind another."""
    out, pos, last = "", 0, -1
    while pos <= len(value):
        ends = [end for end in range(pos, len(value) + 1) if regex.fullmatch(value[pos:end])]
        end = ends[-1] if ends else -1
        if end > pos or (end == pos and pos != last):
            out += "-"
            last = end
        if end <= pos:
            out += value[pos : pos + 1]
            pos += 1
        else:
            pos = end
    return out
