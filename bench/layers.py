"""One layer made in this process: 50,000 files against `tarfile` and zlib, and the memory that 1 GB takes.

python bench/layers.py speed|memory DIRECTORY      prints a JSON object
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import statistics
import sys
import tarfile
import time
import zlib
from pathlib import Path

from anyarch.archive.compression import Compression
from anyarch.archive.pipeline import LayerWriter
from anyarch.archive.tree import scan_tree, tar_tree

ROUNDS = 3


def make_files(directory: Path, count: int, *, seed: int = 1) -> None:
    """`count` files of words, 0.2 to 4 kB, a hundred in a directory: the same for the same seed."""
    chance = random.Random(seed)
    words = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(4000)
    ]
    for index in range(count):
        path = directory / f"d{index // 100:04}" / f"f{index % 100:02}.txt"
        if index % 100 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(" ".join(chance.choices(words, k=chance.randint(30, 700))))


def ours(tree: Path, target: Path) -> int:
    """Scan, tar, hash, compress, hash: as the exporter does it. The blob's size."""
    with target.open("wb") as file, LayerWriter(Compression("gzip"), file.write) as writer:
        tar_tree(scan_tree(str(tree)), str(tree), writer)
        return writer.close().size


class _Sink:
    """The write end that `tarfile` gets: digest of the tar, zlib level 6, digest of the blob, file."""

    def __init__(self, target: Path) -> None:
        self.file = target.open("wb")
        self.digests = hashlib.sha256(), hashlib.sha256()
        self.deflater = zlib.compressobj(6, zlib.DEFLATED, 31)
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digests[0].update(data)
        self._put(self.deflater.compress(data))
        return len(data)

    def close(self) -> None:
        self._put(self.deflater.flush())
        self.file.close()

    def _put(self, data: bytes) -> None:
        self.digests[1].update(data)
        self.file.write(data)
        self.size += len(data)


def theirs(tree: Path, target: Path) -> int:
    """The same by the standard library alone."""
    sink = _Sink(target)
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for name in sorted(os.listdir(tree)):
            archive.add(tree / name, arcname=name)
    sink.close()
    return sink.size


def speed(directory: Path) -> dict[str, float]:
    tree = directory / "tree"
    make_files(tree, 50_000)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    sizes = {}
    for _ in range(ROUNDS):
        for name, make in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            sizes[name] = make(tree, directory / name)
            seconds[name].append(time.perf_counter() - started)
    return {
        "ours_s": statistics.median(seconds["ours"]),
        "theirs_s": statistics.median(seconds["theirs"]),
        "ours_bytes": sizes["ours"],
        "theirs_bytes": sizes["theirs"],
    }


def memory(directory: Path) -> dict[str, float]:
    tree = directory / "big"
    tree.mkdir()
    block = random.Random(2).randbytes(512 * 1024) + bytes(512 * 1024)
    with (tree / "file").open("wb") as file:
        for _ in range(1024):
            file.write(block)
    started = time.perf_counter()
    size = ours(tree, directory / "blob")
    elapsed = time.perf_counter() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": peak_kib * 1024, "seconds": elapsed, "blob_bytes": size}


if __name__ == "__main__":
    print(json.dumps({"speed": speed, "memory": memory}[sys.argv[1]](Path(sys.argv[2]))))
