from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anyarch.cli.argparsers import program_parser
from anyarch.cli.dispatch import load
from anyarch.cli.manpage import manual_page
from anyarch.cli.table import COMMANDS
from anyarch.version import __version__

PROJECT = Path(__file__).resolve().parents[3]


def modules_loaded_by(*argv: str, before: str = "") -> set[str]:
    """The modules that a fresh process has loaded after running `argv`, beyond a bare interpreter's."""
    code = (
        f"import sys; bare = set(sys.modules); {before}\n"
        "from anyarch.cli.main import main\n"
        f"try: main({list(argv)!r})\n"
        "finally: print(' '.join(sorted(set(sys.modules) - bare)), file=sys.stderr)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("BUILDX_", "DOCKER_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={**env, "HOME": "/nowhere"},  # nobody's builders
        timeout=60,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_version_loads_three_modules_of_ours_and_nothing_else():
    wanted = {"__future__", "anyarch", "anyarch.cli", "anyarch.cli.main", "anyarch.version"}
    for argv in (["--version"], ["version"]):
        assert modules_loaded_by(*argv) == wanted


def test_help_loads_no_command():
    loaded = modules_loaded_by("--help")
    assert not {name for name in loaded if name.startswith("anyarch.cli.commands.")}
    assert not loaded & {"asyncio", "argparse", "msgspec", "rich", "subprocess"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_only_the_chosen_command_is_loaded(name):
    loaded = modules_loaded_by(*name.split(), "--help")
    assert {n for n in loaded if n.startswith("anyarch.cli.commands.")} == {COMMANDS[name][0]}
    assert not loaded & {"asyncio", "argparse", "rich", "shtab", "subprocess"}


def test_a_build_without_a_terminal_loads_neither_argparse_nor_rich():
    fake = (
        "import anyarch.engine, anyarch.engine.request as r\n"
        "anyarch.engine.build = lambda request, **_: r.BuildResult()"
    )
    loaded = modules_loaded_by("build", "-f", "-", "-o", "type=cacheonly", "/nowhere", before=fake)
    loaded |= modules_loaded_by(
        "build", "--progress=plain", "-f", "/etc/hostname", "-t", "a", "/", before=fake
    )
    assert "anyarch.progress.plain" in loaded
    assert not loaded & {
        "argparse",
        "difflib",
        "json",
        "logging",
        "rich",
        "shtab",
        "subprocess",
        "tempfile",
        "shutil",
    }


def test_version_in_every_spelling(cli):
    for argv in (["--version"], ["version"], ["-D", "--version"], ["-D", "version"]):
        assert cli(*argv) == (0, f"anyarch {__version__}\n", "")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(cli, argv):
    answer = cli(*argv)
    assert (answer.status, answer.err) == (0, "")
    for name in COMMANDS:
        assert f"  {name}" in answer.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_each_of_its_flags(cli, name):
    answer = cli(*name.split(), "--help")
    assert (answer.status, answer.err) == (0, "")
    for flag in load(name).COMMAND.flags:
        assert (f"--{flag.name}" in answer.out) != flag.hidden
    assert cli("help", *name.split()) == answer


def test_help_of_a_group_names_its_members(cli):
    answer = cli("imagetools")
    assert answer.status == 0
    assert "imagetools inspect" in answer.out
    assert "  build " not in answer.out


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["bulid", "."], 'unknown command: "bulid"', "did you mean build?"),
        (["frobnicate"], 'unknown command: "frobnicate"', None),
        (["imagetools", "inspekt"], 'unknown command: "imagetools inspekt"', "did you mean inspect?"),
        (["--verbose"], "unknown flag: --verbose", None),
        (["version", "x"], "'anyarch version' accepts no arguments", None),
    ],
)
def test_unknown_words_are_named_with_the_nearest_known_one(cli, argv, message, hint):
    answer = cli(*argv)
    assert answer.status == 1
    assert answer.err.startswith(f"ERROR: {message}\n")
    assert (f"  hint: {hint}" if hint else "Usage:") in answer.err
    assert "--help' for more information\n" in answer.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_flags(cli, shell):
    answer = cli("completion", shell)
    assert (answer.status, answer.err) == (0, "")
    assert "imagetools" in answer.out
    assert "no-cache-filter" in answer.out


def test_completion_of_an_unknown_shell(cli):
    answer = cli("completion", "fish")
    assert answer.status == 1
    assert "there is bash, zsh, tcsh" in answer.err


def test_bash_takes_the_completion_script(cli):
    script = cli("completion", "bash").out
    check = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


def test_the_parsers_for_completion_have_every_visible_flag():
    text = program_parser().format_help()
    assert "build" in text
    assert "completion" in text


def test_the_manual_page_is_the_one_that_is_committed():
    committed = (PROJECT / "docs" / "man" / "anyarch.1").read_text()
    assert committed == manual_page(), "python -m anyarch.cli.manpage > docs/man/anyarch.1"


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "anyarch", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_standard_streams_are_no_error():
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m anyarch --version >&- 2>&-"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m anyarch build >&- 2>&-"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
