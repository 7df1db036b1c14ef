"""resolv.conf of steps."""

from __future__ import annotations

from anyarch.sandbox.net.dns import Dns, _overridden, resolvers

_MACHINE = b"domain d\nsearch a b\nnameserver 127.0.0.53\noptions edns0\nsortlist x\n"


def test_what_a_daemon_is_told_stands_instead_of_the_machine_s_lines() -> None:
    assert _overridden(_MACHINE, Dns(nameservers=("9.9.9.9", "2620:fe::fe"))) == (
        b"domain d\nsearch a b\noptions edns0\nsortlist x\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\n"
    )
    assert _overridden(_MACHINE, Dns(search=("c",), options=("ndots:2", "rotate"))) == (
        b"nameserver 127.0.0.53\nsortlist x\nsearch c\noptions ndots:2 rotate\n"
    )


def test_servers_of_the_machine_s_interfaces_are_none_of_a_step_s() -> None:
    assert resolvers(b"nameserver fe80::1%eth0\nnameserver 192.0.2.7\n") == b"nameserver 192.0.2.7\n"
