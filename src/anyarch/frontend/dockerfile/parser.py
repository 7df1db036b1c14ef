"""From the bytes of a Dockerfile to `instructions.Dockerfile`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError

if TYPE_CHECKING:
    from .instructions import Dockerfile, Instruction

__all__ = ["parse", "parse_instruction", "parse_onbuild"]


def parse(data: bytes, filename: str = "Dockerfile") -> Dockerfile:
    """Parse a whole Dockerfile. Raises `DockerfileError` with its source lines; nothing else."""
    raise DockerfileError("parser is being written")


def parse_instruction(
    text: str,
    *,
    escape: str = "\\",
    filename: str = "Dockerfile",
    lines: tuple[int, int] = (0, 0),
    data: bytes = b"",
) -> Instruction:
    """Parse one instruction's text (may span lines and hold here-document bodies). Raises `DockerfileError`."""
    raise DockerfileError("parser is being written")


def parse_onbuild(
    trigger: str, *, filename: str = "Dockerfile", lines: tuple[int, int] = (0, 0)
) -> Instruction:
    """Parse an ONBUILD trigger as found in an image config: exactly one instruction, default escape character."""
    raise DockerfileError("parser is being written")
