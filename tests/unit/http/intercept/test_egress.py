"""What the proxy of a step connects to: no loopback, no metadata services, no second address of a name."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from anyarch.http.intercept.egress import Egress, Reach

from ..servers import Loopback, saying

INSIDE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "0.1.2.3",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "64:ff9b::a9fe:a9fe",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
]
OUTSIDE = ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1", "fd00::1"]


@pytest.mark.parametrize("address", [*INSIDE, *METADATA])
def test_the_world_has_neither_this_machine_nor_what_a_cloud_tells_it(address: str) -> None:
    assert Egress(Reach.WORLD).refusal(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_world_has_other_addresses(address: str) -> None:
    assert not Egress(Reach.WORLD).refusal(address)


@pytest.mark.parametrize("address", METADATA)
def test_the_machine_has_a_loopback_and_no_metadata(address: str) -> None:
    assert Egress(Reach.MACHINE).refusal(address)
    assert not any(Egress(Reach.MACHINE).refusal(inside) for inside in INSIDE)


def test_a_step_that_was_given_the_machines_network_reaches_all() -> None:
    assert not any(Egress(Reach.ALL).refusal(address) for address in [*INSIDE, *METADATA, *OUTSIDE])


def keep(sock: socket.socket) -> None:
    """Nobody ends it."""


def test_a_name_that_changes_its_address_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(saying(b"")) as server:
        answers = [["127.0.0.1"], ["127.0.0.1"]]

        def look_up(name: bytes, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers.pop(0)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with pytest.raises(PermissionError, match=r"the loopback address 127\.0\.0\.1"):
            Egress(Reach.WORLD).connect("rebound.example", server.port, keep)
        assert len(answers) == 1
        assert server.connections == 0


def test_of_several_addresses_those_out_of_reach_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(saying(b"")) as server:

        def look_up(name: bytes, port: int, **_: Any) -> list[Any]:
            found = ["169.254.169.254", "127.0.0.1"]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with Egress(Reach.MACHINE).connect("both.example", server.port, keep) as sock:
            assert sock.getpeername() == ("127.0.0.1", server.port)


def test_hosts_of_the_step_count_and_are_judged_as_others() -> None:
    with Loopback(saying(b"")) as server:
        hosts = {"Own.example": "127.0.0.1"}
        with Egress(Reach.MACHINE, hosts=hosts).connect("own.example", server.port, keep) as sock:
            assert sock.getpeername() == ("127.0.0.1", server.port)
        with pytest.raises(PermissionError):
            Egress(Reach.WORLD, hosts=hosts).connect("own.example", server.port, keep)
