"""Network interfaces, addresses and routes by rtnetlink(7): the few requests that a network of steps needs.

A socket speaks for the namespace of the thread that opened it, from any thread. Every request waits for the
kernel's answer and raises OSError with its errno.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
    from types import TracebackType

__all__ = ["Netlink", "Routes", "attribute", "nested"]

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NLA_F_NESTED = 0x8000
_SIZE = 1 << 16

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_NEWROUTE = 20, 24
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 10, 18, 20
_IFLA_PROTINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 12, 26, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
_IFLA_BRPORT_ISOLATED = 33
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_NODAD = 1, 2, 8, 0x02
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_AF_BRIDGE = 7
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, mask of flags


def attribute(kind: int, value: bytes) -> bytes:
    """struct nlattr with its padding."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


class Netlink:
    """One netlink socket. Close it, or use it as a context manager. Thread-safe."""

    def __init__(self, family: int) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._lock = threading.Lock()
        self._sequence = 0
        try:
            self._sock.bind((0, 0))
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def request(self, kind: int, flags: int, payload: bytes) -> bytes:
        """One request; the payload of the answer, if it has one beside the kernel's word that it is done."""
        with self._lock:
            self._sock.send(self._message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, payload))
            return self._answer({self._sequence})

    def batch(self, messages: list[tuple[int, int, bytes]]) -> None:
        """Requests in one datagram; those with NLM_F_ACK are waited for."""
        with self._lock:
            parts, awaited = [], set()
            for kind, flags, payload in messages:
                parts.append(self._message(kind, flags | NLM_F_REQUEST, payload))
                if flags & NLM_F_ACK:
                    awaited.add(self._sequence)
            self._sock.send(b"".join(parts))
            self._answer(awaited)

    def _message(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload

    def _answer(self, awaited: set[int]) -> bytes:
        found, failure = b"", 0
        while awaited:
            data = self._sock.recv(_SIZE)
            while len(data) >= _HEADER.size:
                size, kind, _, sequence, _ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : size], data[(size + 3) & ~3 :]
                if kind != _NLMSG_ERROR:
                    found = body
                    continue
                # A batch may be refused as a whole: the answer has the number of its first message then.
                (code,) = struct.unpack_from("=i", body)
                if code:
                    failure = failure or -code
                    awaited.clear()
                awaited.discard(sequence)
        if failure:
            raise OSError(failure, os.strerror(failure))
        return found


class Routes(Netlink):
    """Interfaces are named; numbers stay here."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)

    def index(self, name: str) -> int:
        """The number of an interface, 0 when there is none."""
        return self._find(name)[0]

    def alias(self, name: str) -> str | None:
        """What it is described by; None when there is none of the name."""
        number, attributes = self._find(name)
        if not number:
            return None
        return attributes.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode("utf-8", "replace")

    def kind(self, name: str) -> str:
        """`bridge`, `veth` …; empty for a device without one."""
        info = _parse(self._find(name)[1].get(_IFLA_LINKINFO, b""))
        return info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")

    def add_bridge(self, name: str, alias: str) -> None:
        """It is described by `alias`."""
        info = nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"bridge\0"))
        self._new_link(_name(name) + info)
        # What is given to it when it is there: an alias, and for good the hardware address that it has, since
        # otherwise that changes with its ports while neighbours remember it.
        address = self._find(name)[1].get(_IFLA_ADDRESS, b"")
        self._set(name, attribute(_IFLA_IFALIAS, alias.encode()) + attribute(_IFLA_ADDRESS, address))

    def add_veth(self, name: str, peer: str, namespace: int) -> None:
        """A pair of interfaces; `peer` is in the namespace of that descriptor."""
        other = _LINK.pack(0, 0, 0, 0, 0) + _name(peer)
        other += attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace))
        data = nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other))
        info = nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"veth\0"), data)
        self._new_link(_name(name) + info)

    def join_bridge(self, name: str, bridge: str) -> None:
        """As a port that exchanges nothing with other ports like it, and set it up."""
        master = struct.pack("=I", self._existing(bridge))
        self._set(name, attribute(_IFLA_MASTER, master))
        isolated = nested(_IFLA_PROTINFO, attribute(_IFLA_BRPORT_ISOLATED, b"\1"))
        link = _LINK.pack(_AF_BRIDGE, 0, self._existing(name), 0, 0)
        self.request(_RTM_SETLINK, 0, link + isolated)
        self.set_up(name)

    def set_up(self, name: str) -> None:
        """It gets no link-local address of IPv6, by which a step would reach what listens on all addresses of
        the machine."""
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
        try:
            self._set(name, nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, mode)))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6
                raise
        self._set(name, b"", flags=_IFF_UP)

    def add_address(self, name: str, address: IPv4Interface | IPv6Interface) -> None:
        """One that is there already stays."""
        family = _family(address)
        payload = struct.pack("=BBBBI", family, address.network.prefixlen, 0, 0, self._existing(name))
        packed = address.ip.packed
        payload += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        if address.version == 6:  # nobody else can have it
            payload += attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
        try:
            self.request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload)
        except FileExistsError:
            return

    def add_default_route(self, name: str, gateway: IPv4Address | IPv6Address) -> None:
        kind = (_RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST)
        payload = struct.pack("=8BI", _family(gateway), 0, 0, 0, *kind, 0)
        payload += attribute(_RTA_GATEWAY, gateway.packed)
        payload += attribute(_RTA_OIF, struct.pack("=I", self._existing(name)))
        self.request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, payload)

    def delete(self, name: str) -> None:
        """Nothing happens when there is none."""
        number = self.index(name)
        if number:
            try:
                self.request(_RTM_DELLINK, 0, _LINK.pack(0, 0, number, 0, 0))
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went with its namespace meanwhile
                    raise

    def _new_link(self, attributes: bytes) -> None:
        self.request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _LINK.pack(0, 0, 0, 0, 0) + attributes)

    def _set(self, name: str, attributes: bytes, *, flags: int = 0) -> None:
        self.request(_RTM_NEWLINK, 0, _LINK.pack(0, 0, self._existing(name), flags, flags) + attributes)

    def _existing(self, name: str) -> int:
        number = self.index(name)
        if not number:
            raise OSError(errno.ENODEV, f"there is no interface {name}")
        return number

    def _find(self, name: str) -> tuple[int, dict[int, bytes]]:
        try:
            answer = self.request(_RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(name))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0, {}
            raise
        return _LINK.unpack_from(answer)[2], _parse(answer[_LINK.size :])


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _family(address: IPv4Address | IPv6Address | IPv4Interface | IPv6Interface) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _parse(raw: bytes) -> dict[int, bytes]:
    found = {}
    while len(raw) >= 4:
        size, kind = struct.unpack_from("=HH", raw)
        if size < 4:
            break
        found[kind & 0x3FFF] = raw[4:size]
        raw = raw[(size + 3) & ~3 :]
    return found
