"""Sockets of the daemon: TLS with and without clients' certificates, and those that systemd hands over."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.api.proto import control_pb2
from anyarch.api.rpc.socket import connect_tcp, connect_unix
from anyarch.daemon.listen import listen, tls_context
from anyarch.daemon.main import serve
from anyarch.daemon.settings import Settings, Tls
from anyarch.errors import UsageError

from .harness import CONTROL, run

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.api.rpc.client import Channel


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (`ca`), the server's certificate, a client's, and a stranger's (signed by itself)."""
    path = tmp_path_factory.mktemp("keys")
    for name in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *(
                "-subj",
                f"/CN={name}",
                "-days",
                "2",
                "-keyout",
                f"{path}/{name}.key",
                "-out",
                f"{path}/{name}.pem",
            ),
        )
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", f"{path}/{name}.key", "-out", f"{path}/{name}.csr"),
        )
        (path / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(
            *(
                "x509",
                "-req",
                "-in",
                f"{path}/{name}.csr",
                "-CA",
                f"{path}/ca.pem",
                "-CAkey",
                f"{path}/ca.key",
            ),
            *("-CAcreateserial", "-days", "2", "-extfile", f"{path}/ext", "-out", f"{path}/{name}.pem"),
        )
    return path


def client_context(keys: Path, name: str = "", *, alpn: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    if alpn:
        context.set_alpn_protocols(["h2"])
    if name:
        context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return context


async def info(channel: Channel) -> control_pb2.InfoResponse:
    try:
        return await channel.unary(
            CONTROL + "Info", control_pb2.InfoRequest(), control_pb2.InfoResponse, timeout=10
        )
    finally:
        channel.close()


@pytest.mark.parametrize("alpn", [True, False])
def test_only_clients_with_a_certificate_of_the_authority_get_an_answer(
    tmp_path: Path, keys: Path, alpn: bool
) -> None:
    async def work() -> None:
        tls = Tls(str(keys / "server.pem"), str(keys / "server.key"), str(keys / "ca.pem"))
        settings = Settings(
            root=str(tmp_path), addresses=("tcp://127.0.0.1:0", f"unix://{tmp_path}/s"), tls=tls
        )
        listeners = listen(settings)
        port = listeners[0].sock.getsockname()[1]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(settings, listeners, stop))
            good = await connect_tcp("127.0.0.1", port, tls=client_context(keys, "client", alpn=alpn))
            assert (await info(good)).buildkitVersion.package == "anyarch"
            for name in ("", "stranger"):
                # TLS 1.3 tells a client of its refusal only after its own handshake.
                with pytest.raises(Exception) as caught:
                    await info(await connect_tcp("127.0.0.1", port, tls=client_context(keys, name)))
                assert not isinstance(caught.value, AssertionError)
            with pytest.raises(Exception):  # noqa: B017 (plain text on a TLS port: cut off in some way)
                await info(await connect_tcp("127.0.0.1", port))
            assert (await info(await connect_unix(f"{tmp_path}/s"))).buildkitVersion.package == "anyarch"
            stop.set()
        for listener in listeners:
            listener.close()

    run(work())


def test_tls_files_that_are_missing_or_wrong_are_named(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(UsageError) as caught:
        tls_context(Tls(str(tmp_path / "none.pem"), str(keys / "server.key")))
    assert "TLS: " in str(caught.value)
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(UsageError):
        tls_context(Tls(str(tmp_path / "bad.pem"), str(keys / "server.key")))


def test_sockets_of_systemd_are_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as handed:
        handed.bind(str(tmp_path / "s"))
        handed.listen()
        code = (
            "import os, sys\n"
            f"os.dup2({handed.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='api')\n"
            "from anyarch.daemon.main import main\n"
            f"sys.exit(main(['--root', {str(tmp_path / 'root')!r}, '--addr', 'fd://api']))\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], pass_fds=[handed.fileno()]) as process:
            try:

                async def work() -> None:
                    found = await info(await connect_unix(str(tmp_path / "s")))
                    assert found.buildkitVersion.package == "anyarch"

                run(work())
            finally:
                process.terminate()
            assert process.wait(20) == 0
    assert os.path.exists(tmp_path / "s")  # it is not ours to remove


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0", ""])
@pytest.mark.parametrize("tls", [None, Tls("server.pem", "server.key")])
def test_tcp_without_certificates_of_clients_is_refused_unless_allowed(host: str, tls: Tls | None) -> None:
    settings = Settings(addresses=(f"tcp://{host}:0",), tls=tls)
    with pytest.raises(UsageError) as caught:
        listen(settings)
    assert f"addr tcp://{host}:0 without " in str(caught.value)
    assert "--allow-unauthenticated-tcp" in str(caught.value.hint)
    if host != "[::1]":  # not every machine has that address
        for listener in listen(msgspec.structs.replace(settings, unauthenticated_tcp=True)):
            assert listener.secure == (tls is not None)
            listener.close()


def test_a_tcp_socket_of_systemd_needs_certificates_of_clients_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as handed:
        code = (
            "import os, sys\n"
            f"os.dup2({handed.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            "from anyarch.daemon.main import main\n"
            f"sys.exit(main(['--root', {str(tmp_path / 'root')!r}, '--addr', 'fd://']))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            pass_fds=[handed.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "addr fd:// without TLS" in done.stderr


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/run/x", "does not contain proto, you meant unix:///run/x ?"),
        ("http://x", "not supported"),
        ("tcp://127.0.0.1", "has no port"),
        ("tcp://127.0.0.1:99999", "has no port"),
        ("fd://", "no sockets were handed over"),
        ("unix:///proc/nowhere/s", "cannot listen on"),
    ],
)
def test_addresses_that_cannot_be_listened_on_are_errors(address: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        listen(Settings(addresses=(address,)))
    assert says in str(caught.value)
