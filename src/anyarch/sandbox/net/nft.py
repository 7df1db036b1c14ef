"""Rules of nftables for one bridge, by netlink: what leaves it gets the machine's address, nothing new comes
in, and its ports do not reach one another through the machine.

The table belongs to the socket it was made by, and goes with it, however its process ends (Linux 5.12).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from anyarch.sandbox.net.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    Netlink,
    attribute,
    nested,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["BridgeRules"]

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYSTEM = 10 << 8
_NEWTABLE, _NEWCHAIN, _NEWRULE = _SUBSYSTEM | 0, _SUBSYSTEM | 3, _SUBSYSTEM | 6
_NLM_F_APPEND = 0x800
_TABLE_NAME, _TABLE_FLAGS, _TABLE_OWNER = 1, 2, 0x2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_NFPROTO = {4: 2, 6: 10}
_FORWARD, _POSTROUTING = 2, 4
_PRIORITY_FILTER, _PRIORITY_SNAT = 0, 100
_DROP, _ACCEPT = 0, 1
_REGISTER = 1
_EQUAL, _UNEQUAL = 0, 1
_IFNAMSIZ = 16
_META_IIFNAME, _META_OIFNAME = 6, 7
_CT_STATE, _ESTABLISHED_OR_RELATED = 0, 0x2 | 0x4
_NETWORK_HEADER = 1
_SOURCE_OFFSET = {4: 12, 6: 8}


class BridgeRules:
    """They hold until `close`. Raises OSError where the kernel has no nf_tables, or is too old."""

    def __init__(self, table: str, bridge: str, subnet: IPv4Network | IPv6Network) -> None:
        self._family = _NFPROTO[subnet.version]
        self._table = table
        from_subnet = [
            *_payload(_SOURCE_OFFSET[subnet.version], subnet.netmask.packed),
            _compare(_EQUAL, subnet.network_address.packed),
        ]
        out_elsewhere = [_meta(_META_OIFNAME), _compare(_UNEQUAL, _interface(bridge))]
        inwards = [_meta(_META_OIFNAME), _compare(_EQUAL, _interface(bridge))]
        outwards = [_meta(_META_IIFNAME), _compare(_EQUAL, _interface(bridge))]
        generation = struct.pack("=BBH", 0, 0, socket.htons(10))  # the batch is for nf_tables
        messages = [
            (_BATCH_BEGIN, 0, generation),
            self._of_table(
                _NEWTABLE, NLM_F_CREATE, (_TABLE_NAME, _text(table)), (_TABLE_FLAGS, _be(_TABLE_OWNER))
            ),
            self._chain("masquerade", b"nat", _POSTROUTING, _PRIORITY_SNAT),
            self._chain("forward", b"filter", _FORWARD, _PRIORITY_FILTER),
            self._rule("masquerade", [*from_subnet, *out_elsewhere, _expression(b"masq")]),
            self._rule("forward", [*outwards, *inwards, _verdict(_DROP)]),
            self._rule("forward", [*inwards, *_is_new(), _verdict(_DROP)]),
            (_BATCH_END, 0, generation),
        ]
        self._netlink = Netlink(NETLINK_NETFILTER)
        try:
            self._netlink.batch(messages)
        except BaseException:
            self._netlink.close()
            raise

    def close(self) -> None:
        self._netlink.close()

    def _of_table(self, kind: int, flags: int, *attributes: tuple[int, bytes]) -> tuple[int, int, bytes]:
        head = struct.pack("=BBH", self._family, 0, 0)
        return kind, flags | NLM_F_ACK, head + b"".join(attribute(*one) for one in attributes)

    def _chain(self, name: str, kind: bytes, hook: int, priority: int) -> tuple[int, int, bytes]:
        place = attribute(_HOOK_NUMBER, _be(hook)) + attribute(_HOOK_PRIORITY, _be(priority))
        return self._of_table(
            _NEWCHAIN,
            NLM_F_CREATE,
            (_CHAIN_TABLE, _text(self._table)),
            (_CHAIN_NAME, _text(name)),
            (_CHAIN_HOOK | 0x8000, place),
            (_CHAIN_POLICY, _be(_ACCEPT)),
            (_CHAIN_TYPE, kind + b"\0"),
        )

    def _rule(self, chain: str, expressions: list[bytes]) -> tuple[int, int, bytes]:
        return self._of_table(
            _NEWRULE,
            NLM_F_CREATE | _NLM_F_APPEND,
            (_RULE_TABLE, _text(self._table)),
            (_RULE_CHAIN, _text(chain)),
            (_RULE_EXPRESSIONS | 0x8000, b"".join(expressions)),
        )


def _expression(name: bytes, *attributes: bytes) -> bytes:
    parts = [attribute(_EXPRESSION_NAME, name + b"\0")]
    if attributes:
        parts.append(nested(_EXPRESSION_DATA, *attributes))
    return nested(_ELEMENT, *parts)


def _meta(key: int) -> bytes:
    """Load it into the register."""
    return _expression(b"meta", attribute(1, _be(_REGISTER)), attribute(2, _be(key)))


def _payload(offset: int, mask: bytes) -> list[bytes]:
    """Load what the network header has there, under `mask`."""
    size = _be(len(mask))
    register = _be(_REGISTER)
    place = [attribute(2, _be(_NETWORK_HEADER)), attribute(3, _be(offset)), attribute(4, size)]
    return [_expression(b"payload", attribute(1, register), *place), _under_mask(mask)]


def _under_mask(mask: bytes) -> bytes:
    register = _be(_REGISTER)
    registers = [attribute(1, register), attribute(2, register), attribute(3, _be(len(mask)))]
    return _expression(
        b"bitwise", *registers, nested(4, attribute(1, mask)), nested(5, attribute(1, bytes(len(mask))))
    )


def _is_new() -> list[bytes]:
    """What belongs to no connection that began on the other side."""
    state = _expression(b"ct", attribute(1, _be(_REGISTER)), attribute(2, _be(_CT_STATE)))
    mask = struct.pack("=I", _ESTABLISHED_OR_RELATED)
    return [state, _under_mask(mask), _compare(_EQUAL, bytes(4))]


def _compare(operation: int, value: bytes) -> bytes:
    register = attribute(1, _be(_REGISTER))
    return _expression(b"cmp", register, attribute(2, _be(operation)), nested(3, attribute(1, value)))


def _verdict(code: int) -> bytes:
    verdict = nested(2, attribute(1, _be(code)))
    return _expression(b"immediate", attribute(1, _be(0)), nested(2, verdict))


def _interface(name: str) -> bytes:
    return name.encode().ljust(_IFNAMSIZ, b"\0")


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _be(number: int) -> bytes:
    return struct.pack(">I", number)
