from __future__ import annotations

import pytest

import anyarch.imagetools
from anyarch import errors


@pytest.fixture
def asked(monkeypatch):
    seen = []

    def describe(name, template=""):
        seen.append((name, template))
        return "Name: app\n"

    def raw(name):
        seen.append((name, None))
        return b'{"no": "newline"}'

    monkeypatch.setattr(anyarch.imagetools, "describe", describe)
    monkeypatch.setattr(anyarch.imagetools, "raw", raw)
    return seen


def test_the_text_is_that_of_the_image_tools(cli, asked):
    assert cli("imagetools", "inspect", "app") == (0, "Name: app\n", "")
    assert cli("imagetools", "inspect", "--format", "{{json .}}", "app").status == 0
    assert asked == [("app", ""), ("app", "{{json .}}")]


def test_raw_prints_the_exact_bytes(cli, asked):
    assert cli("imagetools", "inspect", "--raw", "app") == (0, '{"no": "newline"}', "")


def test_raw_and_a_template_exclude_one_another(cli, asked):
    answer = cli("imagetools", "inspect", "--raw", "--format", "x", "app")
    assert (answer.status, answer.err) == (1, "ERROR: format and raw cannot be used together\n")


def test_errors_are_told_with_what_next(cli, asked, monkeypatch):
    def fail(name, template=""):
        raise errors.ManifestNotFound("app: not found", hint="check the name")

    monkeypatch.setattr(anyarch.imagetools, "describe", fail)
    assert cli("imagetools", "inspect", "app") == (1, "", "ERROR: app: not found\n  hint: check the name\n")
