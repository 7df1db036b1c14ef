"""EXPOSE arguments: `[ip:][host:]container[-container][/protocol]`."""

from __future__ import annotations

import msgspec

from anyarch.errors import DockerfileError

from .gotext import quote

__all__ = ["PortSpec", "parse_port"]

_DIGITS = frozenset("0123456789")


class PortSpec(msgspec.Struct, frozen=True):
    """`ports` are `number/protocol` texts (a range gives several).

    `odd_protocol` when the protocol was not written in lower case, `odd_format` when an IP address or a host
    port was given (both are checks).
    """

    ports: tuple[str, ...]
    odd_protocol: bool = False
    odd_format: bool = False


def parse_port(text: str) -> PortSpec:
    """Parse one expanded EXPOSE word; an address and a host port are checked and dropped. Raises
    `DockerfileError`.
    """
    before, _, container = text.rpartition(":")
    address, _, host = before.rpartition(":")
    container, _, written = container.partition("/")
    if not container:
        raise DockerfileError(f"invalid port: {quote(text)}: no port specified")
    protocol = written.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise DockerfileError(f"invalid port: {quote(text)}: invalid proto: {written}")
    if address:
        _check_address(address)
    ports = _port_range(container)
    if ports is None:
        raise DockerfileError(f"invalid containerPort: {container}")
    if host:
        host_ports = _port_range(host)
        if host_ports is None:
            raise DockerfileError(f"invalid hostPort: {host}")
        # One container port may be mapped to any of a range of host ports.
        if len(ports) not in (1, len(host_ports)):
            problem = "invalid ranges specified for container and host Ports"
            raise DockerfileError(f"{problem}: {container} and {host}")
    return PortSpec(
        tuple(f"{port}/{protocol}" for port in ports),
        odd_protocol=written != written.lower(),
        odd_format=bool(address or host),
    )


def _check_address(address: str) -> None:
    import ipaddress

    bare = address
    if address.startswith("["):
        if not address.endswith("]"):
            raise DockerfileError(f"invalid IP address {address}: address {address}:: missing ']' in address")
        bare = address[1:-1]
    try:
        if "%" in bare:  # a zone, which Go does not take for part of an address
            raise ValueError
        ipaddress.ip_address(bare)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {bare}") from None


def _port_range(text: str) -> range | None:
    first, dash, last = text.partition("-")
    start = _port(first)
    if start is None:
        return None
    if not dash or first == last:
        return range(start, start + 1)
    end = _port(last)
    if end is None or end < start:
        return None
    return range(start, end + 1)


def _port(text: str) -> int | None:
    digits = text.removeprefix("+")
    if not digits or len(digits) > 19 or not _DIGITS.issuperset(digits):
        return None
    port = int(digits)
    return port if port <= 65_535 else None
