"""Provenance that the record of a build on a node holds, as the metadata file has it."""

from __future__ import annotations

from typing import Any, Protocol

from anyarch.api.proto import control_pb2 as control
from anyarch.errors import BuilderError, NotSupported
from anyarch.spec.intoto import PAYLOAD_TYPE, PREDICATE_TYPE, SLSA_PROVENANCE

__all__ = ["record_provenance"]

_KEY = "buildx.build.provenance"


class Records(Protocol):
    """The records of a node."""

    async def history(self, request: control.BuildHistoryRequest) -> tuple[list[Any], str]: ...

    async def read_blob(self, digest: str) -> bytes: ...


async def record_provenance(node: Records, ref: str, *, is_max: bool) -> dict[str, Any]:
    """By the keys of the metadata file; nothing where a daemon keeps no records. Raises `AnyarchError`."""
    try:
        events, _ = await node.history(control.BuildHistoryRequest(Ref=ref, EarlyExit=True))
    except NotSupported:
        return {}
    wanted: dict[str, tuple[str, str]] = {}
    for event in events:
        record = event.record
        infos = {f"{_KEY}/{name}": info for name, info in record.Results.items()} or {_KEY: record.Result}
        for key, info in infos.items():
            for item in info.Attestations:
                kind = item.annotations.get(PREDICATE_TYPE, "")
                if item.media_type == PAYLOAD_TYPE and kind.startswith(SLSA_PROVENANCE):
                    wanted.setdefault(key, (item.digest, kind))
    return {
        key: _document(await node.read_blob(digest), kind, digest, is_max=is_max)
        for key, (digest, kind) in sorted(wanted.items())
    }


def _document(raw: bytes, kind: str, digest: str, *, is_max: bool) -> dict[str, Any]:
    from anyarch.attest.predicate import for_metadata

    try:
        return for_metadata(raw, kind, is_max=is_max)
    except ValueError as error:
        raise BuilderError(f"failed to unmarshal provenance {digest}: {error}") from None
