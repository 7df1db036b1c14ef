from __future__ import annotations

import sys
import types

import pytest

from anyarch import errors
from anyarch.cli.dispatch import dispatch
from anyarch.engine.request import RunRequest, Volume
from anyarch.solver.events import VertexEvent


def test_the_words_after_the_image_are_the_programs(cli, engine):
    answer = cli("run", "--rm", "busybox", "sh", "-c", "exit 3", "--platform", "x")
    assert answer.status == 0
    assert engine.request == RunRequest(image="busybox", command=("sh", "-c", "exit 3", "--platform", "x"))


def test_flags(cli, engine, context, monkeypatch):
    monkeypatch.setenv("SET", "1")
    monkeypatch.delenv("UNSET", raising=False)
    answer = cli(
        *(
            "run",
            "--platform",
            "arm64",
            "-e",
            "A=b",
            "-e",
            "SET",
            "-e",
            "UNSET",
            "-w",
            "/w",
            "-u",
            "1:2",
            "-i",
        ),
        *(
            "--entrypoint",
            "",
            "--network",
            "none",
            "-v",
            ".:/c:ro",
            "-v",
            "/etc:/e",
            "--pull",
            "never",
            "./layout",
        ),
    )
    assert answer.status == 0
    assert engine.request == RunRequest(
        image="./layout",
        platform="linux/arm64",
        env=("A=b", "SET=1"),
        workdir="/w",
        user="1:2",
        entrypoint="",
        interactive=True,
        network="none",
        volumes=(Volume(str(context), "/c", readonly=True), Volume("/etc", "/e")),
        pull="never",
    )


def test_the_status_is_that_of_the_program(cli, engine):
    engine.status = 42
    assert cli("run", "busybox").status == 42


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'anyarch run' requires at least 1 argument"),
        (["--nonsense", "busybox"], "unknown flag: --nonsense"),
        (["--pull", "often", "busybox"], 'invalid argument "often" for "--pull" flag'),
        (["--network", "bridge", "busybox"], 'invalid argument "bridge" for "--network" flag'),
        (["--platform", "nonsense", "busybox"], "unknown operating system or architecture"),
        (["--platform", "linux/arm64,linux/amd64", "busybox"], "a program runs on one platform"),
        (["-v", "x", "busybox"], "invalid volume 'x'"),
        (["-v", "/etc:relative", "busybox"], "invalid volume '/etc:relative'"),
        (["-v", "/etc:/e:rx", "busybox"], "unknown option 'rx'"),
        (["-v", "/nowhere:/e", "busybox"], "/nowhere does not exist"),
        (["-v", "data:/e", "busybox"], "named volume 'data'"),
        (["--builder", "x", "busybox"], "--builder x"),
        ([""], "no image given"),
    ],
)
def test_what_keeps_the_program_from_starting_is_125(cli, engine, argv, message):
    answer = cli("run", *argv)
    assert (answer.status, engine.requests) == (125, [])
    assert message in answer.err


def test_an_archive_in_the_current_directory_is_a_path_and_any_other_file_is_not(cli, engine, context):
    (context / "app.tar").touch()
    (context / "busybox").touch()
    (context / "layout").mkdir()
    (context / "layout" / "oci-layout").touch()
    for name in ("app.tar", "busybox", "layout", "other.tar"):
        cli("run", name)
    assert [r.image for r in engine.requests] == ["./app.tar", "busybox", "./layout", "other.tar"]


def test_a_reader_of_the_program_that_goes_away_is_no_error_of_ours(cli, engine):
    error = errors.OutputError("Broken pipe")
    error.__cause__ = BrokenPipeError()
    engine.error = error
    with pytest.raises(BrokenPipeError):
        dispatch(["run", "busybox"])


def test_a_terminal_is_not_given_when_the_input_is_none(cli, engine, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: False))
    assert "the input device is not a TTY" in cli("run", "-it", "busybox").err
    assert cli("run", "-t", "busybox").status == 0


@pytest.mark.parametrize(("own", "status"), [(1, 125), (126, 126), (127, 127)])
def test_errors_of_ours_are_125_unless_the_program_is_at_fault(cli, engine, own, status):
    engine.error = errors.SandboxError("no", hint="do")
    engine.error.exit_code = own
    assert cli("run", "busybox") == (status, "", "ERROR: no\n  hint: do\n")


def test_an_error_of_anyarch_itself_is_70_here_too(cli, engine):
    engine.error = KeyError("x")
    assert cli("run", "busybox").status == 70


def test_ctrl_c_is_130(cli, engine):
    engine.error = errors.Canceled("x")
    assert cli("run", "busybox").status == 130


def test_what_takes_time_is_said_once_and_what_was_there_is_not(cli, engine):
    engine.events = [
        VertexEvent("a", "pull https://u:secret@reg/app"),
        VertexEvent("a", "pull https://u:secret@reg/app", started=1.0),
        VertexEvent("a", "pull https://u:secret@reg/app", started=1.0, completed=2.0),
        VertexEvent("b", "unpack", started=1.0, completed=1.0, cached=True),
    ]
    assert cli("run", "app").err == "pull https://xxxxx:xxxxx@reg/app\n"
