"""The network of an ordinary user's steps, by pasta and by slirp4netns."""

from __future__ import annotations

import shutil
import socket
import socketserver
import threading
from typing import TYPE_CHECKING

import pytest

from anyarch.sandbox.net.dns import resolvers

from .test_ordinary_user import as_nobody, home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root  # to become somebody else

__all__ = ["home"]


@pytest.fixture(params=["pasta", "slirp4netns"])
def connector(request: pytest.FixtureRequest) -> str:
    """A directory with this program and no other that connects networks."""
    return str(request.param)


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.0 200 OK\r\n\r\nserved")


def _outward_address() -> str:
    """That of this machine, as others see it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.250", 9))
        return str(probe.getsockname()[0])


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Of a server on the loopback, and of one on the machine's outward address."""
    addresses = ("127.0.0.1", _outward_address())
    servers = [socketserver.ThreadingTCPServer((address, 0), _Greeter) for address in addresses]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield (servers[0].server_address[1], servers[1].server_address[1])
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def only(home: Path, program: str) -> str:
    """A statement that leaves `program` alone on the PATH."""
    path = shutil.which(program)
    assert path is not None
    directory = home / "programs"
    directory.mkdir(exist_ok=True)
    (directory / program).symlink_to(path)
    return f"os.environ['PATH'] = {str(directory)!r}"


def test_steps_reach_the_machine_by_its_outward_address_but_not_its_loopback(
    home: Path, connector: str, ports: tuple[int, int]
) -> None:
    loopback, outward = ports
    found = as_nobody(
        home,
        f"""
{only(home, connector)}
result["refusal"] = executor.own_network()
def get(address, port, network="own"):
    sh(f"busybox timeout 3 busybox wget -q -O - http://{{address}}:{{port}}/", network=network)
    return out.decode()
result["outward"] = get({_outward_address()!r}, {outward})
result["loopback"] = [get(address, {loopback}) for address in ("127.0.0.1", "10.0.2.2")]
result["host"] = get("127.0.0.1", {loopback}, network="host")
""",
    )
    assert found["refusal"] == ""
    assert found["outward"].endswith("served"), found
    assert not any("served" in text for text in found["loopback"])
    assert found["host"].endswith("served")  # for those that share the machine's


def test_the_program_that_connects_ends_with_the_executor(home: Path, connector: str) -> None:
    found = as_nobody(
        home,
        f"""
import subprocess
{only(home, connector)}
result["refusal"] = executor.own_network()
executor.close()
def mine(name):
    try:
        return os.readlink(f"/proc/{{name}}/exe") == os.path.realpath({shutil.which(connector)!r}) and (
            os.stat(f"/proc/{{name}}").st_uid == 65534)
    except OSError:
        return False
import time
for _ in range(500):
    left = [name for name in os.listdir("/proc") if name.isdecimal() and mine(name)]
    if not left:
        break
    time.sleep(0.01)
result["left"] = left
result["state"] = os.listdir(here + "/state")
""",
    )
    assert found == {"refusal": "", "left": [], "state": []}


def test_steps_of_one_executor_share_the_network_and_nothing_else_sees_it(home: Path) -> None:
    found = as_nobody(
        home,
        """
result["refusal"] = executor.own_network()
def network(**fields):
    assert sh("readlink /proc/self/ns/net", **fields) == 0
    return out.decode()
result["own"] = [network(network="own"), network(network="own")]
result["host"], result["none"] = network(), network(network="none")
result["mounts"] = sh("grep -c /state /proc/self/mountinfo", network="own")
result["fds"] = sh("ls /proc/self/fd", network="own"), out.decode().split()
""",
    )
    assert found["refusal"] == ""
    assert len({*found["own"], found["host"], found["none"]}) == 3
    assert found["mounts"] == 1  # grep found none
    assert set(found["fds"][1]) <= {"0", "1", "2", "3"}


def test_without_a_program_that_connects_the_reason_says_what_to_install(home: Path) -> None:
    found = as_nobody(home, "os.environ['PATH'] = here\nresult['refusal'] = executor.own_network()")
    assert "neither pasta nor slirp4netns" in found["refusal"]
    assert "apt-get install passt" in found["refusal"]


def test_a_program_that_fails_is_quoted_and_the_next_one_tried(home: Path) -> None:
    (home / "programs").mkdir()
    broken = home / "programs" / "pasta"
    broken.write_text("#!/bin/sh\necho 'no network today' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = as_nobody(
        home, f"os.environ['PATH'] = {str(broken.parent)!r}\nresult['refusal'] = executor.own_network()"
    )
    assert found["refusal"] == "pasta: no network today"
    found = as_nobody(home, f"{only(home, 'slirp4netns')}\nresult['refusal'] = executor.own_network()")
    assert found["refusal"] == ""


def test_resolvers_on_the_loopback_are_left_out_and_replaced_when_there_are_no_others() -> None:
    assert (
        resolvers(b"search a\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n")
        == b"search a\nnameserver 9.9.9.9\n"
    )
    replaced = resolvers(b"search a\nnameserver ::1\nnameserver 127.0.0.1\n")
    assert b"127.0.0." not in replaced
    assert b"::1" not in replaced
    assert replaced.count(b"nameserver") >= 1
