"""Damaged Dockerfiles: whatever comes, the parser answers or raises an error of ours."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest

from anyarch.errors import AnyarchError
from anyarch.frontend.dockerfile.parser import parse

CORPUS = Path(__file__).resolve().parents[1] / "conformance" / "dockerfile" / "corpus.json"
TOKENS = [
    *(b"<<EOF", b"<<-'E'", b"\\\n", b"$", b"${", b"}", b'"', b"'", b"--", b"=", b"\0", b"\xff", b"#"),
    *(b"[", b"]"),
    *(b"\r\n", b"\t", b",", b"--mount=", b"FROM ", b"RUN ", b"ARG ", b"COPY ", b"ONBUILD ", b"HEALTHCHECK "),
    *(b"# syntax=x\n", b"# escape=`\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"9" * 40),
]  # fmt: skip


def texts(value: object) -> list[bytes]:
    if isinstance(value, str):
        return [value.encode("utf-8", "surrogateescape")]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in texts(item)]


def damaged(seeds: list[bytes], source: random.Random) -> bytes:
    text = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        kind, at = source.random(), source.randint(0, len(text))
        if kind < 0.4:
            text[at:at] = source.choice(TOKENS)
        elif kind < 0.6:
            del text[at : at + source.randint(1, 8)]
        elif kind < 0.8:
            text[at:at] = bytes([source.randrange(256)])
        else:
            other = source.choice(seeds)
            start = source.randint(0, len(other))
            text[at:at] = other[start : start + source.randint(1, 40)]
    return bytes(text)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_raise_nothing_but_our_own_errors(seed: int) -> None:
    source = random.Random(seed)
    seeds = [text for text in texts(json.loads(CORPUS.read_text())) if b"FROM" in text.upper()]
    assert len(seeds) > 150
    for _ in range(10_000):
        with suppress(AnyarchError):
            parse(damaged(seeds, source), "Dockerfile")
