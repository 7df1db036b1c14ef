"""What a client asks to be made of a result (`SolveRequest.Exporters`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.engine.options import check_output
from anyarch.engine.request import Output
from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.api.proto import control_pb2

__all__ = ["checked_outputs", "outputs_of"]

_CONFIG = "containerimage.config"
_IMAGES = frozenset({"image", "oci", "docker"})


def outputs_of(request: control_pb2.SolveRequest) -> tuple[list[Output], dict[str, bytes]]:
    """The outputs, and what they say of the result. Raises `UsageError` for attributes that are wrong."""
    pairs = [(item.Type, dict(item.Attrs)) for item in request.Exporters]
    if not pairs and request.ExporterDeprecated:
        pairs = [(request.ExporterDeprecated, dict(request.ExporterAttrsDeprecated))]
    return checked_outputs(pairs)


def checked_outputs(pairs: Sequence[tuple[str, dict[str, str]]]) -> tuple[list[Output], dict[str, bytes]]:
    """As BuildKit has it, an image's output may bring its config (`containerimage.config[/PLATFORM]`), which
    outdoes the frontend's."""
    outputs = []
    configs: dict[str, bytes] = {}
    for kind, attrs in pairs:
        kept = {key: value for key, value in attrs.items() if key != "dest"}
        if kind in _IMAGES:
            # BuildKit's clients leave what was asked of the build here too, where it has no effect.
            kept = {key: value for key, value in kept.items() if not key.startswith("attest:")}
            for key in [key for key in kept if key == _CONFIG or key.startswith(f"{_CONFIG}/")]:
                config = kept.pop(key).encode()
                if configs.setdefault(key, config) != config:
                    raise UsageError(f"two outputs give the image another {key}")
        output = Output(kind, None, kept)
        check_output(output)
        outputs.append(output)
    return outputs, configs
