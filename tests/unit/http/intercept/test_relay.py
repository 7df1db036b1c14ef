"""The proxy of a step between real clients and servers: what is passed on, what is refused, what is known of
it afterwards."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from anyarch.http.intercept import relay, server, traffic, upstream
from anyarch.http.intercept.authority import Authority
from anyarch.http.intercept.egress import Egress, Reach
from anyarch.http.intercept.relay import Denied, Outside
from anyarch.http.intercept.server import StepProxy
from anyarch.http.intercept.traffic import Material, Missing, Passed, Recorder

from ..servers import Loopback, make_certificate, read_header, saying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anyarch.http.intercept.relay import Policy
    from anyarch.http.intercept.traffic import Traffic

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HELLO = f"sha256:{hashlib.sha256(b'hello').hexdigest()}"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Step:
    """A proxy and who uses it. `traffic` is there when it has ended."""

    traffic: Traffic

    def __init__(self, port: int, authority: Authority) -> None:
        self.port = port
        self._authority = authority

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            yield sock

    def ask(self, raw: bytes) -> bytes:
        """All that is answered to this."""
        with self.connected() as sock:
            sock.sendall(raw)
            return everything(sock)

    def get(self, url: str, *fields: str) -> bytes:
        lines = [f"GET {url} HTTP/1.1", "Host: ignored.example", "Connection: close", *fields, "", ""]
        return self.ask("\r\n".join(lines).encode())

    @contextmanager
    def tunnel(self, host: str, port: int) -> Iterator[ssl.SSLSocket]:
        with self.connected() as sock:
            sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            assert read_header(sock).startswith(b"HTTP/1.1 200 ")
            client = ssl.create_default_context(cadata=self._authority.pem.decode())
            with client.wrap_socket(sock, server_hostname=host) as tls:
                yield tls


def everything(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(1 << 16):
        found += data
    return found


@pytest.fixture
def step(authority: Authority, certificate: tuple[str, str]) -> Callable[..., object]:
    @contextmanager
    def make(policy: Policy | None = None, reach: Reach = Reach.MACHINE) -> Iterator[Step]:
        context = ssl.create_default_context(cafile=certificate[0])
        proxy = StepProxy(
            Outside(Egress(reach), authority, Recorder(), tls=lambda: context, policy=policy),
        )
        listener = socket.create_server(("127.0.0.1", 0))
        found = Step(listener.getsockname()[1], authority)
        proxy.start(listener)
        try:
            yield found
        finally:
            found.traffic = proxy.close()
        assert not [t for t in threading.enumerate() if t.name in ("anyarch-proxy", "anyarch-relay")]

    return make


def seeing(seen: list[bytes], *answers: bytes) -> Callable[[socket.socket], None]:
    """A server that keeps the heads of requests."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            head = read_header(connection)
            if not head:
                return
            seen.append(head)
            connection.sendall(answer)

    return serve


def with_tls(
    certificate: tuple[str, str], serve: Callable[[socket.socket], None]
) -> Callable[[socket.socket], None]:
    def run(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        with context.wrap_socket(connection, server_side=True) as tls:
            serve(tls)

    return run


# what is passed on ----------------------------------------------------------------------------------


def test_a_get_is_answered_and_written_down(step) -> None:
    seen: list[bytes] = []
    with Loopback(seeing(seen, OK)) as origin, step() as one:
        answer = one.get(f"{origin.url}/a/../b", "Accept-Encoding: gzip", "Proxy-Authorization: secret")
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    assert seen == [f"GET /b HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode()]
    assert one.traffic.requests == (Passed("GET", f"{origin.url}/b", 200),)
    assert one.traffic.fetched == (Material(f"{origin.url}/b", HELLO),)
    assert one.traffic.missing == ()
    assert one.traffic.log() == f"proxy network requests:\n- GET {origin.url}/b -> 200\n"


def test_one_connection_serves_several_requests_and_so_does_the_servers(step) -> None:
    with Loopback(saying(OK, OK, OK)) as origin, step() as one:
        with one.connected() as sock:
            for _ in range(3):
                sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert sock.recv(1 << 16) == OK
        assert origin.connections == 1
    assert len(one.traffic.requests) == 3


def test_requests_that_come_ahead_are_answered_in_turn(step) -> None:
    with Loopback(saying(OK, OK)) as origin, step() as one:
        raw = f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        last = raw.replace(b"Host: a", b"Host: a\r\nConnection: close")
        assert one.ask(raw + last).count(b"hello") == 2


def test_a_server_that_closed_meanwhile_is_asked_anew(step) -> None:
    with Loopback(saying(OK)) as origin, step() as one, one.connected() as sock:
        for _ in range(3):  # each connection of it answers once
            sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert sock.recv(1 << 16) == OK


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
            HELLO,
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", HELLO),
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", HELLO),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, HELLO),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            f"sha256:{hashlib.sha256().hexdigest()}",
        ),
    ],
)
def test_bodies_of_all_kinds_are_known_by_their_digest(step, answer: bytes, content: str) -> None:
    with Loopback(saying(answer)) as origin, step() as one:
        head, _, body = one.get(f"{origin.url}/").partition(b"\r\n\r\n")
        assert (b"hello" in body or b"llo" in body) == (content == HELLO)
        assert (b"chunked" in head) == (b"Content-Length" not in answer)
    assert one.traffic.fetched == (Material(f"{origin.url}/", content),)


def test_a_client_of_http_1_0_gets_no_chunks(step) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with Loopback(saying(chunked)) as origin, step() as one:
        answer = one.ask(f"GET {origin.url}/ HTTP/1.0\r\n\r\n".encode())
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


def test_a_large_body_goes_through_piece_by_piece(step) -> None:
    size = 64 << 20
    piece = bytes(range(256)) * 4096

    def serve(connection: socket.socket) -> None:
        read_header(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            connection.sendall(piece)

    hashed, count = hashlib.sha256(), 0
    most = [0]
    known = upstream.Upstream.body

    def body(self, answer):
        found = known(self, answer)
        read = found.read

        def counted() -> bytes:
            data = read()
            most[0] = max(most[0], len(data))
            return data

        found.read = counted
        return found

    with pytest.MonkeyPatch.context() as patch, Loopback(serve) as origin, step() as one:
        patch.setattr(upstream.Upstream, "body", body)
        with one.connected() as sock:
            sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            read_header_only(sock)
            while data := sock.recv(1 << 20):
                hashed.update(data)
                count += len(data)
    assert count == size
    assert most[0] <= 1 << 16
    assert one.traffic.fetched == (Material(f"{origin.url}/", f"sha256:{hashed.hexdigest()}"),)


def read_header_only(sock: socket.socket) -> None:
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        found += sock.recv(1)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_sent_on_when_it_is_asked_for(step, chunked: bool) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(read_header(connection))
        while not seen[-1].endswith(b"hello" if not chunked else b"0\r\n\r\n"):
            seen[-1] += connection.recv(4096)
        connection.sendall(OK)

    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5"
    body = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n" if chunked else b"hello"
    with Loopback(serve) as origin, step() as one, one.connected() as sock:
        lines = [f"PUT {origin.url}/ HTTP/1.1", "Host: a", framing, "Expect: 100-continue", "", ""]
        sock.sendall("\r\n".join(lines).encode())
        assert read_header(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(1 << 16) == OK
    assert seen[0].endswith(body)
    assert b"Expect" not in seen[0]
    assert one.traffic.missing == (Missing("PUT", f"{origin.url}/", "method_not_materializable"),)


def test_credentials_of_an_address_are_for_its_server_alone(step) -> None:
    seen: list[bytes] = []
    with Loopback(seeing(seen, OK)) as origin, step() as one:
        one.get(f"http://user:p%40ss@127.0.0.1:{origin.port}/")
    assert b"Authorization: Basic dXNlcjpwQHNz\r\n" in seen[0]
    assert "user" not in repr(one.traffic)


def test_small_clients_leave_tls_to_the_proxy(step, certificate: tuple[str, str]) -> None:
    with Loopback(with_tls(certificate, saying(OK))) as origin, step() as one:
        assert one.get(f"https://127.0.0.1:{origin.port}/").endswith(b"hello")
    assert one.traffic.fetched[0].url == f"https://127.0.0.1:{origin.port}/"


# tunnels --------------------------------------------------------------------------------------------


def test_a_tunnel_is_looked_into(step, certificate: tuple[str, str]) -> None:
    with Loopback(with_tls(certificate, saying(OK, OK))) as origin, step() as one:
        with one.tunnel("127.0.0.1", origin.port) as tls:
            for _ in range(2):
                tls.sendall(f"GET /x HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode())
                assert tls.recv(1 << 16) == OK
        assert origin.connections == 1
    assert one.traffic.fetched[0] == Material(f"https://127.0.0.1:{origin.port}/x", HELLO)


def test_a_server_whose_certificate_is_not_its_own_is_not_asked(step, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    seen: list[bytes] = []
    with (
        Loopback(with_tls(other, seeing(seen, OK))) as origin,
        step() as one,
        one.tunnel("127.0.0.1", origin.port) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode())
        answer = everything(tls)
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"certificate verification failed" in answer
    assert seen == []
    assert one.traffic.missing[0].reason == "upstream_error"


@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET https://other.example/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
        "GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    ],
)
def test_a_tunnel_to_one_host_is_for_no_other(step, certificate: tuple[str, str], request_: str) -> None:
    with Loopback(with_tls(certificate, saying(OK))) as origin, step() as one:
        with one.tunnel("127.0.0.1", origin.port) as tls:
            tls.sendall(request_.format(port=origin.port).encode())
            assert everything(tls).startswith(b"HTTP/1.1 421 ")
        assert origin.connections == 0


def test_there_is_no_tunnel_in_a_tunnel(step) -> None:
    with step() as one, one.tunnel("a.example", 443) as tls:
        tls.sendall(b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n")
        assert everything(tls).startswith(b"HTTP/1.1 4")


def test_other_protocols_do_not_get_through_a_tunnel(step) -> None:
    heard: list[bytes] = []
    with Loopback(lambda connection: heard.append(connection.recv(100))) as origin, step() as one:
        with one.connected() as sock:
            sock.sendall(f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\n\r\n".encode())
            assert read_header(sock).startswith(b"HTTP/1.1 200 ")
            sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            with suppress(ConnectionResetError):
                assert b"SSH" not in everything(sock)
        assert origin.connections == 0
    assert heard == []


def test_what_comes_ahead_of_a_tunnel_is_refused(step) -> None:
    with step() as one:
        answer = one.ask(b"CONNECT a.example:443 HTTP/1.1\r\n\r\nGET http://b.example/ HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


# what is refused ------------------------------------------------------------------------------------


def test_a_second_request_in_the_body_of_the_first_is_none(step) -> None:
    seen: list[bytes] = []
    with Loopback(seeing(seen, OK, OK)) as origin, step() as one:
        inner = f"GET {origin.url}/inner HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        for framing in ("Content-Length: 0\r\nTransfer-Encoding: chunked", "Transfer-Encoding : chunked"):
            raw = f"POST {origin.url}/ HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n".encode()
            assert one.ask(raw + inner).startswith(b"HTTP/1.1 400 ")
        assert origin.connections == 0
    assert one.traffic.requests == ()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * (1 << 17),
        b"",
    ],
)
def test_answers_of_two_meanings_are_not_passed_on(step, answer: bytes) -> None:
    with Loopback(saying(answer)) as origin, step() as one:
        found = one.get(f"{origin.url}/")
    assert found.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert one.traffic.requests == (Passed("GET", f"{origin.url}/", 502),)
    assert one.traffic.missing == (Missing("GET", f"{origin.url}/", "upstream_error"),)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ],
)
def test_half_an_answer_is_not_taken_for_the_whole(step, answer: bytes) -> None:
    with Loopback(saying(answer)) as origin, step() as one, one.connected() as sock:
        sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        found = b""
        with pytest.raises(ConnectionResetError):
            while data := sock.recv(1 << 16):
                found += data
        assert not found.endswith(b"0\r\n\r\n")
    assert one.traffic.fetched == ()
    assert one.traffic.missing == (Missing("GET", f"{origin.url}/", "body_read_failed"),)


def test_what_is_out_of_reach_is_told_and_not_connected_to(step) -> None:
    with Loopback(saying(OK)) as origin, step(reach=Reach.WORLD) as one:
        for url in (origin.url, f"http://localhost:{origin.port}", "http://169.254.169.254"):
            assert one.get(f"{url}/").startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert origin.connections == 0
    assert [item.status for item in one.traffic.requests] == [502, 502, 502]


def test_who_sends_half_a_head_is_dropped(step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_HEAD_S", 0.2)
    with step() as one, one.connected() as sock:
        sock.sendall(b"GET http://a.example/ HTTP/1.1\r\n")
        assert everything(sock).startswith(b"HTTP/1.1 408 ")


def test_idle_connections_make_room_for_new_ones(step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CROWDED_S", 0.01)
    with Loopback(saying(OK)) as origin, step() as one:
        idle = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(200)]
        try:
            assert one.get(f"{origin.url}/").endswith(b"hello")
            running = [t for t in threading.enumerate() if t.name == "anyarch-relay"]
            assert len(running) <= 128
        finally:
            for sock in idle:
                sock.close()


# policies -------------------------------------------------------------------------------------------


def test_a_policy_sees_the_one_spelling_and_decides(step) -> None:
    asked: list[str] = []

    def policy(url: str) -> str:
        asked.append(url)
        if url.endswith("/denied"):
            raise Denied(url)
        return url

    with Loopback(saying(OK)) as origin, step(policy) as one:
        shouted = f"HTTP://user@127.0.0.1:{origin.port}/a/../%64enied"
        assert one.get(shouted).endswith(b"\r\n\r\nForbidden\n")
        assert origin.connections == 0
        assert one.get(f"{origin.url}/allowed").endswith(b"hello")
    assert asked == [f"{origin.url}/denied", f"{origin.url}/allowed"]
    assert one.traffic.requests[0] == Passed("GET", f"{origin.url}/denied", 403)
    assert one.traffic.missing == ()


def test_every_request_of_a_tunnel_is_decided_on(step, certificate: tuple[str, str]) -> None:
    asked: list[str] = []

    def policy(url: str) -> str:
        asked.append(url)
        if len(asked) == 2:
            raise Denied(url)
        return url

    with (
        Loopback(with_tls(certificate, saying(OK, OK))) as origin,
        step(policy) as one,
        one.tunnel("127.0.0.1", origin.port) as tls,
    ):
        head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode()
        tls.sendall(head)
        assert tls.recv(1 << 16) == OK
        tls.sendall(head)
        assert everything(tls).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert asked == [f"https://127.0.0.1:{origin.port}/"] * 2


def test_a_converted_request_is_written_down_as_what_it_became(step) -> None:
    seen: list[bytes] = []
    with Loopback(seeing(seen, OK, OK)) as origin, step(lambda url: f"{origin.url}/other") as one:
        fields = ("Authorization: secret", "Cookie: secret")
        assert one.get("http://unreachable.invalid/", *fields).endswith(b"hello")
        assert one.ask(b"HEAD http://unreachable.invalid/ HTTP/1.1\r\nHost: a\r\n\r\n").startswith(
            b"HTTP/1.1 403 "
        )
    assert seen[0] == f"GET /other HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode()
    assert one.traffic.fetched == (Material(f"{origin.url}/other", HELLO),)


@pytest.mark.parametrize("made", ["ftp://a.example/", "docker-image://a", "", "http://b c/"])
def test_a_request_becomes_nothing_but_a_request(step, made: str) -> None:
    with step(lambda url: made) as one:
        assert one.get("http://a.example/").startswith(b"HTTP/1.1 403 ")


# what is known --------------------------------------------------------------------------------------


def test_redirects_are_materials_too(step) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /b#part\r\nContent-Length: 0\r\n\r\n"
    with Loopback(saying(moved, OK)) as origin, step() as one, one.connected() as sock:
        for name in ("a", "b"):
            sock.sendall(f"GET {origin.url}/{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            sock.recv(1 << 16)
    materials = one.traffic.materials()
    assert {item.url: item.digest for item in materials} == {
        f"{origin.url}/a": HELLO,
        f"{origin.url}/b": HELLO,
    }


@pytest.mark.parametrize(
    ("fields", "answer", "reason"),
    [
        (
            "Range: bytes=0-1\r\n",
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nhe",
            "partial_response",
        ),
        ("", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "unsuccessful_response"),
    ],
)
def test_what_is_not_whole_is_missing(step, fields: str, answer: bytes, reason: str) -> None:
    with Loopback(saying(answer)) as origin, step() as one:
        one.ask(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n".encode())
    assert one.traffic.missing == (Missing("GET", f"{origin.url}/", reason),)
    assert one.traffic.fetched == ()


def test_an_answer_that_says_that_nothing_changed_is_neither(step) -> None:
    same = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    with Loopback(saying(same, OK)) as origin, step() as one, one.connected() as sock:
        sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 304 ")
        sock.sendall(f"GET {origin.url}/b HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert sock.recv(1 << 16) == OK
    assert one.traffic.missing == ()


def test_what_a_client_does_not_wait_for_is_missing(step) -> None:
    def serve(connection: socket.socket) -> None:
        read_header(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 20))

    with Loopback(serve) as origin, step() as one:
        with one.connected() as sock:
            sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            sock.recv(100)
        until = time.monotonic() + 10
        while time.monotonic() < until and any(t.name == "anyarch-relay" for t in threading.enumerate()):
            time.sleep(0.01)
    assert one.traffic.missing == (Missing("GET", f"{origin.url}/", "body_read_failed"),)


def test_the_end_of_a_step_ends_what_is_under_way(step) -> None:
    asked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_header(connection)
        asked.set()
        connection.recv(1)  # until it is closed

    with Loopback(serve) as origin, step() as one, one.connected() as sock:
        sock.sendall(f"GET {origin.url}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert asked.wait(10)
    assert one.traffic.missing == (Missing("GET", f"{origin.url}/", "upstream_error"),)


def test_what_is_written_down_of_a_step_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_MOST_BYTES", 1000)
    recorder = Recorder()
    for number in range(100):
        recorder.passed(Passed("GET", f"http://a.example/{number}", 200))
        recorder.material(f"http://a.example/{number}", HELLO)
    found = recorder.finish()
    assert 0 < len(found.requests) < 10
    assert found.missing == (Missing("", "", "too_many_requests"),)


def test_names_that_tls_cannot_have_are_told(step) -> None:
    with step() as one:
        assert one.get(f"https://{'a' * 70}.example/").startswith(b"HTTP/1.1 502 ")
    assert one.traffic.missing[0].reason == "upstream_error"


def test_what_went_through_survives_being_stored(step) -> None:
    with Loopback(saying(OK)) as origin, step() as one:
        one.get(f"{origin.url}/")
    assert type(one.traffic).decode(one.traffic.encode()) == one.traffic
