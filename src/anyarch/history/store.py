"""Build records on disk: one file a record, and the blobs (logs, errors) that they name.

Records are `BuildHistoryRecord` messages. A file is written under another name and renamed, blobs before the
record that names them, so a record that is there is whole. One process owns the directory.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from anyarch.api.proto.control_pb2 import BuildHistoryRecord, Descriptor
from anyarch.store.failure import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["HistoryStore"]

_SUFFIX = ".record"


class HistoryStore:
    """The records below `root`. Of those that are not pinned, the `keep` newest stay, and all that are not
    older than `keep_s` seconds."""

    def __init__(self, root: Path, *, keep: int = 50, keep_s: float = 48 * 3600.0) -> None:
        self._root = root
        self._records = root / "records"
        self._blobs = root / "blobs"
        self._keep = keep
        self._keep_s = keep_s
        with disk_errors(root):
            self._records.mkdir(parents=True, exist_ok=True)
            self._blobs.mkdir(exist_ok=True)
            for path in (*self._records.iterdir(), *self._blobs.iterdir()):
                if path.name.startswith("."):
                    path.unlink()  # of a process that was killed

    def put_blob(self, raw: bytes, media_type: str) -> Descriptor:
        """Keep `raw`; name it in a record soon. Raises `StoreError`."""
        digest = hashlib.sha256(raw).hexdigest()
        self._write(self._blobs / digest, raw)
        return Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=len(raw))

    def blob(self, digest: str) -> Path | None:
        """Where a blob lies; None when no record has it."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            return None
        path = self._blobs / name
        return path if path.exists() else None

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Digests and sizes of all blobs."""
        for path in sorted(self._blobs.iterdir()):
            if not path.name.startswith("."):
                yield f"sha256:{path.name}", path.stat().st_size

    def put(self, record: BuildHistoryRecord) -> None:
        """Keep a record, in place of an older one of the same build. Raises `StoreError`."""
        self._write(self._path(record.Ref), record.SerializeToString())

    def get(self, ref: str) -> BuildHistoryRecord | None:
        """None when there is none, or none that can be read."""
        from google.protobuf.message import DecodeError

        try:
            return BuildHistoryRecord.FromString(self._path(ref).read_bytes())
        except (FileNotFoundError, DecodeError):
            return None

    def delete(self, ref: str) -> bool:
        """Remove a record and the blobs that no other one names; whether it was there."""
        record = self.get(ref)
        path = self._path(ref)
        if record is None and not path.exists():
            return False
        with disk_errors(self._root):
            path.unlink(missing_ok=True)
        if record is not None:
            self._drop_blobs(_named(record))
        return True

    def all(self) -> list[BuildHistoryRecord]:
        """All records, in the order of their names."""
        names = sorted(name for name in os.listdir(self._records) if name.endswith(_SUFFIX))
        found = [self.get(name.removesuffix(_SUFFIX)) for name in names]
        return [record for record in found if record is not None]

    def collect(self, *, now: float | None = None) -> list[BuildHistoryRecord]:
        """Remove what is both beyond the number to keep and too old; answers what went."""
        at = time.time() if now is None else now
        records = [record for record in self.all() if not record.pinned]
        records.sort(key=lambda record: (record.CompletedAt.seconds, record.CompletedAt.nanos), reverse=True)
        gone = [r for r in records[self._keep :] if r.CompletedAt.seconds < at - self._keep_s]
        for record in gone:
            self.delete(record.Ref)
        return gone

    def _drop_blobs(self, digests: set[str]) -> None:
        needed = {digest for record in self.all() for digest in _named(record)}
        for digest in digests - needed:
            path = self.blob(digest)
            if path is not None:
                path.unlink()

    def _path(self, ref: str) -> Path:
        # A build's name comes from a client: only what is plain is used as it is.
        if ref.isascii() and ref.isalnum() and len(ref) <= 64:
            return self._records / f"{ref}{_SUFFIX}"
        return (
            self._records / f"{hashlib.sha256(ref.encode('utf-8', 'surrogateescape')).hexdigest()}{_SUFFIX}"
        )

    def _write(self, path: Path, raw: bytes) -> None:
        with disk_errors(self._root):
            unfinished = path.with_name(f".{path.name}")
            unfinished.write_bytes(raw)
            os.replace(unfinished, path)


def _named(record: BuildHistoryRecord) -> set[str]:
    """Digests of the blobs of ours that a record names."""
    found = {record.logs.digest, record.trace.digest, record.externalError.digest}
    for info in (record.Result, *record.Results.values()):
        found |= {item.digest for item in info.Attestations}
    return found - {""}
