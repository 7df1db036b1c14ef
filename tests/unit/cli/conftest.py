"""A command line without an engine: `cli` runs it in this process, `engine` is what it
finds in the engine's place."""

from __future__ import annotations

from typing import NamedTuple

import pytest

import anyarch.engine
from anyarch.cli.main import main
from anyarch.engine.request import BuildResult

ENVIRONMENT = (
    "BUILDKIT_HOST",
    "BUILDKIT_PROGRESS",
    "BUILDX_BUILDER",
    "BUILDX_CONFIG",
    "BUILDX_METADATA_WARNINGS",
    "BUILDX_NO_DEFAULT_LOAD",
    "DOCKER_CONTEXT",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_HOST",
    "SOURCE_DATE_EPOCH",
)


class Answer(NamedTuple):
    status: int
    out: str
    err: str


class FakeEngine:
    """Remembers requests; answers with `result`, `status`, or by raising `error`, after `events`."""

    def __init__(self):
        self.requests = []
        self.events = []
        self.error = None
        self.result = BuildResult()
        self.status = 0

    @property
    def request(self):
        (request,) = self.requests
        return request

    def build(self, request, on_event=None, cancel=None):
        self._take(request, on_event)
        return self.result

    def run_image(self, request, on_event=None, cancel=None):
        self._take(request, on_event)
        return self.status

    def _take(self, request, on_event):
        self.requests.append(request)
        for event in self.events:
            on_event(event)
        if self.error is not None:
            raise self.error


@pytest.fixture
def engine(monkeypatch):
    fake = FakeEngine()
    monkeypatch.setattr(anyarch.engine, "build", fake.build)
    monkeypatch.setattr(anyarch.engine, "run_image", fake.run_image)
    return fake


@pytest.fixture
def context(tmp_path, monkeypatch):
    """The current directory, with a Dockerfile in it and an environment that says nothing."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def cli(engine, context, capfd):
    def run(*argv: str) -> Answer:
        status = main(list(argv))
        return Answer(status, *capfd.readouterr())

    return run
