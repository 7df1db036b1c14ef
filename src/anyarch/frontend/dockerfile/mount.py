"""`RUN --mount` and `RUN --device` flags: comma-separated fields, checks, defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .instructions import Mount, MountSpec

__all__ = ["resolve_mount"]


def resolve_mount(spec: MountSpec, expand: Callable[[str], str]) -> Mount:
    """Expand every value, check keys and their combination, apply defaults. Raises `DockerfileError`.

    Left to the caller, because they need the build's state: joining `target` with WORKDIR, refusing `/`, defaults of
    `id` and of secret and ssh targets, finding `from`.
    """
    raise DockerfileError("mounts are being written")
