from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from anyarch.builder.vcs import git_labels
from anyarch.cli.environment import VARIABLES
from anyarch.errors import ContextError

SOURCES = Path(__file__).resolve().parents[3] / "src" / "anyarch"

# Every variable of docker buildx's documentation ("Build variables", "Environment variables").
BUILDX = """
BUILDX_BUILDER BUILDKIT_HOST DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG BUILDX_CONFIG KUBECONFIG
DOCKER_DEFAULT_PLATFORM BUILDX_NO_DEFAULT_ATTESTATIONS BUILDX_NO_DEFAULT_LOAD BUILDX_NO_DEFAULT_OCI_ARTIFACT
BUILDX_DEFAULT_POLICY BUILDX_EXPERIMENTAL DOCKER_BUILDKIT SOURCE_DATE_EPOCH
EXPERIMENTAL_BUILDKIT_SOURCE_POLICY BUILDX_GIT_INFO BUILDX_GIT_LABELS BUILDX_GIT_CHECK_DIRTY
BUILDX_SEND_GIT_QUERY_AS_INPUT BUILDX_METADATA_PROVENANCE BUILDX_METADATA_WARNINGS BUILDX_BAKE_FILE
BUILDX_BAKE_PATH_SEPARATOR BUILDX_BAKE_FILE_RELATIVE_PATHS BUILDX_BAKE_GIT_SSH BUILDX_BAKE_GIT_AUTH_TOKEN
BUILDX_BAKE_GIT_AUTH_HEADER BUILDX_BAKE_ENTITLEMENTS_FS BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP
BAKE_ALLOW_REMOTE_FS_ACCESS BUILDKIT_PROGRESS BUILDKIT_COLORS NO_COLOR BUILDKIT_TTY_LOG_LINES
TTY_DISPLAY_RATE ACTIONS_CACHE_URL ACTIONS_RESULTS_URL ACTIONS_RUNTIME_TOKEN ACTIONS_CACHE_SERVICE_V2
BUILDX_CPU_PROFILE BUILDX_MEM_PROFILE
"""


def test_every_variable_of_buildx_has_a_state():
    assert sorted(VARIABLES) == sorted(BUILDX.split())
    assert {state for state, _ in VARIABLES.values()} == {"done", "moot", "warned", "refused"}


@pytest.mark.parametrize("name", [name for name, (state, _) in VARIABLES.items() if state == "done"])
def test_what_is_said_to_be_done_is_read_somewhere(name):
    readers = [
        path
        for path in SOURCES.rglob("*.py")
        if path.name not in ("environment.py", "help.py") and f'"{name}"' in path.read_text()
    ]
    assert readers


def set_value(monkeypatch, name):
    monkeypatch.setenv(name, "/nowhere")


@pytest.mark.parametrize("name", [name for name, (state, _) in VARIABLES.items() if state == "refused"])
def test_what_must_not_be_ignored_stops_a_build(cli, engine, monkeypatch, name):
    set_value(monkeypatch, name)
    answer = cli("build", ".")
    assert answer.status == 1
    assert f"{name} is set, but {VARIABLES[name][1]}" in answer.err
    assert not engine.requests


@pytest.mark.parametrize("name", [name for name, (state, _) in VARIABLES.items() if state == "warned"])
def test_what_is_ignored_is_told(cli, engine, monkeypatch, name):
    set_value(monkeypatch, name)
    answer = cli("build", "-o", "out", ".")
    assert (answer.status, answer.err) == (0, f"WARNING: {name} is ignored: {VARIABLES[name][1]}\n")


@pytest.fixture
def repository(context):
    def git(*words):
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.com")
        done = subprocess.run(
            ["git", *identity, *words], cwd=context, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    git("remote", "add", "origin", "https://me:secret@git.example/app.git")
    git("add", "Dockerfile")
    git("commit", "-q", "-m", "first")
    return git


def test_labels_of_the_repository_on_demand(cli, engine, repository, monkeypatch):
    cli("build", ".")
    assert engine.requests.pop().labels == {}
    monkeypatch.setenv("BUILDX_GIT_LABELS", "1")
    cli("build", "--label", "mine=1", ".")
    assert engine.requests.pop().labels == {
        "org.opencontainers.image.revision": repository("rev-parse", "HEAD"),
        "org.opencontainers.image.source": "https://xxxxx:xxxxx@git.example/app.git",
        "com.docker.image.source.entrypoint": "Dockerfile",
        "mine": "1",
    }


def test_a_changed_work_tree_is_told_on_demand(repository, context):
    env = {"BUILDX_GIT_LABELS": "full", "BUILDX_GIT_CHECK_DIRTY": "true"}
    clean = git_labels(str(context), None, env)["org.opencontainers.image.revision"]
    (context / "Dockerfile").write_text("FROM busybox\n")
    assert git_labels(str(context), None, env)["org.opencontainers.image.revision"] == f"{clean}-dirty"


def test_outside_of_a_repository_there_are_no_labels(context):
    assert git_labels(str(context), None, {"BUILDX_GIT_LABELS": "1"}) == {}
    (context / ".git").mkdir()
    with pytest.raises(ContextError, match="git rev-parse"):
        git_labels(str(context), None, {"BUILDX_GIT_LABELS": "1"})
