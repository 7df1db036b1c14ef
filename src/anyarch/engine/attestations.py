"""Attestations that frontends and scanners give, as files of results: read and made ready for exporters."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError
from anyarch.exporter.attestation import MOST_BYTES, Attestation, Subject, unbundled
from anyarch.llb.definition import Definition
from anyarch.spec.intoto import SLSA_PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyarch.engine.gateway import EngineRef

__all__ = ["AttestationRef", "read_attestations"]


class AttestationRef(msgspec.Struct, frozen=True):
    """An attestation that a frontend gives: the file at `path` of a result is its predicate. Of a bundle
    every file in the directory `path` is a whole statement."""

    definition: Definition | None
    path: str
    predicate_type: str = ""
    subjects: tuple[Subject, ...] = ()
    is_bundle: bool = False
    metadata: dict[str, bytes] = {}


async def read_attestations(
    items: Iterable[AttestationRef], load: Callable[[Definition], EngineRef]
) -> tuple[Attestation, ...]:
    """What they say, the SBOM of the result itself first. Raises `BuildError`, and what reading raises."""
    found = [one for item in items for one in await _read(item, load)]
    return tuple(sorted(found, key=lambda item: not item.is_core))


async def _read(item: AttestationRef, load: Callable[[Definition], EngineRef]) -> list[Attestation]:
    if item.definition is None:
        raise BuildError("attestation does not have available content")
    ref = load(item.definition)

    async def read(path: str) -> bytes:
        raw = await ref.read_file(path, length=MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise BuildError(f"{path} exceeds {MOST_BYTES} bytes")
        return raw

    inline_only = item.metadata.get("inline-only", b"") == b"true"
    core = item.metadata.get("sbom-core", b"").decode("utf-8", "replace")
    if not item.is_bundle:
        if not item.path:
            raise BuildError("attestation does not have set path")
        _check_predicate(item.predicate_type, "set")
        raw = await read(item.path)
        one = Attestation(item.predicate_type, raw, item.path, item.subjects, inline_only)
        return [msgspec.structs.replace(one, is_core=_is_core(one.path, core))]
    found = []
    for entry in await ref.read_dir(item.path or "/"):
        path = posixpath.join(item.path or "/", entry.name)
        one = unbundled(await read(path), path, item.predicate_type)
        _check_predicate(one.predicate_type, "bundle")
        is_core = _is_core(one.path, core)
        found.append(msgspec.structs.replace(one, inline_only=inline_only, is_core=is_core))
    return found


def _is_core(path: str, core: str) -> bool:
    return bool(core) and posixpath.basename(path).partition(".")[0] == core


def _check_predicate(kind: str, what: str) -> None:
    """Who makes a result does not say how it was made. Raises `BuildError`."""
    if kind.startswith(SLSA_PROVENANCE):
        raise BuildError(f"frontend may not {what} provenance attestations")
