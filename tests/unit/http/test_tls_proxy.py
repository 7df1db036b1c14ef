"""Proxies that are reached by TLS, for targets with TLS and without."""

from __future__ import annotations

import io
import os
import random
import select
import socket
import ssl

import pytest

from anyarch.errors import NetworkError
from anyarch.http.client import FileBody, HttpClient, Tls
from anyarch.http.retry import RetryPolicy
from anyarch.spec.digest import Digest
from anyarch.testing.registry import FakeRegistry

from .servers import Loopback, make_certificate, read_header

BIG = random.Random(7).randbytes(5 << 20)
QUICK = RetryPolicy(attempts=2, budget_s=1, first_delay_s=0.01, refusals=0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def trusted(certificate, monkeypatch):
    monkeypatch.setattr("anyarch.http.proxy.is_loopback", lambda host: False)
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])


@pytest.fixture
def tls_proxy(certificate):
    """Serves with TLS what `serve` does: (server, seen headers)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def make(serve):
        def over_tls(connection):
            with context.wrap_socket(connection, server_side=True) as tls:
                serve(tls)

        return Loopback(over_tls)

    return make


def relay(seen, user=b""):
    """A proxy behind TLS; `user` are the credentials that it wants."""

    def serve(connection):
        header = read_header(connection)
        seen.append(header)
        if user and b"Proxy-Authorization: Basic " + user not in header:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = header.split(b"\r\n", 1)[0].split(b" ")
        netloc, _, path = target.removeprefix(b"http://").partition(b"/")
        host, _, port = netloc.decode().rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            if method == b"CONNECT":
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                upstream.sendall(header.replace(target, b"/" + path, 1))
            while True:
                # What TLS has read ahead no select sees.
                ready = (
                    [connection]
                    if connection.pending()
                    else select.select([connection, upstream], [], [], 10)[0]
                )
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (upstream if source is connection else connection).sendall(data)

    return serve


@pytest.fixture(params=["http", "https"])
def registry(request, certificate):
    with FakeRegistry(tls=certificate if request.param == "https" else None) as registry:
        yield registry


def exchange(client, url, certificate, method="GET", **more):
    with client.request(method, url, tls=Tls(ca=(certificate[0],)), **more) as response:
        return response.status, response.read_all(1 << 24), response.headers


def client_of(server, user=""):
    text = f"https://{user}127.0.0.1:{server.port}"
    return HttpClient(env={"HTTP_PROXY": text, "HTTPS_PROXY": text}, retry=QUICK)


def test_large_bodies_go_through_both_ways(registry, tls_proxy, certificate):
    seen: list[bytes] = []
    with tls_proxy(relay(seen)) as server:
        client = client_of(server)
        uploads = f"{registry.url}/v2/lib/app/blobs/uploads/"
        status, _, headers = exchange(client, uploads, certificate, "POST")
        assert status == 202
        place = registry.url + headers["Location"] + f"&digest={Digest.of(BIG)}"
        body = FileBody(lambda: io.BytesIO(BIG), len(BIG))
        assert exchange(client, place, certificate, "PUT", body=body)[0] == 201
        blob = f"{registry.url}/v2/lib/app/blobs/{Digest.of(BIG)}"
        assert exchange(client, blob, certificate)[:2] == (200, BIG)
        client.close()
    start = b"CONNECT " if registry.tls_context else f"POST {registry.url}/".encode()
    assert seen[0].startswith(start)
    assert len(seen) == 1  # one connection for all


def test_a_file_is_sent(registry, tls_proxy, certificate, tmp_path):
    (tmp_path / "blob").write_bytes(BIG)
    with tls_proxy(relay([])) as server:
        client = client_of(server)
        _, _, headers = exchange(client, f"{registry.url}/v2/lib/app/blobs/uploads/", certificate, "POST")
        place = registry.url + headers["Location"] + f"&digest={Digest.of(BIG)}"
        body = FileBody(lambda: (tmp_path / "blob").open("rb"), len(BIG))
        assert exchange(client, place, certificate, "PUT", body=body)[0] == 201
        client.close()
    assert registry.blobs["lib/app", Digest.of(BIG)] == BIG


def test_credentials_reach_the_proxy_only(registry, tls_proxy, certificate):
    seen: list[bytes] = []
    with tls_proxy(relay(seen, user=b"bWU6cEBzcw==")) as server:
        client = client_of(server, user="me:p%40ss@")
        assert exchange(client, f"{registry.url}/v2/", certificate)[0] == 200
        client.close()
    if registry.tls_context:
        assert "proxy-authorization" not in registry.log[0].headers


def test_a_proxy_that_wants_credentials_says_so(tls_proxy, certificate):
    with tls_proxy(relay([], user=b"x")) as server, pytest.raises(NetworkError) as caught:
        exchange(client_of(server), "https://registry.example/v2/", certificate)
    assert "407" in caught.value.message
    assert "NAME:PASSWORD" in (caught.value.hint or "")


def test_a_proxy_whose_certificate_nobody_knows_is_not_used(registry, tls_proxy, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    with tls_proxy(relay([])) as server, pytest.raises(NetworkError) as caught:
        exchange(client_of(server), f"{registry.url}/v2/", certificate)
    assert caught.value.message.startswith(f"proxy 127.0.0.1:{server.port}: its certificate is not trusted")
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    assert registry.log == []


def test_a_proxy_that_speaks_plain_http_is_told(registry, certificate):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with Loopback(serve) as server, pytest.raises(NetworkError) as caught:
        exchange(client_of(server), f"{registry.url}/v2/", certificate)
    assert "speaks plain HTTP" in caught.value.message
    assert "http://" in (caught.value.hint or "")


def test_the_certificate_of_the_server_is_checked_inside_the_tunnel(tls_proxy, certificate, tmp_path):
    with (
        FakeRegistry(tls=make_certificate(tmp_path)) as registry,
        tls_proxy(relay([])) as server,
        pytest.raises(NetworkError) as caught,
    ):
        client_of(server).request("GET", f"{registry.url}/v2/").close()
    assert caught.value.message.startswith(f"{registry.address}: its certificate is not trusted")


def test_a_connection_that_breaks_inside_the_tunnel_is_an_error_of_its_kind(tls_proxy, certificate):
    with FakeRegistry(tls=certificate) as registry, tls_proxy(relay([])) as server:
        registry.add_blob("lib/app", BIG)
        registry.fault("GET", "/blobs/", truncate=1 << 20)
        with pytest.raises(NetworkError) as caught:
            exchange(client_of(server), f"{registry.url}/v2/lib/app/blobs/{Digest.of(BIG)}", certificate)
    assert caught.value.kind in ("closed", "reset")
