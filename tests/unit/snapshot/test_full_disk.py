"""A disk that is really full: everything says so, nothing is lost, and it works on with room again."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anyarch.store.layers import LayerRecords
from anyarch.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from anyarch.archive.compression import GZIP
from anyarch.archive.entry import Entry, Kind
from anyarch.errors import NoSpace
from anyarch.snapshot.layers import open_layers
from anyarch.store.store import Store

root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", root], check=True)
store = Store.open(root / "store")
layers = open_layers(store)

def write(size):
    with layers.new_tar() as tar:
        tar.add(Entry("a", Kind.FILE, 0o644, size=size), os.urandom(size))
        return tar.commit()

def put(size):
    with store.content.writer() as writer:
        writer.write(os.urandom(size))
        writer.commit()

kept = write(1_500_000)
for attempt in (
    lambda: write(8 << 20),
    lambda: put(8 << 20),
    lambda: store.cache.set_value("n", "k", os.urandom(8 << 20)),
    lambda: [layers.directory(kept), layers.blob(kept, GZIP)],
):
    try:
        attempt()
    except NoSpace as error:
        assert str(root) in error.message, error.message
    else:
        raise AssertionError("there was room")
    assert os.listdir(root / "store/ingest") == os.listdir(root / "store/work") == []
assert store.verify() == []
assert store.cache.get_value("n", "k") is None
subprocess.run(["mount", "-o", "remount,size=40m", root], check=True)
layers.directory(kept)
layers.blob(kept, GZIP)
put(8 << 20)
write(8 << 20)
assert store.verify() == []
store.close()
assert os.listdir(root / "store/locks") == []
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    subprocess.run(["unshare", "-m", sys.executable, "-c", _PROGRAM, str(tmp_path)], check=True)


def test_a_form_whose_row_cannot_be_written_is_found_by_the_next_open(tmp_path: Path) -> None:
    def place(_: Iterable[str]) -> None:
        path = tmp_path / "store/layers/x-1/tar"
        path.parent.mkdir()
        path.write_bytes(b"x")
        raise OSError(28, "No space left on device")  # as late as it can come

    with Store.open(tmp_path / "store") as store:
        with pytest.raises(OSError, match="No space"):
            LayerRecords.publish(store.records, "x-1", {"tar": 1}, place=place, size=1)
        assert store.records.find("x-1") is None
    with Store.open(tmp_path / "store"):
        assert os.listdir(tmp_path / "store/layers") == []
    assert os.listdir(tmp_path / "store/locks") == []
