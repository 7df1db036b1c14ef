from __future__ import annotations

import io
import json
import sys

import pytest

from anyarch.testing.registry import FakeRegistry


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "ANYARCH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_login_asks_the_registry_and_keeps_what_it_took(cli, home, monkeypatch, auth):
    with FakeRegistry(auth=auth, users={"me": "secret"}) as registry:
        monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
        answer = cli("login", "-u", "me", "--password-stdin", registry.address)
        assert (answer.status, answer.out) == (0, "Login Succeeded\n")
        assert "stored unencrypted" in answer.err
        document = json.loads((home / ".docker/config.json").read_text())
        assert list(document["auths"]) == [registry.address]
        assert cli("logout", registry.address).out == f"Removing login credentials for {registry.address}\n"
        assert cli("logout", registry.address).out == f"Not logged in to {registry.address}\n"


def test_a_wrong_password_is_refused_and_not_kept(cli, home, monkeypatch):
    with FakeRegistry(auth="token", users={"me": "secret"}) as registry:
        monkeypatch.setattr(sys, "stdin", io.StringIO("wrong"))
        answer = cli("login", "-u", "me", "--password-stdin", registry.address)
    assert answer.status == 1
    assert "the credentials of me were refused" in answer.err
    assert not (home / ".docker").exists()


def test_without_a_terminal_nothing_is_asked(cli, home, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "Cannot perform an interactive login from a non TTY device" in cli("login").err
    assert "Must provide --username with --password-stdin" in cli("login", "--password-stdin").err
