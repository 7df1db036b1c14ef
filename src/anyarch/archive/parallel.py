"""Work on threads, results in the order of the submissions: what compression and hashing run on.

`hashlib`, isal and zlib release the GIL, so threads are enough. No thread is started before the first item,
and none outlives `close` or `abort`.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ordered", "usable_cpus"]

T = TypeVar("T")
R = TypeVar("R")


def usable_cpus() -> int:
    """CPUs this process may run on."""
    import os

    return len(os.sched_getaffinity(0))


class Ordered(Generic[T, R]):
    """Runs `work(item)` on up to `threads` threads and gives the results to `deliver` in order, one at a
    time.

    At most `depth` items are held at any time: `submit` blocks beyond that. With `threads` 0 everything
    runs in `submit`. The first error of `work` or `deliver` is raised by the next `submit` or by `close`;
    later items are dropped. One thread may submit.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        deliver: Callable[[R], object],
        *,
        threads: int,
        depth: int | None = None,
        name: str = "anyarch-ordered",
    ) -> None:
        self._work = work
        self._deliver = deliver
        self._limit = threads
        self._depth = 2 * threads + 1 if depth is None else depth
        self._name = name
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)  # an item is there, or the end
        self._room = threading.Condition(self._lock)  # an item was delivered
        self._items: deque[tuple[int, T]] = deque()
        self._results: dict[int, R] = {}
        self._submitted = 0
        self._delivered = 0
        self._idle = 0
        self._delivering = False
        self._ended = False
        self._error: BaseException | None = None

    def submit(self, item: T) -> None:
        """Hand `item` over; blocks while `depth` items are under way."""
        if self._ended:
            raise ValueError("closed")
        if not self._limit:
            self._deliver(self._work(item))
            return
        with self._lock:
            while self._error is None and self._submitted - self._delivered >= self._depth:
                self._room.wait()
            if self._error is not None:
                raise self._error
            self._items.append((self._submitted, item))
            self._submitted += 1
            start = len(self._items) > self._idle and len(self._threads) < self._limit
            if not start:
                self._wanted.notify()
        if start:
            # daemon: an owner that was killed without abort() must not keep the interpreter from ending.
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Wait until all is delivered and the threads have ended; raises what went wrong."""
        self._end()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Drop what is not yet done; the threads have ended on return. Idempotent, also after `close`."""
        with self._lock:
            self._items.clear()
            if self._error is None:
                self._error = ValueError("aborted")
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            self._wanted.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._items:
                    if self._ended:
                        return
                    self._idle += 1
                    self._wanted.wait()
                    self._idle -= 1
                index, item = self._items.popleft()
            try:
                result = self._work(item)
                del item
                self._hand_out(index, result)
            except BaseException as error:  # re-raised in the submitting thread
                self._fail(error)

    def _hand_out(self, index: int, result: R) -> None:
        """Deliver all results that are next in order, unless another thread is at it."""
        with self._lock:
            self._results[index] = result
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._lock:
                if self._error is not None or self._delivered not in self._results:
                    self._delivering = False
                    return
                result = self._results.pop(self._delivered)
            self._deliver(result)
            with self._lock:
                self._delivered += 1
                self._room.notify()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            self._delivering = False
            self._items.clear()
            self._results.clear()
            self._room.notify_all()
