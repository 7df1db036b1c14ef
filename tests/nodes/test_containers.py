"""The driver docker-container with Debian's docker and podman, and anyarch's own image of a daemon."""

from __future__ import annotations

import fcntl
import platform
import re
import shutil
import subprocess
import sys

import pytest

from anyarch.testing.debian_docker import DebianDocker
from anyarch.testing.debian_podman import DebianPodman
from tests.conftest import PROJECT
from tests.interop.peers import peer
from tests.nodes.conftest import Cli

pytestmark = [pytest.mark.root, pytest.mark.interop]

IMAGE = "docker.io/library/anyarchd:test"
MACHINES = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}


def make_image(path, environment, *words):
    """What `make image` makes, as an archive; its downloads are kept, and made by one at a time."""
    (PROJECT / ".cache").mkdir(exist_ok=True)
    with open(PROJECT / ".cache" / "image.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, str(PROJECT / "tools" / "image.py"), *words, "--tag", IMAGE],
            env={"ANYARCH_ROOT": str(path.parent / "image-store"), **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def archive(tmp_path_factory, clean_environment):
    path = tmp_path_factory.mktemp("image") / "image.tar"
    machine = MACHINES[platform.machine()]
    make_image(path, clean_environment, "--platform", machine, "-o", f"type=docker,dest={path}")
    return path


@pytest.fixture(scope="session")
def stock_archive(tmp_path_factory, clean_environment, base):
    """An image of the stock daemon, out of the programs that are here: as small as can be."""
    directory = tmp_path_factory.mktemp("stock-image")
    context = directory / "context"
    context.mkdir()
    for name in ("buildkitd", "buildctl", "runc"):
        program = peer(name)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            target = context / "root" / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        (context / "root" / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(program, context / "root" / "bin" / name)
    (context / "Dockerfile").write_text('FROM busybox\nCOPY root /\nENTRYPOINT ["/bin/buildkitd"]\n')
    named = ("--build-context", f"busybox=oci-layout://{base}")
    output = ("-o", f"type=docker,dest={directory / 'image.tar'}", "--tag", IMAGE)
    cli = Cli(directory, clean_environment, base)
    answer = cli("build", "--platform", MACHINES[platform.machine()], *named, *output, str(context))
    assert answer.status == 0, answer.err
    return directory / "image.tar"


class Engine:
    """An engine that has the image. `scheme` is that of endpoints for containers in it."""

    def __init__(self, scheme, engine, endpoint, network, maker):
        self.maker = maker
        self.scheme = scheme
        self.engine = engine
        self.endpoint = endpoint
        self.network = network

    def containers(self):
        return self.engine.run("ps", "--all", "--format", "{{.Names}}").split()

    def volumes(self):
        return self.engine.run("volume", "ls", "--quiet").split()


@pytest.fixture(
    params=["docker", "docker with a stock daemon", pytest.param("podman", marks=pytest.mark.slow)]
)
def engine(request, tmp_path):
    is_stock = "stock" in request.param
    archive = request.getfixturevalue("stock_archive" if is_stock else "archive")
    if request.param == "podman":
        with DebianPodman(tmp_path / "podman") as podman:
            podman.run("load", "--input", str(archive))
            yield Engine("podman-container", podman, podman.endpoint, "host", "anyarch")
    else:
        with DebianDocker(tmp_path / "docker") as docker:
            docker.run("load", "--input", str(archive))
            endpoint, made = docker.environment["DOCKER_HOST"], "" if is_stock else "anyarch"
            yield Engine("docker-container", docker, endpoint, "none", made)


RECIPE = "FROM busybox\nRUN echo ran > /ran\nFROM scratch\nCOPY --from=0 /ran /\n"
CONTAINER, VOLUME = "buildx_buildkit_c0", "buildx_buildkit_c0_state"


@pytest.fixture
def at(cli, engine):
    """The command line with what finds the engine, and a builder on it."""
    cli.environment |= engine.engine.environment | {"DOCKER_CONFIG": cli.environment["DOCKER_CONFIG"]}
    (cli.directory / "context" / "Dockerfile").write_text(RECIPE)
    return cli


def create(cli, engine):
    options = ("--driver-opt", f"image={IMAGE}", "--driver-opt", f"network={engine.network}")
    answer = cli("create", "--name", "c", "--driver", "docker-container", *options, engine.endpoint)
    assert answer.status == 0, answer.err


def build(cli, builder="c"):
    answer = cli.build("--builder", builder, "-o", "out")
    assert answer.status == 0, answer.err
    assert (cli.directory / "out" / "ran").read_text() == "ran\n"
    return answer.err


def test_a_node_in_a_container_from_its_first_build_to_its_end(at, engine):
    create(at, engine)
    assert engine.containers() == []  # made when it is first needed
    assert "booting node c0" in build(at)
    assert engine.containers() == [CONTAINER]
    inspected = at("inspect", "c").out
    assert "running" in inspected
    assert ("+anyarch" in inspected) == (engine.maker == "anyarch")  # whose daemon it is

    # The same daemon as a node that someone else runs.
    at("create", "--name", "r", "--driver", "remote", f"{engine.scheme}://{CONTAINER}")
    assert "RUN echo ran > /ran\n" in build(at, "r")

    assert at("stop", "c").status == 0
    assert "stopped" in at("inspect", "c").out
    assert "CACHED" in build(at)  # it starts again, with what it had

    assert at("rm", "--keep-state", "c").status == 0
    assert (engine.containers(), engine.volumes()) == ([], [VOLUME])
    create(at, engine)
    assert "CACHED" in build(at)

    assert at("rm", "--force", "c").status == 0
    assert (engine.containers(), engine.volumes()) == ([], [])


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_docker_buildx_sees_the_same_container(at, engine):
    buildx = peer("docker-buildx")

    def stock(*words):
        return subprocess.run(
            [buildx, *words], env=at.environment, cwd=at.directory, capture_output=True, text=True, check=True
        ).stdout

    create(at, engine)
    build(at)
    listed = stock("ls", "--format", "{{.Name}} {{.Status}}")
    assert "c0 running" in listed
    stock(
        "build",
        "--builder",
        "c",
        "-o",
        "theirs",
        "--build-context",
        f"busybox=oci-layout://{at.base}",
        "context",
    )
    assert (at.directory / "theirs" / "ran").read_text() == "ran\n"
    stock("rm", "c")
    assert (engine.containers(), engine.volumes()) == ([], [])
    assert "c" not in at("ls", "--format", "{{.Name}}").out.split()


@pytest.mark.slow
@pytest.mark.emulation
def test_the_image_is_for_both_architectures(tmp_path, clean_environment):
    """Its daemon starts and its builds work where they are emulated, too."""
    cli = Cli(tmp_path, clean_environment, tmp_path)
    make_image(tmp_path / "x", {**clean_environment, "ANYARCH_ROOT": str(tmp_path / "root")})
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /copied\n")
    for name, machine in (("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")):
        run = ("run", "--platform", name, "--volume", f"{tmp_path}/context:/context")
        version = cli(*run, IMAGE, "--version")
        assert version.out.startswith("anyarchd "), version.err
        words = ("build", "--output", f"/context/{machine}", "/context")
        built = cli(*run, "--entrypoint", "anyarch", IMAGE, *words)
        assert built.status == 0, built.err
        assert (tmp_path / "context" / machine / "copied").read_text().startswith("FROM scratch")
