"""Every command of docker buildx is there with all its flags, or is refused by name.

`buildx_flags.json` is what the help of buildx lists: for each flag its short form, whether it takes a value,
whether it may be repeated, its default. `tests/interop/test_buildx.py` compares it with a real one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyarch.cli.dispatch import load
from anyarch.cli.table import COMMANDS, LATER

BUILDX = json.loads((Path(__file__).parent / "buildx_flags.json").read_text())


@pytest.mark.parametrize("name", [name for name in BUILDX if name not in LATER])
def test_a_command_has_all_flags_of_buildx(name):
    flags = {flag.name: flag for flag in load(name).COMMAND.flags}
    assert BUILDX[name].keys() <= flags.keys()
    for flag, (short, takes_value, is_repeated, default) in BUILDX[name].items():
        mine = flags[flag]
        assert (mine.short, not mine.is_switch, mine.repeat) == (short, takes_value, is_repeated), flag
        assert mine.state == "done", flag
        if default and default != "[]":
            assert default in mine.help, flag


@pytest.mark.parametrize("name", sorted(LATER))
def test_a_command_that_is_missing_is_refused_by_name(cli, name):
    assert name not in COMMANDS
    answer = cli(*name.split())
    assert (answer.status, answer.out) == (1, "")
    assert f"the command {name} is not supported by this release" in answer.err


def write(context, name, text):
    (context / name).write_text(text)


@pytest.mark.parametrize(
    "words",
    [
        ("--policy", "disabled=true"),
        ("--policy", "reset=true"),
        ("--policy", "reset=true,strict=true", "--policy", "log-level=debug"),
    ],
)
def test_a_policy_beside_the_dockerfile_is_ignored_only_when_told(cli, engine, context, words):
    write(context, "Dockerfile.rego", "package docker\n")
    assert cli("build", *words, ".").status == 0
    refused = cli("build", ".")
    assert refused.status == 1
    assert "Dockerfile.rego is a policy for this build" in refused.err
    assert "--policy disabled=true" in refused.err


def test_the_policy_is_that_of_the_dockerfile_in_use(cli, engine, context):
    write(context, "other.rego", "package docker\n")
    write(context, "other", "FROM scratch\n")
    assert cli("build", ".").status == 0
    assert cli("build", "-f", "other", ".").status == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("filename=a.rego",), "policy files are not checked by this release: a.rego"),
        (("disabled=true,strict=true",), "disabled policy cannot be combined"),
        (("disabled=true", "reset=true"), "disabled policy cannot be combined"),
        (("filename",), "invalid value filename"),
        (("filename=",), "invalid value filename="),
        (("strict=perhaps",), "invalid value strict=perhaps"),
        (("log-level=loud",), "invalid value log-level=loud"),
        (("other=1",), "invalid value other=1"),
    ],
)
def test_a_policy_that_would_apply_or_makes_no_sense_is_refused(cli, engine, context, words, said):
    answer = cli("build", *(word for text in words for word in ("--policy", text)), ".")
    assert answer.status == 1
    assert said in answer.err
    assert not engine.requests
