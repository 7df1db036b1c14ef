"""From the proxy to the world: a name is looked up once, and the address that was judged is the one that is
connected to, so that no second answer of a name server (rebinding) leads elsewhere."""

from __future__ import annotations

import errno
import os
import socket
import time
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from anyarch.http.sockets import first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.http.sockets import Address

__all__ = ["Egress", "Reach"]

_CONNECT_S = 30.0
_METADATA = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "168.63.129.16/32",
    )
)
"""What clouds tell a machine of itself, its passwords among it; no build takes its materials from there."""
_NAT64 = ip_network("64:ff9b::/96")


class Reach(Enum):
    """`WORLD` is everything but this machine's loopback and what clouds tell it of itself, `MACHINE` has the
    loopback too, `ALL` is all."""

    WORLD = 1
    MACHINE = 2
    ALL = 3


class Egress:
    """Thread-safe. `hosts` are names with an address of their own. `make_socket` (family to socket) makes it
    in the network that is gone out by."""

    def __init__(
        self,
        reach: Reach,
        *,
        hosts: Mapping[str, str] | None = None,
        make_socket: Callable[[int], socket.socket] | None = None,
    ) -> None:
        self._reach = reach
        self._hosts = {name.lower(): address for name, address in (hosts or {}).items()}
        self._make_socket = make_socket or _here

    def connect(self, host: str, port: int, on_socket: Callable[[socket.socket], None]) -> socket.socket:
        """Connected to the first address that answers; `on_socket` gets each socket before it waits. Raises
        OSError."""

        def connect(found: Address, until: float) -> socket.socket:
            family, _, _, _, address = found
            why = self.refusal(str(address[0]))
            if why:
                raise PermissionError(
                    errno.EACCES, f"{host} is {why}, which the proxy network does not reach"
                )
            sock = self._make_socket(family)
            try:
                on_socket(sock)
                sock.settimeout(max(0.1, until - time.monotonic()))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except BaseException:
                sock.close()
                raise

        return first_of(self._hosts.get(host, host), port, time.monotonic() + _CONNECT_S, connect)

    def refusal(self, text: str) -> str:
        """What an address is that is out of reach; empty for one that is not."""
        if self._reach is Reach.ALL:
            return ""
        address = _meant(ip_address(text.partition("%")[0]))
        if address.is_multicast or address == IPv4Address("255.255.255.255"):
            return f"the group {address}"
        if any(address in network for network in _METADATA if network.version == address.version):
            return f"the link-local address {address}" if address.is_link_local else f"the address {address}"
        if self._reach is Reach.WORLD and (address.is_loopback or _is_unspecified(address)):
            return f"the loopback address {address}"
        return ""


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address of version 4 that one of version 6 stands for."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_unspecified(address: IPv4Address | IPv6Address) -> bool:
    """All of 0.0.0.0/8 is taken for this machine by some stacks."""
    return address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0)


def _here(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM)


def error_text(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return (error.strerror or "name not found").lower()
    return (error.strerror or os.strerror(error.errno or 0)).lower() if error.errno else str(error)
