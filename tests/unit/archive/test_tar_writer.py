"""TarWriter: deterministic, and read alike by our reader, Python's tarfile and GNU tar."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from anyarch.archive.entry import Entry, Kind
from anyarch.archive.tar import TarWriter, read_tar
from anyarch.errors import MalformedArchive
from tests.unit.archive import strategies as make

if TYPE_CHECKING:
    from pathlib import Path


def tar_of(*items: tuple[Entry, bytes], whiteouts: bool = True) -> bytes:
    out: list[bytes] = []
    writer = TarWriter(out.append, whiteouts=whiteouts)
    for entry, content in items:
        writer.add(entry, content)
    writer.close()
    return b"".join(out)


def header_of(entry: Entry) -> tarfile.TarInfo:
    """What tarfile makes of the header of an entry whose content is too large to be written in a test."""
    out: list[bytes] = []
    writer = TarWriter(out.append)
    with pytest.raises(MalformedArchive):
        writer.add(entry, io.BytesIO())
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(b"".join(out))) as archive:
        info = archive.next()
    assert info is not None
    return info


def stripped(entry: Entry) -> Entry:
    return replace(entry, offset=-1)


@given(st.lists(make.entries(), max_size=5))
@settings(max_examples=200, deadline=None)
def test_entries_come_back_as_they_were_written(items: list[tuple[Entry, bytes]]) -> None:
    raw = tar_of(*items)
    found = [(stripped(entry), content.read()) for entry, content in read_tar(io.BytesIO(raw))]
    assert found == items


@given(st.lists(make.entries().filter(lambda item: item[0].kind is not Kind.WHITEOUT), max_size=4))
@settings(max_examples=150, deadline=None)
def test_tarfile_reads_what_was_written(items: list[tuple[Entry, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(*items)), errors="surrogateescape") as archive:
        check_members(archive, items)


def check_members(archive: tarfile.TarFile, items: list[tuple[Entry, bytes]]) -> None:
    for (entry, content), info in zip(items, archive.getmembers(), strict=True):
        assert info.name == entry.path
        assert (info.mode, info.uid, info.gid) == (entry.mode, entry.uid, entry.gid)
        assert int(info.mtime) * 10**9 == entry.mtime_ns
        assert info.linkname == entry.linkname
        assert (info.devmajor, info.devminor) == (entry.major, entry.minor)
        if entry.kind is Kind.FILE:
            data = archive.extractfile(info)
            assert data is not None
            assert data.read() == content
        assert {
            Kind.FILE: info.isreg,
            Kind.DIRECTORY: info.isdir,
            Kind.SYMLINK: info.issym,
            Kind.HARDLINK: info.islnk,
            Kind.CHAR_DEVICE: info.ischr,
            Kind.BLOCK_DEVICE: info.isblk,
            Kind.FIFO: info.isfifo,
        }[entry.kind]()


@given(st.lists(make.paths, min_size=1, max_size=4), make.paths)
@settings(max_examples=25, deadline=None)
def test_gnu_tar_reads_names_of_any_bytes_and_length(paths: list[str], target: str) -> None:
    raw = tar_of(
        *((Entry(path, Kind.FILE), b"") for path in paths),
        (Entry("link", Kind.SYMLINK, linkname=target), b""),
    )
    listed = subprocess.run(
        ["tar", "--list", "--verbose", "--quoting-style=literal", "--show-transformed-names", "--null"],
        input=raw,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    ).stdout
    expected = [path.encode("utf-8", "surrogateescape") for path in paths]
    expected.append(b"link -> " + target.encode("utf-8", "surrogateescape"))
    assert listed == b"".join(b"%b%b\n" % (prefix_of(name), name) for name in expected)


def prefix_of(name: bytes) -> bytes:
    return (b"l" if b" -> " in name else b"-") + b"--------- 0/0               0 1970-01-01 00:00 "


def test_gnu_tar_unpacks_content_modes_owners_times_and_links(tmp_path: Path) -> None:
    archive = tmp_path / "t.tar"
    long = "d/" + "n" * 200
    archive.write_bytes(
        tar_of(
            (Entry("d", Kind.DIRECTORY, 0o750, mtime_ns=3 * 10**9), b""),
            (Entry(long, Kind.FILE, 0o4711, mtime_ns=-5 * 10**9, size=700), b"x" * 700),
            (Entry("e", Kind.HARDLINK, linkname=long), b""),
            (Entry("s", Kind.SYMLINK, linkname="t" * 300), b""),
        )
    )
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", out], check=True)
    status = os.stat(out / long)
    assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o4711, -5, 2)
    assert (out / "e").read_bytes() == b"x" * 700
    assert os.readlink(out / "s") == "t" * 300
    assert os.stat(out / "d").st_mode & 0o7777 == 0o750


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 100_000])
def test_bytes_do_not_depend_on_how_a_content_is_read(chunk: int) -> None:
    content = os.urandom(1000) * 1100  # more than one flush
    entry = Entry("f", Kind.FILE, size=len(content))

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, max(chunk, len(content) // 3000)))

    out: list[bytes] = []
    writer = TarWriter(out.append, hash_contents=True)
    answered = writer.add(entry, Slow(content))
    writer.close()
    assert b"".join(out) == tar_of((entry, content))
    assert answered.digest == hashlib.sha256(content).digest()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 1])
def test_offset_and_digest_are_those_of_the_content(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "f").write_bytes(content)
    out: list[bytes] = []
    writer = TarWriter(out.append, hash_contents=True)
    entry = Entry("f", Kind.FILE, size=size)
    with open(tmp_path / "f", "rb") as file:
        answers = [
            writer.add(entry, content),
            writer.add(entry, file),
            writer.add_fd(entry, os.open(tmp_path / "f", os.O_RDONLY)),
        ]
    writer.close()
    raw = b"".join(out)
    assert writer.offset == len(raw)
    for answer in answers:
        assert raw[answer.offset : answer.offset + size] == content
        assert answer.digest == hashlib.sha256(content).digest()
    assert [entry.offset for entry, _ in read_tar(io.BytesIO(raw))] == [answer.offset for answer in answers]


@pytest.mark.parametrize("size", [0, 10, 700_000, 3_000_000])
@pytest.mark.parametrize("change", [-1, 1])
def test_content_of_another_size_than_the_entry_says_is_refused(
    size: int, change: int, tmp_path: Path
) -> None:
    if size + change < 0:
        return
    content = bytes(size + change)
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    entry = Entry("f", Kind.FILE, size=size)
    try:
        for source in (content, io.BytesIO(content)):
            with pytest.raises(MalformedArchive, match="is not"):
                TarWriter(lambda _: None).add(entry, source)
        with pytest.raises(MalformedArchive, match="is not"):
            TarWriter(lambda _: None).add_fd(entry, fd)
    finally:
        os.close(fd)


def test_sizes_from_8_gib_on_are_written_as_pax_records() -> None:
    assert header_of(Entry("f", Kind.FILE, size=(8 << 30) - 1)).pax_headers == {}
    info = header_of(Entry("f", Kind.FILE, size=8 << 30))
    assert info.size == 8 << 30
    assert info.pax_headers == {"size": str(8 << 30)}


def test_headers_are_plain_ustar_where_that_can_say_it() -> None:
    prefix = "/".join(["p" * 50] * 3)
    raw = tar_of((Entry(f"{prefix}/{'n' * 100}", Kind.FILE, 0o644, 2097151, 2097151), b""))
    assert len(raw) == 3 * 512
    assert raw[257:265] == b"ustar\x0000"
    assert (raw[:100], raw[345:500].rstrip(b"\0")) == (b"n" * 100, prefix.encode())


def test_fractions_of_a_second_are_rounded_down() -> None:
    times = (1_999_999_999, -1)
    raw = tar_of(*((Entry("f", Kind.FILE, mtime_ns=time), b"") for time in times))
    assert [entry.mtime_ns for entry, _ in read_tar(io.BytesIO(raw))] == [1_000_000_000, -1_000_000_000]


def test_whiteouts_and_opaque_directories_have_the_names_of_the_image_specification() -> None:
    raw = tar_of(
        (Entry("d", Kind.DIRECTORY, opaque=True), b""),
        (Entry("d/gone", Kind.WHITEOUT, mtime_ns=7), b""),
        (Entry("é", Kind.WHITEOUT), b""),
    )
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == ["d", "d/.wh..wh..opq", "d/.wh.gone", ".wh.é"]
    assert {(info.isreg(), info.size, info.mtime) for info in infos[1:]} == {(True, 0, 0)}


def test_a_name_that_would_come_back_as_a_removal_is_refused() -> None:
    with pytest.raises(MalformedArchive, match=r"\.wh\.x"):
        tar_of((Entry("d/.wh.x", Kind.FILE), b""))
    assert tar_of((Entry("d/.whx", Kind.FILE), b""))


def test_a_plain_tar_knows_no_whiteouts() -> None:
    raw = tar_of((Entry("d/.wh.x", Kind.FILE), b""), whiteouts=False)
    assert [entry.path for entry, _ in read_tar(io.BytesIO(raw), whiteouts=False)] == ["d/.wh.x"]
    with pytest.raises(MalformedArchive):
        tar_of((Entry("d/x", Kind.WHITEOUT), b""), whiteouts=False)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a\0b", Kind.FILE),
        Entry("l", Kind.SYMLINK),
        Entry("l", Kind.SYMLINK, linkname="a\0b"),
        Entry("f", Kind.FILE, uid=-1),
        Entry("f", Kind.FILE, gid=1 << 32),
        Entry("c", Kind.CHAR_DEVICE, major=1 << 22),
        Entry("x", Kind.FILE, xattrs=(("user.big", bytes(1 << 20)),)),
    ],
)
def test_what_no_header_can_hold_is_refused(entry: Entry) -> None:
    with pytest.raises(MalformedArchive):
        tar_of((entry, b""))


def test_an_error_of_the_sink_passes() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "full")

    writer = TarWriter(full)
    with pytest.raises(OSError, match="full"):
        writer.add(Entry("f", Kind.FILE, size=2 << 20), bytes(2 << 20))
