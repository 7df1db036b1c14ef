"""Machines of a test's own: network namespaces that a test runs in, so that it changes nothing outside."""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from anyarch.sandbox.net.namespace import inside, make_namespace
from anyarch.sandbox.net.netlink import Routes
from tests.listening import answered

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["in_own_machine", "serving", "world"]


def in_own_machine(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test where there is nothing but a loopback, which is up."""

    @functools.wraps(test)
    def run(*args: object, **keywords: object) -> None:
        namespace = make_namespace()
        try:
            inside(namespace, lambda: test(*args, **keywords))
        finally:
            os.close(namespace)

    return run


@contextmanager
def world() -> Iterator[int]:
    """The namespace of another machine, 192.0.2.2, to which this one is connected as 192.0.2.1."""
    other = make_namespace()

    def configure() -> None:
        with Routes() as there:
            there.add_address("up0", ip_interface("192.0.2.2/24"))
            there.set_up("up0")
            there.add_default_route("up0", ip_address("192.0.2.1"))

    try:
        with Routes() as routes:
            routes.add_veth("up0", "up0", other)
            routes.add_address("up0", ip_interface("192.0.2.1/24"))
            routes.set_up("up0")
        inside(other, configure)
        yield other
    finally:
        os.close(other)


@contextmanager
def serving(sock: socket.socket) -> Iterator[None]:
    """Tell each who connects which address it is seen with."""
    sock.listen()
    with answered(
        sock, lambda peer, address: peer.sendall(f"hello {address[0] if address else ''}\n".encode())
    ):
        yield
