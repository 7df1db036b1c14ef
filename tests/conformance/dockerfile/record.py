"""Record what other parsers say of the inputs beside this file: writes `facts*.json`.

Run it in an environment of its own: `pip install dockerfile e2b-dockerfile-utils && python record.py`.
`dockerfile` is the Go parser of BuildKit behind a Python binding (an older release), `e2b-dockerfile-utils`
follows a recent one. Each fact is a list of instructions `[keyword, flags, arguments, is JSON, [[name,
content, chomp, expand], …] here-documents, first line, last line]`, or an error's text. `words.json` holds
words that are expanded as one and split (with `VARIABLES`), `ignore.json` lists of patterns with paths, whose
answer is a text of 0 and 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import e2b_dockerfile_utils as e2b

import dockerfile

HERE = Path(__file__).parent
VARIABLES = {"X": "x1", "E": "", "P": "/foo/bar/o.txt", "S": "a b"}


def ask_go(text: str) -> object:
    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError as error:
        return str(error)
    return [
        [
            command.cmd,
            list(command.flags),
            [*([command.sub_cmd] if command.sub_cmd else []), *command.value],
            command.json,
            [[doc.name, doc.content] for doc in command.heredocs],
            command.start_line,
            command.end_line,
        ]
        for command in commands
    ]


def ask_e2b(text: str) -> object:
    try:
        tree = e2b.parse_dockerfile_ast(text)
    except e2b.DockerfileSyntaxError as error:
        return str(error)
    return [
        [
            instruction.name,
            instruction.flags,
            instruction.args,
            instruction.json,
            [[doc.name, doc.content, doc.chomp, doc.expand] for doc in instruction.heredocs],
            instruction.start_line,
            instruction.end_line,
        ]
        for instruction in tree.instructions
    ]


def ask_words(word: str) -> list[object]:
    answers: list[object] = []
    for method in ("process_word", "process_words"):
        lexer = e2b.ShellLex("\\", env=VARIABLES, skip_unset_env=False)
        try:
            answers.append(getattr(lexer, method)(word))
        except ValueError as error:
            answers.append({"error": str(error)})
    return answers


def ask_ignore(patterns: list[str], paths: list[str]) -> str:
    matcher = e2b.PatternMatcher(patterns)
    return "".join(str(int(matcher.matches(path))) for path in paths)


def write(name: str, rows: list[str], brackets: str) -> None:
    (HERE / name).write_text(brackets[0] + "\n" + ",\n".join(rows) + "\n" + brackets[1] + "\n")


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def main() -> None:
    corpus = json.loads((HERE / "corpus.json").read_text())
    rows = [
        f"{compact(name)}:{compact({'go': ask_go(text), 'e2b': ask_e2b(text)})}"
        for name, text in corpus.items()
    ]
    write("facts.json", rows, "{}")
    words = json.loads((HERE / "words.json").read_text())
    write("facts_words.json", [compact(ask_words(word)) for word in words], "[]")
    ignore = json.loads((HERE / "ignore.json").read_text())
    write("facts_ignore.json", [compact(ask_ignore(*case)) for case in ignore], "[]")


if __name__ == "__main__":
    main()
