"""`make demo` on a fresh state: everything is built, pushed, run and checked for seven platforms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.root
@pytest.mark.emulation
@pytest.mark.registry
@pytest.mark.timeout(900)
def test_demonstration_passes(tmp_path: Path, clean_environment: Mapping[str, str]) -> None:
    argv = [sys.executable, str(PROJECT / "examples/demo.py"), "--state", str(tmp_path / "state")]
    done = subprocess.run(
        argv,
        env=dict(clean_environment),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "35 images of 7 platforms built, pushed, run and checked" in done.stdout
