"""A bridge of the machine that steps are connected to by a pair of interfaces each; the world beyond it sees
the machine's address.

It is made with the first daemon that uses it and removed with the last one; one that was there before stays.
The gateway has the first address of the subnet. From a step the machine's loopback is out of reach, and so
are other steps; what listens on other addresses of the machine is not.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING

from anyarch.errors import SandboxError
from anyarch.sandbox.net.addresses import BridgeShare
from anyarch.sandbox.net.firewall import close_forwarding, open_forwarding
from anyarch.sandbox.net.namespace import inside, make_namespace
from anyarch.sandbox.net.netlink import Routes
from anyarch.sandbox.net.nft import BridgeRules
from anyarch.sandbox.supervisor.report import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Interface, IPv6Interface

    from anyarch.sandbox.net.pool import StepNetwork

__all__ = ["DEFAULT_NAME", "DEFAULT_SUBNET", "BridgeNetworks"]

DEFAULT_NAME, DEFAULT_SUBNET = "buildkit0", "10.10.0.0/16"  # BuildKit's
_OURS = "anyarch"
_IFNAMSIZ = 16
_FORWARDING = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}


class _Connected:
    def __init__(self, namespace: int, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        self.namespace = namespace
        self.interface = interface
        self.address = address


class BridgeNetworks:
    """A `NetworkProvider`. `note` is told what of the machine is changed."""

    uses_names = False

    def __init__(
        self,
        name: str = "",
        subnet: str = "",
        *,
        note: Callable[[str], object] = lambda text: None,
        directory: str = "/run/anyarch",
    ) -> None:
        """Raises `SandboxError` for a name or subnet that cannot be, and what the kernel refuses."""
        self._name = name or DEFAULT_NAME
        if not 0 < len(self._name.encode()) < _IFNAMSIZ or set(self._name) & set("/ :%\t\n"):
            raise SandboxError(
                f"{self._name!r} is no name for a bridge", hint="give bridgeName up to 15 letters"
            )
        try:
            self._subnet = ip_network(subnet or DEFAULT_SUBNET)
        except ValueError as error:
            raise SandboxError(
                f"bridgeSubnet {subnet!r}: {error}", hint="write it like 10.10.0.0/16"
            ) from None
        with _telling(f"the bridge {self._name}"):
            self._share = BridgeShare(self._name, self._subnet, directory)
            try:
                with self._share.changing():
                    self._set_up(note)
            except BaseException:
                self._share.close()
                raise

    def _set_up(self, note: Callable[[str], object]) -> None:
        name, gateway = self._name, self._share.gateway
        self._rules = BridgeRules(f"anyarch-{os.urandom(6).hex()}", name, self._subnet)
        try:
            self._routes = Routes()
            try:
                kind = self._routes.kind(name)
                if not self._routes.index(name):
                    self._routes.add_bridge(name, _OURS)
                elif kind != "bridge":
                    raise SandboxError(
                        f"{name} is there already but is not a bridge", hint="choose another bridgeName"
                    )
                self._routes.add_address(name, gateway)
                self._routes.set_up(name)
                _forward(_FORWARDING[self._subnet.version], note)
                open_forwarding(name, self._subnet.version, note)
            except BaseException:
                self._routes.close()
                raise
        except BaseException:
            self._rules.close()
            raise

    def make(self, hostname: str) -> _Connected:
        with _telling(f"a network of the bridge {self._name}"):
            address = self._share.take()
            namespace = -1
            try:
                namespace = make_namespace()
                interface = f"veth{os.urandom(4).hex()}"
                self._routes.add_veth(interface, "eth0", namespace)
                # Before it can send anything: alone on the bridge but for the gateway.
                self._routes.join_bridge(interface, self._name)
                inside(namespace, lambda: _configure(address, self._share.gateway))
            except BaseException:
                if namespace >= 0:
                    os.close(namespace)
                self._share.give_back(address)
                raise
            return _Connected(namespace, interface, address)

    def remove(self, network: StepNetwork) -> None:
        assert isinstance(network, _Connected)
        try:
            # With its namespace it would go too, but not at once, and another step is to get its address.
            with _telling(f"a network of the bridge {self._name}"):
                self._routes.delete(network.interface)
        finally:
            os.close(network.namespace)
            self._share.give_back(network.address)

    def close(self) -> None:
        with self._share.changing():
            is_last = self._share.is_last()
            try:
                if is_last:
                    close_forwarding(self._name, self._subnet.version)
                    if self._routes.alias(self._name) == _OURS:
                        self._routes.delete(self._name)
            finally:
                self._rules.close()
                self._routes.close()
                self._share.close(removes=is_last)


def _configure(address: IPv4Interface | IPv6Interface, gateway: IPv4Interface | IPv6Interface) -> None:
    """In the namespace of a step."""
    with Routes() as routes:
        routes.add_address("eth0", address)
        routes.set_up("eth0")
        routes.add_default_route("eth0", gateway.ip)


def _forward(path: str, note: Callable[[str], object]) -> None:
    """Have the machine pass packets on."""
    with open(path, "r+b", buffering=0) as file:
        if file.read().strip() != b"0":
            return
        file.write(b"1")
    note(f"{path} is 1 now: steps reach the world through this machine")


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        raise SandboxError(f"{what} cannot be set up: {refused.gate}: {os.strerror(refused.code)}") from None
    except OSError as error:
        name = f": {error.filename}" if error.filename else ""
        raise SandboxError(
            f"{what} cannot be set up{name}: {error.strerror or error}",
            hint="it takes root in the machine's namespaces, and a kernel with bridge, veth and nf_tables",
        ) from None
