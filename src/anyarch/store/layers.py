"""Rows of layers: which exist, in which forms, with which blobs. The files are made by `snapshot`.

Order of every publication: the files are complete under a temporary name; then, inside one write
transaction, they are renamed to where they belong and the row is written. So a row never names what is not
there, and whatever lies in `layers/` without a row while nobody writes was left by a process that died
between the two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import StoreError
from anyarch.spec.oci import Descriptor, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anyarch.store.metadata import Metadata

__all__ = ["LayerBlob", "LayerRecords", "LayerRow"]


_INSERT = """INSERT OR IGNORE INTO layers (id, diff_id, size, description, created_at, last_used, uses)
    VALUES (?, ?, ?, ?, ?, ?, 0)"""


class LayerRow(msgspec.Struct, frozen=True):
    """`forms` maps index, tar, dir, dir-<variant> to sizes in bytes. Times in seconds since the epoch."""

    id: str
    diff_id: str | None
    size: int
    description: str
    created_at: float
    forms: dict[str, int]


class LayerBlob(msgspec.Struct, frozen=True):
    """`compression` is the key of the compressor that made it here, "" when it was pulled."""

    descriptor: Descriptor
    compression: str


class LayerRecords:
    """Thread-safe; raises `StoreError` only. `hold(layer)` is told of each layer before it is looked for (see
    `leases`), `grows(size)` of what is about to be added, which it may refuse."""

    def __init__(
        self,
        meta: Metadata,
        *,
        hold: Callable[[str], object] = lambda layer: None,
        grows: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._meta = meta
        self._grows = grows
        self._hold = hold
        self.has_orphans = False
        """Whether files were renamed into place whose rows could not be written (a full disk)."""

    def find(self, layer: str) -> LayerRow | None:
        self._hold(layer)
        rows = self._meta.query(
            """SELECT l.diff_id, l.size, l.description, l.created_at, f.form, f.size
               FROM layers l LEFT JOIN layer_forms f ON f.layer = l.id WHERE l.id = ?""",
            (layer,),
        )
        if not rows:
            return None
        diff_id, size, description, created_at = rows[0][:4]
        forms = {form: form_size for *_, form, form_size in rows if form is not None}
        return LayerRow(layer, diff_id, size, description, created_at, forms)

    def get(self, layer: str) -> LayerRow:
        """`StoreError` when there is none."""
        row = self.find(layer)
        if row is None:
            raise StoreError(
                f"layer {layer} is not in the store", hint="run the build again: it is made anew"
            )
        return row

    def ids(self) -> list[str]:
        return [row[0] for row in self._meta.query("SELECT id FROM layers ORDER BY id")]

    def all_forms(self) -> set[tuple[str, str]]:
        """(layer, form) of everything that has a row."""
        return set(self._meta.query("SELECT layer, form FROM layer_forms"))

    def made_since(self, span_s: float) -> list[tuple[str, str, int]]:
        """(layer, form, size) of the forms made at most `span_s` before the newest one."""
        return self._meta.query(
            """SELECT layer, form, size FROM layer_forms
               WHERE made_at >= (SELECT max(made_at) FROM layer_forms) - ? ORDER BY layer, form""",
            (span_s,),
        )

    def add(
        self,
        layer: str,
        *,
        size: int,
        diff_id: str | None = None,
        description: str = "",
        created_at: float | None = None,
    ) -> None:
        """A layer of which nothing need be on disk; one that is known stays as it is."""
        self._hold(layer)
        now = time.time()
        with self._meta.transaction() as database:
            database.execute(
                _INSERT,
                (layer, diff_id, size, description, now if created_at is None else created_at, now),
            )

    def publish(
        self,
        layer: str,
        forms: Mapping[str, int],
        *,
        place: Callable[[Iterable[str]], None],
        size: int,
        diff_id: str | None = None,
        description: str = "",
        replace: bool = False,
    ) -> None:
        """Make `forms` (name to size) visible: `place(names)` renames those that are not there yet (all
        with `replace`) while no other process publishes. `size`, `diff_id`, `description` are for a layer
        that is new."""
        self._hold(layer)
        known = set() if replace else {form for _, form in self._forms_of(layer)}
        coming = sum(forms[form] for form in forms if form not in known)
        if coming:
            self._grows(coming)
        now = time.time()
        placed = False
        try:
            with self._meta.transaction() as database:
                there = {
                    row[0]
                    for row in database.execute("SELECT form FROM layer_forms WHERE layer = ?", (layer,))
                }
                new = [form for form in forms if replace or form not in there]
                if new:
                    placed = True
                    place(new)
                database.execute(
                    _INSERT,
                    (layer, diff_id, size, description, now, now),
                )
                if diff_id is not None:
                    database.execute(
                        "UPDATE layers SET diff_id = ? WHERE id = ? AND diff_id IS NULL", (diff_id, layer)
                    )
                database.executemany(
                    "INSERT OR REPLACE INTO layer_forms VALUES (?, ?, ?, ?)",
                    [(layer, form, forms[form], now) for form in new],
                )
        except BaseException:
            self.has_orphans = self.has_orphans or placed
            raise

    def _forms_of(self, layer: str) -> list[tuple[str, str]]:
        return self._meta.query("SELECT layer, form FROM layer_forms WHERE layer = ?", (layer,))

    def set_diff_id(self, layer: str, diff_id: str) -> None:
        with self._meta.transaction() as database:
            database.execute("UPDATE layers SET diff_id = ? WHERE id = ?", (diff_id, layer))

    def drop_form(self, layer: str, form: str) -> None:
        """Forget a form that is not on disk any more, or is damaged."""
        with self._meta.transaction() as database:
            database.execute("DELETE FROM layer_forms WHERE layer = ? AND form = ?", (layer, form))

    def drop(self, layer: str, *, take_away: Callable[[], None]) -> None:
        """Forget a layer; `take_away` renames its files away while no other process publishes."""
        with self._meta.transaction() as database:
            take_away()
            for table in ("layer_forms", "layer_blobs", "layer_sources"):
                database.execute(f"DELETE FROM {table} WHERE layer = ?", (layer,))
            database.execute("DELETE FROM layers WHERE id = ?", (layer,))

    def blobs(self, layer: str) -> list[LayerBlob]:
        """All blobs known of a layer: pulled ones first, of those what came with the latest new image. Their
        bytes need not be local."""
        rows = self._meta.query(
            """SELECT descriptor, compression FROM layer_blobs b WHERE layer = ? ORDER BY compression,
               (SELECT max(seen_at) FROM layer_sources s WHERE s.layer = b.layer AND s.digest = b.digest)
               DESC, digest""",
            (layer,),
        )
        return [LayerBlob(decode(Descriptor, bytes(raw)), compression) for raw, compression in rows]

    def add_blob(
        self, layer: str, descriptor: Descriptor, *, compression: str = "", diff_id: str | None = None
    ) -> None:
        with self._meta.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?)",
                (layer, descriptor.digest, compression, encode(descriptor)),
            )
            if diff_id is not None:
                database.execute(
                    "UPDATE layers SET diff_id = ? WHERE id = ? AND diff_id IS NULL", (diff_id, layer)
                )

    def sources(self, layer: str) -> list[tuple[str, str]]:
        """(blob digest, reference) where blobs of the layer were seen, latest first."""
        return self._meta.query(
            "SELECT digest, reference FROM layer_sources WHERE layer = ? ORDER BY seen_at DESC, reference",
            (layer,),
        )

    def add_pulled(
        self,
        layer: str,
        descriptor: Descriptor,
        *,
        diff_id: str,
        reference: str,
        description: str = "",
        created_at: float | None = None,
    ) -> None:
        """A layer of an image: known by its diff ID, its blob to be had at `reference` ("" for nowhere)."""
        self._hold(layer)
        raw = encode(descriptor)
        known = self._meta.one(
            """SELECT b.descriptor, s.reference FROM layer_blobs b LEFT JOIN layer_sources s
               ON s.layer = b.layer AND s.digest = b.digest AND s.reference = ?
               WHERE b.layer = ? AND b.digest = ? AND b.compression = ''""",
            (reference, layer, descriptor.digest),
        )
        if known is not None and bytes(known[0]) == raw and (known[1] is not None or not reference):
            return  # the usual case of a repeated build: nothing to write
        with self._meta.transaction() as database:
            self.add(
                layer,
                size=descriptor.size,
                diff_id=diff_id,
                description=description,
                created_at=created_at,
            )
            self.add_blob(layer, descriptor)
            if reference:
                database.execute(
                    "INSERT OR REPLACE INTO layer_sources VALUES (?, ?, ?, ?)",
                    (layer, descriptor.digest, reference, time.time()),
                )
