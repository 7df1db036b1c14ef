"""What a client asks to be made of a result (`SolveRequest.Exporters`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.engine.options import check_output
from anyarch.engine.request import Output
from anyarch.errors import FeatureTooNew, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.api.proto import control_pb2

__all__ = ["checked_outputs", "compatibility_of", "compatible_outputs", "outputs_of"]

_CONFIG = "containerimage.config"
_IMAGES = frozenset({"image", "oci", "docker"})
_KNOWN = _IMAGES | {"local", "tar", "cacheonly"}
_CURRENT = 30
_COMPATIBILITY = (10, 20, _CURRENT)


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
        if kind not in _KNOWN:
            raise UsageError(f'exporter "{kind}" could not be found')
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


def compatibility_of(version: int) -> int:
    """The release of BuildKit's outputs that is wanted. Raises `UsageError`."""
    if version and version not in _COMPATIBILITY:
        known = " ".join(map(str, _COMPATIBILITY))
        why = f"supported: [{known}]" if version < _CURRENT else f"max supported: {_CURRENT}"
        raise UsageError(f"unsupported compatibility-version {version} ({why})")
    return version or _CURRENT


def compatible_outputs(outputs: list[Output], version: int, *, is_attested: bool) -> list[Output]:
    """The outputs with what older releases took for granted: Docker's media types where nothing is attested,
    attestations as image manifests. Raises `FeatureTooNew`."""
    if version == _CURRENT:
        return outputs
    found = []
    for output in outputs:
        if version == 10 and output.attrs.get("compression") == "zstd":
            feature = f"{output.type} exporter compression=zstd"
            raise FeatureTooNew(version, feature, hint="ask for a newer version, or another compression")
        if output.type in ("local", "tar"):
            found.append(output)
            continue
        own = {"oci-mediatypes": str(is_attested).lower(), "oci-artifact": "false"}
        found.append(Output(output.type, output.dest, {**own, **output.attrs}))
    return found
