from __future__ import annotations

import asyncio

import pytest

from anyarch.builder.create import CreateRequest, check_node, create, leave
from anyarch.builder.daemon_config import load_config_files, to_toml
from anyarch.errors import AnyarchError, BuilderError, UsageError


@pytest.fixture
def make(surroundings):
    """Create as the command does, and save."""

    def run(**values):
        with surroundings.store.transaction() as transaction:
            group, _ = create(transaction, surroundings.docker, surroundings.env, CreateRequest(**values))
            transaction.save(group)
        return group

    return run


def test_a_builder_without_a_name_gets_one_of_two_words(make):
    group = make()
    assert group.name.count("_") == 1
    assert (group.driver, group.nodes[0].name) == ("docker-container", f"{group.name}0")
    assert group.nodes[0].endpoint == "unix:///var/run/docker.sock"
    assert group.nodes[0].flags == ("--allow-insecure-entitlement=network.host",)


def test_the_guides_two_nodes(make, add_context):
    add_context("node-amd64", "tcp://amd:2376")
    add_context("node-arm64", "ssh://arm")
    make(name="mybuild", endpoint="node-amd64")
    group = make(name="mybuild", endpoint="node-arm64", append=True)
    assert [(node.name, node.endpoint) for node in group.nodes] == [
        ("mybuild0", "node-amd64"),
        ("mybuild1", "node-arm64"),
    ]


def test_a_daemon_of_the_environment_makes_it_remote(make, env):
    env["BUILDKIT_HOST"] = "tcp://daemon:1234"
    group = make(name="b")
    assert (group.driver, group.nodes[0].endpoint, group.nodes[0].flags) == (
        "remote",
        "tcp://daemon:1234",
        None,
    )
    assert make(name="c", endpoint="tcp://engine:2375").driver == "docker-container"


def test_a_node_is_changed_by_its_name(make):
    make(name="b", driver="remote", endpoint="tcp://a:1", platforms=("linux/arm64",))
    changed = make(name="b", node="b0", endpoint="tcp://b:2")
    assert changed.nodes[0].endpoint == "tcp://b:2"
    assert [str(platform) for platform in changed.nodes[0].fixed] == ["linux/arm64"]


def test_nodes_of_kubernetes_have_endpoints_of_their_own(make, env):
    env["KUBECONFIG"] = "/etc/kube config"
    make(name="k8s", driver="kubernetes")
    group = make(name="k8s", append=True)
    first, second = (node.endpoint for node in group.nodes)
    assert first.startswith("kubernetes:///k8s?deployment=k8s-")
    assert first.endswith("&kubeconfig=%2Fetc%2Fkube+config")
    assert first != second
    named = make(name="other", driver="kubernetes", node="mine")
    assert named.nodes[0].endpoint.startswith("kubernetes:///other?deployment=mine&")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "default"}, "default is a reserved name"),
        ({"name": "far"}, 'instance name "far" already exists as context builder'),
        ({"name": "1"}, "invalid name 1"),
        ({"append": True}, "append requires a builder name"),
        ({"append": True, "name": "nobody"}, 'failed to find instance "nobody" for append'),
        ({"name": "b"}, 'existing instance for "b" but no append mode'),
        ({"name": "b", "append": True, "driver": "kubernetes"}, 'mismatched driver "remote"'),
        ({"name": "b", "append": True, "endpoint": "tcp://a:1"}, "invalid duplicate endpoint tcp://a:1"),
        ({"name": "b", "node": "x", "endpoint": "tcp://c:1"}, "node x not found, did you mean to append?"),
        ({"name": "c", "driver": "remote"}, "no remote endpoint provided"),
        ({"name": "c", "driver": "remote", "endpoint": "http://x"}, "unrecognized url scheme http"),
        ({"name": "c", "driver": "docker"}, 'additional instances of driver "docker" cannot be created'),
        ({"name": "c", "driver": "cloud"}, 'failed to find driver "cloud"'),
        (
            {"name": "c", "driver": "kubernetes", "endpoint": "x"},
            "kubernetes driver does not support endpoint",
        ),
        ({"name": "c", "endpoint": "nowhere"}, "failed to parse endpoint nowhere"),
        ({"name": "c", "endpoint": "ftp://x"}, "invalid bind address format: ftp://x"),
        ({"name": "c", "driver_opts": ("image",)}, 'invalid value "image", expecting k=v'),
        ({"name": "c", "flags": "'"}, "failed to parse buildkit flags"),
        ({"name": "c", "platforms": ("nonsense",)}, "unknown operating system"),
        ({"name": "c", "config": "/nowhere.toml"}, "configuration file not found: /nowhere.toml"),
    ],
)
def test_what_is_refused_changes_nothing(make, surroundings, add_context, values, message):
    add_context("far", "tcp://far:1")
    make(name="b", driver="remote", endpoint="tcp://a:1", platforms=("linux/arm64",))
    path = f"{surroundings.store.directory}/instances"
    with open(f"{path}/b", "rb") as file:
        before = file.read()
    with pytest.raises(AnyarchError, match=r".*" + message.replace("?", r"\?")):
        make(**values)
    with open(f"{path}/b", "rb") as file:
        assert file.read() == before
    with surroundings.store.transaction() as transaction:
        assert transaction.names() == ["b"]


@pytest.mark.parametrize(
    ("flags", "opts", "driver", "expected"),
    [
        ("--debug", (), "docker-container", ("--debug", "--allow-insecure-entitlement=network.host")),
        (
            "--allow-insecure-entitlement security.insecure",
            (),
            "docker-container",
            ("--allow-insecure-entitlement", "security.insecure"),
        ),
        (
            "--allow-insecure-entitlement=security.insecure",
            ("network=host",),
            "docker-container",
            ("--allow-insecure-entitlement=security.insecure", "--allow-insecure-entitlement=network.host"),
        ),
        ("'a b' c", (), "kubernetes", ("a b", "c", "--allow-insecure-entitlement=network.host")),
    ],
)
def test_steps_may_use_the_containers_network_unless_it_is_said_otherwise(
    make, flags, opts, driver, expected
):
    assert make(name="b", flags=flags, driver_opts=opts, driver=driver).nodes[0].flags == expected


def test_an_address_without_a_scheme_is_one_of_tcp(make):
    assert make(name="b", endpoint="host:2375").nodes[0].endpoint == "tcp://host:2375"
    assert make(name="c", endpoint="ssh://me@host").nodes[0].endpoint == "ssh://me@host"
    assert make(name="d", endpoint="default").nodes[0].endpoint == "unix:///var/run/docker.sock"


def test_leaving(make, surroundings):
    make(name="b", driver="remote", endpoint="tcp://a:1")
    make(name="b", append=True, endpoint="tcp://b:1")
    with surroundings.store.transaction() as transaction:
        leave(transaction, "b", "b0")
        assert [node.name for node in transaction.get("b").nodes] == ["b1"]
        for name, node, message in (
            ("", "x", "leave requires instance name"),
            ("b", "", "leave requires node name"),
            ("c", "x", 'failed to find instance "c" for leave'),
            ("b", "b1", "can not leave last node"),
        ):
            with pytest.raises(AnyarchError, match=message):
                leave(transaction, name, node)


def test_a_node_that_cannot_be_used_is_told_before_it_is_saved(surroundings, fake_nodes):
    node = fake_nodes.register("tcp://a:1", fake_nodes.FakeNode())
    node.is_lost = True
    request = CreateRequest(name="b", driver="remote", endpoint="tcp://a:1")
    with surroundings.store.transaction() as transaction:
        group, record = create(transaction, surroundings.docker, surroundings.env, request)
    message = r"failed to initialize builder b \(b0\): connection refused"
    with pytest.raises(BuilderError, match=message):
        asyncio.run(check_node(group, record, surroundings.docker, surroundings.env, 5.0))
    node.is_lost, node.delay_s = False, 5.0
    with pytest.raises(BuilderError, match=r"no answer within 0\.05 seconds"):
        asyncio.run(check_node(group, record, surroundings.docker, surroundings.env, 0.05))


# the daemon's configuration


def test_certificates_become_files_of_the_node(tmp_path):
    for name in ("ca.pem", "key.pem", "cert.pem"):
        (tmp_path / name).write_text(name)
    config = tmp_path / "buildkitd.toml"
    config.write_text(
        f"""debug = true
[registry."reg.example:5000"]
  mirrors = ["a", "b"]
  ca = ["{tmp_path}/ca.pem"]
  [[registry."reg.example:5000".keypair]]
    key = "{tmp_path}/key.pem"
    cert = "{tmp_path}/cert.pem"
[worker.oci]
  gckeepstorage = 9000
"""
    )
    import tomllib

    files = load_config_files(str(config))
    place = "certs/reg.example_5000"
    assert {name: content for name, content in files.items() if name != "buildkitd.toml"} == {
        f"{place}/{name}": name.encode() for name in ("ca.pem", "key.pem", "cert.pem")
    }
    assert tomllib.loads(files["buildkitd.toml"].decode()) == {
        "debug": True,
        "registry": {
            "reg.example:5000": {
                "mirrors": ["a", "b"],
                "ca": [f"/etc/buildkit/{place}/ca.pem"],
                "keypair": [
                    {"key": f"/etc/buildkit/{place}/key.pem", "cert": f"/etc/buildkit/{place}/cert.pem"}
                ],
            }
        },
        "worker": {"oci": {"gckeepstorage": 9000}},
    }


def test_an_entitlement_in_the_configuration_counts(make, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('insecure-entitlements = ["network.host"]\n')
    assert make(name="b", config=str(config)).nodes[0].flags is None


def test_a_configuration_that_is_none(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("a = [")
    with pytest.raises(BuilderError, match="failed to parse buildkit configuration file"):
        load_config_files(str(config))
    config.write_bytes(b"a = 1\n" + b"#" * (1 << 20))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_config_files(str(config))


def test_toml_is_read_back_as_it_was_written():
    import tomllib

    document = {
        "text": 'a "b"\n\\ é \x7f',
        "numbers": [1, 2.5, True],
        "key with blanks": {"x.y": {"z": [{"a": 1}, {"b": {"c": "d"}}]}},
        "mixed": [{"a": 1}, 2],
    }
    assert tomllib.loads(to_toml(document)) == document
