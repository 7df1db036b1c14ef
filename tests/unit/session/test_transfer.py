"""Trees of files from a sender to a receiver, and what neither accepts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.archive.apply import Unpacker
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import ContextError, ProtocolError
from anyarch.session.packet import (
    DATA,
    ERR,
    FIN,
    REQ,
    STAT,
    decode_packet,
    decode_stat,
    encode_packet,
    encode_stat,
)
from anyarch.session.receiver import ListChecker, TreeReceiver
from anyarch.session.sender import send_tree
from anyarch.snapshot.hosttree import HostTree

if TYPE_CHECKING:
    from pathlib import Path


class Pipe:
    """A sender's stream whose other end is a `TreeReceiver`."""

    def __init__(self, receiver: TreeReceiver) -> None:
        self.receiver = receiver
        self.sent: list[bytes] = []
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(self) -> bytes | None:
        return await self.answers.get()

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        for answer in self.receiver.feed(message):
            self.answers.put_nowait(answer)
        await asyncio.sleep(0)


class Script:
    """A stream on which the other side says what it says, then nothing more."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)
        self.sent: list[bytes] = []

    async def receive(self) -> bytes | None:
        return self.messages.pop(0) if self.messages else None

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        await asyncio.sleep(0)


def listing(root: Path) -> list[tuple[str, int, int, str, bytes]]:
    found = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        link = os.readlink(path) if path.is_symlink() else ""
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path.relative_to(root)), status.st_mode, status.st_mtime_ns, link, content))
    return found


def test_tree_arrives_as_it_was(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(300):
        path = source / f"dir{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 37))
    (source / "big").write_bytes(os.urandom(3 << 20))
    (source / "empty").touch()
    (source / "dir").mkdir()
    (source / "dir-a").touch()  # sorts between "dir" and what is in it, but comes after
    (source / "dir" / "inner").write_text("x")
    (source / "link").symlink_to("dir1/file1")
    os.mkfifo(source / "pipe")
    (source / "tool").write_text("#!")
    (source / "tool").chmod(0o4755)
    target.mkdir()

    receiver = TreeReceiver(Unpacker(str(target), whiteouts="delete", chown=False, keep_root=True))
    pipe = Pipe(receiver)
    asyncio.run(send_tree(HostTree(str(source)), pipe))
    receiver._unpacker.finish()

    assert receiver.is_finished
    assert listing(target) == listing(source)
    assert receiver.paths == {name for name, *_ in listing(source)}


def test_receiver_asks_for_a_bounded_number_of_files_at_once(tmp_path: Path) -> None:
    receiver = TreeReceiver(Unpacker(str(tmp_path), whiteouts="delete", chown=False))
    asked = []
    for number in range(500):
        entry = Entry(f"{number:04}", Kind.FILE, 0o644)
        asked += receiver.feed(encode_packet(STAT, stat=encode_stat(entry)))
    assert 1 <= len(asked) <= 64
    receiver.close()


def test_links_are_made_when_their_files_are_there(tmp_path: Path) -> None:
    receiver = TreeReceiver(Unpacker(str(tmp_path), whiteouts="delete", chown=False))
    entries = [Entry("a", Kind.FILE, 0o644, size=3), Entry("b", Kind.HARDLINK, 0o644, linkname="a")]
    answers = [
        a for e in entries for a in receiver.feed(encode_packet(STAT, stat=encode_stat(e)))
    ] + receiver.feed(encode_packet(STAT))
    assert [decode_packet(a).type for a in answers] == [REQ]
    assert receiver.feed(encode_packet(DATA, data=b"abc")) == []
    answers = receiver.feed(encode_packet(DATA))
    assert [decode_packet(a).type for a in answers] == [FIN]
    receiver.feed(encode_packet(FIN))
    assert (tmp_path / "b").stat().st_ino == (tmp_path / "a").stat().st_ino


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (["../x"], "no clean relative path"),
        (["/x"], "no clean relative path"),
        (["a/../b"], "no clean relative path"),
        (["a//b"], "no clean relative path"),
        (["a\0b"], "no clean relative path"),
        ([""], "no clean relative path"),
        (["b", "a"], "out of order"),
        (["a", "a"], "twice"),
        (["a/b"], "not the directory that holds it"),
        (["a", "a/b"], "not the directory that holds it"),
    ],
)
def test_lists_that_are_refused(paths: list[str], complaint: str) -> None:
    checker = ListChecker()
    with pytest.raises(ProtocolError, match=complaint):
        for path in paths:
            checker.check(Entry(path, Kind.FILE))


def test_link_to_what_was_not_listed_is_refused() -> None:
    checker = ListChecker()
    with pytest.raises(ProtocolError, match="was not listed"):
        checker.check(Entry("x", Kind.HARDLINK, linkname="../../etc/shadow"))


def test_a_symlink_does_not_lead_the_receiver_out(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    receiver = TreeReceiver(Unpacker(str(target), whiteouts="delete", chown=False))
    receiver.feed(
        encode_packet(STAT, stat=encode_stat(Entry("out", Kind.SYMLINK, 0o777, linkname=str(tmp_path))))
    )
    with pytest.raises(ProtocolError, match="not the directory that holds it"):
        receiver.feed(encode_packet(STAT, stat=encode_stat(Entry("out/file", Kind.FILE, 0o644))))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([encode_packet(REQ, number=99)], "which is no file"),
        ([encode_packet(REQ, number=0)], "which is no file"),
        ([encode_packet(DATA, data=b"x")], "from a receiver"),
        ([encode_packet(ERR, data=b"disk full")], "disk full"),
        ([b"\xff\xff"], "file transfer"),
        ([], "before it had them all"),
    ],
)
def test_sender_ends_when_the_receiver_is_wrong(
    tmp_path: Path, messages: list[bytes], complaint: str
) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(ProtocolError, match=complaint):
        asyncio.run(send_tree(HostTree(str(tmp_path)), Script(*messages)))


def test_file_that_changed_is_told_to_both_sides(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    tree = HostTree(str(tmp_path))
    (tmp_path / "file").write_text("other")
    stream = Script(encode_packet(REQ, number=0), encode_packet(FIN))
    with pytest.raises(ContextError, match="changed during the build: file"):
        asyncio.run(send_tree(tree, stream))
    assert decode_packet(stream.sent[-1]).type == ERR


def test_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(ProtocolError, match=r"caf\\xe9 is not UTF-8"):
        asyncio.run(send_tree(HostTree(str(tmp_path)), Script(encode_packet(FIN))))


entries = st.builds(
    Entry,
    path=st.text(min_size=1).filter(lambda t: "\0" not in t),
    kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.FIFO, Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    major=st.integers(0, 2**31),
    minor=st.integers(0, 2**31),
    xattrs=st.dictionaries(st.text(min_size=1), st.binary()).map(lambda d: tuple(sorted(d.items()))),
)


@given(entries)
def test_records_keep_everything(entry: Entry) -> None:
    assert decode_stat(encode_stat(entry)) == entry


@given(st.binary())
def test_damaged_messages_raise_nothing_but_our_error(raw: bytes) -> None:
    for decode in (decode_packet, decode_stat):
        with contextlib.suppress(ProtocolError):
            decode(raw)
