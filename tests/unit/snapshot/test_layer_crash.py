"""Killed at any instant, a store is whole: what was announced is there, what was not has left no trace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from anyarch.archive.compression import GZIP
from anyarch.snapshot.layers import open_layers
from anyarch.snapshot.view import View
from anyarch.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.snapshot.layers import LayerStore

_KILLS = 15

# Does everything that writes, over and over, and says what is finished.
_WORK = """
import os, random, sys
from pathlib import Path
from anyarch.archive.compression import GZIP, UNCOMPRESSED, ZSTD
from anyarch.archive.entry import Entry, Kind
from anyarch.snapshot.layers import open_layers
from anyarch.spec.snapshot import Snapshot
from anyarch.store.store import Store

store = Store.open(Path(sys.argv[1]))
layers = open_layers(store)
rng = random.Random(int(sys.argv[2]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    with layers.new_tar() as tar:
        tar.add(Entry("d", Kind.DIRECTORY, 0o755))
        for name in range(20):
            data = rng.randbytes(rng.choice([10, 3000, 200_000]))
            tar.add(Entry(f"d/f{name:03}", Kind.FILE, 0o644, size=len(data)), data)
        layer = tar.commit()
    print("layer", layer.id, flush=True)
    upper = store.work_dir() / "upper"
    upper.mkdir()
    (upper / "d").mkdir()
    (upper / "d" / "g").write_bytes(rng.randbytes(50_000))
    born = layers.adopt_upper(upper, overlay="trusted")
    layers.dispose(upper.parent)
    print("layer", born.id, flush=True)
    for each in rng.sample([layer, born], 2):
        layers.directory(each)
        descriptor = layers.blob(each, rng.choice([GZIP, ZSTD, UNCOMPRESSED]))
        print("blob", descriptor.digest, flush=True)
        layers.file_digests(each, [e for e in layers.index(each) if e.kind is Kind.FILE])
    store.cache.link(f"key-{number}", f"canonical-{number}")
    store.cache.save(f"canonical-{number}", [Snapshot((layer.id, born.id))])
    print("result", f"canonical-{number}", flush=True)
"""


def _forms_on_disk(root: Path) -> set[tuple[str, str]]:
    return {
        (layer.name.replace("sha256-", "sha256:"), form.name)
        for layer in (root / "layers").iterdir()
        for form in layer.iterdir()
        if form.name not in ("lock", "digests")
    }


def _run_and_kill(root: Path, seed: int, after_s: float) -> list[tuple[str, str]]:
    """What the process said was finished before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WORK, str(root), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    said = child.stdout.read()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    lines = said.splitlines() if said.endswith("\n") or not said else said.splitlines()[:-1]
    return [(kind, value) for kind, _, value in (line.partition(" ") for line in lines)]


def _assert_whole(root: Path, layers: LayerStore, finished: list[tuple[str, str]]) -> None:
    store = layers.store
    assert store.verify() == []
    for kind, value in finished:
        match kind:
            case "layer":
                View(layers, [layers.get(value)]).content_digest("")
            case "blob":
                assert store.content.has(value)
            case "result":
                saved = store.cache.load(value, 0)
                assert saved is not None
                assert saved.snapshot is not None
                assert len(saved.snapshot.layers) == 2


def test_a_store_survives_being_killed_at_random_moments(tmp_path: Path) -> None:
    root = tmp_path / "store"
    rng = random.Random(2024)
    finished: list[tuple[str, str]] = []
    with Store.open(root) as witness:  # a live process whose work in progress nobody may touch
        writer = witness.content.writer()
        writer.write(b"half")
        work = witness.work_dir()
        for kill in range(_KILLS):
            finished += _run_and_kill(root, kill, rng.uniform(0, 0.09))
            with Store.open(root) as store:
                layers = open_layers(store)
                _assert_whole(root, layers, finished)
                assert _forms_on_disk(root) == store.records.all_forms()
                assert len(os.listdir(root / "ingest")) == 1
                assert os.listdir(root / "work") == [work.name]
                assert len(os.listdir(root / "locks")) == 2
            finished = finished[-6:]
        writer.write(b" whole")
        assert witness.content.read(writer.commit()) == b"half whole"
        work.rmdir()
    with Store.open(root) as store:  # and it works on
        layers = open_layers(store)
        for layer in store.records.ids():
            assert layers.directory(layers.get(layer)).is_dir()
            assert store.content.has(layers.blob(layers.get(layer), GZIP).digest)
        assert store.verify() == []


# One process that forks a child for each instant: the child counts calls into C from the store's modules and
# kills itself at one of them. The instants are all before and after a rename or link, and some of the others.
_EXACT = """
import os, random, signal, sys
from pathlib import Path
from anyarch.archive.compression import GZIP, UNCOMPRESSED
from anyarch.archive.entry import Entry, Kind
from anyarch.archive import apply, fold, pipeline, tar, tree  # so that children import nothing
from anyarch.snapshot import contenthash, filehash, recovery, tarlayer, view
from anyarch.snapshot.layers import open_layers
from anyarch.spec.snapshot import Snapshot
from anyarch.store import check
from anyarch.store.store import Store
import sqlite3

base = Path(sys.argv[1])
os.fsync = lambda fd: None  # a kill takes nothing from the page cache

def cycle(root):
    with Store.open(root) as store:
        layers = open_layers(store)
        with layers.new_tar() as out:
            out.add(Entry("d", Kind.DIRECTORY, 0o755))
            out.add(Entry("d/f", Kind.FILE, 0o644, size=5), b"hello")
            layer = out.commit()
        layers.directory(layer)
        upper = store.work_dir() / "upper"
        upper.mkdir()
        (upper / "g").write_bytes(b"x")
        born = layers.adopt_upper(upper, overlay="trusted")
        layers.dispose(upper.parent)
        layers.file_digests(born, layers.index(born))
        layers.blob(born, GZIP)
        layers.blob(layer, UNCOMPRESSED)
        pulled = layers.add_blob(layers.blob(layer, GZIP), layer.id, fetch_from="x")
        store.cache.save("c", [Snapshot((layer.id, born.id))])

def count(root, stop_at):
    calls = []
    def profile(frame, event, arg):
        if event == "c_call" and ("/anyarch/store/" in frame.f_code.co_filename
                                  or "/anyarch/snapshot/" in frame.f_code.co_filename):
            calls.append(arg.__name__)
            if len(calls) - 1 == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(profile)
    try:
        cycle(root)
    finally:
        sys.setprofile(None)
    return calls

calls = count(base / "dry", -1)
moves = [number for number, name in enumerate(calls) if name in ("rename", "link")]
assert len(moves) > 8, moves
others = random.Random(1).sample(range(len(calls)), 15)
instants = sorted({*moves, *(number + 1 for number in moves), *others})
for instant in instants:
    root = base / str(instant)
    child = os.fork()
    if child == 0:
        count(root, instant)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), (instant, status)
    with Store.open(root) as store:
        assert store.verify() == [], (instant, calls[instant], store.verify())
        forms = {
            (layer.name.replace("sha256-", "sha256:"), form.name)
            for layer in (root / "layers").iterdir()
            for form in layer.iterdir()
            if form.name not in ("lock", "digests")
        }
        assert forms == store.records.all_forms(), (instant, calls[instant])
        assert os.listdir(root / "ingest") == os.listdir(root / "work") == [], (instant, calls[instant])
    cycle(root)
    with Store.open(root) as store:
        assert store.verify() == [], (instant, calls[instant])
        assert store.cache.load("c", 0) is not None
    assert os.listdir(root / "locks") == [], (instant, calls[instant])
print(len(instants))
"""


def test_a_store_survives_being_killed_at_each_rename(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EXACT, str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(done.stdout) > 25
