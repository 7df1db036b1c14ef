"""Attestations of files (`type=local`, `type=tar`): statements about every file, put beside them."""

from __future__ import annotations

import hashlib
import posixpath
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError
from anyarch.exporter.attestation import Subject, statement
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from anyarch.exporter.assemble import PlatformResult
    from anyarch.worker.worker import Worker

__all__ = ["with_attestations"]


def _sha256(stream: BinaryIO) -> str:
    whole = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        whole.update(chunk)
    return whole.hexdigest()


def with_attestations(
    worker: Worker, chain: SnapshotResult, result: PlatformResult, *, prefix: str, by_platform: bool
) -> SnapshotResult:
    """The files of `chain`, whose layers are local, with those of attestations; `by_platform` puts the
    platform into their names. Raises `BuildError`. Blocks."""
    wanted = [item for item in result.attestations if not item.inline_only]
    if not wanted:
        return chain
    tree = worker.view(chain)
    subjects = []
    for node in tree.walk(""):
        if node.entry.kind in (Kind.FILE, Kind.HARDLINK) and node.entry.path:
            target = tree.target(node)
            digest = target.entry.digest.hex()  # of most files it is known
            if not digest:
                with tree.open(target) as stream:
                    digest = _sha256(stream)
            subjects.append(Subject(node.entry.path, (f"sha256:{digest}",)))
    files: dict[str, bytes] = {}
    for item in wanted:
        name = prefix + posixpath.basename(item.path)
        if by_platform:
            stem, extension = posixpath.splitext(name)
            name = f"{stem}.{result.platform.directory}{extension}"
        if name in files:
            raise BuildError(f"duplicate attestation path name {name}")
        files[name] = msgspec.json.format(statement(item, subjects), indent=2)
    with worker.layers.new_tar(description="attestations") as out:
        for name in sorted(files):
            raw = files[name]
            out.add(Entry(name, Kind.FILE, 0o600, size=len(raw), digest=hashlib.sha256(raw).digest()), raw)
        layer = out.commit()
    return SnapshotResult((*chain.layers, layer.id))
