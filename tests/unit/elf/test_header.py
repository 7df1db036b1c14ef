"""Headers of program files."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.elf.header import identity_of, interpreter_of, machine_name, parse
from anyarch.elf.tiny import ARCHITECTURES, tiny_executable
from anyarch.errors import NotSupported


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_program_says_what_it_is_for(architecture: str) -> None:
    header = parse(tiny_executable(architecture))

    assert header is not None
    assert header.architecture == architecture
    assert header.is_program
    assert header.interpreter == ""
    assert identity_of(architecture) == (header.bits, header.order, header.machine)


def test_dynamic_program_names_its_loader() -> None:
    with open(sys.executable, "rb") as file:
        head = file.read(4096)

    assert "ld" in interpreter_of(head)


@pytest.mark.parametrize(
    "head", [b"", b"\x7fELF", b"#!/bin/sh\n", b"MZ" + bytes(64), b"\x7fELF\x09\x01" + bytes(60)]
)
def test_other_files_have_no_header(head: bytes) -> None:
    assert parse(head) is None
    assert machine_name(head) == ""


def test_unknown_machine_has_no_architecture() -> None:
    head = bytearray(tiny_executable("amd64"))
    head[18:20] = struct.pack("<H", 0xFFFF)

    assert machine_name(bytes(head)) == ""


@given(st.binary(max_size=300), st.sampled_from(ARCHITECTURES), st.data())
def test_damaged_headers_are_no_danger(noise: bytes, architecture: str, data: st.DataObject) -> None:
    head = bytearray(tiny_executable(architecture))
    at = data.draw(st.integers(0, len(head)))
    head[at : at + len(noise)] = noise

    header = parse(bytes(head))

    assert header is None or isinstance(header.interpreter, str)


def test_no_program_for_an_unknown_architecture() -> None:
    with pytest.raises(NotSupported, match="sparc"):
        tiny_executable("sparc")
