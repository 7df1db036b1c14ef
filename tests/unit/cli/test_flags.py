from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.cli.flags import BadCommandLine, Command, Flag, parse

COMMAND = Command(
    "demo",
    summary="Show",
    usage="demo [OPTIONS] ARG",
    least=1,
    most=2,
    flags=(
        Flag("tag", "Name", short="t", metavar="NAME", repeat=True),
        Flag("file", "File", short="f", metavar="PATH"),
        Flag("quiet", "Say less", short="q"),
        Flag("push", "Push"),
        Flag("mode", "Mode", metavar="MODE", choices=("one", "two")),
        Flag("secret-flag", "Not shown", hidden=True),
    ),
)
RUN = Command(
    "run", summary="Run", usage="run IMAGE", least=1, most=None, interspersed=False, flags=COMMAND.flags
)


@pytest.mark.parametrize(
    "argv",
    [
        ["--tag", "a", "--quiet", "."],
        ["--tag=a", "--quiet=true", "."],
        ["-t", "a", "-q", "."],
        ["-ta", "-q", "."],
        ["-t=a", "-q=1", "."],
        ["-qt", "a", "."],
        ["-qta", "."],
        [".", "-q", "-t", "a"],
        ["-q", "-ta", "--", "."],
    ],
)
def test_every_spelling_of_a_flag_means_the_same(argv):
    parsed = parse(COMMAND, argv)
    assert (parsed.texts("tag"), parsed.switch("quiet"), parsed.args) == (["a"], True, ["."])


def test_repeated_values_gather_and_others_keep_the_last():
    parsed = parse(COMMAND, ["-t", "a", "-t", "b", "-f", "x", "-f", "y", "."])
    assert parsed.texts("tag") == ["a", "b"]
    assert parsed.text("file") == "y"
    assert parsed.given == ["tag", "file"]


def test_a_switch_can_be_switched_off_again():
    assert not parse(COMMAND, ["--push", "--push=false", "."]).switch("push")


def test_values_may_begin_with_a_dash_or_be_a_dash():
    parsed = parse(COMMAND, ["-t", "-x", "-f", "-", "--", "-y"])
    assert (parsed.texts("tag"), parsed.text("file"), parsed.args) == (["-x"], "-", ["-y"])


def test_a_lone_dash_is_an_argument():
    assert parse(COMMAND, ["-"]).args == ["-"]


def test_what_follows_the_image_belongs_to_the_program():
    assert parse(RUN, ["-q", "busybox", "ls", "-t", "--help"]).args == ["busybox", "ls", "-t", "--help"]


def test_a_value_may_be_empty():
    assert parse(COMMAND, ["--file=", "."]).text("file") == ""


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--tga", "x", "."], "unknown flag: --tga", "did you mean --tag?"),
        (["--nothing-like-it", "."], "unknown flag: --nothing-like-it", None),
        (["--secret-flg", "."], "unknown flag: --secret-flg", None),
        (["-x", "."], "unknown shorthand flag: 'x' in -x", None),
        (["-qx", "."], "unknown shorthand flag: 'x' in -qx", None),
        ([".", "--tag"], "flag needs an argument: --tag", None),
        ([".", "-t"], "flag needs an argument: 't' in -t", None),
        (["--=x", "."], "bad flag syntax: --=x", None),
        (
            ["--push=perhaps", "."],
            'invalid argument "perhaps" for "--push" flag: strconv.ParseBool: parsing "perhaps": '
            "invalid syntax",
            "write --push",
        ),
        (["--mode=three", "."], 'invalid argument "three" for "--mode" flag', "one, two"),
        ([], "'anyarch demo' requires 1 to 2 arguments", None),
        (["a", "b", "c"], "'anyarch demo' requires 1 to 2 arguments", "'c' is one too many"),
    ],
)
def test_what_cannot_be_read_is_named(argv, message, hint):
    with pytest.raises(BadCommandLine) as caught:
        parse(COMMAND, argv)
    assert caught.value.message == message
    assert (hint is None and caught.value.hint is None) or hint in caught.value.hint


def test_help_is_given_without_the_arguments_that_are_needed_otherwise():
    assert parse(COMMAND, ["--help"]).switch("help")


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_words_give_values_or_a_usage_error(words):
    try:
        parsed = parse(COMMAND, words)
    except BadCommandLine:
        return
    assert len(parsed.args) in (1, 2) or parsed.switch("help")
