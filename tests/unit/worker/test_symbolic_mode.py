"""Symbolic modes, with chmod(1) itself as the oracle."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from anyarch.errors import BuildError
from anyarch.worker.symbolic_mode import parse_symbolic

if TYPE_CHECKING:
    from pathlib import Path

CASES = [
    "u=rwX,go=rX",
    "a+x",
    "+x",
    "g=u",
    "o=",
    "u+s",
    "g+s,o-r",
    "a=rwx",
    "o+t",
    "u-w+x",
    "go-rwx",
    "ug=r,o=w",
    "u=g",
]


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o400, 0o000])
@pytest.mark.parametrize("is_directory", [False, True])
def test_it_does_what_chmod_does(tmp_path: Path, text: str, mode: int, is_directory: bool) -> None:
    path = tmp_path / "x"
    path.mkdir() if is_directory else path.touch()
    path.chmod(mode)
    subprocess.run(["sh", "-c", 'umask 0; exec chmod -- "$0" "$1"', text, str(path)], check=True)
    assert oct(parse_symbolic(text)(mode, is_directory=is_directory)) == oct(path.stat().st_mode & 0o7777)


@pytest.mark.parametrize("text", ["", "u", "z+x", "u+q", "u=rwx,", "644x"])
def test_nonsense_is_an_error(text: str) -> None:
    with pytest.raises(BuildError, match="invalid mode"):
        parse_symbolic(text)
