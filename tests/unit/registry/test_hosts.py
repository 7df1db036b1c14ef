from __future__ import annotations

import pytest

from anyarch.errors import UsageError
from anyarch.http.client import Tls
from anyarch.registry.hosts import HostConfig, Hosts


@pytest.fixture
def load(tmp_path):
    def run(text="", **env):
        (tmp_path / "anyarch").mkdir(exist_ok=True)
        (tmp_path / "anyarch" / "config.toml").write_text(text)
        return Hosts.load({"XDG_CONFIG_HOME": str(tmp_path), **env})

    return run


def urls(hosts, domain, path="lib/tiny"):
    return [e.url(path, "tags", "list") for e in hosts.endpoints(domain)]


def test_the_hub_is_reached_by_its_registry_host():
    assert urls(Hosts(), "docker.io", "library/alpine") == [
        "https://registry-1.docker.io/v2/library/alpine/tags/list"
    ]


@pytest.mark.parametrize(
    "domain", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a.localhost:1"]
)
def test_loopback_registries_are_plain(domain):
    assert urls(Hosts(), domain) == [f"http://{domain}/v2/lib/tiny/tags/list"]


@pytest.mark.parametrize("domain", ["ghcr.io", "10.0.0.1:5000", "registry:5000", "localhost.example"])
def test_other_registries_are_reached_by_tls(domain):
    assert urls(Hosts(), domain) == [f"https://{domain}/v2/lib/tiny/tags/list"]


def test_the_configuration_file_decides(load):
    hosts = load(
        """
        [registry."docker.io"]
        mirrors = ["localhost:5000", "mirror.example/hub", "https://other.example/v2/x/"]
        [registry."registry:5000"]
        http = true
        [registry."localhost:6000"]
        http = false
        ca = ["/a.pem"]
        [[registry."localhost:6000".keypair]]
        key = "/k"
        cert = "/c"
        """
    )
    assert urls(hosts, "docker.io") == [
        "http://localhost:5000/v2/lib/tiny/tags/list?ns=docker.io",
        "https://mirror.example/v2/hub/lib/tiny/tags/list?ns=docker.io",
        "https://other.example/v2/x/lib/tiny/tags/list?ns=docker.io",
        "https://registry-1.docker.io/v2/lib/tiny/tags/list",
    ]
    assert urls(hosts, "registry:5000") == ["http://registry:5000/v2/lib/tiny/tags/list"]
    assert hosts.upstream("localhost:6000").tls == Tls(ca=("/a.pem",), keypairs=(("/c", "/k"),))


def test_the_environment_goes_before_the_file(load):
    hosts = load(
        '[registry."docker.io"]\nmirrors = ["b", "a"]\nhttp = true',
        ANYARCH_REGISTRY_MIRRORS="docker.io=http://a:1, a,quay.io=c",
    )
    assert hosts.config("docker.io").mirrors == ("http://a:1", "a", "b")
    assert hosts.config("docker.io").http
    assert hosts.config("quay.io").mirrors == ("c",)
    assert urls(hosts, "docker.io")[0].startswith("http://a:1/")


def test_no_file_is_no_setting(tmp_path):
    assert len(Hosts.load({"HOME": str(tmp_path)}).endpoints("docker.io")) == 1


def test_a_file_that_was_named_must_exist(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml does not exist"):
        Hosts.load({"ANYARCH_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("registry = 1", "registry must be a table"),
        ("[registry", "config.toml"),
        ('[registry]\n"a" = 1', 'registry."a".* must be a table'),
        ('[registry."a"]\nmirror = ["x"]', "unknown key 'mirror'"),
        ('[registry."a"]\nmirrors = "x"', "mirrors must be a list"),
        ('[registry."a"]\nmirrors = [1]', "list of strings"),
        ('[registry."a"]\nhttp = "yes"', "http must be true or false"),
        ('[registry."a"]\nkeypair = [{key = "x"}]', "keypair"),
    ],
)
def test_a_wrong_file_says_where(load, text, complaint):
    with pytest.raises(UsageError, match=complaint):
        load(text)


def test_other_tables_are_not_ours(load):
    assert load("[worker.oci]\nenabled = true\n").endpoints("docker.io")


@pytest.mark.parametrize("text", ["localhost:5000", "=x", "docker.io=", ",x"])
def test_a_senseless_variable_is_refused(load, text):
    with pytest.raises(UsageError, match="ANYARCH_REGISTRY_MIRRORS"):
        load(ANYARCH_REGISTRY_MIRRORS=text)


@pytest.mark.parametrize("text", ["ftp://x", "", "x:port", "user@host"])
def test_a_senseless_mirror_is_refused(text):
    with pytest.raises(UsageError, match="mirror of docker"):
        Hosts({"docker.io": HostConfig(mirrors=(text,))}).endpoints("docker.io")


def test_insecure_takes_any_certificate_and_may_go_down_to_plain():
    endpoint = Hosts().with_insecure("registry:5000").upstream("registry:5000")
    assert (endpoint.scheme, endpoint.tls.verify, endpoint.may_downgrade) == ("https", False, True)


def test_a_mirrors_settings_are_those_of_its_host():
    hosts = Hosts({"docker.io": HostConfig(mirrors=("m:5000",)), "m:5000": HostConfig(http=True)})
    assert hosts.endpoints("docker.io")[0].scheme == "http"
    assert hosts.endpoints("docker.io")[0].name == "m:5000"


def test_certificates_of_docker_are_found(tmp_path):
    directory = tmp_path / "registry:5000"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "lonely.cert", "notes.txt"):
        (directory / name).write_text("")
    endpoint = Hosts(certificate_dirs=("/nonexistent", str(tmp_path))).upstream("registry:5000")
    assert endpoint.tls == Tls(
        ca=(f"{directory}/ca.crt",), keypairs=((f"{directory}/client.cert", f"{directory}/client.key"),)
    )


def test_scopes_carry_a_mirrors_path():
    endpoint = Hosts({"docker.io": HostConfig(mirrors=("m/hub",))}).endpoints("docker.io")[0]
    assert endpoint.pull_scopes("library/alpine") == ("repository:hub/library/alpine:pull",)
    assert endpoint.push_scopes("a", "b") == ("repository:hub/a:pull,push", "repository:hub/b:pull")
    assert endpoint.push_scopes("a", "a") == ("repository:hub/a:pull,push",)
