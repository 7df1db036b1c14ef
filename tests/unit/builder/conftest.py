"""A home of its own for each test, with a store of builders, docker's configuration, and nodes that are
not there."""

from __future__ import annotations

import hashlib
import json

import pytest

from anyarch.builder import driver
from anyarch.builder.builder import Surroundings
from anyarch.testing import nodes


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".docker").mkdir()
    return tmp_path


@pytest.fixture
def env(home):
    return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


@pytest.fixture
def surroundings(env):
    return Surroundings(env)


@pytest.fixture
def add_context(home):
    """Write a docker context as docker does."""

    def add(name: str, host: str, *, tls: bool = False, skip_verify: bool = False) -> None:
        key = hashlib.sha256(name.encode()).hexdigest()
        directory = home / ".docker" / "contexts" / "meta" / key
        directory.mkdir(parents=True)
        endpoint = {"Host": host, "SkipTLSVerify": skip_verify}
        document = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
        (directory / "meta.json").write_text(json.dumps(document))
        if tls:
            files = home / ".docker" / "contexts" / "tls" / key / "docker"
            files.mkdir(parents=True)
            for part in ("ca", "cert", "key"):
                (files / f"{part}.pem").write_text(part)

    return add


@pytest.fixture
def fake_nodes(monkeypatch):
    """Nodes of the remote driver are those that a test registers."""
    monkeypatch.setitem(driver.DRIVERS, "remote", "anyarch.testing.nodes")
    yield nodes
    nodes.clear()
