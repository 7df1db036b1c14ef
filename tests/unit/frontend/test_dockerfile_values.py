"""Ports, signals, durations, sizes and other small texts of the Dockerfile language."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.gotext import (
    closest,
    parse_bool,
    parse_duration,
    parse_uint,
    quote,
    ram_bytes,
    split_blanks,
)
from anyarch.frontend.dockerfile.port import PortSpec, parse_port
from anyarch.frontend.dockerfile.signals import parse_signal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", PortSpec(("80/tcp",))),
        ("80/udp", PortSpec(("80/udp",))),
        ("80/", PortSpec(("80/tcp",))),
        ("80/SCTP", PortSpec(("80/sctp",), odd_protocol=True)),
        ("80-82", PortSpec(("80/tcp", "81/tcp", "82/tcp"))),
        ("80-80", PortSpec(("80/tcp",))),
        ("0", PortSpec(("0/tcp",))),
        ("65535", PortSpec(("65535/tcp",))),
        ("8080:80", PortSpec(("80/tcp",), odd_format=True)),
        (":80", PortSpec(("80/tcp",))),
        ("127.0.0.1:8080:80/udp", PortSpec(("80/udp",), odd_format=True)),
        ("127.0.0.1::80", PortSpec(("80/tcp",), odd_format=True)),
        ("[::1]:8080:80", PortSpec(("80/tcp",), odd_format=True)),
        ("::1:8080:80", PortSpec(("80/tcp",), odd_format=True)),
        ("8000-8001:80-81", PortSpec(("80/tcp", "81/tcp"), odd_format=True)),
        ("8000-8009:80", PortSpec(("80/tcp",), odd_format=True)),
    ],
)
def test_ports(text, expected):
    assert parse_port(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'invalid port: "": no port specified'),
        ("/tcp", 'invalid port: "/tcp": no port specified'),
        ("80/foo", 'invalid port: "80/foo": invalid proto: foo'),
        ("65536", "invalid containerPort: 65536"),
        ("-1", "invalid containerPort: -1"),
        ("x", "invalid containerPort: x"),
        ("81-80", "invalid containerPort: 81-80"),
        ("80-", "invalid containerPort: 80-"),
        ("٨٠", "invalid containerPort: ٨٠"),
        ("x:80", "invalid hostPort: x"),
        ("1.2.3:1:80", "invalid IP address: 1.2.3"),
        ("fe80::1%lo:1:80", "invalid IP address: fe80::1%lo"),
        ("8000-8002:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000-8002"),
    ],
)
def test_bad_ports_say_why(text, message):
    with pytest.raises(DockerfileError) as caught:
        parse_port(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("+9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("SIGCLD", 17),
        ("iot", 6),
        ("POLL", 29),
        ("RTMIN", 34),
        ("RTMIN+15", 49),
        ("SIGRTMAX-14", 50),
        ("RTMAX", 64),
        ("999", 999),
    ],
)
def test_signals(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "FOO", "SIG", "-9", "9x", "RTMIN+16", "RTMAX-15", "RTMIN+0", "RTMIN+01"]
)
def test_bad_signals_say_so(text):
    with pytest.raises(DockerfileError) as caught:
        parse_signal(text)
    assert caught.value.message == f"invalid signal: {text}"


def test_signal_numbers_are_those_of_this_linux():
    for member in signal.Signals:
        assert parse_signal(member.name) == member or member.name in ("SIGRTMIN", "SIGRTMAX")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1ns", 1),
        ("1us", 1_000),
        ("1µs", 1_000),
        ("1μs", 1_000),
        ("1.5s", 1_500_000_000),
        (".5m", 30_000_000_000),
        ("1.s", 1_000_000_000),
        ("1h2m3s4ms", 3_723_004_000_000),
        ("-1s", -1_000_000_000),
        ("+1s", 1_000_000_000),
        ("0.9999999999s", 999_999_999),
        ("9223372036854775807ns", (1 << 63) - 1),
    ],
)
def test_durations(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "-", "s", "1", "1x", ".s", "1s2", "1 s", "9223372036854775808ns", "1e3s"]
)
def test_bad_durations_are_refused(text):
    with pytest.raises(DockerfileError, match=r"^time: "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("1k", 1024),
        ("1KB", 1024),
        ("1kib", 1024),
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("2 gb", 2 << 30),
        ("1b", 1),
        ("1t", 1 << 40),
        ("1e3", 1000),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1x", None),
        ("1kx", None),
        ("1kibb", None),
        ("1_0", None),
        ("1 0", None),
        ("inf", None),
        ("9e999", None),
    ],
)
def test_sizes(text, size):
    assert ram_bytes(text) == size


@given(st.text("0123456789+-_ \u0660x", max_size=4), st.sampled_from([8, 10]))
def test_unsigned_numbers_are_plain_digits(text, base):
    expected = int(text, base) if text and set(text) <= set("0123456789"[:base]) else None
    assert parse_uint(text, base, 32) == expected


def test_truth_values_have_thirteen_spellings():
    assert [parse_bool(text) for text in ["1", "t", "T", "TRUE", "true", "True"]] == [True] * 6
    assert [parse_bool(text) for text in ["0", "f", "F", "FALSE", "false", "False"]] == [False] * 6
    assert [parse_bool(text) for text in ("yes", "", "tRUE", "2")] == [None] * 4


def test_quoted_texts_show_what_cannot_be_printed():
    assert (
        quote('a"\\\n\t\0\x7f\udcff\u200bé\U000e0001') == '"a\\"\\\\\\n\\t\\x00\\x7f\\xff\\u200bé\\U000e0001"'
    )


@pytest.mark.parametrize(
    ("value", "options", "case_sensitive", "expected"),
    [
        ("RUNN", ["RUN", "ENV"], False, "RUN"),
        ("runn", ["RUN", "ENV"], False, "run"),
        ("Runn", ["RUN"], False, "run"),
        ("run", ["RUN"], False, ""),
        ("run", ["RUN"], True, ""),
        ("abc", ["abd", "abx"], True, "abd"),
        ("abcd", ["wxyz"], True, ""),
        ("abcdef", ["abc"], True, ""),
        ("", ["ab"], True, "ab"),
    ],
)
def test_the_closest_option_is_at_most_two_edits_away(value, options, case_sensitive, expected):
    assert closest(value, options, case_sensitive=case_sensitive) == expected


def test_blanks_split_words_of_lists():
    assert split_blanks("a \t b\u00a0c\nd") == ["a", "b\u00a0c\nd"]
    assert split_blanks("a b c", 1) == ["a", "b c"]
