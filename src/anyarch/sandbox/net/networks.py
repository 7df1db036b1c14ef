"""Which network the steps of a daemon get that ask for none in particular."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyarch.sandbox.net.pool import NetworkPool

__all__ = ["MODES", "NetworkSettings", "StepNetworks", "open_networks"]

MODES = ("auto", "bridge", "cni", "host", "none")
_AUTO_BRIDGE = "BUILDKIT_NETWORK_BRIDGE_AUTO"


class NetworkSettings(msgspec.Struct, frozen=True):
    """As the configuration has them; empty: the default of each."""

    mode: str = "auto"
    cni_config: str = ""
    cni_binaries: str = ""
    pool_size: int = 0
    bridge_name: str = ""
    bridge_subnet: str = ""


class StepNetworks:
    """`kind` is what steps get: `host` (the machine's, or that of an ordinary user's steps), `none`, or
    `pool` (namespaces of `pool`). `label` is the name that workers are told apart by. Close it when no step
    runs."""

    def __init__(self, kind: str, label: str, pool: NetworkPool | None = None) -> None:
        self.kind = kind
        self.label = label
        self.pool = pool

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()


def open_networks(
    settings: NetworkSettings, state_dir: Path, note: Callable[[str], object] = lambda text: None
) -> StepNetworks:
    """Set up what `settings` ask for, with a first namespace, so that what cannot be shows at once. `note` is
    told what is to be known. Raises `SandboxError`."""
    mode = _resolved(settings)
    if mode in ("host", "none"):
        return StepNetworks(mode, mode)
    from anyarch.sandbox.executor import is_privileged
    from anyarch.sandbox.net.pool import NetworkPool

    if not is_privileged():
        raise SandboxError(
            f"network mode {mode} takes root with CAP_SYS_ADMIN and CAP_NET_ADMIN",
            hint="leave it out: an ordinary user's steps get a network by pasta or slirp4netns",
        )
    if mode == "bridge":
        from anyarch.sandbox.net.bridge import BridgeNetworks

        bridge = BridgeNetworks(settings.bridge_name, settings.bridge_subnet, note=note)
        pool = NetworkPool(bridge, settings.pool_size, on_error=note)
    else:
        from anyarch.sandbox.net.cni import CniNetworks

        cni = CniNetworks(state_dir, settings.cni_config, settings.cni_binaries, note=note)
        pool = NetworkPool(cni, settings.pool_size, uses_names=True, on_error=note)
    try:
        pool.try_one()
    except BaseException:
        pool.close()
        raise
    return StepNetworks("pool", "cni", pool)  # BuildKit's word for both


def _resolved(settings: NetworkSettings) -> str:
    """What `auto` means here: CNI where it is configured, else the machine's network."""
    if settings.mode not in ("", "auto"):
        return settings.mode
    if os.environ.get(_AUTO_BRIDGE, "").lower() in ("1", "t", "true"):
        return "bridge"
    if os.geteuid() != 0:  # the file of the system is no wish of this user's
        return "host"
    from anyarch.sandbox.net.cni import DEFAULT_CONFIG

    return "cni" if os.path.exists(settings.cni_config or DEFAULT_CONFIG) else "host"
