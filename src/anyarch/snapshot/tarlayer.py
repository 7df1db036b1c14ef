"""Writing a layer entry by entry: one sequential file, digested on the way.

Digesting and writing happen on two threads beside the one that adds entries, once there is more than a block.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anyarch.archive.parallel import Ordered, usable_cpus
from anyarch.archive.tar import TarWriter
from anyarch.snapshot.hosttree import HostFile
from anyarch.snapshot.index import encode_index, fold_sorted
from anyarch.snapshot.layers import Layer
from anyarch.spec.digest import Digest
from anyarch.store.failure import disk_errors, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from anyarch.archive.entry import Entry
    from anyarch.archive.tar import Readable
    from anyarch.store.store import Store

__all__ = ["TarLayer"]

_WHOLE = 1 << 20  # bytes; smaller files are read at once


class TarLayer:
    """Context manager; leaving it without `commit` discards what was written. For one thread.

    Entries are best added sorted by path components (then equal trees give equal layers).
    """

    def __init__(self, store: Store, description: str) -> None:
        self._store = store
        self._description = description
        self._entries: list[Entry] = []
        self._hash = hashlib.sha256()
        self._is_large = False
        self._tar = store.unfinished_file()
        self._index = store.unfinished_file()
        self._writer = TarWriter(self._take, hash_contents=True)
        # The queues are short: what waits is memory.
        threads = 1 if usable_cpus() > 1 else 0
        self._beside: list[Ordered[bytes, None]] = [
            Ordered(work, lambda _: None, threads=threads, depth=4, name="anyarch-layer")
            for work in (self._hash.update, self._write)
        ]
        with disk_errors(self._tar):
            self._fd = os.open(self._tar, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @property
    def size(self) -> int:
        """Bytes of tar so far."""
        return self._writer.offset

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> Entry:
        """Append `entry`; answers it with `offset` and `digest` filled.

        A digest that it came with is kept, but for files of a `HostTree` that are read for this: those are
        digested again while they are copied, and `ContextError` tells of one that is not what it was.
        `NoSpace`; `MalformedArchive` when the content is not of the size of the entry.
        """
        if entry.digest and isinstance(content, HostFile):
            data = content.read() if entry.size <= _WHOLE else content
            added = self._writer.add(replace(entry, digest=b""), data)
            if added.digest != entry.digest:
                raise content.changed()
        else:
            added = self._writer.add(entry, content)
        self._entries.append(added)
        return added

    def commit(self) -> Layer:
        """Publish the layer under its diff ID; one that is there already is answered instead."""
        self._writer.close()
        for beside in self._beside:
            beside.close()
        os.close(self._fd)
        self._fd = -1
        diff_id = Digest.from_hex(self._hash.hexdigest())
        raw = encode_index(fold_sorted(self._entries))
        with disk_errors(self._index), open(self._index, "xb", buffering=0) as file:
            file.write(raw)
        size = self._writer.offset
        directory = self._store.layer_path(diff_id)

        def place(forms: Iterable[str]) -> None:
            with disk_errors(directory):
                os.makedirs(directory, exist_ok=True)
                for form in forms:
                    os.rename(self._tar if form == "tar" else self._index, f"{directory}/{form}")

        self._store.records.publish(
            diff_id,
            {"tar": size, "index": len(raw)},
            place=place,
            size=size,
            diff_id=diff_id,
            description=self._description,
        )
        self.discard()
        row = self._store.records.get(diff_id)
        return Layer(str(diff_id), row.size, row.created_at)

    def discard(self) -> None:
        """Drop what was written and not published."""
        for beside in self._beside:
            beside.abort()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for path in (self._tar, self._index):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue  # published, or never written

    def __enter__(self) -> TarLayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _take(self, data: bytes) -> None:
        if len(data) < _WHOLE and not self._is_large:
            # All of a small layer: a thread would cost more than it saves.
            self._hash.update(data)
            self._write(data)
        else:
            self._is_large = True
            for beside in self._beside:
                beside.submit(data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise storage_error(error, self._tar) from error
