"""Networks that a daemon gives the steps of its builds."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2
from anyarch.errors import SandboxError
from anyarch.sandbox.net.dns import Dns
from anyarch.sandbox.net.networks import NetworkSettings, open_networks

from ..sandbox.conftest import BUSYBOX
from ..sandbox.machines import in_own_machine
from .harness import CONTROL, Client, daemon, run, solve, statuses, tree

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

pytestmark = pytest.mark.root

_DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox","sh","-c","{script}"]\n'


async def _output(path: Path, channel: Channel, script: str, ref: str, **fields: Any) -> str:
    """What a step says."""
    context = tree(path / ref, Dockerfile=_DOCKERFILE.format(script=script))
    shutil.copy(BUSYBOX, context / "busybox")
    client = Client(context=context, dockerfile=context)
    async with client.serving(channel):
        await solve(channel, client, ref, Frontend="dockerfile.v0", **fields)
    return b"".join(log.msg for told in await statuses(channel, ref) for log in told.logs).decode()


async def _label(channel: Channel) -> str:
    answer = await channel.unary(
        CONTROL + "ListWorkers", control_pb2.ListWorkersRequest(), control_pb2.ListWorkersResponse
    )
    return answer.record[0].Labels["org.mobyproject.buildkit.worker.network"]


_LINKS = (
    "/bin/busybox ip -o link | /bin/busybox cut -d: -f2; "
    "/bin/busybox cat /etc/resolv.conf 2>/dev/null || true"
)


@in_own_machine
def test_steps_are_on_the_bridge_unless_they_ask_for_another_network(tmp_path: Path) -> None:
    async def work() -> None:
        settings = NetworkSettings("bridge", bridge_name="ours0", bridge_subnet="10.79.0.0/24")
        options = {
            "networks": settings,
            "dns": Dns(("127.0.0.1", "192.0.2.53")),
            "entitlements": ("network.host",),
        }
        async with daemon(tmp_path, **options) as channel:
            assert await _label(channel) == "cni"
            found = await _output(tmp_path, channel, _LINKS, "bridge")
            assert found.split("\n")[:2] == [" lo", " eth0@if" + found.split("@if")[1].split("\n")[0]]
            assert "192.0.2.53" in found
            assert "127.0.0.1" not in found
            none = {"force-network-mode": "none"}
            assert await _output(tmp_path, channel, _LINKS, "none", FrontendAttrs=none) == " lo\n"
            host = {"FrontendAttrs": {"force-network-mode": "host"}, "Entitlements": ["network.host"]}
            found = await _output(tmp_path, channel, _LINKS, "host", **host)
            assert found.split("\n")[:2] == [" lo", " ours0"]
            assert "nameserver 127.0.0.1\n" in found

    before = socket.if_nameindex()
    run(work())
    assert socket.if_nameindex() == before


@in_own_machine
def test_steps_of_a_daemon_without_network_have_a_loopback_only(tmp_path: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, networks=NetworkSettings("none")) as channel:
            assert await _label(channel) == "none"
            assert await _output(tmp_path, channel, _LINKS, "a") == " lo\n"

    run(work())


def test_auto_is_the_machine_s_network_where_no_other_is_configured(tmp_path: Path) -> None:
    missing = str(tmp_path / "cni.json")
    assert open_networks(NetworkSettings("auto", cni_config=missing), tmp_path).kind == "host"
    (tmp_path / "cni.json").write_text('{"name": "x", "type": "none"}')
    with pytest.raises(SandboxError, match='failed to find plugin "none"'):
        open_networks(NetworkSettings("auto", cni_config=missing, cni_binaries="/"), tmp_path)


def test_an_ordinary_user_s_daemon_refuses_a_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="network mode bridge takes root"):
        open_networks(NetworkSettings("bridge"), tmp_path)
