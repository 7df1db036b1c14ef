"""What the processes that watch a step keep in memory."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import hashlib, json, os, re, ssl
from anyarch.sandbox.supervisor.syscalls import drop_clean_pages

def of_files():
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = of_files()
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
drop_clean_pages()
after = of_files()
assert json.loads("[1, 2]") == [1, 2]
assert hashlib.sha256(b"abc").hexdigest().startswith("ba7816bf")
assert ssl.create_default_context() is not None
print(before, after)
"""


def test_a_process_lets_go_of_its_programs_pages_and_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 2
