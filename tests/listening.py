"""Small servers of tests: what they answer is all that differs."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["answered"]


@contextmanager
def answered(listener: socket.socket, answer: Callable[[socket.socket, Any], None]) -> Iterator[None]:
    """Whoever connects to `listener` is given to `answer` and the address, one by one. Closes it."""

    def serve() -> None:
        while True:
            try:
                peer, address = listener.accept()
            except OSError:
                return
            with peer:
                answer(peer, address)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
