"""The process beside a build that reads small files: run as a program, by `smallfiles`. Imports little.

Its directory is that of the files. A request is its length (4 bytes), then by marshal where in the shared
memory the contents go one behind the other (-1: nowhere), and path, size and modification time of each file.
The answer is 33 bytes a file: 1 and its sha256, or zeros when it cannot be read or is not what it was.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sys

_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FAILED = bytes(33)


def read_files(shared: int, start: int, files: list[tuple[bytes, int, int]]) -> bytes:
    """Digest `files`, put their contents into `shared`."""
    sha256 = hashlib.sha256
    answers, contents = [], []
    for path, size, mtime_ns in files:
        data = b""
        try:
            fd = os.open(path, _TO_READ)
            try:
                now = os.fstat(fd)
                if size:
                    data = os.read(fd, size)
            finally:
                os.close(fd)
        except OSError:
            now = None
        if now is None or (now.st_size, now.st_mtime_ns, len(data)) != (size, mtime_ns, size):
            answers.append(_FAILED)
            data = bytes(size)
        else:
            answers.append(b"\1" + sha256(data).digest())
        contents.append(data)
    if start >= 0:
        whole = b"".join(contents)
        if os.pwrite(shared, whole, start) != len(whole):
            raise OSError("the shared memory is full")
    return b"".join(answers)


def main() -> None:
    shared = int(sys.argv[1])
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(4):
        start, files = marshal.loads(requests.read(int.from_bytes(header, "little")))
        answers.write(read_files(shared, start, files))
        answers.flush()


if __name__ == "__main__":
    main()
