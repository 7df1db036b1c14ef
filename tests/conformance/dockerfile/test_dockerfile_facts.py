"""Our reading of Dockerfiles, words and ignore files against what other parsers say of them (`record.py`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anyarch.frontend.dockerfile.make import Words

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.expand import expand, expand_words
from anyarch.frontend.dockerfile.ignore import parse_ignore
from anyarch.frontend.dockerfile.lexer import Source
from anyarch.frontend.dockerfile.make import KEYWORDS
from anyarch.frontend.dockerfile.parser import read_words
from anyarch.frontend.dockerfile.words import quoted_words, word_list
from anyarch.spec.pattern import PatternMatcher

HERE = Path(__file__).parent
VARIABLES = {"X": "x1", "E": "", "P": "/foo/bar/o.txt", "S": "a b"}


def load(name: str):
    return json.loads((HERE / name).read_text())


CORPUS = load("corpus.json")
FACTS = load("facts.json")

# Where the recorded Go parser, an older release, is right no more (what is right is tested elsewhere).
OLDER_GO = {
    "directives-all": "knows no check directive",
    "flags-backtick": "takes the backslash for the escape character of flags, whatever the directive says",
    "json-cmd-8": "lets anything follow a JSON array",
    "heredoc-space": "takes no blank behind <<",
    "heredoc-space-copy": "takes no blank behind <<",
    "onbuild-7": "goes on into an ONBUILD of an ONBUILD",
}
# Where the Python parser departs from Go's on purpose or by mistake.
OTHER_PYTHON = {
    "json-cmd-25": "takes NaN for JSON",
    "copy-2": "lets quotes group words of COPY",
    "copy-3": "lets a backslash group words of COPY",
    "heredoc-empty-word": "takes an empty word for a here-document",
    "wide-blanks": "shows a wide blank as a narrow one",
}


def arguments(words: Words) -> list[str]:
    keyword = words.keyword.lower()
    if keyword == "healthcheck":
        command = words.array if words.array is not None else [words.tail] if words.tail else []
        return [*word_list(words.rest), *command]
    if words.array is not None:
        return words.array
    match keyword:
        case "add" | "copy" | "volume" | "from" | "expose":
            return word_list(words.rest)
        case "env" | "label":
            return [text for pair in words.pairs for text in (pair.key, pair.value)]
        case "arg":
            return quoted_words(words.rest, words.escape)
        case "onbuild":
            return [words.trigger.keyword, *arguments(words.trigger)] if words.trigger else []
        case _:
            return [words.rest] if words.rest else []


def ours(text: str) -> list[list] | str:
    """The same form as the facts have."""
    rows = []
    try:
        source = Source(text.encode(), "Dockerfile")
        while statement := source.statement():
            words = read_words(source, statement)
            target = words.trigger or words
            rows.append(
                [
                    words.keyword,
                    words.flags,
                    arguments(words),
                    target.array is not None,
                    [[doc.name, doc.content, doc.chomp, doc.expand] for doc in words.heredocs],
                    *words.lines,
                ]
            )
    except DockerfileError as error:
        return re.sub(r"^dockerfile parse error on line \d+: ", "", error.message)
    return rows or "file with no instructions"


def is_known(keyword: str) -> bool:
    return keyword.upper() in KEYWORDS


@pytest.mark.parametrize("name", [name for name in CORPUS if name not in OLDER_GO])
def test_statements_are_read_as_the_go_parser_reads_them(name):
    mine, theirs = ours(CORPUS[name]), FACTS[name]["go"]
    if isinstance(mine, str) or isinstance(theirs, str):
        assert mine == theirs
        return
    # The binding shows no arguments of unknown instructions, and no bodies under ONBUILD.
    for rows in (mine, theirs):
        for row in rows:
            if not is_known(row[0]) or (row[0] == "ONBUILD" and row[2] and not is_known(row[2][0])):
                row[2] = row[2][:1] if row[0] == "ONBUILD" else []
            row[4] = [] if row[0] == "ONBUILD" else [doc[:2] for doc in row[4]]
    assert mine == theirs


@pytest.mark.parametrize("name", [name for name in CORPUS if name not in OTHER_PYTHON])
def test_statements_are_read_as_the_python_parser_reads_them(name):
    mine, theirs = ours(CORPUS[name]), FACTS[name]["e2b"]
    if isinstance(theirs, str):
        problem = theirs.partition(": ")[2] or theirs
        if problem.startswith("unknown instruction"):
            assert not all(is_known(row[0]) for row in mine) or any(row[0] == "ONBUILD" for row in mine)
        elif problem == "Only strings are supported in JSON arrays":
            assert mine == "when using JSON array syntax, arrays must be comprised of strings only"
        else:
            assert mine == problem
        return
    if not theirs:
        assert mine == "file with no instructions"
        return
    if any(row[0] == "ONBUILD" and not row[2] for row in theirs):
        return  # it does not look into triggers
    for row in theirs:
        if row[0] in ("ENV", "LABEL"):
            row[2] = [text for index, text in enumerate(row[2]) if index % 3 != 2]
    assert [[row[0].upper(), *row[1:]] for row in mine] == theirs


def test_words_expand_as_the_other_parser_expands_them():
    def ask(function, word):
        try:
            answer = function(word, VARIABLES)
        except DockerfileError as error:
            return {"error": error.message}
        return answer if isinstance(answer, list) else answer.value

    def same(mine, theirs):
        if isinstance(mine, dict) and isinstance(theirs, dict):
            # Both start with the quoted word, each quoted its own way.
            return mine["error"][-6:] == theirs["error"][-6:]
        return mine == theirs

    words = load("words.json")
    different = [
        (word, mine, fact)
        for word, facts in zip(words, load("facts_words.json"), strict=True)
        for mine, fact in zip((ask(expand, word), ask(expand_words, word)), facts, strict=True)
        if not same(mine, fact)
    ]
    assert len(words) >= 300
    assert different == []


def test_ignore_patterns_match_as_the_other_parser_matches_them():
    different = []
    cases = load("ignore.json")
    for (patterns, paths), bits in zip(cases, load("facts_ignore.json"), strict=True):
        matcher = PatternMatcher(parse_ignore("\n".join(patterns).encode()))
        mine = "".join(str(int(matcher.matches(path))) for path in paths)
        if mine != bits:
            different.append((patterns, mine, bits))
    assert len(cases) >= 250
    assert different == []
