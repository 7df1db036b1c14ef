from __future__ import annotations

import asyncio

import pytest

from anyarch.builder import driver as drivers
from anyarch.builder.docker_api import DemuxStream, DockerApi, EngineError
from anyarch.builder.docker_config import DockerContext
from anyarch.builder.driver import DriverSetup, open_driver
from anyarch.builder.driver.container import container_config
from anyarch.builder.driver.docker import engine_outputs
from anyarch.builder.store import NodeRecord
from anyarch.engine.request import BuildRequest, CacheOption, Output
from anyarch.errors import BuilderError, NodeLost, NotSupported, UsageError
from tests.unit.builder.fake_engine import FakeEngine, decoded

NAME = "buildx_buildkit_n0"


def setup_of(surroundings, endpoint="unix:///nowhere", *, flags=(), files=None, **options):
    options = {name.replace("_", "-"): value for name, value in options.items()}
    record = NodeRecord(name="n0", endpoint=endpoint, driver_opts=options, flags=flags, files=files)
    return DriverSetup(node=record, docker=surroundings.docker, env=surroundings.env)


@pytest.fixture
def with_engine(surroundings, tmp_path):
    """Run an async test of a driver at a fake engine."""

    def run(test, engine, **values):
        async def work():
            async with engine.serve(tmp_path / "engine.sock") as address:
                driver = open_driver("docker-container", setup_of(surroundings, address, **values))
                return await test(driver)

        return asyncio.run(work())

    return run


async def started(driver):
    lines = []
    await driver.start(lines.append)
    return lines


def test_a_container_is_made_started_and_waited_for(with_engine):
    engine = FakeEngine()
    engine.registry.add("moby/buildkit:buildx-stable-1")
    lines = with_engine(started, engine)
    assert lines == [
        "pulling image moby/buildkit:buildx-stable-1",
        f"creating container {NAME}",
        f"starting container {NAME}",
    ]
    assert engine.containers[NAME]["running"]
    assert engine.auths == [None]
    assert engine.volumes == {f"{NAME}_state"}


def test_an_image_that_only_the_engine_has_is_used(with_engine):
    engine = FakeEngine()
    engine.images.add("mine:1")
    assert "using local image mine:1" in with_engine(started, engine, image="mine:1")


def test_an_image_that_cannot_be_had_is_an_error(with_engine):
    with pytest.raises(BuilderError, match="not there") as caught:
        with_engine(started, FakeEngine(), image="mine:1")
    assert "--driver-opt image=NAME" in caught.value.hint


def test_credentials_of_the_registry_go_along(with_engine, home, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    (home / ".docker" / "config.json").write_text('{"auths": {"r.example": {"auth": "bWU6c2VjcmV0"}}}')
    engine = FakeEngine()
    engine.registry.add("r.example/bk")
    with_engine(started, engine, image="r.example/bk")
    assert decoded(engine.auths[0]) == {
        "username": "me",
        "password": "secret",
        "serveraddress": "r.example",
    }


def test_a_container_that_is_there_is_only_started(with_engine):
    engine = FakeEngine()
    engine.images.add("i")

    async def twice(driver):
        assert (await driver.state()).status == "inactive"
        await started(driver)
        assert (await driver.state()).status == "running"
        await driver.stop()
        await driver.stop()
        assert (await driver.state()).status == "stopped"
        return await started(driver)

    assert with_engine(twice, engine, image="i") == [f"starting container {NAME}"]


@pytest.mark.parametrize(
    ("keep_state", "keep_daemon", "left"),
    [(False, False, (0, 0)), (True, False, (0, 1)), (False, True, (1, 1))],
)
def test_removing_takes_the_state_along_unless_it_is_to_be_kept(with_engine, keep_state, keep_daemon, left):
    engine = FakeEngine()
    engine.images.add("i")

    async def remove(driver):
        await started(driver)
        await driver.remove(keep_state=keep_state, keep_daemon=keep_daemon)

    with_engine(remove, engine, image="i")
    assert (len(engine.containers), len(engine.volumes)) == left


def test_files_of_the_node_are_put_where_the_daemon_reads_them(with_engine):
    engine = FakeEngine()
    engine.images.add("i")
    files = {"buildkitd.toml": b"debug = true\n", "certs/r/ca.pem": b"ca"}
    with_engine(started, engine, image="i", files=files, flags=("--debug",))
    assert engine.files == {"buildkit/buildkitd.toml": b"debug = true\n", "buildkit/certs/r/ca.pem": b"ca"}
    assert engine.containers[NAME]["config"]["Cmd"] == [
        "--config",
        "/etc/buildkit/buildkitd.toml",
        "--debug",
    ]


def test_a_daemon_that_does_not_come_up_is_told_with_its_words(with_engine, monkeypatch):
    from anyarch.builder.driver import container

    monkeypatch.setattr(container, "_TRIES", 2)
    engine = FakeEngine()
    engine.images.add("i")
    engine.programs["buildctl debug workers"] = (1, "no daemon here")
    with pytest.raises(BuilderError, match=f"container {NAME} does not answer: no daemon here"):
        with_engine(started, engine, image="i")


def test_the_daemon_is_reached_by_a_program_in_the_container(with_engine):
    engine = FakeEngine()
    engine.images.add("i")

    async def talk(driver):
        await started(driver)
        stream = await driver.dial()
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"
        await stream.end_writing()
        assert await stream.read(100) == b""
        await stream.close()

    with_engine(talk, engine, image="i")
    assert engine.echo == b"hello"


def test_without_a_container_the_node_is_lost(with_engine):
    async def talk(driver):
        await driver.dial()

    with pytest.raises(NodeLost, match="No such container"):
        with_engine(talk, FakeEngine())


def test_an_engine_that_is_not_there(surroundings):
    driver = open_driver("docker-container", setup_of(surroundings))
    with pytest.raises(NodeLost, match="cannot connect to the docker engine at unix:///nowhere"):
        asyncio.run(driver.state())


# what the engine is asked for


def test_options_become_limits_of_the_container(surroundings):
    setup = setup_of(
        surroundings,
        network="host",
        memory="1g",
        memory_swap="-1",
        cpu_period="1000",
        cpu_quota="500",
        cpu_shares="2",
        cpuset_cpus="0-1",
        cpuset_mems="0",
        cgroup_parent="/mine",
        restart_policy="on-failure:3",
        image="i",
    )
    setup.node.driver_opts["env.HTTP_PROXY"] = "http://p"
    config = container_config(setup, {"CgroupDriver": "cgroupfs", "SecurityOptions": ["name=userns"]})
    assert config == {
        "Image": "i",
        "Env": ["HTTP_PROXY=http://p"],
        "Cmd": [],
        "HostConfig": {
            "Privileged": True,
            "Init": True,
            "Mounts": [{"Type": "volume", "Source": f"{NAME}_state", "Target": "/var/lib/buildkit"}],
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "NetworkMode": "host",
            "Memory": 1 << 30,
            "MemorySwap": -1,
            "CpuPeriod": 1000,
            "CpuQuota": 500,
            "CpuShares": 2,
            "CpusetCpus": "0-1",
            "CpusetMems": "0",
            "CgroupParent": "/mine",
            "UsernsMode": "host",
        },
    }


def test_a_container_belongs_to_a_control_group_only_where_the_engine_names_them_so(surroundings):
    host = container_config(setup_of(surroundings), {"CgroupDriver": "systemd"})["HostConfig"]
    assert "CgroupParent" not in host
    assert host["RestartPolicy"] == {"Name": "unless-stopped"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgae": "x"}, "invalid driver option imgae for docker-container driver"),
        ({"cpu_quota": "many"}, "not a number"),
        ({"memory": "much"}, "much"),
        ({"restart_policy": "never"}, "invalid restart policy"),
        ({"restart_policy": "on-failure:x"}, "maximum retry count must be an integer"),
        ({"default_load": "perhaps"}, "not a truth value"),
        ({"env.": "x"}, "expecting env.FOO=bar"),
    ],
)
def test_options_that_make_no_sense_are_refused(surroundings, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        open_driver("docker-container", setup_of(surroundings, **options))
    if "imgae" in options:
        assert caught.value.hint == "did you mean image?"


def test_every_driver_can_be_opened_and_checks_its_options(surroundings):
    for name in drivers.DRIVERS:
        if name != "embedded":
            with pytest.raises(UsageError, match="invalid driver option nonsense"):
                open_driver(name, setup_of(surroundings, nonsense="1"))


# the docker driver


def outputs_of(*outputs, has_containerd=False, **values):
    return engine_outputs(BuildRequest(outputs=outputs, **values), has_containerd=has_containerd)


def test_images_go_into_the_engine_and_are_pushed_by_it():
    assert outputs_of(Output("docker"), tags=("a:1",)) == ((Output("moby", None, {"name": "a:1"}),), ())
    pushed = Output("image", None, {"push": "true", "unpack": "false"})
    assert outputs_of(pushed, tags=("a:1", "b:2")) == (
        (Output("moby", None, {"name": "a:1,b:2"}),),
        ("a:1", "b:2"),
    )
    assert outputs_of(Output("local", "out")) == ((Output("local", "out"),), ())


@pytest.mark.parametrize(
    ("output", "values", "message"),
    [
        (Output("oci", "a.tar"), {}, "OCI exporter is not supported for the docker driver"),
        (Output("docker", "a.tar"), {}, "Docker exporter is not supported for the docker driver"),
        (Output("docker"), {"platforms": ("a", "b")}, "Multi-platform build is not supported for the docker"),
        (Output("docker"), {"cache_to": (CacheOption("registry"),)}, "Cache export is not supported"),
        (
            Output("image", None, {"push": "true", "push-by-digest": "true", "name": "x"}),
            {},
            "push-by-digest is currently not implemented for docker driver",
        ),
    ],
)
def test_what_the_classic_image_store_cannot_do_is_refused_in_buildxs_words(output, values, message):
    with pytest.raises(NotSupported, match=message):
        outputs_of(output, **values)


def test_with_containerds_image_store_all_is_possible():
    outputs, _ = outputs_of(
        Output("oci", "a.tar"), Output("docker"), has_containerd=True, platforms=("a", "b")
    )
    assert outputs == (Output("oci", "a.tar"), Output("moby", None, {"prefer-image-digest": "true"}))


# the API


def test_a_stream_that_comes_in_pieces_is_put_together():
    class Slow:
        def __init__(self, data):
            self.data = data

        async def read(self, size):
            data, self.data = self.data[:3], self.data[3:]
            return data

    framed = b"\x01\0\0\0\0\0\0\x05hello" + b"\x02\0\0\0\0\0\0\x03err" + b"\x01\0\0\0\0\0\0\x02!!"
    stream = DemuxStream(Slow(framed))

    async def read():
        found = b""
        while data := await stream.read(100):
            found += data
        return found

    assert asyncio.run(read()) == b"hello!!"
    assert stream.said == b"err"


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\nabc"]
)
def test_an_engine_that_talks_nonsense_is_lost(tmp_path, answer):
    async def work():
        async def accept(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_unix_server(accept, str(tmp_path / "s"))
        try:
            await DockerApi(DockerContext("x", f"unix://{tmp_path}/s"), {}).info()
        finally:
            server.close()
            await server.wait_closed()

    with pytest.raises(NodeLost):
        asyncio.run(work())


def test_a_refusal_has_the_engines_words(with_engine):
    async def work(driver):
        await driver._api.start("nobody")

    with pytest.raises(EngineError, match="No such container") as caught:
        with_engine(work, FakeEngine())
    assert caught.value.status == 404
