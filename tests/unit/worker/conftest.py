"""Trees to copy between: made of real layers in a store of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.snapshot.layers import open_layers
from anyarch.snapshot.view import View
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.snapshot.layers import Layer, LayerStore
    from anyarch.worker.draft import Draft

Files = dict[str, "bytes | str | Entry"]


class Trees:
    """`tree({...})`: bytes are files, texts are symlinks, a name that ends in a slash is a directory."""

    def __init__(self, layers: LayerStore) -> None:
        self.layers = layers
        self._chains: dict[int, list[Layer]] = {}

    def layer(self, files: Files) -> str:
        entries: dict[str, tuple[Entry, bytes | None]] = {}
        for name, value in files.items():
            path = name.rstrip("/")
            for parent in _parents(path):
                entries.setdefault(parent, (Entry(parent, Kind.DIRECTORY, 0o755, mtime_ns=10**9), None))
            if isinstance(value, Entry):
                entries[path] = (value, None)
            elif name.endswith("/"):
                entries[path] = (Entry(path, Kind.DIRECTORY, 0o755, mtime_ns=10**9), None)
            elif isinstance(value, str):
                entries[path] = (Entry(path, Kind.SYMLINK, 0o777, mtime_ns=10**9, linkname=value), None)
            else:
                entry = Entry(path, Kind.FILE, 0o644, mtime_ns=5 * 10**9, size=len(value))
                entries[path] = (entry, value)
        with self.layers.new_tar() as layer:
            for path in sorted(entries, key=lambda p: p.split("/")):
                layer.add(*entries[path])
            return layer.commit().id

    def tree(self, *layers: Files) -> View:
        return self._view([self.layers.get(self.layer(files)) for files in layers])

    def _view(self, chain: list[Layer]) -> View:
        view = View(self.layers, chain)
        self._chains[id(view)] = chain
        return view

    def above(self, base: View | None, draft: Draft) -> View:
        """What is seen once `draft` lies above `base`."""
        with self.layers.new_tar() as layer:
            draft.commit(layer)
            made = layer.commit()
        return self._view([*(self._chains[id(base)] if base is not None else []), made])


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[Trees]:
    with Store.open(tmp_path / "store") as store:
        yield Trees(open_layers(store))


def listing(tree: View) -> list[str]:
    """Every path with its kind: `d app`, `f app/x=content`, `l link->target`."""
    out = []
    for node in tree.walk(""):
        entry = node.entry
        if not entry.path:
            continue
        if entry.kind in (Kind.FILE, Kind.HARDLINK):
            with tree.open(node) as stream:
                out.append(f"f {entry.path}={stream.read().decode()}")
        elif entry.kind is Kind.SYMLINK:
            out.append(f"l {entry.path}->{entry.linkname}")
        else:
            out.append(f"{'d' if entry.kind is Kind.DIRECTORY else entry.kind.name} {entry.path}")
    return out
