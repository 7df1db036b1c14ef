"""Build contexts: read in place, once, and never half old and half new."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Literal

import pytest

from anyarch.archive.entry import Kind
from anyarch.errors import ContextError, PathNotFound
from anyarch.snapshot.filehash import hash_files
from anyarch.snapshot.hosttree import HostTree
from anyarch.snapshot.smallfiles import SmallFiles
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.snapshot.tree import Keep


@pytest.fixture
def context(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    (context / "src/deep").mkdir(parents=True)
    (context / "src/deep/a.c").write_bytes(b"a")
    (context / "src/b.c").write_bytes(b"b")
    (context / "src/b.c").chmod(0o755)
    (context / "Dockerfile").write_bytes(b"FROM scratch\n")
    (context / "link").symlink_to("/src")
    for path in (context / "src/deep/a.c", context / "src/b.c", context / "Dockerfile"):
        os.utime(path, ns=(1_000_000_000, 1_000_000_007))
    return context


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of files that were read to be digested."""
    paths: list[str] = []

    def count(entries: Sequence[Entry], open_content: Callable[[Entry], object]) -> dict[str, bytes]:
        paths.extend(entry.path for entry in entries)
        return hash_files(entries, open_content)  # type: ignore[arg-type]

    monkeypatch.setattr("anyarch.snapshot.filehash.hash_files", count)
    small = SmallFiles.digest

    def count_small(files: SmallFiles, entries: list[Entry], digests: dict[str, bytes]) -> list[Entry]:
        others = small(files, entries, digests)
        paths.extend(digests)
        return others

    monkeypatch.setattr(SmallFiles, "digest", count_small)
    return paths


def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans happen an hour from now: nothing was touched just before."""
    real = time.time_ns
    monkeypatch.setattr("anyarch.snapshot.hosttree.time.time_ns", lambda: real() + 3600 * 10**9)


def _all_but(left_out: str) -> Keep:
    return lambda path, _: "no" if path == left_out else "yes"


def test_a_context_is_a_tree_like_any_other(context: Path) -> None:
    tree = HostTree(str(context))
    assert [node.entry.path for node in tree.walk("")] == [
        "",
        "Dockerfile",
        "link",
        "src",
        "src/b.c",
        "src/deep",
        "src/deep/a.c",
    ]
    node = tree.lookup("link/b.c")
    assert node is not None
    assert node.entry.path == "src/b.c"
    assert (node.entry.mode, node.entry.uid, node.entry.gid, node.entry.size) == (0o755, 0, 0, 1)
    assert node.entry.mtime_ns == 1_000_000_007
    with tree.open(node) as file:
        assert file.read() == b"b"
    soft = tree.lookup("link")
    assert soft is not None
    assert (soft.entry.kind, soft.entry.linkname) == (Kind.SYMLINK, "/src")
    with pytest.raises(PathNotFound):
        tree.open(soft)


def test_owners_do_not_matter(context: Path) -> None:
    before = HostTree(str(context)).content_digest("")
    if os.geteuid() == 0:
        os.chown(context / "src/b.c", 1234, 1234)
    os.utime(context / "src/b.c")
    assert HostTree(str(context)).content_digest("") == before
    (context / "src/b.c").write_bytes(b"c")
    assert HostTree(str(context)).content_digest("") != before


def test_what_is_left_out_is_not_even_looked_at(context: Path) -> None:
    asked: list[str] = []

    def keep(path: str, is_directory: bool) -> Literal["yes", "no", "descend"]:
        asked.append(path)
        if path == "src":
            return "descend"
        return "no" if path in ("src/deep", "link") else "yes"

    tree = HostTree(str(context), keep=keep)
    assert [node.entry.path for node in tree.walk("")] == ["", "Dockerfile", "src", "src/b.c"]
    assert asked == ["Dockerfile", "link", "src", "src/b.c", "src/deep"]
    tree = HostTree(str(context), keep=lambda path, is_dir: "descend" if is_dir else "no")
    assert [node.entry.path for node in tree.walk("")] == [""]


def test_other_kinds_of_files(context: Path) -> None:
    os.mkfifo(context / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(context / "socket"))
        tree = HostTree(str(context))
    assert tree.lookup("socket") is None
    node = tree.lookup("fifo")
    assert node is not None
    assert node.entry.kind is Kind.FIFO
    if os.geteuid() == 0:
        os.mknod(context / "null", 0o020666, os.makedev(1, 3))
        node = HostTree(str(context)).lookup("null")
        assert node is not None
        assert (node.entry.kind, node.entry.major, node.entry.minor) == (Kind.CHAR_DEVICE, 1, 3)


def test_names_of_one_file_are_links_to_the_first_that_is_kept(context: Path, tmp_path: Path) -> None:
    os.link(context / "Dockerfile", context / "src/again")
    os.link(context / "Dockerfile", context / "src/deep/once")
    os.link(context / "link", context / "symlink")
    with Store.open(tmp_path / "store") as store:
        tree = HostTree(str(context), store=store)
        again, once = tree.lookup("src/again"), tree.lookup("src/deep/once")
        assert again is not None
        assert once is not None
        assert (again.entry.kind, again.entry.linkname) == (Kind.HARDLINK, "Dockerfile")
        assert (once.entry.kind, once.entry.linkname) == (Kind.HARDLINK, "Dockerfile")
        with tree.open(again) as stream:
            assert stream.read() == b"FROM scratch\n"
        assert tree.content_digest("src/again") == tree.content_digest("Dockerfile")

        def keep(path: str, is_directory: bool) -> Literal["yes", "no", "descend"]:
            return "no" if path == "Dockerfile" else "yes"

        part = HostTree(str(context), keep=keep, store=store)
        found = {path: part.lookup(path) for path in ("src/again", "src/deep/once", "symlink")}
        kinds = {path: node.entry.kind for path, node in found.items() if node is not None}
        assert kinds == {"src/again": Kind.FILE, "src/deep/once": Kind.HARDLINK, "symlink": Kind.SYMLINK}


def test_names_that_are_not_utf_8_are_kept(context: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (context / name).write_bytes(b"x")
    tree = HostTree(str(context))
    assert name in tree.listdir("")
    assert tree.content_digest(name)


def test_a_file_that_changed_since_the_scan_is_refused(context: Path) -> None:
    tree = HostTree(str(context))
    node = tree.lookup("Dockerfile")
    assert node is not None
    (context / "Dockerfile").write_bytes(b"FROM busybox\n")
    with pytest.raises(ContextError, match="file changed during the build: Dockerfile"):
        tree.open(node).read()
    (context / "src/b.c").unlink()
    with pytest.raises(ContextError, match=r"changed during the build: src/b\.c"):
        tree.content_digest("src")


def test_a_file_that_shrinks_while_it_is_read_is_refused(context: Path) -> None:
    (context / "big").write_bytes(bytes(1 << 20))
    tree = HostTree(str(context))
    node = tree.lookup("big")
    assert node is not None
    with tree.open(node) as file:
        file.read(1000)
        os.truncate(context / "big", 1000)
        with pytest.raises(ContextError, match="changed during the build: big"):
            file.read()


def test_what_cannot_be_read_is_named(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContextError, match="none"):
        HostTree(str(context / "none"))
    with pytest.raises(ContextError, match="not a directory"):
        HostTree(str(context / "Dockerfile"))
    tree = HostTree(str(context))
    real = os.open

    def refuse(path: bytes, flags: int, *rest: int, **more: int) -> int:
        if bytes(path).endswith(b"b.c"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything, so the kernel cannot be asked
    with pytest.raises(ContextError, match=r"src/b\.c in the build context: Permission denied") as caught:
        tree.content_digest("")
    assert ".dockerignore" in (caught.value.hint or "")
    monkeypatch.undo()
    real_scan = os.scandir

    def refuse_scan(path: bytes) -> object:
        if bytes(path).endswith(b"deep"):
            raise PermissionError(13, "Permission denied", path)
        return real_scan(path)

    monkeypatch.setattr(os, "scandir", refuse_scan)
    with pytest.raises(ContextError, match="src/deep in the build context"):
        HostTree(str(context))


def test_an_unchanged_file_is_read_once_for_all_builds(
    context: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        first = HostTree(str(context), store=store).content_digest("")
    assert sorted(hashed) == ["Dockerfile", "src/b.c", "src/deep/a.c"]
    hashed.clear()
    with Store.open(tmp_path / "store") as store:
        assert HostTree(str(context), store=store).content_digest("") == first
        assert hashed == []
        (context / "src/b.c").write_bytes(b"c")
        assert HostTree(str(context), store=store).content_digest("") != first
        assert hashed == ["src/b.c"]


def test_a_file_is_read_again_when_only_its_inode_tells(
    context: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        HostTree(str(context), store=store).content_digest("")
        hashed.clear()
        (context / "new").write_bytes(b"X")
        os.utime(context / "new", ns=(1_000_000_000, 1_000_000_007))
        os.rename(context / "new", context / "src/b.c")
        HostTree(str(context), store=store).content_digest("")
        assert hashed == ["src/b.c"]


def test_a_file_touched_just_before_is_not_trusted(context: Path, tmp_path: Path, hashed: list[str]) -> None:
    with Store.open(tmp_path / "store") as store:
        for _ in range(2):
            HostTree(str(context), store=store).content_digest("")
        assert len(hashed) == 6  # its change time is now, whatever the modification time says


def test_builds_that_leave_out_different_files_do_not_forget_one_another(
    context: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        for left_out in ("src", "Dockerfile", "src", "Dockerfile"):
            HostTree(str(context), keep=_all_but(left_out), store=store).content_digest("")
    assert sorted(hashed) == ["Dockerfile", "src/b.c", "src/deep/a.c"]


def test_a_damaged_stat_cache_costs_time_only(
    context: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        first = HostTree(str(context), store=store).content_digest("")
        (file,) = (store.root / "stat").iterdir()
        raw = file.read_bytes()
        for damage in (b"", raw[:30], raw[:-3], b"x" * len(raw)):
            file.write_bytes(damage)
            assert HostTree(str(context), store=store).content_digest("") == first


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of which the content was digested anew."""
    from anyarch.snapshot import contenthash

    tops: list[str] = []
    real = contenthash.digest_nodes

    def count(top: str, *rest: object) -> object:
        tops.append(top)
        return real(top, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(contenthash, "digest_nodes", count)
    return tops


def test_the_digest_of_an_unchanged_tree_is_known(
    context: Path, tmp_path: Path, walked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    found = []
    for _ in range(3):
        with Store.open(tmp_path / "store") as store:
            tree = HostTree(str(context), store=store)
            found.append((tree.content_digest(""), tree.content_digest("src"), tree.content_digest("link")))
    assert len(set(found)) == 1
    plain = HostTree(str(context))
    assert found[0] == (plain.content_digest(""), plain.content_digest("src"), plain.content_digest("link"))
    assert walked == ["", "src", "link"] * 2  # once for the store, once without it


@pytest.mark.parametrize("change", ["mode", "directory", "link", "name", "content", "empty"])
def test_any_change_makes_the_digest_of_a_tree_be_found_anew(
    context: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_ago(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        HostTree(str(context), store=store).content_digest("")
        match change:
            case "mode":
                (context / "Dockerfile").chmod(0o600)
            case "directory":
                (context / "src").chmod(0o700)
            case "link":
                (context / "link").unlink()
                (context / "link").symlink_to("/src/deep")
            case "name":
                (context / "src/b.c").rename(context / "src/c.c")
            case "content":
                (context / "src/b.c").write_bytes(b"B")
                os.utime(context / "src/b.c", ns=(1_000_000_000, 1_000_000_007))
            case "empty":
                (context / "src/new").mkdir()
        assert HostTree(str(context), store=store).content_digest("") == HostTree(
            str(context)
        ).content_digest("")


def test_the_digest_of_a_tree_that_was_just_written_is_not_trusted(
    context: Path, tmp_path: Path, walked: list[str]
) -> None:
    with Store.open(tmp_path / "store") as store:
        for _ in range(2):
            HostTree(str(context), store=store).content_digest("")
    assert walked == ["", ""]
