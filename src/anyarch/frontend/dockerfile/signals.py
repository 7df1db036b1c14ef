"""Signal names that STOPSIGNAL takes."""

from __future__ import annotations

from anyarch.errors import DockerfileError

__all__ = ["parse_signal"]


def parse_signal(text: str) -> int:
    """Number of the Linux signal `text` (a number, or a name with or without SIG, any case).

    Raises `DockerfileError` (`invalid signal: …`).
    """
    raise DockerfileError("signals are being written")
