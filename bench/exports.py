"""Layers of 2 GB compressed as exporters do it, against zlib level 6 in one thread: speed, size, memory.

python bench/exports.py [MEGABYTES]      prints a JSON object

The content is a tar of this system's own files. All settings take turns on each slice of it, so that other
work on the machine troubles them alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.archive.compression import Compression
from anyarch.archive.entry import Entry, Kind
from anyarch.archive.pipeline import LayerPipe
from anyarch.archive.tar import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE = 128 << 20
SELDOM = 4
"""zlib's level 6 takes part in every fourth slice: it needs more time than all the rest together."""
CHUNK = 1 << 20
SETTINGS = {
    "default": Compression("gzip"),
    "small": Compression("gzip", 6),
    "zstd": Compression("zstd"),
}
"""What the exporter offers: without a level, and with the one that other tools take."""


def make_tar(target: Path, size: int) -> int:
    """A tar of files below /usr, in order of their paths, up to `size` bytes; the size it got."""
    with target.open("wb") as file:
        writer = TarWriter(file.write)
        while writer.offset < size:
            before = writer.offset
            for directory, names, files in os.walk("/usr"):
                names.sort()
                for name in sorted(files):
                    path = os.path.join(directory, name)
                    if not os.path.isfile(path) or os.path.islink(path) or name.startswith(".wh."):
                        continue
                    length = os.path.getsize(path)
                    if length > 64 << 20:
                        continue
                    with open(path, "rb") as source:
                        writer.add(Entry(path.lstrip("/"), Kind.FILE, 0o644, size=length), source)
                    if writer.offset >= size:
                        break
                if writer.offset >= size:
                    break
            if writer.offset == before:
                break
        writer.close()
    return target.stat().st_size


def ours(data: Callable[[], bytes], compression: Compression, target: Path) -> int:
    with target.open("wb") as out, LayerPipe(compression, out.write) as pipe:
        while block := data():
            pipe.write(block)
        return pipe.close().size


def theirs(data: Callable[[], bytes], target: Path) -> int:
    """zlib's level 6 in one stream, with both digests, all in one thread."""
    digests = hashlib.sha256(), hashlib.sha256()
    deflater = zlib.compressobj(6, zlib.DEFLATED, 31)
    size = 0
    with target.open("wb") as out:
        while block := data():
            digests[0].update(block)
            packed = deflater.compress(block)
            digests[1].update(packed)
            out.write(packed)
            size += len(packed)
        packed = deflater.flush()
        digests[1].update(packed)
        out.write(packed)
    return size + len(packed)


def copied(data: Callable[[], bytes], target: Path) -> int:
    """What the disk does: the bytes as they are, synced."""
    size = 0
    with target.open("wb") as out:
        while block := data():
            size += out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return size


def measure(megabytes: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as scratch:
        tar, target = Path(scratch, "tar"), Path(scratch, "out")
        total = make_tar(tar, megabytes << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = dict.fromkeys((*SETTINGS, "zlib6", "disk"), 0.0)
        sizes = dict.fromkeys(seconds, 0)
        compared = dict.fromkeys(seconds, 0)
        whole = dict.fromkeys(seconds, 0)
        for number, begin in enumerate(range(0, total, SLICE)):
            for name in seconds:
                if name == "zlib6" and number % SELDOM:
                    continue
                with tar.open("rb") as stream:
                    stream.seek(begin)
                    left = [min(SLICE, total - begin)]

                    def data(stream=stream, left=left) -> bytes:  # type: ignore[no-untyped-def]
                        block: bytes = stream.read(min(CHUNK, left[0]))
                        left[0] -= len(block)
                        return block

                    started = time.perf_counter()
                    if name == "zlib6":
                        size = theirs(data, target)
                    elif name == "disk":
                        size = copied(data, target)
                    else:
                        size = ours(data, SETTINGS[name], target)
                    seconds[name] += time.perf_counter() - started
                    sizes[name] += size
                    whole[name] += min(SLICE, total - begin)
                    if not number % SELDOM:
                        compared[name] += size
        # As if it had compressed all.
        seconds["zlib6"] *= total / whole["zlib6"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "bytes": total,
        "seconds": seconds,
        "sizes": sizes,
        "compared": compared,  # sizes of the slices that all took part in
        "peak_bytes": peak * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)))
