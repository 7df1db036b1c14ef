"""Changing programs, tried on programs of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from anyarch.elf.edit import PF_R, Program
from anyarch.errors import NotSupported

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the texts are those of amd64")

MAKE = Path("/usr/bin/make")


def output(tmp_path: Path, raw: bytes, *arguments: str) -> str:
    path = tmp_path / "program"
    path.write_bytes(raw)
    path.chmod(0o755)
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def test_a_program_runs_with_a_further_segment(tmp_path: Path) -> None:
    program = Program(Path("/bin/echo").read_bytes(), "echo")
    address = program.add_segment(lambda place: place.to_bytes(8, "little"), flags=PF_R)

    raw = program.finished()
    assert output(tmp_path, raw, "still", "here") == "still here\n"
    again = Program(raw, "echo")
    offset = again.offset_of(address)
    assert offset is not None
    assert int.from_bytes(raw[offset : offset + 8], "little") == address
    assert again.address_of(offset) == address


@pytest.mark.parametrize("new", [b"short", b"a-much-longer-name-than-there-was-room-for-before"])
def test_texts_can_be_shorter_or_longer(tmp_path: Path, new: bytes) -> None:
    program = Program(MAKE.read_bytes(), "make")
    program.replace_texts({b"x86_64-pc-linux-gnu": new})

    assert f"Built for {new.decode()}\n" in output(tmp_path, program.finished(), "--version")


def test_a_missing_text_is_refused() -> None:
    program = Program(MAKE.read_bytes(), "make")
    with pytest.raises(NotSupported, match="make lacks the text 'no such text'"):
        program.replace_texts({b"no such text": b""})


def test_a_loader_with_a_longer_path_is_refused() -> None:
    with pytest.raises(NotSupported, match="no place for the path of a dynamic loader"):
        Program(MAKE.read_bytes(), "make").set_interpreter("/a" * 40)


@pytest.mark.parametrize("raw", [b"", b"#!/bin/sh\n", b"\x7fELF\1\1\1" + bytes(60)])
def test_what_is_no_program_is_refused(raw: bytes) -> None:
    with pytest.raises(NotSupported, match="it is not a little-endian 64 bit program"):
        Program(raw, "it")


def test_functions_are_found_by_name() -> None:
    library = Program(Path("/lib/x86_64-linux-gnu/libc.so.6").read_bytes(), "the C library")
    code = library.function("getpid")

    assert b"\xb8\x27\0\0\0\x0f\x05" in library.raw[code.start : code.stop]  # mov $39, %eax; syscall
    with pytest.raises(NotSupported, match="the C library has no symbol getpidx"):
        library.function("getpidx")
    with pytest.raises(NotSupported, match="make has no symbol malloc"):
        Program(MAKE.read_bytes(), "make").function("malloc")
