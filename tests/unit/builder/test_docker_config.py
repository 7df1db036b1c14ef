from __future__ import annotations

import json

import pytest

from anyarch.builder.docker_config import DEFAULT_HOST, DockerConfig
from anyarch.errors import UsageError


def write_config(home, **values):
    (home / ".docker" / "config.json").write_text(json.dumps(values))


def test_without_anything_the_default_engine_is_in_use(env):
    docker = DockerConfig(env)
    assert (docker.current_context, docker.current_endpoint()) == ("default", DEFAULT_HOST)
    assert [context.name for context in docker.contexts()] == ["default"]


def test_docker_host_goes_before_every_context(env, home, add_context):
    add_context("far", "tcp://far:2375")
    write_config(home, currentContext="far")
    assert DockerConfig(env).current_endpoint() == "far"
    env["DOCKER_CONTEXT"] = "other"
    assert DockerConfig(env).current_endpoint() == "other"
    env["DOCKER_HOST"] = "unix:///run/other.sock"
    assert DockerConfig(env).current_endpoint() == "unix:///run/other.sock"


def test_contexts_are_read_with_their_tls_files(env, add_context):
    add_context("b", "tcp://b:2376", tls=True)
    add_context("a", "ssh://a", skip_verify=True)
    docker = DockerConfig(env)
    assert [context.name for context in docker.contexts()] == ["a", "b", "default"]
    found = docker.context("b")
    assert found.host == "tcp://b:2376"
    assert found.tls.ca.endswith("/docker/ca.pem")
    assert found.tls.verify
    assert not docker.context("a").tls.verify
    assert docker.context("c") is None


def test_tls_of_the_environment(env, tmp_path):
    (tmp_path / "cert.pem").write_text("x")
    env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path), "DOCKER_HOST": "tcp://h:2376"}
    tls = DockerConfig(env).default_context().tls
    assert (tls.cert, tls.ca, tls.verify) == (str(tmp_path / "cert.pem"), "", True)


@pytest.mark.parametrize("text", ["", "[]", "7"])
def test_a_configuration_without_an_object_is_empty(env, home, text):
    (home / ".docker" / "config.json").write_text(text)
    assert DockerConfig(env).document() == {}


def test_a_damaged_configuration_is_named(env, home):
    (home / ".docker" / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"error loading config file: .*config\.json"):
        DockerConfig(env).document()


def test_proxies_are_those_of_the_engine_else_the_default_ones(env, home):
    write_config(home, proxies={"default": {"httpProxy": "http://d"}, "tcp://e": {"noProxy": "x"}})
    docker = DockerConfig(env)
    assert docker.proxies("tcp://e") == {"NO_PROXY": "x"}
    assert docker.proxies("tcp://f") == {"HTTP_PROXY": "http://d"}


def test_the_alias_is_set_and_removed_and_all_else_kept(env, home):
    write_config(home, auths={"r": {"auth": "eA=="}}, aliases={"other": "x"})
    docker = DockerConfig(env)
    assert docker.set_alias(is_wanted=True)
    assert not docker.set_alias(is_wanted=True)
    assert DockerConfig(env).document()["aliases"] == {"other": "x", "builder": "buildx"}
    assert DockerConfig(env).document()["auths"] == {"r": {"auth": "eA=="}}
    assert docker.set_alias(is_wanted=False)
    assert DockerConfig(env).document()["aliases"] == {"other": "x"}
    assert (home / ".docker" / "config.json").stat().st_mode & 0o777 == 0o600
