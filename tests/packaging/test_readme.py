"""The Python example of the README does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (PROJECT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    environment = {**os.environ, "ANYARCH_ROOT": str(tmp_path / "store")}
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"done .*COPY site /www", line) for line in lines)
    assert [line.split()[0] for line in lines[-3:]] == ["linux/amd64", "linux/arm64", "index"]
    with tarfile.open(tmp_path / "site.tar") as archive:
        assert f"blobs/sha256/{lines[-1].removeprefix('index sha256:')}" in archive.getnames()
