"""Where builds were started from, in buildx's files, and what is told of git repositories."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess

import pytest

from anyarch.builder.build import build_on
from anyarch.builder.builder import Builder
from anyarch.builder.refs import LocalState, read_state, remove_states, save_state, state_of
from anyarch.builder.solve_request import remote_build
from anyarch.builder.store import NodeGroup, NodeRecord
from anyarch.builder.vcs import read_repository, repository_of
from anyarch.engine.request import BuildRequest, BuildResult, Output, Repository
from anyarch.errors import BuilderError, BuildError, ContextError
from anyarch.solver.events import WarningEvent
from anyarch.testing.nodes import FakeNode


def built(surroundings, context, node, **values):
    register = values.pop("register")
    register("a", node)
    group = NodeGroup(name="b", driver="remote", nodes=(NodeRecord(name="b0", endpoint="a"),))
    events = []
    request = BuildRequest(context=str(context), **values)
    try:
        return asyncio.run(build_on(Builder(group, surroundings), request, events.append)), events
    except BuildError as error:
        return error, events


@pytest.fixture
def context(tmp_path):
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM scratch\n")
    return directory


def test_a_build_leaves_a_state_under_the_ref_it_had(surroundings, fake_nodes, context):
    node = FakeNode(answer=lambda request: BuildResult(metadata={"other": 1}))
    result, _ = built(surroundings, context, node, register=fake_nodes.register)
    builder, name, ref = result.metadata.pop("buildx.build.ref").split("/")
    assert (builder, name, ref) == ("b", "b0", node.requests[0].ref)
    assert result.metadata == {"other": 1}
    path = os.path.join(surroundings.store.directory, "refs", "b", "b0", ref)
    with open(path) as file:
        assert json.load(file) == {"Target": "default", "LocalPath": str(context), "DockerfilePath": ""}
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_a_failed_build_names_its_ref(surroundings, fake_nodes, context):
    def fail(request):
        raise BuildError("no")

    error, _ = built(surroundings, context, node := FakeNode(answer=fail), register=fake_nodes.register)
    assert error.build_ref == f"b/b0/{node.requests[0].ref}"


def test_a_question_leaves_no_state(surroundings, fake_nodes, context):
    node = FakeNode(answer=lambda request: BuildResult())
    result, _ = built(surroundings, context, node, register=fake_nodes.register, call="outline")
    assert result.metadata == {}
    assert not os.path.exists(os.path.join(surroundings.store.directory, "refs"))


@pytest.mark.parametrize(
    ("values", "local_path", "dockerfile_path"),
    [
        ({"context": "."}, "{cwd}", ""),
        ({"context": "sub", "dockerfile": "sub/D"}, "{cwd}/sub", "{cwd}/sub/D"),
        ({"context": "-", "dockerfile_data": b"FROM scratch"}, "-", ""),
        ({"context": ".", "dockerfile_data": b"FROM scratch"}, "{cwd}", "-"),
        ({"context": "https://git.example/a.git", "dockerfile": "D"}, "https://git.example/a.git", "D"),
    ],
)
def test_paths_of_a_state_are_those_of_buildx(values, local_path, dockerfile_path):
    state = state_of(BuildRequest(**values))
    cwd = os.getcwd()
    expected = (local_path.format(cwd=cwd), dockerfile_path.format(cwd=cwd))
    assert (state.local_path, state.dockerfile_path) == expected


def test_a_group_goes_with_the_last_builder_of_it(tmp_path):
    directory = str(tmp_path)
    for name in (("a", "a0", "r1"), ("b", "b0", "r2")):
        save_state(directory, name, LocalState(local_path="/x", group_ref="g"))
    (tmp_path / "refs" / "__group__").mkdir()
    group = tmp_path / "refs" / "__group__" / "g"
    group.write_text(json.dumps({"Targets": ["x"], "Refs": ["a/a0/r1", "b/b0/r2"]}))
    remove_states(directory, "a")
    assert group.exists()  # a build of another builder belongs to it
    assert read_state(directory, "a", "a0", "r1") is None
    group.write_text(json.dumps({"Refs": ["b/b0/r2"]}))
    remove_states(directory, "b", "b0")
    assert not group.exists()
    assert not (tmp_path / "refs" / "b" / "b0").exists()


def test_a_name_never_leads_out_of_the_store(tmp_path):
    with pytest.raises(BuilderError, match="invalid name"):
        save_state(str(tmp_path), ("b", "..", "r"), LocalState())
    assert read_state(str(tmp_path), "b", "b0", "../../x") is None


@pytest.fixture
def repository(context):
    def git(*words):
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.com")
        return subprocess.run(
            ["git", *identity, *words], cwd=context, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", "Dockerfile")
    git("commit", "-q", "-m", "first")
    return git


def test_a_node_is_told_the_repository_of_the_context(surroundings, fake_nodes, context, repository):
    repository("remote", "add", "origin", "https://me:secret@git.example/app.git")
    node = FakeNode(answer=lambda request: BuildResult())
    (context / "sub").mkdir()
    (context / "sub" / "D").write_text("FROM scratch\n")
    built(
        surroundings, context, node, register=fake_nodes.register, dockerfile=str(context / "sub" / "D"),
        build_contexts={"docs": str(context / "sub"), "away": "/tmp"},
    )  # fmt: skip
    from contextlib import ExitStack

    with ExitStack() as stack:
        attrs = remote_build(node.requests[0], stack).attrs
    assert {name: value for name, value in attrs.items() if name.startswith("vcs:")} == {
        "vcs:source": "https://xxxxx:xxxxx@git.example/app.git",
        "vcs:revision": repository("rev-parse", "HEAD"),
        "vcs:localdir:context": ".",
        "vcs:localdir:dockerfile": "sub",
        "vcs:localdir:docs": "sub",
    }


def test_a_repository_is_not_told_when_that_is_switched_off(context, repository):
    revision = repository("rev-parse", "HEAD")
    assert repository_of(str(context), {}) == Repository(root=str(context), revision=revision)
    assert repository_of(str(context), {"BUILDX_GIT_INFO": "false"}) is None


def test_a_file_that_git_ignores_makes_the_work_tree_dirty(context, repository):
    (context / ".git" / "info" / "exclude").write_text("junk\n")
    env = {"BUILDX_GIT_CHECK_DIRTY": "1"}
    assert not read_repository(str(context), env).revision.endswith("-dirty")
    (context / "junk").write_text("")
    assert read_repository(str(context), env).revision.endswith("-dirty")


def test_a_repository_without_a_commit_has_no_revision(context):
    subprocess.run(["git", "init", "-q"], cwd=context, check=True)
    assert read_repository(str(context), {}) == Repository(root=str(context))


def test_a_repository_that_cannot_be_read_is_a_warning(surroundings, fake_nodes, context):
    (context / ".git").mkdir()
    with pytest.raises(ContextError):
        read_repository(str(context), {})
    node = FakeNode(answer=lambda request: BuildResult())
    _, events = built(
        surroundings, context, node, register=fake_nodes.register, outputs=(Output("cacheonly"),)
    )
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert warning.short.startswith("current commit information was not captured by the build: ")
