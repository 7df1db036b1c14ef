from __future__ import annotations

import pytest

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.heredoc import announced, chomp_tabs, is_terminator, parse_heredoc
from anyarch.frontend.dockerfile.instructions import Heredoc


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("<<EOF", Heredoc("EOF")),
        ("<<-EOF", Heredoc("EOF", chomp=True)),
        ("<<'EOF'", Heredoc("EOF", expand=False)),
        ('<<"EOF"', Heredoc("EOF", expand=False)),
        ("<<E'O'F", Heredoc("EOF", expand=False)),
        ('<<"A B"', Heredoc("A B", expand=False)),
        ("<< EOF", Heredoc("EOF")),
        ("3<<EOF", Heredoc("EOF", fd=3)),
        ("<<E\\OF", Heredoc("EOF")),
        ("<<$X", Heredoc("$X")),
        ("<<${X}", Heredoc("${X}")),
        ("<<EOF;", Heredoc("EOF;")),
        ("<<", None),
        ("<<-", None),
        ('<<""', None),
        ("<<<EOF", None),
        ("x<<EOF", None),
        ("<<A B", None),
        ("EOF", None),
        ("", None),
    ],
)
def test_a_word_announces_a_heredoc(word, expected):
    assert parse_heredoc(word) == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN <<EOF", ["EOF"]),
        ("RUN cat <<A && cat <<-B", ["A", "B"]),
        ("RUN <<  EOF", ["EOF"]),
        ("RUN echo '<<EOF' \"<<EOF\"", []),
        ("RUN echo \\<<EOF", []),
        ("RUN cat<<EOF", []),
        ("RUN cat <<<EOF", []),
        ("RUN echo $((1<<2))", []),
        ("RUN echo it's <<EOF", []),
        ("RUN echo ${x <<EOF", []),
    ],
)
def test_a_line_announces_its_heredocs_in_order(line, names):
    assert [heredoc.name for heredoc in announced(line)] == names


def test_an_open_quote_in_the_word_is_an_error():
    with pytest.raises(DockerfileError, match="single-quote"):
        parse_heredoc("<<'EOF")


@pytest.mark.parametrize(
    ("line", "chomp", "expected"),
    [
        ("EOF\n", False, True),
        ("EOF\r\n", False, True),
        ("EOF", False, True),
        ("\tEOF\n", False, False),
        ("\t\tEOF\n", True, True),
        (" EOF\n", True, False),
        ("EOF \n", False, False),
        ("EOFX\n", False, False),
    ],
)
def test_the_terminator_is_the_whole_line(line, chomp, expected):
    assert is_terminator(line, Heredoc("EOF", chomp=chomp)) is expected


def test_chomping_takes_only_tabs_and_only_at_line_starts():
    assert chomp_tabs("\t\ta\tb\n\t c\n  \td\n\n\t\n") == "a\tb\n c\n  \td\n\n\n"
