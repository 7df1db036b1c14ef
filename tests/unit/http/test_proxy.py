from __future__ import annotations

import pytest

from anyarch.errors import NetworkError
from anyarch.http.proxy import Proxy, is_loopback, parse_proxy, proxy_for

ENV = {"HTTPS_PROXY": "http://proxy.example:3128", "http_proxy": "plain.example"}


def test_the_variable_of_the_scheme_decides():
    assert proxy_for(ENV, "https", "ghcr.io", 443) == Proxy("proxy.example", 3128)
    assert proxy_for(ENV, "http", "ghcr.io", 80) == Proxy("plain.example", 80)


def test_lower_case_wins():
    env = {"HTTPS_PROXY": "http://upper.example", "https_proxy": "http://lower.example"}
    assert proxy_for(env, "https", "ghcr.io", 443) == Proxy("lower.example", 80)


def test_all_proxy_is_the_fallback():
    assert proxy_for({"ALL_PROXY": "all.example:1"}, "https", "ghcr.io", 443) == Proxy("all.example", 1)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_never_goes_through_a_proxy(host):
    assert is_loopback(host)
    assert proxy_for(ENV, "https", host, 443) is None


@pytest.mark.parametrize("host", ["localhost.example", "127.example", "128.0.0.1", "127.0.0.256", "::2"])
def test_other_hosts_are_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "is_exempt"),
    [
        ("*", "ghcr.io", 443, True),
        ("ghcr.io", "ghcr.io", 443, True),
        ("ghcr.io", "pkg.ghcr.io", 443, True),
        ("ghcr.io", "notghcr.io", 443, False),
        (".ghcr.io", "ghcr.io", 443, False),
        (".ghcr.io", "pkg.ghcr.io", 443, True),
        ("*.ghcr.io", "pkg.ghcr.io", 443, True),
        ("ghcr.io:8443", "ghcr.io", 443, False),
        ("ghcr.io:8443", "ghcr.io", 8443, True),
        ("a.example, GHCR.io", "ghcr.io", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("1000.1", "ghcr.io", 443, False),
        ("", "ghcr.io", 443, False),
    ],
)
def test_no_proxy_takes_names_suffixes_blocks_and_ports(no_proxy, host, port, is_exempt):
    found = proxy_for({**ENV, "NO_PROXY": no_proxy}, "https", host, port)
    assert (found is None) == is_exempt


def test_credentials_of_a_proxy_become_a_header():
    assert parse_proxy("http://me:p%40ss@proxy.example:8080") == Proxy(
        "proxy.example", 8080, "Basic bWU6cEBzcw=="
    )


def test_a_proxy_may_be_reached_by_tls():
    assert parse_proxy("https://proxy.example") == Proxy("proxy.example", 443, is_tls=True)
    assert parse_proxy("https://a:b@proxy.example:3129") == Proxy(
        "proxy.example", 3129, "Basic YTpi", is_tls=True
    )


@pytest.mark.parametrize(
    "text", ["socks5://proxy.example", "ftp://proxy.example", "http://", "http://h:port"]
)
def test_a_proxy_that_cannot_be_used_is_named(text):
    with pytest.raises(NetworkError) as caught:
        parse_proxy(text)
    assert caught.value.kind == "proxy"
    assert "proxy" in caught.value.message
    assert caught.value.hint
