from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time

import pytest

from anyarch.errors import Canceled, NetworkError
from anyarch.http.client import FileBody, HttpClient, Tls
from anyarch.http.retry import RetryPolicy
from anyarch.testing.registry import FakeRegistry

from .servers import Loopback, make_certificate, proxy, read_header, saying

QUICK = RetryPolicy(attempts=4, budget_s=5, first_delay_s=0.001, max_delay_s=0.002, refusal_delay_s=0.001)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def client():
    client = HttpClient(env={}, retry=QUICK)
    yield client
    client.close()


@pytest.fixture
def registry():
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def text(client, url, **more):
    with client.request("GET", url, **more) as response:
        return response.status, response.read_all(1 << 20)


def fails(client, url, method="GET", **more):
    with pytest.raises(NetworkError) as caught:
        client.request(method, url, **more).close()
    return caught.value


def test_importing_the_client_loads_no_network_module():
    code = (
        "import sys, anyarch.http.client; print(sorted({'http.client', 'ssl', 'socket'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_connection_is_used_again(client, registry):
    for _ in range(5):
        assert text(client, f"{registry.url}/v2/")[0] == 200
    assert registry.connections == 1


def test_a_connection_the_server_closed_meanwhile_is_replaced(client):
    with Loopback(saying(OK)) as server:
        for _ in range(3):
            assert text(client, server.url) == (200, b"ok")
            time.sleep(0.02)  # for the server's end of the connection to be seen
        assert server.connections == 3


def test_a_body_that_is_not_read_costs_the_connection_only(client, registry):
    digest = registry.add_blob("a", bytes(3 << 20))
    client.request("GET", f"{registry.url}/v2/a/blobs/{digest}").close()
    assert text(client, f"{registry.url}/v2/")[0] == 200
    assert registry.connections == 2


def test_chunked_bodies_are_read(client):
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with Loopback(saying(answer, OK)) as server:
        assert text(client, server.url) == (200, b"abcde")
        assert text(client, server.url) == (200, b"ok")
        assert server.connections == 1


def test_a_body_that_ends_with_the_connection_is_read(client):
    with Loopback(saying(b"HTTP/1.0 200 OK\r\n\r\nall of it")) as server:
        assert text(client, server.url) == (200, b"all of it")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
    ],
)
def test_a_body_that_is_cut_short_is_an_error(client, answer):
    with Loopback(saying(answer)) as server, client.request("GET", server.url) as response:
        with pytest.raises(NetworkError) as caught:
            while response.read(1000):
                pass
        assert caught.value.kind == "closed"


def test_a_body_longer_than_the_limit_is_refused(client, registry):
    digest = registry.add_blob("a", bytes(2000))
    with (
        client.request("GET", f"{registry.url}/v2/a/blobs/{digest}") as response,
        pytest.raises(NetworkError, match="longer than 1999 bytes"),
    ):
        response.read_all(1999)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_an_answer_that_may_change_is_asked_for_again(client, registry, status):
    registry.fault("GET", "/v2/", status=status, times=2)
    assert text(client, f"{registry.url}/v2/")[0] == 200
    assert registry.count("GET", "/v2/") == 3


def test_the_last_answer_is_returned_when_patience_ends(client, registry):
    registry.fault("GET", "/v2/", status=503, times=100, body=b"down")
    assert text(client, f"{registry.url}/v2/") == (503, b"down")
    assert registry.count() == QUICK.attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_a_refusal_is_not_asked_for_again(client, registry, status):
    registry.fault("GET", "/v2/", status=status)
    assert text(client, f"{registry.url}/v2/")[0] == status
    assert registry.count() == 1


def test_retry_after_within_the_budget_is_waited_for(registry):
    said = []
    client = HttpClient(env={}, retry=QUICK, on_retry=said.append)
    registry.fault("GET", "/v2/", status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    assert text(client, f"{registry.url}/v2/")[0] == 200
    assert time.monotonic() - started >= 1
    assert said == [f"{registry.address}: 429 Too Many Requests; trying again in 1.0 s"]
    client.close()


def test_retry_after_beyond_the_budget_ends_it_at_once(client, registry):
    registry.fault("GET", "/v2/", status=429, headers={"Retry-After": "3600"})
    assert text(client, f"{registry.url}/v2/")[0] == 429


def test_a_connection_without_answer_is_tried_again(client, registry):
    registry.fault("GET", "/v2/", drop=True, times=2)
    assert text(client, f"{registry.url}/v2/")[0] == 200


def test_a_connection_that_never_answers_is_an_error(client, registry):
    registry.fault("GET", "/v2/", drop=True, times=100)
    error = fails(client, f"{registry.url}/v2/")
    assert error.kind == "closed"
    assert registry.address in error.message


def test_a_refused_connection_says_so(client):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = fails(client, f"http://127.0.0.1:{port}/")
    assert (error.kind, error.message) == ("refused", f"127.0.0.1:{port}: connection refused")


def test_an_unknown_host_says_so(client):
    error = fails(client, "http://no-such-host.invalid/")
    assert (error.kind, error.message) == ("dns", "no-such-host.invalid: name lookup failed")


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http:///x", "http://a:b/", "no url", "http://a/\nx", "http://[::1/"]
)
def test_an_invalid_url_is_an_error_of_ours(client, url):
    assert "invalid URL" in fails(client, url).message


def test_a_server_that_is_none_of_http_says_so(client):
    with Loopback(saying(b"220 smtp ready\r\n")) as server:
        assert fails(client, server.url).kind == "protocol"


def test_a_silent_server_is_given_up_after_the_idle_time():
    client = HttpClient(env={}, idle_timeout_s=0.3, retry=RetryPolicy(attempts=1))
    event = threading.Event()
    with Loopback(lambda _: event.wait(10) and None) as server:
        error = fails(client, server.url)
        event.set()
    assert error.kind == "timeout"
    assert "no answer for" in error.message


def test_slow_bytes_are_not_idle():
    client = HttpClient(env={}, idle_timeout_s=0.6)

    def drip(connection):
        read_header(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            time.sleep(0.3)
            connection.sendall(b"x")

    with Loopback(drip) as server:
        assert text(client, server.url) == (200, b"xxxxx")
    client.close()


def test_cancel_ends_the_wait_for_an_answer(client):
    cancel, end = threading.Event(), threading.Event()
    with Loopback(lambda _: end.wait(10) and None) as server:
        threading.Timer(0.1, cancel.set).start()
        started = time.monotonic()
        with pytest.raises(Canceled):
            client.request("GET", server.url, cancel=cancel)
        assert time.monotonic() - started < 5
        end.set()


def test_cancel_ends_a_body_that_stalls(client):
    cancel, end = threading.Event(), threading.Event()

    def stall(connection):
        read_header(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")
        end.wait(10)

    with Loopback(stall) as server, client.request("GET", server.url, cancel=cancel) as response:
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(Canceled):
            response.read(5)
        end.set()


def test_cancel_ends_the_pause_before_another_try(registry):
    cancel = threading.Event()
    client = HttpClient(env={}, on_retry=lambda _: cancel.set())
    registry.fault("GET", "/v2/", status=503, headers={"Retry-After": "50"}, times=9)
    with pytest.raises(Canceled):
        client.request("GET", f"{registry.url}/v2/", cancel=cancel)
    client.close()


def test_a_canceled_request_gives_its_slot_back(registry):
    client = HttpClient(env={}, connections=1)
    cancel = threading.Event()
    cancel.set()
    for _ in range(3):
        with pytest.raises(Canceled):
            client.request("GET", f"{registry.url}/v2/", cancel=cancel)
    assert text(client, f"{registry.url}/v2/")[0] == 200
    client.close()


def test_exchanges_with_one_server_are_bounded(registry):
    client = HttpClient(env={}, connections=3)
    registry.fault("GET", "/v2/", delay_s=0.02, times=100)
    threads = [threading.Thread(target=text, args=(client, f"{registry.url}/v2/")) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.count() == 12
    assert registry.connections <= 3
    client.close()


def test_redirects_are_followed_without_the_authorization_of_the_first_host(client, registry):
    digest = registry.add_blob("a", b"content")
    registry.redirect_blobs = "localhost"
    headers = {"Authorization": "Basic eDp5", "Range": "bytes=3-"}
    with client.request("GET", f"{registry.url}/v2/a/blobs/{digest}", headers=headers) as response:
        assert response.read_all(100) == b"tent"
        assert response.url.startswith(f"http://localhost:{registry.port}/storage/")
    last = registry.requests("GET", "/storage/")[0]
    assert "authorization" not in last.headers
    assert last.headers["range"] == "bytes=3-"


def test_authorization_stays_on_the_same_host(client, registry):
    registry.fault("GET", "/v2/", status=302, headers={"Location": "/v2/?again"})
    assert text(client, f"{registry.url}/v2/", headers={"Authorization": "Basic eDp5"})[0] == 200
    assert registry.log[-1].headers["authorization"] == "Basic eDp5"


def test_redirects_in_a_circle_end(client, registry):
    registry.fault("GET", "/v2/", status=302, headers={"Location": "/v2/"}, times=1000)
    assert "redirects" in fails(client, f"{registry.url}/v2/").message


def upload(client, registry, open_, size, **more):
    with client.request("POST", f"{registry.url}/v2/a/blobs/uploads/") as response:
        place = registry.url + response.headers["Location"]
    with client.request("PATCH", place, body=FileBody(open_, size, **more)) as response:
        return response.status, bytes(next(iter(registry.uploads.values())))


def test_a_file_is_sent(client, registry, tmp_path):
    path = tmp_path / "blob"
    content = bytes(range(256)) * 20000
    path.write_bytes(content)
    seen = []
    assert upload(client, registry, lambda: path.open("rb"), len(content), on_progress=seen.append) == (
        202,
        content,
    )
    assert sum(seen) == len(content)


def test_a_part_of_a_file_is_sent(client, registry, tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(b"0123456789")
    assert upload(client, registry, lambda: path.open("rb"), 4, offset=3) == (202, b"3456")


def test_a_stream_that_is_no_file_is_sent(client, registry):
    content = bytes(range(256)) * 20000
    assert upload(client, registry, lambda: io.BytesIO(content), len(content)) == (202, content)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_source_that_is_too_short_is_an_error(client, registry, tmp_path, kind):
    path = tmp_path / "blob"
    path.write_bytes(b"12345")
    with pytest.raises(NetworkError) as caught:
        upload(
            client,
            registry,
            (lambda: path.open("rb")) if kind == "file" else (lambda: io.BytesIO(b"12345")),
            6,
        )
    assert caught.value.kind == "body"


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_an_answer_before_the_end_of_the_body_is_heard(client, registry, tmp_path, kind):
    """A registry that refuses a large body answers at once and closes; the sender must not report a broken
    pipe."""
    path = tmp_path / "blob"
    with path.open("wb") as file:
        file.truncate(40 << 20)
    content = path.read_bytes()
    registry.max_body = 100
    seen = []
    status, _ = upload(
        client,
        registry,
        (lambda: path.open("rb")) if kind == "file" else (lambda: io.BytesIO(content)),
        len(content),
        on_progress=seen.append,
    )
    assert status == 413
    assert sum(seen) in (0, len(content))


def test_progress_of_a_lost_try_is_taken_back(client, registry):
    registry.fault("PATCH", "uploads", drop_body_after=1 << 20)
    seen = []
    content = bytes(4 << 20)
    upload(client, registry, lambda: io.BytesIO(content), len(content), on_progress=seen.append)
    assert min(seen) < 0
    assert sum(seen) == len(content)


def test_tls_with_an_unknown_certificate_is_refused(client, certificate):
    with FakeRegistry(tls=certificate) as registry:
        error = fails(client, f"{registry.url}/v2/")
    assert error.kind == "tls"
    assert "certificate is not trusted" in error.message


def test_tls_with_a_given_ca_works(client, certificate, tmp_path):
    with FakeRegistry(tls=certificate) as registry:
        digest = registry.add_blob("a", bytes(3 << 20))
        tls = Tls(ca=(certificate[0],))
        assert text(client, f"{registry.url}/v2/", tls=tls)[0] == 200
        with client.request("GET", f"{registry.url}/v2/a/blobs/{digest}", tls=tls) as response:
            assert response.read_all(4 << 20) == bytes(3 << 20)
        with client.request("POST", f"{registry.url}/v2/a/blobs/uploads/", tls=tls) as response:
            place = registry.url + response.headers["Location"]
        path = tmp_path / "blob"
        path.write_bytes(b"y" * (2 << 20))
        body = FileBody(lambda: path.open("rb"), 2 << 20)
        with client.request("PATCH", place, body=body, tls=tls) as response:
            assert response.status == 202
        assert registry.connections == 1


def test_tls_without_verification_works(client, certificate):
    with FakeRegistry(tls=certificate) as registry:
        assert text(client, f"{registry.url}/v2/", tls=Tls(verify=False))[0] == 200


def test_a_plain_server_asked_by_https_is_recognised(client, registry):
    assert fails(client, registry.url.replace("http:", "https:")).kind == "not_tls"


def test_a_tls_server_asked_by_http_is_recognised(client):
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    with Loopback(saying(alert)) as server:
        assert fails(client, server.url).kind == "only_tls"


def test_a_missing_ca_file_is_named(client, registry):
    error = fails(client, registry.url.replace("http:", "https:"), tls=Tls(ca=("/no/such/ca.pem",)))
    assert "/no/such/ca.pem" in error.message


def test_plain_requests_go_through_a_proxy(registry, monkeypatch):
    monkeypatch.setattr("anyarch.http.proxy.is_loopback", lambda host: False)
    seen: list[bytes] = []
    with Loopback(proxy(seen)) as server:
        client = HttpClient(env={"http_proxy": f"http://me:secret@127.0.0.1:{server.port}"})
        assert text(client, f"{registry.url}/v2/")[0] == 200
        client.close()
    assert seen[0].startswith(f"GET {registry.url}/v2/ HTTP/1.1\r\nHost: {registry.address}\r\n".encode())
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in seen[0]


def test_tls_requests_go_through_a_tunnel(certificate, monkeypatch):
    monkeypatch.setattr("anyarch.http.proxy.is_loopback", lambda host: False)
    seen: list[bytes] = []
    with FakeRegistry(tls=certificate) as registry, Loopback(proxy(seen)) as server:
        client = HttpClient(env={"https_proxy": f"127.0.0.1:{server.port}"})
        for _ in range(2):
            assert text(client, f"{registry.url}/v2/", tls=Tls(ca=(certificate[0],)))[0] == 200
        client.close()
    assert len(seen) == 1
    assert seen[0].startswith(f"CONNECT {registry.address} HTTP/1.1\r\n".encode())


def test_a_proxy_that_refuses_is_named(certificate, monkeypatch):
    monkeypatch.setattr("anyarch.http.proxy.is_loopback", lambda host: False)
    with Loopback(saying(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")) as server:
        client = HttpClient(env={"https_proxy": f"127.0.0.1:{server.port}"}, retry=QUICK)
        error = fails(client, "https://ghcr.example/")
    assert f"proxy 127.0.0.1:{server.port} refused the connection: 407" in error.message
