"""Networks that a daemon gives the steps of its builds."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.api.proto import control_pb2, sourcepolicy_pb2
from anyarch.errors import SandboxError
from anyarch.sandbox.net.dns import Dns
from anyarch.sandbox.net.networks import NetworkSettings, open_networks
from tests.listening import answered

from ..sandbox.conftest import BUSYBOX
from ..sandbox.machines import in_own_machine
from .harness import CONTROL, Client, daemon, run, solve, statuses, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.api.rpc.client import Channel

pytestmark = pytest.mark.root

_DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox","sh","-c","{script}"]\n'


async def _output(path: Path, channel: Channel, script: str, ref: str, **fields: Any) -> str:
    """What a step says."""
    context = tree(path / f"c-{ref}", Dockerfile=_DOCKERFILE.format(script=script))
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


@contextmanager
def _service(address: str) -> Iterator[tuple[str, list[bytes]]]:
    """A site, and the heads of what it is asked."""
    heard: list[bytes] = []
    listener = socket.create_server((address, 0))

    def answer(peer: socket.socket, _address: object) -> None:
        heard.append(peer.recv(4096))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    url = f"http://{address}:{listener.getsockname()[1]}/x"
    with answered(listener, answer):
        yield url, heard


_GET = "NO_PROXY= no_proxy= /bin/busybox wget -q -O - {} || echo failed"


@in_own_machine
def test_steps_of_a_proxied_build_go_out_by_the_network_they_would_have_had(tmp_path: Path) -> None:
    async def work() -> None:
        bridge = NetworkSettings("bridge", bridge_name="ours0", bridge_subnet="10.79.0.0/24")
        host = {"FrontendAttrs": {"force-network-mode": "host"}, "Entitlements": ["network.host"]}
        with _service("127.0.0.1") as (url, heard):
            async with daemon(tmp_path / "a", networks=bridge, entitlements=("network.host",)) as channel:
                told = await _output(tmp_path, channel, _GET.format(url), "bridge", ProxyNetwork=True)
                assert f"proxy network requests:\n- GET {url} -> 502\n" in told
                told = await _output(tmp_path, channel, _GET.format(url), "own", ProxyNetwork=True, **host)
                assert f"proxy network requests:\n- GET {url} -> 200\n" in told
                assert len(heard) == 1
                with _service("10.79.0.1") as (gateway, asked):
                    told = await _output(tmp_path, channel, _GET.format(gateway), "gate", ProxyNetwork=True)
                    assert f"- GET {gateway} -> 200\n" in told
                    assert len(asked) == 1
            async with daemon(tmp_path / "b", is_proxied=True) as channel:  # on the machine's network
                told = await _output(tmp_path, channel, _GET.format(url), "host")
                assert f"proxy network requests:\n- GET {url} -> 200\n" in told

    before = socket.if_nameindex()
    run(work())
    assert socket.if_nameindex() == before


@in_own_machine
def test_a_policy_decides_on_what_a_step_fetches(tmp_path: Path) -> None:
    def rules(url: str) -> sourcepolicy_pb2.Policy:
        convert = sourcepolicy_pb2.Rule(
            action=2,
            selector=sourcepolicy_pb2.Selector(identifier="http://far.invalid/*"),
            updates=sourcepolicy_pb2.Update(identifier=url),
        )
        deny = sourcepolicy_pb2.Rule(
            action=1, selector=sourcepolicy_pb2.Selector(identifier="http://127.0.0.1/*")
        )
        return sourcepolicy_pb2.Policy(version=1, rules=[convert, deny])

    async def work() -> None:
        with _service("127.0.0.1") as (url, heard):
            async with daemon(tmp_path / "a") as channel:
                policy = {"ProxyNetwork": True, "SourcePolicy": rules(url)}
                told = await _output(tmp_path, channel, _GET.format("http://127.0.0.1:80/x"), "no", **policy)
                assert "- GET http://127.0.0.1/x -> 403\n" in told
                assert heard == []
                told = await _output(tmp_path, channel, _GET.format("http://far.invalid/y"), "yes", **policy)
                assert f"- GET {url} -> 200\n" in told
                assert heard[0].startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:")

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
