from __future__ import annotations

import asyncio
import json
import os
import stat

import pytest

from anyarch.builder.driver import DriverSetup, open_driver
from anyarch.builder.driver.kubernetes import choose_pod
from anyarch.builder.kube_config import find_cluster
from anyarch.builder.kube_manifest import manifests, parse_options
from anyarch.builder.store import NodeRecord
from anyarch.builder.websocket import decode_frame, encode_frame
from anyarch.errors import BuilderError, NodeLost, UsageError
from anyarch.spec.oci import PlatformSpec
from tests.unit.builder.fake_cluster import FakeCluster


def node(*, flags=("--debug",), files=None, platforms=None, name="my_build0", **options):
    options = {
        key.replace("__", ".") if key.startswith("env") else key.replace("__", ".").replace("_", "-"): value
        for key, value in options.items()
    }
    return NodeRecord(name=name, driver_opts=options, flags=flags, files=files, platforms=platforms)


def objects(**values):
    return manifests(parse_options(node(**values)))


def pod_spec(item):
    return item["spec"]["template"]["spec"]


# objects


def test_a_node_is_a_deployment_of_privileged_pods():
    (deployment,) = objects(platforms=(PlatformSpec("arm64", "linux"),), replicas="2")
    labels = {"app": "my-build0"}
    notes = {"buildx.docker.com/platform": "linux/arm64"}
    probe = {
        "exec": {"command": ["buildctl", "debug", "workers"]},
        "failureThreshold": 3,
        "initialDelaySeconds": 5,
        "periodSeconds": 30,
        "successThreshold": 1,
        "timeoutSeconds": 60,
    }
    assert deployment == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "my-build0", "labels": labels, "annotations": notes},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": {
                    "containers": [
                        {
                            "name": "buildkitd",
                            "image": "moby/buildkit:buildx-stable-1",
                            "args": ["--debug"],
                            "securityContext": {"privileged": True},
                            "readinessProbe": probe,
                            "livenessProbe": probe,
                            "volumeMounts": [],
                            "resources": {},
                        }
                    ]
                },
            },
        },
    }


def test_options_become_parts_of_the_pod():
    (deployment,) = objects(
        requests__cpu="500m",
        requests__memory="1Gi",
        requests__ephemeral_storage="1G",
        limits__cpu="2",
        nodeselector="kubernetes.io/arch=arm64,disk=ssd",
        tolerations="key=a,operator=Equal,value=b,effect=NoSchedule;key=c,operator=Exists,tolerationSeconds=9",
        annotations="note=1",
        labels="team=x",
        serviceaccount="builder",
        schedulername="mine",
        qemu__install="true",
        env__HTTP_PROXY="http://p",
    )
    spec = pod_spec(deployment)
    container = spec["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1G"},
        "limits": {"cpu": "2"},
    }
    assert container["env"] == [{"name": "HTTP_PROXY", "value": "http://p"}]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64", "disk": "ssd"}
    assert spec["tolerations"] == [
        {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "operator": "Exists", "tolerationSeconds": 9},
    ]
    assert (spec["serviceAccountName"], spec["schedulerName"]) == ("builder", "mine")
    assert spec["initContainers"][0]["image"] == "tonistiigi/binfmt:latest"
    assert deployment["metadata"]["labels"] == {"app": "my-build0", "team": "x"}
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"note": "1"}


def test_rootless_pods_have_no_privilege():
    (deployment,) = objects(rootless="true", buildkit_root_volume_memory="1Gi")
    container = pod_spec(deployment)["containers"][0]
    assert container["image"] == "moby/buildkit:buildx-stable-1-rootless"
    assert container["args"] == ["--debug", "--oci-worker-no-process-sandbox"]
    assert container["securityContext"] == {"seccompProfile": {"type": "Unconfined"}}
    assert container["volumeMounts"] == [
        {"name": "buildkitd", "mountPath": "/home/user/.local/share/buildkit"}
    ]
    assert pod_spec(deployment)["volumes"] == [
        {"name": "buildkitd", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    ]


def test_storage_of_their_own_makes_pods_a_stateful_set():
    (item,) = objects(persistent_volume_claim__requests__storage="10Gi")
    assert (item["kind"], item["spec"]["serviceName"]) == ("StatefulSet", "buildkitd")
    (claim,) = item["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "10Gi"}}
    assert pod_spec(item)["containers"][0]["volumeMounts"] == [
        {"name": "buildkitd", "mountPath": "/var/lib/buildkit"}
    ]


def test_files_become_config_maps():
    files = {"buildkitd.toml": b"debug = true\n", "certs/r/ca.pem": b"ca", "certs/r/key.pem": b"key"}
    first, second, deployment = objects(files=files)
    assert (first["metadata"]["name"], first["data"]) == (
        "my-build0-config",
        {"buildkitd.toml": "debug = true\n"},
    )
    assert second["data"] == {"ca.pem": "ca", "key.pem": "key"}
    assert pod_spec(deployment)["containers"][0]["volumeMounts"] == [
        {"name": "config", "mountPath": "/etc/buildkit"},
        {"name": "config-1", "mountPath": "/etc/buildkit/certs/r"},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replica": "2"}, "invalid driver option replica"),
        ({"replicas": "two"}, "not a number"),
        ({"loadbalance": "fair"}, 'invalid loadbalance "fair"'),
        ({"requests__cpu": "much"}, "invalid quantity 'much'"),
        ({"labels": "app=x"}, 'label "app" is reserved'),
        ({"annotations": "buildx.docker.com/platform=x"}, "is reserved"),
        ({"nodeselector": "x"}, "invalid key-value pair: x"),
        ({"tolerations": "colour=red"}, "invalid toleration"),
        ({"timeout": "soon"}, "cannot parse timeout"),
        ({"rootless": "perhaps"}, "not a truth value"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        parse_options(node(**options))


def test_a_context_stays_with_its_pod_and_others_hardly_move():
    pods = [f"pod-{number}" for number in range(5)]
    before = {key: choose_pod(pods, key) for key in map(str, range(200))}
    assert len(set(before.values())) == 5
    moved = [key for key, pod in before.items() if choose_pod(pods[:-1], key) != pod]
    assert {before[key] for key in moved} == {"pod-4"}
    with pytest.raises(NodeLost, match="no running buildkit pods found"):
        choose_pod([], "x")
    assert choose_pod(["only"], "") == "only"


# the cluster


def write_config(home, server, **user):
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "builds"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "secret"}}],
    }
    (home / ".kube").mkdir(exist_ok=True)
    (home / ".kube" / "config").write_text(json.dumps(config))


@pytest.fixture
def with_cluster(surroundings, home):
    def run(test, cluster, context_path="", **values):
        async def work():
            async with cluster.serve() as address:
                write_config(home, address)
                record = node(**values)
                record.endpoint = "kubernetes:///b?deployment=x&kubeconfig="
                setup = DriverSetup(
                    node=record, docker=surroundings.docker, env=surroundings.env, context_path=context_path
                )
                return await test(open_driver("kubernetes", setup))

        return asyncio.run(work())

    return run


async def started(driver):
    lines = []
    await driver.start(lines.append)
    return lines


def test_pods_are_made_waited_for_and_removed(with_cluster):
    cluster = FakeCluster()

    async def life(driver):
        assert (await driver.state()).status == "inactive"
        lines = await started(driver)
        state = await driver.state()
        await driver.stop()
        await driver.remove(keep_state=False, keep_daemon=True)
        assert cluster.objects
        await driver.remove(keep_state=False, keep_daemon=False)
        await driver.remove(keep_state=False, keep_daemon=False)
        return lines, state

    files = {"buildkitd.toml": b"x = 1\n"}
    platforms = (PlatformSpec("arm64", "linux"),)
    lines, state = with_cluster(life, cluster, replicas="2", files=files, platforms=platforms)
    assert lines == [
        "creating ConfigMap my-build0-config",
        "creating Deployment my-build0",
        "waiting for 2 pods to be ready, timeout: 120s",
    ]
    assert [record.name for record in state.replicas] == ["my-build0-0", "my-build0-1"]
    assert state.replicas[0].platforms == platforms
    assert cluster.objects == {}
    assert cluster.tokens == {"Bearer secret"}
    assert "POST /apis/apps/v1/namespaces/builds/deployments" in cluster.log


def test_pods_that_do_not_come_up_are_told_with_their_reason(with_cluster):
    cluster = FakeCluster()
    cluster.comes_up = False
    with pytest.raises(BuilderError, match="expected 1 replicas to be ready, got 0") as caught:
        with_cluster(started, cluster, timeout="1s", namespace="other")
    assert caught.value.hint == "my-build0-0: ImagePullBackOff no such image"
    assert "POST /apis/apps/v1/namespaces/other/deployments" in cluster.log


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
def test_a_pod_is_reached_by_a_program_in_it(with_cluster, protocol):
    cluster = FakeCluster()
    cluster.protocol = protocol
    cluster.failures = 2

    async def talk(driver):
        await started(driver)
        stream = await driver.dial()
        await stream.write(b"hello there, pod")
        found = await stream.read(100)
        while len(found) < 16:
            found += await stream.read(100)
        assert found == b"HELLO THERE, POD"
        if protocol.startswith("v5"):
            await stream.end_writing()
            assert await stream.read(100) == b"<end>"
            assert await stream.read(100) == b""
        await stream.close()

    with_cluster(talk, cluster)
    assert cluster.commands == [(["buildkitd"], ["buildctl", "dial-stdio"])]


def test_a_program_that_fails_in_the_pod_is_told_in_its_words(with_cluster):
    cluster = FakeCluster()
    cluster.said = b"buildctl: no such file\n"

    async def talk(driver):
        await started(driver)
        stream = await driver.dial()
        try:
            await stream.read(100)
        finally:
            await stream.close()

    with pytest.raises(NodeLost, match=r"pod my-build0-0: .*exit code 1"):
        with_cluster(talk, cluster)


def test_pods_that_are_about_to_end_get_no_builds(with_cluster):
    cluster = FakeCluster()

    async def talk(driver):
        await started(driver)
        cluster.pods[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        await driver.dial()

    with pytest.raises(NodeLost, match="no running buildkit pods found"):
        with_cluster(talk, cluster)


def test_a_cluster_that_is_not_there(surroundings, home):
    write_config(home, "http://127.0.0.1:1")
    record = node()
    driver = open_driver(
        "kubernetes", DriverSetup(node=record, docker=surroundings.docker, env=surroundings.env)
    )
    with pytest.raises(NodeLost, match="cannot connect to the Kubernetes API"):
        asyncio.run(driver.state())


# the configuration


def test_without_a_configuration_there_is_no_cluster(surroundings):
    with pytest.raises(BuilderError, match="no configuration has been provided"):
        open_driver("kubernetes", DriverSetup(node=node(), docker=surroundings.docker, env=surroundings.env))


def test_yaml_and_several_files(home, env):
    first, second = home / "a", home / "b"
    first.write_text("current-context: c\ncontexts:\n- name: c\n  context: {cluster: k}\n")
    second.write_text("current-context: d\nclusters:\n- name: k\n  cluster: {server: 'https://k:6443/x'}\n")
    cluster = find_cluster(f"{first}:{second}", env)
    assert (cluster.server, cluster.namespace, cluster.path) == ("https://k:6443/x", "default", "/x")
    first.write_text("a: [")
    with pytest.raises(BuilderError, match=str(first)):
        find_cluster(str(first), env)


def test_a_credential_plugin_is_asked(home, env):
    plugin = home / "plugin"
    answer = {"status": {"token": "fresh"}}
    plugin.write_text(f"#!/bin/sh\ntest -n \"$KUBERNETES_EXEC_INFO\" && echo '{json.dumps(answer)}'\n")
    plugin.chmod(0o755)
    write_config(home, "http://k:1", exec={"command": str(plugin), "args": ["x"]})
    assert find_cluster("", env).headers()["Authorization"] == "Bearer fresh"
    plugin.write_text("#!/bin/sh\necho not today >&2; exit 3\n")
    with pytest.raises(BuilderError, match="not today"):
        find_cluster("", env)


def test_keys_in_the_configuration_are_kept_in_private_files(home, env):
    write_config(home, "https://k:1", **{"client-key-data": "a2V5", "client-certificate": "c.pem"})
    tls = find_cluster("", env)._tls
    assert tls.cert == str(home / ".kube" / "c.pem")
    with open(tls.key) as file:
        assert file.read() == "key"
    assert stat.S_IMODE(os.stat(tls.key).st_mode) == 0o600


def test_a_user_that_is_not_there_is_named(home, env):
    write_config(home, "http://k:1")
    path = home / ".kube" / "config"
    path.write_text(path.read_text().replace('"name": "u"', '"name": "v"'))
    with pytest.raises(BuilderError, match='there is no user "u"'):
        find_cluster("", env)


# frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 70_000])
def test_frames_are_read_as_they_were_written(size):
    data = os.urandom(size)
    frame = encode_frame(2, data, b"mask")
    for cut in {0, 1, 2, 5, len(frame) - 1}:
        assert decode_frame(frame[:cut]) is None
    assert decode_frame(frame + b"more") == (2, True, data, len(frame))
