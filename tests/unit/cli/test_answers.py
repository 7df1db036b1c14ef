"""`--call`: answers on standard output, and the exit status they say."""

from __future__ import annotations

import base64
import json

import pytest

from anyarch.engine.request import BuildResult

SOURCE = b"FROM busybox\nLABEL a b\nFROM x y\n"


def check(warnings: int, error: dict[str, object] | None = None) -> BuildResult:
    document: dict[str, object] = {
        "warnings": [{"ruleName": "R"}] * warnings or None,
        "sources": [{"filename": "Dockerfile", "data": base64.b64encode(SOURCE).decode()}],
    }
    if error is not None:
        document["buildError"] = error
    status = str(int(bool(warnings or error)))
    text = "\nWARNING: R\n" * warnings
    metadata = {"result.json": json.dumps(document), "result.txt": text, "result.statuscode": status}
    return BuildResult(metadata=metadata)


def test_a_check_without_findings_says_so(cli, engine):
    engine.result = check(0)
    answer = cli("build", "--check", ".")
    assert (answer.status, answer.out) == (0, "Check complete, no warnings found.\n")
    assert engine.request.call == "lint"
    assert "No output specified" not in answer.err


@pytest.mark.parametrize(
    ("count", "line"), [(1, "1 warning has been found!"), (3, "3 warnings have been found!")]
)
def test_findings_are_counted_and_fail(cli, engine, count, line):
    engine.result = check(count)
    answer = cli("build", "--call", "check", ".")
    assert answer.status == 1
    assert answer.out == f"Check complete, {line}\n" + "\nWARNING: R\n" * count
    assert cli("build", "--call", "check,ignorestatus=true", ".").status == 0


def test_what_keeps_a_file_from_being_built_is_an_error_with_its_lines(cli, engine):
    error = {"message": "no good", "location": {"ranges": [{"start": {"line": 3}, "end": {"line": 3}}]}}
    engine.result = check(1, error)
    answer = cli("build", "--check", ".")
    assert answer.status == 1
    assert answer.out.startswith("Check complete, 1 warning has been found!\n")
    assert "ERROR: no good\nDockerfile:3\n" in answer.err
    assert "   3 | >>> FROM x y" in answer.err
    engine.result = check(0, {"message": "nowhere", "location": {}})
    answer = cli("build", "--check", ".")
    assert (answer.status, answer.out) == (1, "")
    assert "ERROR: nowhere\n" in answer.err


def test_json_is_printed_as_it_is(cli, engine):
    engine.result = check(2)
    answer = cli("build", "--call", "check,format=json", ".")
    assert answer.status == 1
    assert answer.out == engine.result.metadata["result.json"] + "\n"


def test_other_answers_are_printed_as_text_or_json(cli, engine):
    engine.result = BuildResult(metadata={"result.json": "{}", "result.txt": "TARGET DESCRIPTION\n"})
    assert cli("build", "--call", "targets", ".").out == "TARGET DESCRIPTION\n"
    assert cli("build", "--call", "targets,format=json", ".").out == "{}\n"
    assert cli("build", "--call", "targets", ".").status == 0


def test_a_metadata_file_gets_the_answer(cli, engine, context):
    engine.result = check(0)
    cli("build", "--check", "--metadata-file", "meta.json", ".")
    values = json.loads((context / "meta.json").read_text())
    assert values["result.statuscode"] == "0"
