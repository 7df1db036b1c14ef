"""Certificates of a build's authority, checked by OpenSSL."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from anyarch.http.intercept.authority import Authority, subject_hash

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "host", ["example.com", "192.0.2.1", "2001:db8::1", "a" * 63 + "." + "b" * 63 + ".example"]
)
def test_a_client_that_trusts_it_believes_in_its_hosts(host: str) -> None:
    authority = Authority()
    client = ssl.create_default_context(cadata=authority.pem.decode())
    one, other = socket.socketpair()
    server: list[ssl.SSLSocket] = []

    def serve() -> None:
        server.append(authority.context(host).wrap_socket(other, server_side=True))

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(one, server_hostname=host) as tls:
        assert tls.version() in ("TLSv1.2", "TLSv1.3")
    thread.join()
    server[0].close()


def test_hosts_keep_their_certificates_for_a_while() -> None:
    authority = Authority()
    first = authority.context("a.example")
    assert authority.context("a.example") is first
    assert authority.context("b.example") is not first


def test_two_builds_have_nothing_in_common() -> None:
    assert Authority().pem != Authority().pem


def test_openssl_finds_it_by_the_hash_of_its_name(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-subject_hash", "-in", str(tmp_path / "ca.pem")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == subject_hash()
    assert b"PRIVATE" not in authority.pem


def test_no_key_is_left_open_or_on_a_disk() -> None:
    before = set(os.listdir("/proc/self/fd"))
    Authority().context("example.com")
    assert set(os.listdir("/proc/self/fd")) <= before
