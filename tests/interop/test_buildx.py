"""Stock docker buildx beside anyarch: the same flags, and each knows the builds of the other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.socket_daemon import SocketDaemon
from tests.interop.peers import flags_of, peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TABLE = Path(__file__).parents[1] / "unit" / "cli" / "buildx_flags.json"

pytestmark = [pytest.mark.interop]


def test_the_table_of_flags_is_that_of_buildx() -> None:
    buildx = peer("docker-buildx")
    for name, flags in json.loads(TABLE.read_text()).items():
        assert flags_of(buildx, name) == flags, name


class Tools:
    """anyarch and docker buildx with one store of builders, in which the one builder is in use."""

    def __init__(self, directory: Path, endpoint: str, environment: Mapping[str, str]) -> None:
        self.context = directory / "context"
        self.context.mkdir()
        (self.context / "Dockerfile").write_text("FROM scratch AS x\nCOPY Dockerfile /\n")
        self.environment = {
            **environment,
            "HOME": str(directory),
            "BUILDX_CONFIG": str(directory / "buildx"),
            "DOCKER_CONFIG": str(directory / ".docker"),
        }
        self._directory = directory
        self._buildx = peer("docker-buildx")
        self.buildx("create", "--use", "--name", "b", "--driver", "remote", endpoint)

    def anyarch(self, *words: str) -> str:
        return self._run([sys.executable, "-m", "anyarch", *words])

    def buildx(self, *words: str) -> str:
        return self._run([self._buildx, *words])

    def _run(self, argv: list[str]) -> str:
        done = subprocess.run(
            argv, env=self.environment, cwd=self._directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    @property
    def refs(self) -> dict[str, object]:
        root = self._directory / "buildx" / "refs"
        return {str(path.relative_to(root)): json.loads(path.read_text()) for path in root.glob("*/*/*")}


@pytest.fixture(params=["anyarchd", "buildkitd"])
def tools(
    request: pytest.FixtureRequest, tmp_path: Path, clean_environment: Mapping[str, str]
) -> Iterator[Tools]:
    """With a daemon of anyarch, and with a stock one."""
    argv, flags = [], []
    if request.param == "buildkitd":
        argv, flags = [peer("buildkitd")], ["--oci-worker-binary", peer("runc")]
    peer("docker-buildx")
    with SocketDaemon(
        tmp_path / "daemon", argv=argv, flags=flags, environment=dict(clean_environment)
    ) as daemon:
        yield Tools(tmp_path, daemon.endpoint, clean_environment)


BUILD = ("build", "-q", "-o", "type=cacheonly", "--build-arg", "A=1", "--label", "l=v", "--target", "x")


@pytest.mark.root
def test_each_knows_the_builds_of_the_other(tools: Tools) -> None:
    git = ("git", "-C", str(tools.context), "-c", "user.name=me", "-c", "user.email=me@example.com")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://me:x@git.example/app.git"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    tools.anyarch(*BUILD, "context")
    (ours,) = tools.refs.values()
    tools.buildx(*BUILD, "context")
    assert [state for state in tools.refs.values() if state != ours] == []  # equal, to the key
    assert len(tools.refs) == 2
    listed = tools.anyarch("history", "ls", "--format", "json")
    assert listed == tools.buildx("history", "ls", "--format", "json")
    assert [json.loads(line)["name"] for line in listed.splitlines()] == ["context (x)", "context (x)"]
    words = ("history", "inspect", "--format", "json")
    by_buildx, by_anyarch = json.loads(tools.anyarch(*words)), json.loads(tools.anyarch(*words, "^1"))
    for ref, mine in (("", by_buildx), ("^1", by_anyarch)):
        assert json.loads(tools.buildx(*words, ref)) == mine
    same = ("Name", "Context", "VCSRepository", "VCSRevision", "Target", "BuildArgs", "Labels", "Status")
    assert {key: by_buildx[key] for key in same} == {key: by_anyarch[key] for key in same}
    pretty = [tools.anyarch("history", "inspect"), tools.buildx("history", "inspect")]
    cut = [re.split(r"Print build logs", text)[0] for text in pretty]
    assert cut[0] == cut[1]


@pytest.mark.root
def test_what_one_removes_the_other_does_not_find(tools: Tools) -> None:
    tools.anyarch(*BUILD, "context")
    tools.buildx(*BUILD, "context")
    newest, oldest = tools.buildx("history", "ls", "--format", "{{.Ref}}").split()
    tools.anyarch("history", "rm", newest)
    assert tools.buildx("history", "ls", "--format", "{{.Ref}}").split() == [oldest]
    tools.buildx("history", "rm", oldest)
    assert tools.anyarch("history", "ls", "--format", "{{.Ref}}") == ""
    tools.anyarch("rm", "b")
    assert tools.refs == {}
