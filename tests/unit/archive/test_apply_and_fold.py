"""Unpacker and fold: safe in a hostile tree, and of one mind on what an archive amounts to."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from msgspec.structs import replace

from anyarch.archive import apply
from anyarch.archive.apply import Unpacked, Unpacker, apply_tar
from anyarch.archive.entry import Entry, Kind
from anyarch.archive.fold import fold, sort_key
from anyarch.archive.tar import TarWriter, read_tar
from anyarch.archive.tree import scan_tree, tar_tree
from anyarch.errors import MalformedArchive, NoSpace, StoreError
from tests.unit.archive import strategies as make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.archive.apply import Whiteouts

root_only = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and gives files away, which only root may"),
]


def content_of(entry: Entry) -> bytes:
    return (entry.path.encode("utf-8", "surrogateescape") * 10)[: entry.size].ljust(entry.size, b".")


def tar_of(*entries: Entry) -> bytes:
    out: list[bytes] = []
    writer = TarWriter(out.append)
    for entry in entries:
        writer.add(entry, content_of(entry))
    writer.close()
    return b"".join(out)


def unpack(
    directory: Path, *entries: Entry, whiteouts: Whiteouts = "delete", chown: bool = False
) -> Unpacked:
    return apply_tar(io.BytesIO(tar_of(*entries)), str(directory), whiteouts=whiteouts, chown=chown)


def file(path: str, size: int = 3) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=size)


def directory(path: str, mode: int = 0o755, *, opaque: bool = False) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, opaque=opaque)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, linkname=target)


def names(root: Path) -> list[str]:
    return [entry.path for entry in scan_tree(str(root))]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the one that is unpacked to; nothing in it may ever change."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "victim").write_text("precious")
    before = scan_tree(str(path), include_root=True)
    yield path
    assert scan_tree(str(path), include_root=True) == before
    assert (path / "victim").read_text() == "precious"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


# -- one mind


def normal(entry: Entry) -> Entry:
    """What both ways must agree on; a pipe's attributes may be those of another path of a hard link."""
    if entry.kind is Kind.WHITEOUT:
        return Entry(entry.path, entry.kind)
    return replace(entry, uid=0, gid=0, offset=-1, mtime_ns=0, xattrs=())


@given(make.sequences)
@example([link("a", "b"), file("a/b"), file("b/a")])
@example([file("b"), Entry("a", Kind.HARDLINK, linkname="b"), file("b", 5)])
@example([Entry("a", Kind.WHITEOUT), file("a/b")])
@example([directory("a"), file("a/b"), Entry("a", Kind.WHITEOUT), file("a"), directory("a")])
@example([link("a", "/"), file("a/a")])
@example([link("a", "."), directory("a/a", opaque=True)])
@example([link("a", "."), file("a/a"), file("a/b")])
@example([link("a", "b"), file("b/c"), link("b", "."), file("a/x")])
@example([file("a/b"), Entry("a", Kind.HARDLINK, linkname="a/b")])
@settings(max_examples=120, deadline=None)
def test_an_index_and_the_directory_of_the_same_tar_agree(entries: list[Entry]) -> None:
    raw = tar_of(*entries)
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        target.chmod(0o755)
        try:
            index = fold(entry for entry, _ in read_tar(io.BytesIO(raw)))
        except MalformedArchive:
            with pytest.raises(MalformedArchive):
                apply_tar(io.BytesIO(raw), str(target), whiteouts="overlay-user", chown=False)
            return
        apply_tar(io.BytesIO(raw), str(target), whiteouts="overlay-user", chown=False)
        found = scan_tree(str(target), overlay="user", include_root=True)
        explicit = {entry.path for entry in index}
        # Directories that are only implied are in the directory, but not in the index.
        kept = [entry for entry in found if entry.path in explicit]
        assert all(entry.kind is Kind.DIRECTORY for entry in found if entry.path not in explicit)
        assert [normal(entry) for entry in kept] == [normal(entry) for entry in index]
        for entry in index:
            if entry.kind is Kind.FILE:
                assert (target / entry.path).read_bytes() == raw[entry.offset : entry.offset + entry.size]


@given(make.sequences)
@settings(max_examples=100, deadline=None)
def test_folding_is_idempotent_and_sorted(entries: list[Entry]) -> None:
    try:
        index = fold(entries)
    except MalformedArchive:
        return
    assert index == sorted(index, key=lambda entry: sort_key(entry.path))
    assert len({entry.path for entry in index}) == len(index)
    assert fold(index) == index


def test_the_first_path_of_a_file_is_the_file() -> None:
    original = Entry("z", Kind.FILE, 0o600, size=9, digest=b"d" * 32, offset=512)
    index = fold([original, Entry("a", Kind.HARDLINK, 0o777, linkname="z")])
    assert index == [
        replace(original, path="a"),
        Entry("z", Kind.HARDLINK, 0o600, linkname="a"),
    ]


def test_a_file_that_lost_its_first_path_keeps_its_content() -> None:
    original = Entry("a", Kind.FILE, size=9, offset=512)
    index = fold(
        [original, Entry("b", Kind.HARDLINK, linkname="a"), Entry("a", Kind.FILE, size=1, offset=2048)]
    )
    assert index == [Entry("a", Kind.FILE, size=1, offset=2048), replace(original, path="b")]


def test_opaque_markers_are_merged_wherever_they_stand() -> None:
    marker = Entry("d", Kind.WHITEOUT, opaque=True)
    for entries in ([directory("d"), marker], [marker, directory("d")]):
        assert fold(entries) == [directory("d", opaque=True)]


def test_paths_sort_by_components() -> None:
    paths = ["a-b", "a/b", "a", "a/b/c", "a/b-c", "b", ""]
    assert sorted(paths, key=sort_key) == ["", "a", "a/b", "a/b/c", "a/b-c", "a-b", "b"]


def test_many_duplicates_do_not_take_quadratic_time() -> None:
    entries = []
    for _ in range(2000):
        entries += [directory("d"), file("d/f"), Entry("l", Kind.HARDLINK, linkname="d/f"), file("d")]
    many = [file(f"x/{number}") for number in range(5000)]
    assert len(fold([*many, *entries])) == 5002


# -- what is made


def test_unpacked_trees_equal_those_of_gnu_tar(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d/e").mkdir(parents=True)
    (source / "d/f").write_bytes(b"x" * 70_000)
    (source / "big").write_bytes(os.urandom(2_500_000))
    os.link(source / "d/f", source / "d/e/hard")
    (source / "s").symlink_to("../nowhere")
    os.mkfifo(source / "p", 0o640)
    os.setxattr(source / "d/f", "user.note", b"1")
    os.chmod(source / "d/f", 0o4751)
    os.chmod(source / "d", 0o555)
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, number * 10**15), follow_symlinks=False)
    entries = scan_tree(str(source))
    out: list[bytes] = []
    writer = TarWriter(out.append)
    tar_tree(entries, str(source), writer)
    writer.close()
    raw = b"".join(out)
    (tmp_path / "t").write_bytes(raw)

    (tmp_path / "theirs").mkdir()
    subprocess.run(["tar", "-xpf", "t", "--xattrs", "-C", "theirs"], check=True, cwd=tmp_path)
    (tmp_path / "ours").mkdir()
    result = apply_tar(io.BytesIO(raw), str(tmp_path / "ours"), whiteouts="delete", chown=False)
    assert scan_tree(str(tmp_path / "ours")) == scan_tree(str(tmp_path / "theirs")) == entries
    assert (tmp_path / "ours/big").read_bytes() == (source / "big").read_bytes()
    assert result == Unpacked(len(entries), 2_570_000)
    os.chmod(source / "d", 0o755)


def test_modes_do_not_depend_on_the_umask(out: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(
            out,
            directory("d", 0o1777),
            Entry("d/f", Kind.FILE, 0o6666),
            Entry("d/p", Kind.FIFO, 0o666),
            directory("locked", 0o000),
            file("locked/f"),
            file("implied/f"),
        )
    finally:
        os.umask(before)
    modes = {path: os.lstat(out / path).st_mode & 0o7777 for path in ("d", "d/f", "d/p", "locked", "implied")}
    assert modes == {"d": 0o1777, "d/f": 0o6666, "d/p": 0o666, "locked": 0, "implied": 0o755}
    os.chmod(out / "locked", 0o755)


def test_times_of_directories_are_kept_though_their_content_comes_later(out: Path) -> None:
    unpack(
        out,
        replace(directory("d"), mtime_ns=5 * 10**9),
        replace(directory("d/e"), mtime_ns=-(10**9)),
        file("d/e/f"),
    )
    assert (os.stat(out / "d").st_mtime, os.stat(out / "d/e").st_mtime) == (5, -1)


def test_a_missing_parent_gets_the_attributes_that_are_asked_for(out: Path) -> None:
    asked = []

    def parent(path: str) -> Entry | None:
        asked.append(path)
        return Entry(path, Kind.DIRECTORY, 0o700, mtime_ns=10**9) if path == "a" else None

    apply_tar(io.BytesIO(tar_of(file("a/b/c"))), str(out), whiteouts="delete", chown=False, parent=parent)
    assert asked == ["a", "a/b"]
    assert [(os.stat(out / path).st_mode & 0o777, os.stat(out / path).st_mtime) for path in asked] == [
        (0o700, 1),
        (0o755, 0),
    ]


def test_holes_of_sparse_files_stay_holes(tmp_path: Path, out: Path) -> None:
    with open(tmp_path / "s", "wb") as sparse:
        for start in (1 << 20, 900 << 20):
            sparse.seek(start)
            sparse.write(b"data")
        sparse.truncate(1 << 30)
    raw = subprocess.run(
        ["tar", "-cS", "--format=posix", "-C", tmp_path, "s"], stdout=subprocess.PIPE, check=True
    ).stdout
    apply_tar(io.BytesIO(raw), str(out), whiteouts="delete", chown=False)
    status = os.stat(out / "s")
    assert (status.st_size, status.st_blocks < 1000) == (1 << 30, True)
    with open(out / "s", "rb") as made:
        made.seek(900 << 20)
        assert made.read(5) == b"data\0"


def test_entries_can_be_put_one_by_one_and_the_root_kept(out: Path) -> None:
    os.chmod(out, 0o711)
    with Unpacker(str(out), whiteouts="delete", chown=False, keep_root=True) as unpacker:
        unpacker.put(directory("", 0o755))
        unpacker.put(file("f"), b"abc")
        unpacker.put(file("g"), io.BytesIO(b"abc"))
        assert unpacker.finish() == Unpacked(3, 6)
    assert os.stat(out).st_mode & 0o777 == 0o711
    unpack(out, directory("", 0o750))
    assert os.stat(out).st_mode & 0o777 == 0o750


@pytest.mark.parametrize("content", [None, b"ab", b"abcd", io.BytesIO(b"ab")])
def test_a_content_of_the_wrong_size_is_refused(content: bytes | io.BytesIO | None, out: Path) -> None:
    with Unpacker(str(out), whiteouts="delete", chown=False) as unpacker, pytest.raises(MalformedArchive):
        unpacker.put(file("f"), content)


class TestRoot:
    pytestmark = root_only

    def test_owners_devices_and_privileged_attributes_are_made(self, out: Path) -> None:
        capability = bytes.fromhex("0100000200040000000000000000000000000000")
        entries = (
            Entry("c", Kind.CHAR_DEVICE, 0o4666, 3, 4, major=1, minor=3),
            Entry("b", Kind.BLOCK_DEVICE, 0o600, 3, 4, major=259, minor=300),
            Entry(
                "f",
                Kind.FILE,
                0o6755,
                3,
                4,
                size=5,
                xattrs=(("security.capability", capability), ("trusted.x", b"y")),
            ),
            Entry("l", Kind.SYMLINK, 0o777, 3, 4, linkname="f"),
            Entry("d", Kind.DIRECTORY, 0o2755, 3, 4),
        )
        assert unpack(out, *entries, chown=True).skipped == ()
        found = [replace(entry, mtime_ns=0) for entry in scan_tree(str(out))]
        assert found == sorted(entries, key=lambda entry: entry.path)

    def test_ids_are_mapped(self, out: Path) -> None:
        raw = tar_of(Entry("f", Kind.FILE, uid=5, gid=6))
        apply_tar(
            io.BytesIO(raw), str(out), whiteouts="delete", ids=lambda uid, gid: (uid + 1000, gid + 2000)
        )
        assert (os.stat(out / "f").st_uid, os.stat(out / "f").st_gid) == (1005, 2006)

    def test_trusted_overlay_form_round_trips(self, out: Path) -> None:
        entries = [directory("d", opaque=True), file("d/f"), Entry("gone", Kind.WHITEOUT)]
        unpack(out, *entries, whiteouts="overlay-trusted")
        assert os.getxattr(out / "d", "trusted.overlay.opaque") == b"y"
        assert stat.S_ISCHR(os.lstat(out / "gone").st_mode)
        assert [normal(entry) for entry in scan_tree(str(out), overlay="trusted")] == entries

    def test_a_full_disk_is_no_space(self, out: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(out)], check=True)
        try:
            with pytest.raises(NoSpace):
                unpack(out, file("f", 200_000))
        finally:
            subprocess.run(["umount", str(out)], check=True)

    def test_an_ordinary_user_unpacks_without_owners_and_devices(self, out: Path) -> None:
        def work(root: int) -> str:
            result = apply_tar(
                io.BytesIO(
                    tar_of(
                        directory("d", 0o500),
                        Entry(
                            "d/f", Kind.FILE, 0o444, size=3, xattrs=(("trusted.x", b"1"), ("user.x", b"2"))
                        ),
                        directory("d/deep/locked", 0o000),
                        Entry("null", Kind.CHAR_DEVICE, 0o666, major=1, minor=3),
                        Entry("gone", Kind.WHITEOUT),
                    )
                ),
                root,
                whiteouts="overlay-user",
                chown=False,
            )
            # Replaces directories that it may not write to or enter.
            apply_tar(io.BytesIO(tar_of(file("d"))), root, whiteouts="overlay-user", chown=False)
            return repr([path for path, _ in result.skipped])

        assert as_user(out, work) == "['d/f', 'null']"
        assert names(out) == ["d", "gone"]

    def test_an_ordinary_user_finishes_deep_trees_that_he_may_not_enter(self, out: Path) -> None:
        def work(root: int) -> str:
            path = "/".join("x" * 100)
            entries = [directory(path[:end], 0o000) for end in range(1, 200, 2)]
            return str(apply_tar(io.BytesIO(tar_of(*entries)), root, whiteouts="delete", chown=False).entries)

        assert as_user(out, work) == "100"
        assert {entry.mode for entry in scan_tree(str(out))} == {0}

    def test_an_ordinary_user_who_must_chown_is_told(self, out: Path) -> None:
        def work(root: int) -> str:
            try:
                apply_tar(io.BytesIO(tar_of(file("f"))), root, whiteouts="delete")
            except StoreError as error:
                return str(error.hint)
            return ""

        assert "ordinary user" in as_user(out, work)


def as_user(path: Path, work: Callable[[int], str]) -> str:
    """What `work` answers in a process of an ordinary user who owns `path`, and gets it as a descriptor."""
    os.chown(path, 4242, 4242)
    root = os.open(path, os.O_RDONLY)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(4242)
            os.setuid(4242)
            os.write(write, work(root).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(root)
    os.close(write)
    with open(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


# -- removals


def test_deleting_whiteouts_remove_only_what_was_there_before(out: Path) -> None:
    unpack(out, file("gone/x/y"), file("both"), file("d/old/deep"), file("d/kept/old"), file("d/f"))
    unpack(
        out,
        Entry("gone", Kind.WHITEOUT),
        file("both", 9),
        Entry("both", Kind.WHITEOUT),
        file("d/kept/new"),
        Entry("d", Kind.WHITEOUT, opaque=True),
        Entry("never/was", Kind.WHITEOUT),
        Entry("nor/this", Kind.WHITEOUT, opaque=True),
    )
    assert names(out) == ["both", "d", "d/kept", "d/kept/new"]
    assert (out / "both").stat().st_size == 9


def test_an_opaque_directory_loses_what_it_had(out: Path) -> None:
    unpack(out, file("d/old"))
    unpack(out, directory("d", opaque=True), file("d/new"))
    assert names(out) == ["d", "d/new"]


def test_user_overlay_form_round_trips(out: Path) -> None:
    entries = [directory("d", opaque=True), file("d/f"), Entry("gone", Kind.WHITEOUT)]
    unpack(out, *entries, whiteouts="overlay-user")
    assert os.getxattr(out / "d", "user.overlay.opaque") == b"y"
    assert [normal(entry) for entry in scan_tree(str(out), overlay="user")] == entries


def test_replacing_a_directory_removes_deep_trees_and_names_like_our_own(out: Path) -> None:
    deep = "/".join(["d"] * 200)
    unpack(out, file(deep + "/f"), file("d/x/.anyarch-1/.anyarch-2/f"), file("d/x/.anyarch-2/y"))
    unpack(out, file("d"))
    assert names(out) == ["d"]


# -- hostile


def test_nothing_is_written_through_a_link_in_the_way(out: Path, outside: Path) -> None:
    for path in ("f", "d", "p", "l", "h"):
        (out / path).symlink_to(outside / "victim" if path != "d" else outside)
    unpack(
        out,
        file("f"),
        directory("d", 0o700),
        file("d/victim"),
        Entry("p", Kind.FIFO),
        link("l", "elsewhere"),
        Entry("h", Kind.HARDLINK, linkname="f"),
    )
    assert [entry.kind for entry in scan_tree(str(out))] == [
        Kind.DIRECTORY,
        Kind.FILE,
        Kind.FILE,
        Kind.HARDLINK,
        Kind.SYMLINK,
        Kind.FIFO,
    ]


@pytest.mark.parametrize(
    "target", ["{outside}", "../outside", "../../../../../../../{outside}", "inner/../../outside"]
)
def test_links_on_the_way_lead_nowhere_but_inside_the_root(target: str, out: Path, outside: Path) -> None:
    target = target.format(outside=outside)
    for entries in (
        [link("l", target), file("l/victim")],
        [link("l", target), directory("l/victim")],
        [link("l", target), Entry("l/victim", Kind.WHITEOUT)],
        [link("l", target), Entry("l", Kind.WHITEOUT, opaque=True)],
        [link("l", target), file("x"), Entry("l/victim", Kind.HARDLINK, linkname="x")],
        [link("l", target), link("m", "l"), file("m/n/victim")],
    ):
        unpack(out, *entries)
        subprocess.run(["find", out, "-mindepth", "1", "-delete"], check=True)


@pytest.mark.parametrize("target", ["victim", "l/victim"])
def test_a_hard_link_takes_nothing_from_outside(target: str, out: Path, outside: Path) -> None:
    (out / "l").symlink_to(outside)
    with pytest.raises(MalformedArchive, match="hard link"):
        unpack(out, Entry("x", Kind.HARDLINK, linkname=target))
    assert not (out / "x").exists()


def test_a_hard_link_to_a_link_links_the_link(out: Path, outside: Path) -> None:
    (out / "l").symlink_to(outside / "victim")
    unpack(out, Entry("x", Kind.HARDLINK, linkname="l"), file("x"))
    assert os.readlink(out / "l") == str(outside / "victim")


@pytest.mark.parametrize(
    "entries",
    [
        [link("a", "b"), link("b", "a"), file("a/f")],
        [link("a", "a"), file("a/f")],
        [file("a"), file("a/f")],
        [Entry("a", Kind.FIFO), file("a/b/c")],
        [directory("d"), Entry("x", Kind.HARDLINK, linkname="d")],
        [Entry("x", Kind.HARDLINK, linkname="x")],
        [file("d/f"), Entry("d", Kind.HARDLINK, linkname="d/f")],
    ],
)
def test_what_makes_no_sense_is_malformed_for_both(entries: list[Entry], out: Path) -> None:
    with pytest.raises(MalformedArchive):
        unpack(out, *entries)
    with pytest.raises(MalformedArchive):
        fold(entries)


def test_a_name_too_long_for_the_file_system_is_malformed(out: Path) -> None:
    with pytest.raises(MalformedArchive, match="n" * 256):
        unpack(out, file("n" * 256))


def test_deep_paths_need_few_descriptors(out: Path) -> None:
    import resource

    deep = "/".join("abcdefgh"[number % 8] for number in range(300))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, before[1]))
    try:
        unpack(
            out,
            file(deep),
            file(deep[:-2] + "/x"),
            link("up", deep[:-2] + "/../../.."),
            file("up/y"),
            file("z"),
        )
        unpack(out, file("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert names(out) == ["a", "up", "z"]


def test_no_descriptor_is_left_open(out: Path) -> None:
    before = os.listdir("/proc/self/fd")
    unpack(out, file("a/b/c"), link("l", "a"), file("l/d"), Entry("h", Kind.HARDLINK, linkname="a/d"))
    with pytest.raises(MalformedArchive):
        unpack(out, file("a/b/c"), Entry("h", Kind.HARDLINK, linkname="nothing"))
    fd = os.open(out, os.O_RDONLY)
    apply_tar(io.BytesIO(tar_of(file("q"))), fd, whiteouts="delete", chown=False)
    os.close(fd)
    assert os.listdir("/proc/self/fd") == before


def test_errors_of_the_directory_and_of_the_source_are_told_apart(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "the network is gone")

    with Unpacker(str(out), whiteouts="delete", chown=False) as unpacker:
        with pytest.raises(OSError, match="network"):
            unpacker.put(file("f"), Broken())

        def full(file: int, data: bytes) -> None:
            raise OSError(errno.EDQUOT, "quota")

        monkeypatch.setattr(apply, "_write_all", full)
        with pytest.raises(NoSpace):
            unpacker.put(file("f"), b"abc")
    with pytest.raises(StoreError, match="missing"):
        unpack(out / "missing", file("f"))
