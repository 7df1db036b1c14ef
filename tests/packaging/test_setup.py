"""The set-up script: quiet when there is nothing to do, and plain about what it may not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.testing.ordinary_user import NOBODY, as_ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A directory with the set-up files alone, in the reach of every user and owned by `nobody`."""
    with tempfile.TemporaryDirectory(prefix="anyarch-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(PROJECT / "tools", directory / "tools")
        shutil.copy(PROJECT / "pyproject.toml", directory)
        if os.geteuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        yield directory


def test_package_list_names_a_purpose_and_a_reason_for_each() -> None:
    purposes = {"base", "demo", "test", "nightly", "bench", "lint"}
    for line in (PROJECT / "tools/packages.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, program, wanted, why = (field.strip() for field in line.split("|"))
            assert package
            assert program
            assert why
            assert set(wanted.split()) <= purposes


def test_ordinary_user_is_told_the_command_that_root_has_to_run(checkout: Path) -> None:
    with (checkout / "tools/packages.txt").open("a") as packages:
        packages.write("anyarch-absent | anyarch-absent-program | base | a test\n")
    done = subprocess.run(
        as_ordinary_user(["sh", str(checkout / "tools/setup.sh"), "base"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "anyarch-absent: a test" in done.stdout
    assert "sudo apt-get install --no-install-recommends anyarch-absent" in done.stderr
    assert not (checkout / ".venv").exists()


def test_unknown_purpose_is_an_error_that_lists_the_known(checkout: Path) -> None:
    argv = ["sh", str(checkout / "tools/setup.sh"), "play"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "base, demo, test, nightly, lint, bench" in done.stderr


def test_every_script_passes_the_shell_s_own_check() -> None:
    for script in (PROJECT / "tools/setup.sh", PROJECT / ".ci/run"):
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)
