"""Digests of many small files of a directory, which are read once, for that and for their copy.

Opening and reading a file of a few kilobytes costs more in the interpreter than in the kernel, so threads win
nothing. Where there are thousands of files and a second CPU a process beside this one (`filereader`) takes
its share of them: it is told which while the directory is still being scanned, writes contents into memory
that both see and answers digests. What it does not do, for whatever reason, is done here.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from anyarch.archive.parallel import usable_cpus

if TYPE_CHECKING:
    import subprocess
    from mmap import mmap
    from types import TracebackType

    from anyarch.archive.entry import Entry

__all__ = ["SMALL", "ReadAhead", "SmallFiles"]

SMALL = 64 << 10  # bytes; of larger files reading again costs less than the memory
_KEPT = 128 << 20
_BATCH = 256
_UNDER_WAY = 2  # batches: one that is worked on, one to go on with
_WORTH_PROCESS = 2000  # files; less are done before an interpreter has started
_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class SmallFiles:
    """Contents below the directory `root` of files that were digested, each until it is taken."""

    def __init__(self, root: bytes) -> None:
        self._prefix = root + b"/"
        self._contents: dict[str, bytes | int] = {}  # the bytes, or where in the shared memory they are
        self._kept = 0
        self._shared: mmap | None = None
        self._left = 0  # contents in the shared memory
        self._lock = threading.Lock()

    def take(self, entry: Entry) -> bytes | None:
        """The content of a file, once; None when it has to be read."""
        found = self._contents.pop(entry.path, None)
        if isinstance(found, int):
            with self._lock:
                assert self._shared is not None
                data = self._shared[found : found + entry.size]
                self._left -= 1
                if not self._left:
                    self._shared.close()
                    self._shared = None
            return data
        if found is not None:
            self._kept -= entry.size
        return found

    def digest(self, entries: list[Entry], digests: dict[str, bytes]) -> list[Entry]:
        """Fill in sha256 of files; answers those that are not small, or not what they were at the scan."""
        others = []
        sha256, contents, prefix = hashlib.sha256, self._contents, self._prefix
        kept = self._kept
        for entry in entries:
            size = entry.size
            if size > SMALL:
                others.append(entry)
                continue
            path = entry.path
            try:
                fd = os.open(prefix + path.encode("utf-8", "surrogateescape"), _TO_READ)
            except OSError:
                others.append(entry)  # who reads it again says what is wrong
                continue
            try:
                now = os.fstat(fd)
                data = os.read(fd, size) if size else b""
            finally:
                os.close(fd)
            if (now.st_size, now.st_mtime_ns, len(data)) != (size, entry.mtime_ns, size):
                others.append(entry)
                continue
            if kept + size <= _KEPT:
                contents[path] = data
                kept += size
            digests[path] = sha256(data).digest()
        self._kept = kept
        return others


class ReadAhead:
    """Digests small files while a scan finds them. Context manager; no process outlives it.

    `digests` has what is known when `finish` has returned; what it lacks has to be read by other means.
    """

    def __init__(self, files: SmallFiles) -> None:
        self.digests: dict[str, bytes] = {}
        self._files = files
        self._waiting: deque[Entry] = deque()
        self._sent: deque[tuple[list[Entry], int]] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = -1
        self._end = 0  # of what the other process was given to fill
        self._can_start = usable_cpus() > 1
        self._has_begun = False

    def offer(self, entry: Entry) -> None:
        """A file to be digested."""
        waiting = self._waiting
        waiting.append(entry)
        if not len(waiting) % _BATCH and (self._process is not None or len(waiting) >= _WORTH_PROCESS):
            self._advance()

    def finish(self) -> None:
        """Digest all that is left, if it is much: of a few files it is not known whether they are wanted."""
        if not self._has_begun:
            return
        pop = self._waiting.pop
        while self._waiting or self._sent:
            if self._waiting:
                self._advance()
                self._files.digest([pop() for _ in range(min(_BATCH, len(self._waiting)))], self.digests)
            else:
                self._receive()

    def _advance(self) -> None:
        """Give the other process what it can take."""
        if self._process is None and self._can_start:
            self._start()
        while self._process is not None and self._sent and self._has_answered():
            self._receive()
        while self._process is not None and self._waiting and len(self._sent) < _UNDER_WAY:
            self._send()

    def _start(self) -> None:
        import subprocess
        import sys
        from mmap import PROT_READ, mmap

        self._can_start = False
        self._has_begun = True
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "filereader.py")
        try:
            self._shared = os.memfd_create("anyarch-files", os.MFD_CLOEXEC)
            os.ftruncate(self._shared, _KEPT)
            self._files._shared = mmap(self._shared, _KEPT, prot=PROT_READ)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, str(self._shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._files._prefix,
                pass_fds=(self._shared,),
                bufsize=0,
            )
        except OSError:
            self._end_process()  # a machine that has no memory or process to spare: all is done here

    def _send(self) -> None:
        import marshal

        assert self._process is not None
        assert self._process.stdin is not None
        pop = self._waiting.popleft
        batch = [pop() for _ in range(min(_BATCH, len(self._waiting)))]
        size = sum(entry.size for entry in batch)
        start = self._end if self._end + size <= _KEPT else -1
        request = marshal.dumps(
            (
                start,
                [
                    (entry.path.encode("utf-8", "surrogateescape"), entry.size, entry.mtime_ns)
                    for entry in batch
                ],
            )
        )
        self._sent.append((batch, start))
        if start >= 0:
            self._end += size
        try:
            self._process.stdin.write(len(request).to_bytes(4, "little") + request)
        except OSError:
            self._end_process()

    def _has_answered(self) -> bool:
        import select

        assert self._process is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)  # type: ignore[arg-type]
        return bool(poll.poll(0))

    def _receive(self) -> None:
        """Take the answer to the oldest batch: 33 bytes a file, the first of which says whether it was
        read."""
        assert self._process is not None
        batch, start = self._sent[0]
        wanted = 33 * len(batch)
        parts = []
        while wanted:
            part = os.read(self._process.stdout.fileno(), wanted)  # type: ignore[union-attr]
            if not part:
                self._end_process()
                return
            parts.append(part)
            wanted -= len(part)
        self._sent.popleft()
        answer = b"".join(parts)
        contents, position = self._files._contents, start
        for number, entry in enumerate(batch):
            at = 33 * number
            if answer[at]:
                self.digests[entry.path] = answer[at + 1 : at + 33]
                if start >= 0:
                    contents[entry.path] = position
                    self._files._left += 1
            position += entry.size

    def _end_process(self) -> None:
        """What it had is left to do."""
        for batch, _ in self._sent:
            self._waiting += batch
        self._sent.clear()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                pipe.close()  # type: ignore[union-attr]
            process.wait()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_process()
