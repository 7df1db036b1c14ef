"""A certificate is taken out of a file again, and nothing else of it."""

from __future__ import annotations

import pytest

from anyarch.http.intercept.authority import Authority
from anyarch.worker.trust import without_certificate

OWN, OTHER = Authority().pem, Authority().pem
BLOCK = b"\n# buildkit proxy CA begin\n" + OWN + b"# buildkit proxy CA end\n"


@pytest.mark.parametrize("rest", [b"", OTHER, b"# comment\n" + OTHER + b"\n", b"no certificates"])
def test_the_block_goes_and_the_rest_stays(rest: bytes) -> None:
    assert without_certificate(rest + BLOCK, OWN) == rest
    assert without_certificate(rest + BLOCK + OTHER, OWN) == rest + OTHER
    assert without_certificate(rest, OWN) == rest


def test_copies_without_marks_go_too() -> None:
    assert without_certificate(OTHER + OWN + OTHER, OWN) == OTHER + OTHER
    wrapped = OWN.replace(b"\n", b"\r\n")
    assert b"BEGIN" not in without_certificate(wrapped, OWN)


def test_what_is_no_certificate_stays() -> None:
    for text in (
        b"-----BEGIN CERTIFICATE-----\nabc",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ):
        assert without_certificate(text, OWN) == text
