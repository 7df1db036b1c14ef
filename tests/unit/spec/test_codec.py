"""Decoding in several threads at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "src" / "anyarch"

# In a process of its own: what goes wrong ends the interpreter. Switching threads all the time makes it
# likely.
RACE = """
import sys, threading
sys.setswitchinterval(1e-6)
from anyarch.spec.oci import ImageConfig, Index, Manifest, decode
documents = [
    (Manifest, b'{"schemaVersion":2,"config":{"mediaType":"a","digest":"d","size":1},"layers":[]}'),
    (Index, b'{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"d","size":1,"platform":{}}]}'),
    (ImageConfig, b'{"config":{},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created":"x"}]}'),
]
start = threading.Barrier(8)
def work(number):
    start.wait()
    decode(*documents[number % 3])
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_decoders_can_be_asked_for_by_several_threads() -> None:
    for _ in range(12):
        assert subprocess.run([sys.executable, "-c", RACE], check=False).returncode == 0


def test_nobody_makes_typed_decoders_on_the_side() -> None:
    typed = re.compile(r"msgspec\.(json|msgpack)\.decode\([^)]*\btype\s*=\s*_?[A-Z]|msgspec\.convert\(")
    files = (path for path in SOURCES.rglob("*.py") if path.name != "codec.py")
    found = [str(path) for path in files if typed.search(path.read_text())]
    assert found == []
