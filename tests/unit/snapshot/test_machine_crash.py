"""After the whole machine went down, forms that never reached the disk are dropped and made again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anyarch.archive.compression import GZIP
from anyarch.archive.entry import Entry, Kind
from anyarch.snapshot import recovery
from anyarch.snapshot.layers import open_layers
from anyarch.spec.snapshot import Snapshot
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.snapshot.layers import Layer, LayerStore


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(tmp_path / "store") as store:
        yield open_layers(store)
        assert store.verify() == []
        assert os.listdir(store.root / "work") == []


def _written(layers: LayerStore) -> Layer:
    with layers.new_tar() as tar:
        tar.add(Entry("a", Kind.FILE, 0o644, size=5), b"hello")
        return tar.commit()


def _stepped(layers: LayerStore) -> Layer:
    upper = layers.store.work_dir() / "upper"
    upper.mkdir()
    (upper / "a").write_bytes(b"hello")
    layer = layers.adopt_upper(upper, overlay="trusted")
    layers.dispose(upper.parent)
    assert layer is not None
    return layer


def _reboot(layers: LayerStore, monkeypatch: pytest.MonkeyPatch) -> LayerStore:
    monkeypatch.setattr(recovery, "_boot_id", lambda: b"another boot")
    return open_layers(layers.store)


def _cut(layers: LayerStore, layer: Layer, form: str) -> None:
    path = layers.store.root / "layers" / layer.id.replace(":", "-") / form
    path.write_bytes(path.read_bytes()[:3])


def test_what_is_whole_stays(layers: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in (_written(layers), _stepped(layers)):
        layers.directory(layer)
    before = layers.store.records.all_forms()
    _reboot(layers, monkeypatch)
    assert layers.store.records.all_forms() == before
    assert layers.store.cache.get_value("store", "boot") == b"another boot"


def test_a_written_layer_that_is_cut_short_is_forgotten(
    layers: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _written(layers)
    layers.store.cache.save("c", [Snapshot((layer.id,))])
    _cut(layers, layer, "tar")
    _reboot(layers, monkeypatch)
    assert layers.store.cache.load("c", 0) is None
    assert os.listdir(layers.store.root / "layers") == []
    assert _written(layers) == layer or layers.get(layer.id).size == layer.size


def test_a_layer_with_a_blob_is_made_again_from_it(
    layers: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _written(layers)
    layers.blob(layer, GZIP)
    _cut(layers, layer, "tar")
    again = _reboot(layers, monkeypatch)
    entry = again.index(layer).get("a")
    assert entry is not None
    assert again.open_file(layer, entry).read() == b"hello"


def test_a_directory_with_a_file_cut_short_is_dropped(
    layers: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, stepped = _written(layers), _stepped(layers)
    layers.directory(written)
    for layer in (written, stepped):
        _cut(layers, layer, "dir/a")
    again = _reboot(layers, monkeypatch)
    assert again.store.records.find(stepped.id) is None
    directory = again.directory(written)
    assert (directory / "a").read_bytes() == b"hello"


def test_what_could_not_be_removed_at_open_is_removed_with_more_rights(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root):
        pass
    (root / "work" / "1-dead.0").mkdir()

    def refuse(path: str) -> None:
        raise PermissionError(path)

    with Store.open(root, remove=refuse) as store:
        assert store.leftovers
        open_layers(store)
        assert store.leftovers == []
        assert os.listdir(root / "work") == []
    with Store.open(root):
        assert len(os.listdir(root / "locks")) == 1
