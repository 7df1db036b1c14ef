"""Networks of steps on a bridge: what a step reaches, what reaches it, and what is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import SandboxError
from anyarch.sandbox.net.bridge import BridgeNetworks
from anyarch.sandbox.net.namespace import inside
from anyarch.sandbox.net.netlink import Routes
from anyarch.sandbox.net.pool import NetworkPool

from .machines import in_own_machine, serving, world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Steps

pytestmark = pytest.mark.root


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Callable[..., NetworkPool]]:
    """Pools of a bridge, closed with the test."""
    with ExitStack() as stack:

        def make(size: int = 0, **options: str) -> NetworkPool:
            bridge = BridgeNetworks(directory=str(tmp_path / "run"), **options)
            pool = NetworkPool(bridge, size, on_error=errors.append)
            stack.callback(pool.close)
            pool.try_one()
            return pool

        errors: list[str] = []
        yield make
    assert errors == []


def _step(steps: Steps, pool: NetworkPool, script: str) -> str:
    with pool.lease() as lease:
        return steps.sh(script, network="own", namespace=lease.namespace)


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@in_own_machine
def test_a_step_has_an_address_of_the_bridge_and_its_gateway(
    root_steps: Steps, networks: Callable[..., NetworkPool]
) -> None:
    pool = networks(subnet="10.77.0.0/24", name="few0")
    found = _step(root_steps, pool, "ip addr show eth0; ip route; ip addr")
    assert "inet 10.77.0." in found
    assert "default via 10.77.0.1 dev eth0" in found
    assert "fe80" not in found  # no address by which it could reach what listens on all of the machine's


@in_own_machine
def test_what_listens_on_the_machine_s_loopback_is_out_of_reach_of_a_step(
    root_steps: Steps, networks: Callable[..., NetworkPool]
) -> None:
    pool = networks()
    port = 7001
    loopback, gateway = socket.socket(), socket.socket()
    loopback.bind(("127.0.0.1", port))
    gateway.bind(("10.10.0.1", port + 1))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0anyarch-test")
    with serving(loopback), serving(gateway), serving(abstract):
        script = f"""
nc -w 2 10.10.0.1 {port + 1} < /dev/null
for place in 127.0.0.1 10.10.0.1; do nc -w 2 $place {port} < /dev/null 2>/dev/null || echo refused; done
grep -c anyarch-test /proc/net/unix || true
"""
        found = _step(root_steps, pool, script).split("\n")
    assert found[0].startswith("hello 10.10.")
    assert found[1:4] == ["refused", "refused", "0"]


@in_own_machine
def test_steps_do_not_reach_one_another(root_steps: Steps, networks: Callable[..., NetworkPool]) -> None:
    pool = networks()
    with pool.lease() as other:
        address = root_steps.sh("ip -4 addr show eth0", network="own", namespace=other.namespace)
        address = address.split("inet ")[1].split("/")[0]
        listening = inside(other.namespace, lambda: socket.create_server((address, 7003)))
        with serving(listening):
            script = f"nc -w 2 {address} 7003 < /dev/null 2>/dev/null || echo refused"
            assert _step(root_steps, pool, script) == "refused\n"
            # nor by a packet that is sent to the gateway for it
            script = f"ip route add {address}/32 via 10.10.0.1 2>/dev/null || echo kept"
            assert _step(root_steps, pool, script) == "kept\n"


@in_own_machine
def test_the_world_sees_the_machine_s_address_and_reaches_no_step(
    root_steps: Steps, networks: Callable[..., NetworkPool]
) -> None:
    pool = networks()
    with world() as other:
        there = inside(other, lambda: socket.create_server(("192.0.2.2", 7004)))
        with serving(there), pool.lease() as lease:
            script = "nc -w 2 192.0.2.2 7004 < /dev/null; ip -4 addr show eth0"
            found = root_steps.sh(script, network="own", namespace=lease.namespace)
            assert found.startswith("hello 192.0.2.1\n")
            address = found.split("inet ")[1].split("/")[0]
            listening = inside(lease.namespace, lambda: socket.create_server((address, 7005)))

            def connect() -> None:  # it has a route by way of the machine
                socket.create_connection((address, 7005), timeout=1).close()

            with serving(listening), pytest.raises(OSError):
                inside(other, connect)


@in_own_machine
def test_a_namespace_is_used_again_unless_its_step_could_change_it(
    networks: Callable[..., NetworkPool],
) -> None:
    pool = networks()
    with pool.lease() as first:
        kept = os.fstat(first.namespace).st_ino
    with pool.lease() as second:
        assert os.fstat(second.namespace).st_ino == kept
        second.is_altered = True
    with pool.lease() as third:
        assert os.fstat(third.namespace).st_ino != kept


@in_own_machine
def test_a_pool_that_is_closed_waits_for_the_steps_that_end(networks: Callable[..., NetworkPool]) -> None:
    before = _interfaces()
    pool = networks()
    lease = pool.lease()
    closing = threading.Thread(target=pool.close)
    closing.start()
    with pytest.raises(SandboxError, match="the daemon is stopping"):
        while True:  # until it has begun to close
            pool.lease().close()
    lease.close()
    closing.join()
    assert _interfaces() == before - {"buildkit0"}


@in_own_machine
def test_so_many_namespaces_wait_for_steps_as_were_asked_for(networks: Callable[..., NetworkPool]) -> None:
    networks(3)
    deadline = time.monotonic() + 20
    while len(_interfaces()) < 2 + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(_interfaces()) == 2 + 3  # beside the loopback and the bridge


@in_own_machine
def test_the_last_one_that_uses_a_bridge_removes_it(
    tmp_path: Path, networks: Callable[..., NetworkPool]
) -> None:
    before = _interfaces()
    pool = networks()
    other = networks()
    pool.close()
    assert "buildkit0" in _interfaces()
    other.close()
    assert _interfaces() == before
    assert not (tmp_path / "run").exists()
    with Routes() as routes:
        routes.add_bridge("mine0", "an administrator's")
        networks(name="mine0").close()
        assert routes.kind("mine0") == "bridge"


@in_own_machine
def test_two_daemons_of_a_bridge_give_different_addresses(tmp_path: Path) -> None:
    options = {"subnet": "10.78.0.0/29", "name": "few1", "directory": str(tmp_path)}
    bridges = [BridgeNetworks(**options), BridgeNetworks(**options)]
    made = []
    try:
        # eight, without the network's own, the gateway and the broadcast address
        made.extend((bridges[number % 2], bridges[number % 2].make("")) for number in range(5))
        assert len({network.address for _, network in made}) == 5
        with pytest.raises(SandboxError, match=r"all addresses of 10\.78\.0\.0/29 are used by steps"):
            bridges[0].make("")
        bridge, network = made.pop()
        bridge.remove(network)
        made.append((bridges[1], bridges[1].make("")))
    finally:
        for bridge, network in made:
            bridge.remove(network)
        for bridge in bridges:
            bridge.close()


_DIES = """
import sys, time
from anyarch.sandbox.net.bridge import BridgeNetworks
from anyarch.sandbox.net.pool import NetworkPool
pool = NetworkPool(BridgeNetworks(directory=sys.argv[1]), 2)
pool.try_one()
lease = pool.lease()
print("ready", flush=True)
time.sleep(600)
"""


@in_own_machine
def test_what_a_killed_daemon_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    before = _interfaces()
    process = subprocess.Popen(
        [sys.executable, "-c", _DIES, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(name.startswith("veth") for name in _interfaces()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel takes namespaces apart beside other work
    assert _interfaces() - before == {"buildkit0"}
    bridge = BridgeNetworks(subnet="10.10.0.0/30", directory=str(tmp_path))
    bridge.remove(bridge.make(""))  # the one address there is, is free
    bridge.close()
    assert _interfaces() == before


@in_own_machine
def test_what_iptables_would_not_forward_is_accepted_while_the_bridge_is_there(tmp_path: Path) -> None:
    program = shutil.which("iptables")
    assert program is not None

    def rules() -> str:
        return subprocess.check_output([program, "-S", "FORWARD"], text=True)

    notes: list[str] = []
    bridge = BridgeNetworks(directory=str(tmp_path), note=notes.append)
    assert "buildkit0" not in rules()
    bridge.close()
    subprocess.run([program, "-P", "FORWARD", "DROP"], check=True)
    bridge = BridgeNetworks(directory=str(tmp_path), note=notes.append)
    assert rules().count("buildkit0") == 2
    bridge.close()
    assert rules() == "-P FORWARD DROP\n"
    assert notes[-1] == f"{program} accepts packets of buildkit0 in FORWARD now"


@in_own_machine
def test_steps_reach_the_world_where_iptables_drops_by_default(
    root_steps: Steps, networks: Callable[..., NetworkPool]
) -> None:
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
    pool = networks()
    with world() as other:
        there = inside(other, lambda: socket.create_server(("192.0.2.2", 7006)))
        with serving(there):
            assert _step(root_steps, pool, "nc -w 2 192.0.2.2 7006 < /dev/null") == "hello 192.0.2.1\n"


@in_own_machine
def test_a_bridge_of_ipv6_addresses_works_too(
    root_steps: Steps, networks: Callable[..., NetworkPool]
) -> None:
    pool = networks(subnet="fd00:7::/64", name="six0")
    listening = socket.create_server(("fd00:7::1", 7007), family=socket.AF_INET6)
    with serving(listening):
        found = _step(root_steps, pool, "nc -w 2 fd00:7::1 7007 < /dev/null; ip -6 route")
    assert found.startswith("hello fd00:7::")
    assert "default via fd00:7::1 dev eth0" in found


@in_own_machine
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subnet": "10.0.0.0/31"}, "the subnet 10.0.0.0/31 of the bridge has no address for a step"),
        ({"subnet": "10.0.0.1/24"}, "bridgeSubnet '10.0.0.1/24': 10.0.0.1/24 has host bits set"),
        ({"name": "a/b"}, "'a/b' is no name for a bridge"),
        ({"name": "lo"}, "lo is there already but is not a bridge"),
    ],
)
def test_a_bridge_that_cannot_be_is_one_clear_error(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SandboxError, match=message):
        BridgeNetworks(directory=str(tmp_path), **options)
    assert _interfaces() == {"lo"}
