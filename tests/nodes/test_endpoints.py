"""The remote driver's ways to a daemon, each with the real thing at the other end."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from anyarch.testing.certificates import make_authority, make_certificate
from anyarch.testing.socket_daemon import SocketDaemon
from anyarch.testing.ssh_server import SshServer
from tests.interop.peers import peer
from tests.nodes.conftest import Cli

pytestmark = [pytest.mark.root]


@pytest.fixture
def plain(tmp_path, clean_environment):
    """The command line with a context that needs no step."""
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /copied\n")
    return Cli(tmp_path, clean_environment, tmp_path)


def create(cli, name, endpoint, *options):
    words = [word for option in options for word in ("--driver-opt", option)]
    return cli("create", "--name", name, "--driver", "remote", *words, endpoint)


def builds(cli, endpoint, *options):
    """A builder of that endpoint builds; the answer when it does not."""
    made = create(cli, "b", endpoint, *options)
    assert made.status == 0, made.err
    answer = cli("build", "--builder", "b", "-o", "out", "context")
    if answer.status == 0:
        assert (cli.directory / "out" / "copied").read_text() == "FROM scratch\nCOPY Dockerfile /copied\n"
    return answer


# TCP with mutual TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    make_authority(directory)
    make_authority(directory, "other")
    make_certificate(directory, "server", hosts="IP:127.0.0.1,DNS:node.example")
    make_certificate(directory, "client")
    make_certificate(directory, "stranger", authority="other")
    return directory


@pytest.fixture(params=["anyarchd", "buildkitd"])
def port(request, keys, tmp_path, clean_environment):
    """The port of a daemon behind TLS: ours, and a stock one where there is one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    argv, flags = [], ["--addr", f"tcp://127.0.0.1:{number}", "--tlscacert", f"{keys}/ca.pem"]
    flags += ["--tlscert", f"{keys}/server.pem", "--tlskey", f"{keys}/server.key"]
    if request.param == "buildkitd":
        argv, flags = [peer("buildkitd")], [*flags, "--oci-worker-binary", peer("runc")]
    with SocketDaemon(tmp_path / "daemon", argv=argv, flags=flags, environment=dict(clean_environment)):
        yield number


def certificate(keys, name="client", authority="ca"):
    return (f"cacert={keys}/{authority}.pem", f"cert={keys}/{name}.pem", f"key={keys}/{name}.key")


def test_tcp_with_mutual_tls(plain, keys, port):
    answer = builds(plain, f"tcp://127.0.0.1:{port}", *certificate(keys))
    assert answer.status == 0, answer.err


def test_the_name_of_the_server_can_be_told(plain, keys, port):
    address = f"tcp://127.0.0.1:{port}"
    answer = builds(plain, address, *certificate(keys), "servername=node.example")
    assert answer.status == 0, answer.err
    answer = create(plain, "other", address, *certificate(keys), "servername=other.example")
    assert answer.status == 1
    assert f"cannot connect to {address}: " in answer.err
    assert "certificate is not valid for 'other.example'" in answer.err
    assert "other" not in plain("ls", "--format", "{{.Name}}").out.split()


def test_a_server_that_is_a_stranger_is_told(plain, keys, port):
    answer = create(plain, "b", f"tcp://127.0.0.1:{port}", *certificate(keys, authority="other"))
    assert answer.status == 1
    assert f"tcp://127.0.0.1:{port}: " in answer.err
    assert "hint: cacert has to be the authority" in answer.err


@pytest.mark.parametrize("name", ["stranger", ""], ids=["of a stranger", "none"])
def test_with_another_certificate_nobody_gets_in(plain, keys, port, name):
    given = certificate(keys, name) if name else (f"cacert={keys}/ca.pem",)
    answer = create(plain, "b", f"tcp://127.0.0.1:{port}", *given)
    if answer.status:  # the daemon has said why
        assert "the daemon refuses our certificate: " in answer.err
    else:
        shown = plain("inspect", "b").out
        assert re.search(r"Status: +inactive", shown)
        assert "Platforms" not in shown


# ssh ------------------------------------------------------------------------------------------------------


def write_buildctl(directory: Path) -> None:
    """anyarch's `buildctl`, as its image has it."""
    directory.mkdir(exist_ok=True)
    program = directory / "buildctl"
    source = "import sys; from anyarch.cli.buildctl import main; sys.exit(main())"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{source}' \"$@\"\n")
    program.chmod(0o755)


@pytest.fixture(params=["anyarchd", "buildkitd"])
def far(request, tmp_path, clean_environment):
    """A daemon on a machine that is reached by ssh: its socket, and the directory of its `buildctl`."""
    if request.param == "anyarchd":
        write_buildctl(tmp_path / "bin")
        programs, argv, flags = tmp_path / "bin", [], []
    else:
        programs, argv = Path(peer("buildctl")).parent, [peer("buildkitd")]
        flags = ["--oci-worker-binary", peer("runc")]
    with SocketDaemon(
        tmp_path / "daemon", argv=argv, flags=flags, environment=dict(clean_environment)
    ) as daemon:
        yield daemon.socket, programs


@pytest.fixture
def ssh(tmp_path, plain, far):
    path = f"{far[1]}:/usr/local/bin:/usr/bin:/bin"
    with SshServer(tmp_path / "ssh", path=path) as server:
        plain.environment["PATH"] = f"{server.programs}:{os.environ['PATH']}"
        yield server


def test_ssh(plain, far, ssh):
    answer = builds(plain, f"{ssh.endpoint}{far[0]}")
    assert answer.status == 0, answer.err


@pytest.mark.parametrize("far", ["anyarchd"], indirect=True)
def test_what_ssh_said_is_told(plain, far, ssh):
    """No daemon at the socket, and a host whose key is not known."""
    stranger = ssh.endpoint.replace("127.0.0.1", "localhost")
    plain("create", "--name", "b", "--driver", "remote", f"{ssh.endpoint}/nowhere.sock")
    plain("create", "--name", "b", "--append", f"{stranger}{far[0]}")
    answer = plain("build", "--builder", "b", "--platform", "linux/amd64", "-o", "out", "context")
    assert answer.status == 1
    assert "/nowhere.sock: " in answer.err
    assert "no such file or directory" in answer.err.lower()
    assert f"{stranger}{far[0]}: Host key verification failed" in answer.err


# pods -----------------------------------------------------------------------------------------------------


def test_a_pod_is_reached_by_the_words_that_kubectl_takes(plain, tmp_path, clean_environment):
    """No cluster is at hand: a program in kubectl's place checks its words and runs what the pod would."""
    write_buildctl(tmp_path / "bin")
    expected = "--context=c --namespace=n exec -i --container=k the-pod -- buildctl dial-stdio"
    with SocketDaemon(tmp_path / "daemon", environment=dict(clean_environment)) as daemon:
        kubectl = tmp_path / "bin" / "kubectl"
        kubectl.write_text(
            f'#!/bin/sh\n[ "$*" = "{expected}" ] || {{ echo "wrong: $*" >&2; exit 1; }}\n'
            f"exec {tmp_path}/bin/buildctl --addr {daemon.endpoint} dial-stdio\n"
        )
        kubectl.chmod(0o755)
        plain.environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
        answer = builds(plain, "kube-pod://the-pod?context=c&namespace=n&container=k")
        assert answer.status == 0, answer.err
