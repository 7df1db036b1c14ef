"""How to reach a registry: endpoints (mirrors first), plain HTTP, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Endpoint", "HostConfig", "Hosts"]


class HostConfig(msgspec.Struct, frozen=True):
    """Settings of one registry domain, as under `[registry."domain"]` of the configuration file."""

    mirrors: tuple[str, ...] = ()
    http: bool | None = None
    insecure: bool = False
    ca: tuple[str, ...] = ()
    keypairs: tuple[tuple[str, str], ...] = ()


class Endpoint(msgspec.Struct, frozen=True):
    """One place that serves a registry domain."""

    domain: str
    host: str
    port: int
    scheme: str
    prefix: str = ""
    is_mirror: bool = False
    insecure: bool = False
    ca: tuple[str, ...] = ()
    keypairs: tuple[tuple[str, str], ...] = ()


class Hosts:
    """The settings of all registries. `Hosts.load()` is what programs use; tests give `configs`."""

    def __init__(self, configs: Mapping[str, HostConfig] | None = None) -> None:
        self._configs = dict(configs or {})

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Hosts:
        """From the configuration file and the environment."""
        return cls()

    def with_insecure(self, domain: str) -> Hosts:
        """A copy in which `domain` may be reached without a valid certificate or by plain HTTP."""
        return self

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """Mirrors in order, then the registry itself (always last)."""
        return ()
