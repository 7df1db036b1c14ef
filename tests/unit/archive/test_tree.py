"""scan_tree and tar_tree: what a directory amounts to."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.archive.entry import Entry, Kind
from anyarch.archive.fold import sort_key
from anyarch.archive.tar import TarWriter
from anyarch.archive.tree import scan_tree, tar_tree
from anyarch.errors import MalformedArchive, StoreError
from tests.unit.archive import strategies as make

if TYPE_CHECKING:
    from pathlib import Path


def paths(root: Path) -> list[str]:
    return [entry.path for entry in scan_tree(str(root))]


def test_entries_say_what_the_directory_holds(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "d", 0o700)
    (tmp_path / "d/f").write_bytes(b"abc")
    os.chmod(tmp_path / "d/f", 0o4711)
    os.utime(tmp_path / "d/f", ns=(0, 1_234_567_890))
    os.link(tmp_path / "d/f", tmp_path / "z")
    (tmp_path / "l").symlink_to("/d/../f")
    os.utime(tmp_path / "l", ns=(0, 5), follow_symlinks=False)
    os.utime(tmp_path / "d", ns=(0, 7))
    me = (os.getuid(), os.getgid())
    assert scan_tree(str(tmp_path)) == [
        Entry("d", Kind.DIRECTORY, 0o700, *me, mtime_ns=7),
        Entry("d/f", Kind.FILE, 0o4711, *me, mtime_ns=1_234_567_890, size=3),
        Entry("l", Kind.SYMLINK, 0o777, *me, mtime_ns=5, linkname="/d/../f"),
        Entry("z", Kind.HARDLINK, 0o4711, *me, mtime_ns=1_234_567_890, linkname="d/f"),
    ]
    assert scan_tree(str(tmp_path), include_root=True)[0].path == ""


def test_a_descriptor_serves_as_well_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert scan_tree(fd) == scan_tree(str(tmp_path))
        out: list[bytes] = []
        written = tar_tree(scan_tree(fd), fd, TarWriter(out.append))
        assert written[0].offset == 512
    finally:
        os.close(fd)


@given(
    st.sets(
        st.lists(make.raw_names.map(lambda raw: raw[:100]), min_size=1, max_size=3).map(tuple), max_size=8
    )
)
@settings(max_examples=60, deadline=None)
def test_the_order_is_that_of_components_for_any_names(names: set[tuple[bytes, ...]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            os.makedirs(os.path.join(os.fsencode(directory), *name), exist_ok=True)
        found = [entry.path for entry in scan_tree(directory)]
    assert found == sorted(found, key=sort_key)
    assert {"/".join(part.decode("utf-8", "surrogateescape") for part in name) for name in names} <= set(
        found
    )


def test_sockets_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert paths(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dir").symlink_to("d")
    assert paths(tmp_path) == ["d", "d/f", "dir", "loop"]
    with pytest.raises(StoreError):
        tar_tree([Entry("dir", Kind.FILE, size=1)], str(tmp_path), TarWriter(lambda _: None))


def test_only_attributes_of_images_are_kept(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", "user.b", b"2")
    os.setxattr(tmp_path / "f", "user.a", b"")
    os.setxattr(tmp_path / "f", "user.overlay.origin", b"x")
    assert scan_tree(str(tmp_path))[0].xattrs == (("user.a", b""), ("user.b", b"2"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="security attributes can be set by root only")
def test_labels_of_the_machine_are_dropped_but_capabilities_kept(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tmp_path / "f", "security.capability", capability)
    os.setxattr(tmp_path / "f", "security.other", b"label")
    os.setxattr(tmp_path / "f", "trusted.x", b"y")
    assert scan_tree(str(tmp_path))[0].xattrs == (("security.capability", capability), ("trusted.x", b"y"))


def test_overlay_marks_are_understood_in_their_own_namespace_only(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "user.overlay.opaque", b"y")
    (tmp_path / "e").mkdir()
    os.setxattr(tmp_path / "e", "user.overlay.opaque", b"x")  # not opaque, but holds marks of another kind
    os.mknod(tmp_path / "gone", 0o020000, 0)
    found = scan_tree(str(tmp_path), overlay="user")
    assert [(entry.path, entry.kind, entry.opaque, entry.xattrs) for entry in found] == [
        ("d", Kind.DIRECTORY, True, ()),
        ("e", Kind.DIRECTORY, False, ()),
        ("gone", Kind.WHITEOUT, False, ()),
    ]
    for overlay in ("trusted", None):
        entries = scan_tree(str(tmp_path), overlay=overlay)
        assert not entries[0].opaque
    assert scan_tree(str(tmp_path))[2].kind is Kind.CHAR_DEVICE


def test_an_upper_directory_that_refers_to_other_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "user.overlay.redirect", b"/elsewhere")
    with pytest.raises(StoreError, match="redirect") as caught:
        scan_tree(str(tmp_path), overlay="user")
    assert "redirect_dir=off" in (caught.value.hint or "")


def test_the_upper_directory_of_a_real_overlay_becomes_a_layer(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounts an overlay, which only root may")
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    for path in ("removed/x", "replaced/x", "kept/x"):
        (lower / path).parent.mkdir()
        (lower / path).write_text("old")
    (lower / "file").write_text("old")
    options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        script = "rm -r removed replaced file; mkdir replaced; touch replaced/y kept/z; mv kept/z kept/x"
        subprocess.run(script, shell=True, check=True, cwd=merged)
    finally:
        subprocess.run(["umount", merged], check=True)
    found = scan_tree(str(tmp_path / "upper"), overlay="trusted")
    assert [(entry.path, entry.kind, entry.opaque) for entry in found] == [
        ("file", Kind.WHITEOUT, False),
        ("kept", Kind.DIRECTORY, False),
        ("kept/x", Kind.FILE, False),
        ("removed", Kind.WHITEOUT, False),
        ("replaced", Kind.DIRECTORY, True),
        ("replaced/y", Kind.FILE, False),
    ]
    assert all(not entry.xattrs for entry in found)


def test_a_file_that_changed_or_went_away_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    entries = scan_tree(str(tmp_path))
    (tmp_path / "f").write_bytes(b"abcd")
    with pytest.raises(MalformedArchive, match="'f'"):
        tar_tree(entries, str(tmp_path), TarWriter(lambda _: None))
    (tmp_path / "f").unlink()
    with pytest.raises(StoreError, match="'f'"):
        tar_tree(entries, str(tmp_path), TarWriter(lambda _: None))
    with pytest.raises(StoreError, match="nowhere"):
        scan_tree(str(tmp_path / "nowhere"))
