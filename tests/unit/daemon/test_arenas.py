"""The memory of a daemon's threads."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import ctypes, sys, tempfile, threading
from anyarch.daemon.arenas import few_arenas
if sys.argv[1] == "few":
    few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(16)
def work():
    together.wait()
    for _ in range(100):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.TemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(file.fileno(), b"w"))
    assert libc.malloc_info(0, stream) == 0
    libc.fflush(stream)
    file.seek(0)
    print(file.read().count(b"<heap nr="))
    sys.stdout.flush()
    import os
    os._exit(0)
"""


def arenas(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_threads_of_a_daemon_share_what_they_freed() -> None:
    assert arenas("few") <= 2 < arenas("many")
