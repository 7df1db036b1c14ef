from __future__ import annotations

import base64
import json

import pytest

from anyarch.registry.credentials import HUB_KEY, Credential, Credentials


def auth(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def docker(tmp_path):
    """Writes docker's config.json and gives the credentials that are found with it."""

    def write(document, **env):
        directory = tmp_path / "docker"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(
            document if isinstance(document, str) else json.dumps(document)
        )
        return Credentials({"HOME": str(tmp_path), "DOCKER_CONFIG": str(directory), **env})

    return write


@pytest.fixture
def helper(tmp_path):
    """Installs docker-credential-NAME in a directory of its own, which it returns."""

    def install(name, script):
        directory = tmp_path / "bin"
        directory.mkdir(exist_ok=True)
        program = directory / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return f"{directory}:/usr/bin:/bin"

    return install


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("ghcr.io", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v1/", "ghcr.io"),
        ("ghcr.io/v2/", "ghcr.io"),
        (HUB_KEY, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_all_spellings_of_a_registry_are_found(docker, key, domain):
    assert docker({"auths": {key: auth("me", "pass:word")}}).get(domain) == Credential("me", "pass:word")


@pytest.mark.parametrize("domain", ["ghcr.io.evil.example", "hcr.io", "ghcr.io:443", "docker.io"])
def test_other_registries_get_nothing(docker, domain):
    assert (
        docker({"auths": {"ghcr.io": auth("me", "x"), "https://ghcr.io/v1/": auth("me", "x")}}).get(domain)
        is None
    )


def test_home_is_the_place_when_docker_config_is_not_set(tmp_path):
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"ghcr.io": auth("me", "x")}}))
    assert Credentials({"HOME": str(tmp_path)}).get("ghcr.io") == Credential("me", "x")


def test_user_name_and_password_may_stand_apart(docker):
    document = {"auths": {"ghcr.io": {"username": "me", "password": "x"}}}
    assert docker(document).get("ghcr.io") == Credential("me", "x")


def test_identity_and_registry_tokens_are_read(docker):
    document = {"auths": {"a.example": {"identitytoken": "i"}, "b.example": {"registrytoken": "r"}}}
    assert docker(document).get("a.example") == Credential(identity_token="i")
    assert docker(document).get("b.example") == Credential(registry_token="r")


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"auth": "!!"}, {"auth": 5}, None, "x"])
def test_an_empty_or_damaged_entry_is_no_credential(docker, entry):
    assert docker({"auths": {"ghcr.io": entry}}).get("ghcr.io") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"auths": 3}', '{"credHelpers": []}'])
def test_a_damaged_file_is_passed_by(docker, text):
    assert docker(text).get("ghcr.io") is None


def test_a_damaged_file_is_complained_of(docker):
    credentials = docker("{")
    credentials.get("ghcr.io")
    assert "config.json" in credentials.complaints[0]


def test_nothing_is_read_before_the_first_question(docker):
    assert docker("{").complaints == []


def test_podmans_files_are_looked_into(tmp_path):
    for name, user in (
        ("explicit.json", "a"),
        ("run/containers/auth.json", "b"),
        ("cfg/containers/auth.json", "c"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {"ghcr.io": auth(user, "x")}}))
    env = {
        "HOME": str(tmp_path),
        "REGISTRY_AUTH_FILE": str(tmp_path / "explicit.json"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / "cfg"),
    }
    found = []
    for drop in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        found.append(Credentials(env).get("ghcr.io").username)
        del env[drop]
    assert found == ["a", "b", "c"]


def test_the_longest_repository_prefix_wins(docker):
    credentials = docker(
        {
            "auths": {
                "quay.io": auth("all", "x"),
                "quay.io/team": auth("team", "x"),
                "quay.io/team/app": auth("app", "x"),
            }
        }
    )
    assert [
        credentials.get("quay.io", path).username for path in ("team/app", "team/other", "teams", "")
    ] == [
        "app",
        "team",
        "all",
        "all",
    ]


def test_a_helper_of_the_registry_is_asked(docker, helper):
    path = helper("mine", 'read server; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"$server\\"}"')
    credentials = docker(
        {"credHelpers": {"ghcr.io": "mine"}, "auths": {"ghcr.io": auth("no", "x")}}, PATH=path
    )
    assert credentials.get("ghcr.io") == Credential("get", "ghcr.io")
    assert credentials.get("quay.io") is None


def test_the_general_store_is_asked_for_the_hub_by_its_old_url(docker, helper):
    path = helper("store", 'read server; echo "{\\"Username\\": \\"me\\", \\"Secret\\": \\"$server\\"}"')
    assert docker({"credsStore": "store"}, PATH=path).get("docker.io") == Credential("me", HUB_KEY)


def test_plain_entries_go_before_the_general_store(docker, helper):
    path = helper("store", "exit 9")
    credentials = docker({"credsStore": "store", "auths": {"ghcr.io": auth("me", "x")}}, PATH=path)
    assert credentials.get("ghcr.io") == Credential("me", "x")


def test_a_helper_may_give_an_identity_token(docker, helper):
    path = helper("store", 'echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"t\\"}"')
    assert docker({"credsStore": "store"}, PATH=path).get("ghcr.io") == Credential(identity_token="t")


def test_a_helper_that_has_nothing_is_no_problem(docker, helper):
    path = helper("store", 'echo "credentials not found in native keychain"; exit 1')
    credentials = docker({"credsStore": "store"}, PATH=path)
    assert credentials.get("ghcr.io") is None
    assert credentials.complaints == []


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo locked; exit 1", "docker-credential-store failed: locked"),
        ("exit 3", "docker-credential-store failed: exit code 3"),
        ("echo nonsense", "an answer that is not understood"),
    ],
)
def test_a_helper_that_fails_is_complained_of(docker, helper, script, complaint):
    credentials = docker({"credsStore": "store"}, PATH=helper("store", script))
    assert credentials.get("ghcr.io") is None
    assert complaint in credentials.complaints[0]


def test_a_helper_is_asked_once_a_registry(docker, helper, tmp_path):
    path = helper("store", f"echo x >> {tmp_path}/asked; exit 1")
    credentials = docker({"credsStore": "store"}, PATH=path)
    for _ in range(3):
        credentials.get("ghcr.io")
    assert (tmp_path / "asked").read_text() == "x\n"


def test_fixed_credentials_go_first(docker):
    credentials = Credentials({"HOME": "/nonexistent"}, fixed={"ghcr.io": Credential("me", "x")})
    assert credentials.get("ghcr.io") == Credential("me", "x")
