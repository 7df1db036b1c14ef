"""The command line as a user meets it when something is wrong: a real process, its status and its texts."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.conftest import Bases

_LONGEST_PARAGRAPH = 8


class Answer:
    """How a command line ended."""

    def __init__(self, status: int, output: bytes, errors: str) -> None:
        self.status = status
        self.output = output
        self.errors = errors

    @property
    def paragraph(self) -> str:
        """The error: from the first `ERROR:` line on."""
        start = max(0, self.errors.rfind("\n------"))
        return self.errors[self.errors.index("ERROR: ", start) :]

    def check(self, *words: str, status: int = 1, hint: str | None = "") -> None:
        """That it failed as it should: one paragraph with these regular expressions in it, in this order,
        and a hint with that one (None: no hint is needed)."""
        print(self.errors)
        assert self.status == status
        assert "Traceback" not in self.errors
        assert "internal error" not in self.errors
        paragraph = self.paragraph.split("\n\nUsage:", 1)[0]
        assert paragraph.count("ERROR: ") == 1
        assert paragraph.count("\n") <= _LONGEST_PARAGRAPH
        message, _, next_step = paragraph.partition("\n  hint: ")
        assert re.search(".*".join(words), message, re.DOTALL), message
        if hint is not None:
            assert next_step
            assert re.search(hint, next_step, re.DOTALL), next_step


class Machine:
    """Runs command lines in a directory of the test with a store of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.environment = {**environment, "ANYARCH_ROOT": str(self.store), "BUILDKIT_PROGRESS": "plain"}
        self.context = directory / "context"
        self.context.mkdir()
        self.dockerfile("FROM scratch\nCOPY file /\n")
        (self.context / "file").write_text("content\n")

    def dockerfile(self, text: str | bytes) -> None:
        path = self.context / "Dockerfile"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def __call__(
        self,
        *arguments: str | Path,
        stdin: bytes = b"",
        wrapped: Sequence[str] = (),
        shell: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run `anyarch ARGUMENTS`; behind the command `wrapped`, or after the shell commands `shell` in a
        mount namespace of their own."""
        argv = [*wrapped, sys.executable, "-m", "anyarch", *map(str, arguments)]
        if shell:
            argv = [
                "unshare",
                "-m",
                "--propagation",
                "private",
                "sh",
                "-euc",
                f'{shell}\nexec "$@"',
                "sh",
                *argv,
            ]
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            env={**self.environment, **(environment or {})},
            check=False,
            timeout=120,
        )
        return Answer(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def build(self, *arguments: str | Path, **more: object) -> Answer:
        """`anyarch build ARGUMENTS context`"""
        return self("build", *arguments, "context", **more)  # type: ignore[arg-type]


@pytest.fixture
def anyarch(tmp_path: Path, clean_environment: Mapping[str, str]) -> Machine:
    """Without a registry."""
    return Machine(tmp_path, clean_environment)


@pytest.fixture
def with_bases(tmp_path: Path, bases: Bases) -> Machine:
    """With `busybox` and `alpine` in a registry that stands for docker.io."""
    return Machine(tmp_path, bases.environment)
