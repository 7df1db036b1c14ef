from __future__ import annotations

import json
import os
import stat

import pytest

from anyarch.errors import OutputError, UsageError
from anyarch.registry.credentials import Credential, Credentials
from anyarch.registry.login import erase, key_of, save

ME = Credential("me", "pass:word")

HELPER = """\
#!/bin/sh
case $1 in
store) cat > "$HELPER_STATE" ;;
get) cat "$HELPER_STATE" ;;
erase) rm "$HELPER_STATE" ;;
esac
"""


@pytest.fixture
def env(tmp_path):
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def config(env):
    return os.path.join(env["HOME"], ".docker/config.json")


@pytest.mark.parametrize("server", ["ghcr.io", "docker.io", "localhost:5000", "https://ghcr.io/v2/"])
def test_what_was_saved_is_found_again_until_it_is_erased(env, server):
    domain = server.removeprefix("https://").partition("/")[0]
    assert save(server, ME, env) == config(env)
    assert Credentials(env).get(domain) == ME
    assert erase(server, env)
    assert Credentials(env).get(domain) is None
    assert not erase(server, env)


def test_docker_hub_has_the_name_that_docker_gives_it(env):
    save("docker.io", ME, env)
    with open(config(env)) as file:
        assert list(json.load(file)["auths"]) == ["https://index.docker.io/v1/"]


def test_the_rest_of_the_file_stays_and_nobody_else_may_read_it(env):
    os.makedirs(os.path.dirname(config(env)))
    with open(config(env), "w") as file:
        file.write('{"psFormat": "x", "auths": {"other": {"auth": "YTpi"}}}')
    save("ghcr.io", ME, env)
    with open(config(env)) as file:
        document = json.load(file)
    assert document["psFormat"] == "x"
    assert set(document["auths"]) == {"other", "ghcr.io"}
    assert stat.S_IMODE(os.stat(config(env)).st_mode) == 0o600


def test_the_auth_file_of_the_environment_goes_first(env, tmp_path):
    env["REGISTRY_AUTH_FILE"] = str(tmp_path / "auth.json")
    assert save("ghcr.io", ME, env) == env["REGISTRY_AUTH_FILE"]
    assert Credentials(env).get("ghcr.io") == ME


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_keeps_the_secret(env, tmp_path, key):
    env["HELPER_STATE"] = str(tmp_path / "state")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/docker-credential-mine"
    program.write_text(HELPER)
    program.chmod(0o755)
    os.makedirs(os.path.dirname(config(env)))
    with open(config(env), "w") as file:
        json.dump({key: "mine" if key == "credsStore" else {"ghcr.io": "mine"}}, file)
    assert save("ghcr.io", ME, env) == "mine"
    with open(config(env)) as file:
        assert "pass" not in file.read()
    assert Credentials(env).get("ghcr.io") == ME
    assert erase("ghcr.io", env)
    assert not os.path.exists(env["HELPER_STATE"])


def test_a_helper_that_is_missing_is_told(env):
    os.makedirs(os.path.dirname(config(env)))
    with open(config(env), "w") as file:
        json.dump({"credsStore": "nowhere"}, file)
    with pytest.raises(OutputError, match="docker-credential-nowhere is not installed"):
        save("ghcr.io", ME, env)


def test_a_damaged_file_is_not_overwritten(env):
    os.makedirs(os.path.dirname(config(env)))
    with open(config(env), "w") as file:
        file.write("{")
    with pytest.raises(OutputError, match="cannot read"):
        save("ghcr.io", ME, env)
    with open(config(env)) as file:
        assert file.read() == "{"


@pytest.mark.parametrize("server", ["", "a b", "me@host"])
def test_what_is_no_registry_is_refused(server):
    with pytest.raises(UsageError, match="is not a registry"):
        key_of(server)
