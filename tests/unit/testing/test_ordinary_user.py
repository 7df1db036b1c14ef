"""Commands of an ordinary user: no privilege, and what they need is in reach."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.ordinary_user import NOBODY, as_ordinary_user

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


def run(argv: list[str], **more: list[Path]) -> str:
    return subprocess.run(as_ordinary_user(argv, **more), check=True, capture_output=True, text=True).stdout


def test_command_has_the_user_its_group_and_no_capability() -> None:
    text = run(["sh", "-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"])
    assert text.split() == [str(NOBODY)] * 3 + ["CapEff:", "0" * 16]


def test_file_below_a_barred_directory_is_in_reach_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "private/tree").mkdir(parents=True)
    (tmp_path / "private/other").mkdir()
    (tmp_path / "private/tree/file").write_text("content")
    (tmp_path / "private").chmod(0o700)
    shown = run(
        ["sh", "-c", f"cat {tmp_path}/private/tree/file; ls {tmp_path}/private"],
        needs=[tmp_path / "private/tree"],
    )
    assert shown == "contenttree\n"
    assert sorted(os.listdir(tmp_path / "private")) == ["other", "tree"]


def test_several_needs_below_one_barred_directory(tmp_path: Path) -> None:
    needs = []
    for name in ("one", "two/deep"):
        path = tmp_path / "private" / name
        path.mkdir(parents=True)
        (path / "file").write_text(name)
        needs.append(path)
    (tmp_path / "private").chmod(0o700)
    assert run(["cat", *(f"{path}/file" for path in needs)], needs=needs) == "onetwo/deep"


def test_nothing_stays_mounted(tmp_path: Path) -> None:
    (tmp_path / "private/tree").mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    run(["true"], needs=[tmp_path / "private/tree"])
    with open("/proc/self/mountinfo") as mounts:
        assert str(tmp_path) not in mounts.read()
