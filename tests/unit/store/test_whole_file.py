from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import NoSpace, OutputError
from anyarch.store.whole_file import clear_leftovers, output_error, whole_file

if TYPE_CHECKING:
    from pathlib import Path


def test_the_file_appears_complete_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_file(target) as stream:
        stream.write(b"x" * 100_000)
        assert not target.exists()
    assert target.read_bytes() == b"x" * 100_000
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with whole_file(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    from pathlib import Path

    with whole_file(Path(os.devnull)) as stream:
        stream.write(b"gone")
    assert not os.path.isfile(os.devnull)


def test_leftovers_of_the_killed_go_and_what_others_write_stays(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with whole_file(tmp_path / "dead"):
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert len(os.listdir(tmp_path)) == 1
    with whole_file(tmp_path / "live") as stream:
        clear_leftovers(tmp_path)
        assert [name.split(".")[1] for name in os.listdir(tmp_path)] == ["live"]
        stream.write(b"x")
    assert os.listdir(tmp_path) == ["live"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NoSpace, "/there/out: No space left on device"),
        (errno.ENOENT, OutputError, "its directory does not exist"),
        (errno.EACCES, OutputError, "/there/out: Permission denied"),
        (errno.EIO, OutputError, "/there/out: Input/output error"),
    ],
)
def test_errors_name_the_path(number: int, kind: type[Exception], words: str) -> None:
    error = output_error(OSError(number, os.strerror(number)), "/there/out")
    assert isinstance(error, kind)
    assert words in error.message
