"""Where a request goes: one spelling for all that mean the same, nothing that could be read in two ways."""

from __future__ import annotations

import pytest

from anyarch.http.intercept.target import Refusal, authority, target_of


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTP://EXAMPLE.com.:80/a", "http://example.com/a"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com/a/../b/./c", "http://example.com/b/c"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com/../../etc", "http://example.com/etc"),
        ("http://example.com/a/..", "http://example.com/"),
        ("http://example.com/%62%6f%6F", "http://example.com/boo"),
        ("http://example.com/a%2fb?x=%62/../y", "http://example.com/a%2Fb?x=%62/../y"),
        ("http://example.com//a//", "http://example.com//a//"),
        ("http://example.com?a=/../", "http://example.com/?a=/../"),
        ("http://example.com/a\\b", "http://example.com/a%5Cb"),
        ("http://example.com/\xc3\xa9", "http://example.com/%C3%A9"),
        ("http://[2001:DB8:0::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://user:secret@example.com/a", "http://example.com/a"),
        ("http://example.com@evil.example/", "http://evil.example/"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
    ],
)
def test_addresses_have_one_spelling(written: str, url: str) -> None:
    found = target_of(written)
    assert found.url == url
    assert target_of(found.url) == target_of(url)


@pytest.mark.parametrize(
    "written",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "example.com/",
        "http://",
        "http://:80/",
        "http://exa mple.com/",
        "http://example.com\\@evil.example/",
        "http://example.com%2eevil.example/",
        "http://b\xfccher.example/",
        "http://-example.com/",
        "http://example..com/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://1.2.3.4.5/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://[::1]x/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:+80/",
        "http://example.com:8\u0660/",
        "http://example.com/a b",
        "http://example.com/a\tb",
        "http://example.com/a\x00",
        "http://example.com/#part",
        "http://example.com/%zz",
        "http://example.com/%4",
        "http://" + "a" * 254 + "/",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(written: str) -> None:
    with pytest.raises(Refusal) as refused:
        target_of(written)
    assert refused.value.status == 400


def test_credentials_are_kept_apart_from_the_address() -> None:
    found = target_of("http://user:p%40ss@example.com/")
    assert found.credentials == "user:p%40ss"
    assert "user" not in found.url


def test_an_authority_has_a_default_port() -> None:
    assert authority("Example.com", 443) == ("example.com", 443)
    assert authority("example.com:8443", 443) == ("example.com", 8443)
