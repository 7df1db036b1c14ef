"""EXPOSE arguments: `[ip:][host:]container[-container][/protocol]`."""

from __future__ import annotations

import msgspec

from anyarch.errors import DockerfileError

__all__ = ["PortSpec", "parse_port"]


class PortSpec(msgspec.Struct, frozen=True):
    """`ports` are `number/protocol` texts (a range gives several); `odd_protocol` when the protocol was not written in
    lower case, `odd_format` when an IP address or a host port was given (both are checks)."""

    ports: tuple[str, ...]
    odd_protocol: bool = False
    odd_format: bool = False


def parse_port(text: str) -> PortSpec:
    """Parse one expanded EXPOSE word. Raises `DockerfileError`."""
    raise DockerfileError("ports are being written")
