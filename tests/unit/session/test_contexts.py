"""Contexts as a daemon receives them: what arrives, what is asked again, and what a hostile sender gets."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import ContextError, ProtocolError
from anyarch.session.digesting import WORTHWHILE, DigestingThread
from anyarch.session.filesync import ContextReceiver
from anyarch.session.packet import DATA, ERR, FIN, REQ, STAT, decode_packet, encode_packet, encode_stat
from anyarch.snapshot.hosttree import HostFile, HostTree
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MTIME = 1_700_000_000_000_000_000


def file(path: str, size: int = 0, mtime_ns: int = MTIME) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=size, mtime_ns=mtime_ns)


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755, mtime_ns=MTIME)


def link(path: str, to: str, kind: Kind = Kind.SYMLINK) -> Entry:
    return Entry(path, kind, 0o777, mtime_ns=MTIME, linkname=to)


def listed(entries: Iterable[Entry]) -> Iterator[bytes]:
    for entry in entries:
        yield encode_packet(STAT, stat=encode_stat(entry))
    yield encode_packet(STAT)


class Sender:
    """Lists `entries` and sends what is asked for, out of `contents`."""

    def __init__(self, path: Path, entries: list[Entry], contents: dict[str, bytes] | None = None) -> None:
        path.mkdir(exist_ok=True)
        self.entries, self.contents = entries, contents or {}
        self.asked: list[str] = []
        self._answers: list[bytes] = []
        self.receiver = ContextReceiver(str(path), self._answers.append)
        self.digests: dict[str, bytes] = {}

    def transfer(self) -> Sender:
        try:
            for packet in listed(self.entries):
                self.receiver.feed(packet)
            while self._answers:
                answer = decode_packet(self._answers.pop(0))
                if answer.type == FIN:
                    self.receiver.feed(encode_packet(FIN))
                    break
                assert answer.type == REQ
                self._send(answer.id)
            assert self.receiver.is_finished
            self.digests = dict(self.receiver.digests())
        finally:
            self.receiver.close()
        return self

    def _send(self, number: int) -> None:
        path = self.entries[number].path
        self.asked.append(path)
        content = memoryview(self.contents.get(path, b""))
        for start in range(0, len(content), 32 << 10):
            self.receiver.feed(encode_packet(DATA, number=number, data=content[start : start + (32 << 10)]))
        self.receiver.feed(encode_packet(DATA, number=number))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_context_arrives_and_only_changes_are_asked_for_again(tmp_path: Path) -> None:
    root = tmp_path / "c"
    entries = [directory("d"), file("d/old", 3), file("d/same", 4), link("d/to", "/etc"), file("gone", 1)]
    contents = {"d/old": b"old", "d/same": b"same", "gone": b"g"}
    before = open_files()
    assert Sender(root, entries, contents).transfer().asked == ["d/old", "d/same", "gone"]
    entries = [directory("d"), file("d/old", 4), file("d/same", 4), directory("d/to"), file("d/to/x", 1)]
    sender = Sender(root, entries, {"d/old": b"new!", "d/to/x": b"x"}).transfer()
    assert sender.asked == ["d/old", "d/to/x"]
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "d",
        "d/old",
        "d/same",
        "d/to",
        "d/to/x",
    ]
    assert (root / "d/old").read_bytes() == b"new!"
    assert open_files() == before


def test_attributes_are_told_of_unchanged_files_too_and_set_on_none(tmp_path: Path) -> None:
    root = tmp_path / "c"
    given = {"d": (("user.a", b"1"),), "d/f": (("user.b", b"\0"), ("user.c", b""))}
    entries = [
        msgspec.structs.replace(entry, xattrs=given.get(entry.path, ()))
        for entry in (directory("d"), file("d/f", 1), file("plain"))
    ]
    for asked in (["d/f", "plain"], []):
        sender = Sender(root, entries, {"d/f": b"x"}).transfer()
        assert sender.asked == asked
        assert sender.receiver.attributes == given
    assert os.listxattr(root / "d/f") == []


def test_large_files_are_digested_while_they_come(tmp_path: Path) -> None:
    root, data = tmp_path / "c", os.urandom(3 * WORTHWHILE + 77)
    entries = [file("large", len(data)), file("less", len(data)), file("small", 5)]
    sender = Sender(root, entries, {"large": data, "less": data[:-1], "small": b"small"}).transfer()
    assert sender.digests == {
        "large": hashlib.sha256(data).digest(),
        "less": hashlib.sha256(data[:-1]).digest(),  # what came, whatever was listed
    }


def test_a_received_file_is_read_once_and_known_in_the_next_build(tmp_path: Path) -> None:
    root, data = tmp_path / "c", os.urandom(WORTHWHILE)
    digests = Sender(root, [file("large", len(data))], {"large": data}).transfer().digests
    with Store.open(tmp_path / "store") as store:
        first = HostTree(str(root), store=store, digests=digests)
        node = first.lookup("large")
        assert node is not None
        assert node.entry.digest == hashlib.sha256(data).digest()
        with first.open(node) as content:
            assert not isinstance(content, HostFile)  # which is digested once more as it is copied
            assert content.read() == data
        known = HostTree(str(root), store=store, digests={}).lookup("large")
        assert known is not None
        assert known.entry.digest == node.entry.digest


def test_more_files_than_are_followed_have_no_digest(tmp_path: Path) -> None:
    digesting = DigestingThread()
    fds = []
    for number in range(40):
        fds.append(os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT))
        digesting.begin(str(number), fds[-1])
    for number, fd in enumerate(fds):
        os.write(fd, b"%d" % number)
        digesting.written(str(number), len(str(number)))
        digesting.end(str(number))
        os.close(fd)
    digests = digesting.digests()
    digesting.close()
    assert 0 < len(digests) < 40
    assert all(digest == hashlib.sha256(path.encode()).digest() for path, digest in digests.items())


def test_a_file_that_was_cut_has_no_digest(tmp_path: Path) -> None:
    digesting = DigestingThread()
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    digesting.begin("f", fd)
    digesting.written("f", 10)  # of which nothing is there
    digesting.end("f")
    assert digesting.digests() == {}
    digesting.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([file("../out")], "no clean relative path"),
        ([file("/etc/passwd")], "no clean relative path"),
        ([directory("a"), file("a/../../out")], "no clean relative path"),
        ([directory("a"), file("a/./b")], "no clean relative path"),
        ([file("a//b")], "no clean relative path"),
        ([file("a\0b")], "no clean relative path"),
        ([file("")], "no clean relative path"),
        ([file("a"), file("a")], "twice or out of order"),
        ([file("b"), file("a")], "twice or out of order"),
        ([directory("a"), file("b"), file("a/b")], "twice or out of order"),
        ([link("a", "/etc"), file("a/passwd")], "not the directory that holds it"),
        ([file("a"), file("a/b")], "not the directory that holds it"),
        ([file("a/b")], "not the directory that holds it"),
        ([link("a", "/etc/passwd", Kind.HARDLINK)], "was not listed before it"),
        ([link("a", "/etc"), link("b", "a", Kind.HARDLINK)], "was not listed before it"),
    ],
)
def test_a_list_that_could_lead_out_is_refused(tmp_path: Path, entries: list[Entry], says: str) -> None:
    before = open_files()
    with pytest.raises(ProtocolError, match=says):
        Sender(tmp_path / "c", entries).transfer()
    assert open_files() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_an_earlier_transfer_left_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "c", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    Sender(root, [link("a", str(outside)), link("b", str(outside / "kept"))]).transfer()
    Sender(
        root, [directory("a"), file("a/kept", 3), file("b", 3)], {"a/kept": b"new", "b": b"new"}
    ).transfer()
    assert (outside / "kept").read_text() == "kept"
    assert (root / "a" / "kept").read_text() == "new"


def test_devices_are_left_out_and_special_bits_kept(tmp_path: Path) -> None:
    root = tmp_path / "c"
    special = Entry("s", Kind.FILE, 0o4755, mtime_ns=MTIME)
    devices = [Entry(name, kind, 0o666, major=1, minor=3) for name, kind in _DEVICES]
    Sender(root, [*devices, special]).transfer()
    assert [path.name for path in root.iterdir()] == ["s"]
    assert stat.S_IMODE((root / "s").stat().st_mode) == 0o4755


_DEVICES = (("b", Kind.BLOCK_DEVICE), ("c", Kind.CHAR_DEVICE))


@pytest.mark.parametrize(
    ("packets", "error", "says"),
    [
        ([encode_packet(FIN)], ProtocolError, "before it had sent all files"),
        ([*listed([file("a", 1)]), encode_packet(FIN)], ProtocolError, "before it had sent all files"),
        ([encode_packet(DATA, number=0, data=b"x")], ProtocolError, "which was not asked for"),
        (
            [*listed([directory("d")]), encode_packet(DATA, number=0, data=b"x")],
            ProtocolError,
            "not asked for",
        ),
        ([encode_packet(REQ, number=0)], ProtocolError, "packet type 1"),
        ([*listed([]), encode_packet(STAT, stat=encode_stat(file("a")))], ProtocolError, "packet type 0"),
        ([encode_packet(ERR, data=b"no such file")], ContextError, "no such file"),
        ([encode_packet(9)], ProtocolError, "unknown packet type 9"),
        ([b"\xff" * 30], ProtocolError, "file transfer"),
        ([encode_packet(STAT, stat=b"\x0a\xff\xff\xff\x7f")], ProtocolError, "cut short"),
    ],
)
def test_packets_out_of_place_end_the_transfer(
    tmp_path: Path, packets: list[bytes], error: type[Exception], says: str
) -> None:
    (tmp_path / "c").mkdir()
    receiver = ContextReceiver(str(tmp_path / "c"), lambda answer: None)
    try:
        with pytest.raises(error, match=says):
            for packet in packets:
                receiver.feed(packet)
    finally:
        receiver.close()


def test_a_size_that_is_only_listed_takes_no_room(tmp_path: Path) -> None:
    root = tmp_path / "c"
    Sender(root, [file("huge", 1 << 62)], {"huge": b"little"}).transfer()
    assert (root / "huge").read_bytes() == b"little"


def test_a_path_too_long_for_the_system_is_an_error_and_nothing_stays_open(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises((ProtocolError, OSError)):
        Sender(tmp_path / "c", [file("x" * 5000)]).transfer()
    deep = ["/".join(["d"] * depth) for depth in range(1, 1000)]
    with pytest.raises(ProtocolError, match="too long"):
        Sender(tmp_path / "c", [directory(path) for path in deep]).transfer()
    assert open_files() == before
