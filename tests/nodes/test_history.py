"""`anyarch history` with a daemon of anyarch: the records of real builds."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from anyarch.testing.socket_daemon import SocketDaemon
from tests.nodes.conftest import Cli

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def app(tmp_path_factory, clean_environment):
    """The command line with a builder that has one good and one failed build."""
    directory = tmp_path_factory.mktemp("history")
    context = directory / "context"
    context.mkdir()
    cli = Cli(directory, clean_environment, directory)
    with SocketDaemon(directory / "daemon", environment=dict(clean_environment)) as daemon:
        assert cli("create", "--use", "--name", "b", "--driver", "remote", daemon.endpoint).status == 0
        remote = ("remote", "add", "origin", "https://git.example/app.git")
        subprocess.run(["git", "init", "-q", str(context)], check=True)
        subprocess.run(["git", "-C", str(context), *remote], check=True)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        good = cli("build", "-o", "type=cacheonly", "--metadata-file", "m", "--label", "l=v", "context")
        assert good.status == 0, good.err
        (context / "D").write_text("FROM scratch\nCOPY missing /\n")
        assert cli("build", "-o", "type=cacheonly", "-f", "context/D", "context").status == 1
        yield cli


def test_builds_are_listed_with_where_they_were_started(app):
    ref = json.loads((app.directory / "m").read_text())["buildx.build.ref"]
    answer = app("history", "ls", "--format", "{{.FullRef}} {{.Name}} {{.Status}}")
    failed, good = answer.out.splitlines()
    assert good == f"{ref} context Completed"
    assert failed.split(" ", 1)[1] == "context/D Error"
    table = app("history", "ls").out.splitlines()
    assert table[0].split("  ")[0] == "BUILD ID"
    assert len(table) == 3
    only = app("history", "ls", "--format", "json", "--filter", "status=completed").out
    assert json.loads(only)["ref"] == ref


def test_builds_of_the_own_repository_are_chosen(app):
    words = ("history", "ls", "--local", "--format", "{{.Status}}")
    assert "could not find git repository" in app(*words).err
    inside = Cli(app.directory, app.environment, app.base)
    inside.directory = app.directory / "context"
    assert inside(*words).out == "Error\nCompleted\n"
    other = ("remote", "set-url", "origin", "https://git.example/x.git")
    subprocess.run(["git", *other], cwd=inside.directory, check=True)
    assert inside(*words).out == ""


def test_a_record_tells_how_the_build_ended(app):
    answer = app("history", "inspect", "--format", "json")
    assert answer.status == 0, answer.err
    told = json.loads(answer.out)
    assert (told["Status"], told["Dockerfile"], told["Context"]) == ("failed", "D", "context")
    assert told["VCSRepository"] == "https://git.example/app.git"
    assert '"/missing": not found' in told["Error"]["Message"]
    pretty = app("history", "inspect").out
    assert ">>> COPY missing /" in pretty
    older = app(
        "history", "inspect", "^1", "--format", "{{.Status}} {{range .Labels}}{{.Name}}={{.Value}}{{end}}"
    )
    assert older.out == "completed l=v\n"
    assert app("history", "inspect", "^7").status == 1
    assert 'no record found for ref "nothing"' in app("history", "inspect", "nothing").err


def test_the_output_of_a_build_is_shown_again(app):
    assert "[1/1] COPY Dockerfile /" in app("history", "logs", "^1").err
    raw = app("history", "logs", "--progress", "rawjson", "^1").err
    assert any("vertexes" in json.loads(line) for line in raw.splitlines())


def test_the_engine_in_the_process_keeps_no_records(app):
    answer = app("--builder", "default", "history", "ls")
    assert answer.status == 1
    assert "keeps no records of builds" in answer.err


def test_records_are_removed_and_with_the_builder_what_was_kept_here(app):
    ref = app("history", "ls", "--format", "{{.Ref}}").out.split()[0]
    assert app("history", "rm", ref).status == 0
    assert ref not in app("history", "ls").out
    again = app("history", "rm", ref)
    assert (again.status, "not found" in again.err) == (1, True)
    assert app("history", "rm").status == 1
    assert app("history", "rm", "--all").status == 0
    assert app("history", "ls", "--format", "{{.Ref}}").out == ""
    refs = app.directory / ".docker" / "buildx" / "refs"
    assert len(os.listdir(refs / "b" / "b0")) == 2
    assert app("rm", "b").status == 0
    assert not (refs / "b").exists()
