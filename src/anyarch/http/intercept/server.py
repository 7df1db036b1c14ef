"""The proxy of one step: it takes connections from the step's own network and serves each on a thread."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from anyarch.http.intercept.relay import Relay

if TYPE_CHECKING:
    from anyarch.http.intercept.relay import Outside
    from anyarch.http.intercept.traffic import Traffic

__all__ = ["StepProxy"]

_MOST = 128
_CROWDED_S = 0.2
_END_S = 5.0


class StepProxy:
    """`start` it with the socket that listens, `close` it when the step has ended."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._free = threading.Semaphore(_MOST)
        self._relays: dict[Relay, threading.Thread] = {}
        self._acceptor: threading.Thread | None = None
        self._closed = threading.Event()

    def start(self, listener: socket.socket) -> None:
        """`listener` is the proxy's from now on."""
        with self._lock:
            if self._closed.is_set():
                listener.close()
                return
            self._listener = listener
            self._acceptor = threading.Thread(target=self._accept, name="anyarch-proxy", daemon=True)
        self._acceptor.start()

    def close(self) -> Traffic:
        """End all connections; what went through."""
        with self._lock:
            self._closed.set()
            listener, acceptor = self._listener, self._acceptor
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # accept returns
        if acceptor is not None:
            acceptor.join()
        if listener is not None:
            listener.close()
        with self._lock:
            relays = dict(self._relays)
        for relay in relays:
            relay.close()
        until = time.monotonic() + _END_S
        for relay, thread in relays.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():  # in a question to a name server, which cannot be ended
                relay.unfinished()
        return self._outside.recorder.finish()

    def _accept(self) -> None:
        while True:
            self._make_room()
            sock = self._next()
            if sock is None:
                return
            relay = Relay(sock, self._outside)
            thread = threading.Thread(target=self._serve, args=(relay,), name="anyarch-relay", daemon=True)
            with self._lock:
                self._relays[relay] = thread
            thread.start()

    def _next(self) -> socket.socket | None:
        """The next connection; None when the step has ended."""
        assert self._listener is not None
        while not self._closed.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                self._closed.wait(_CROWDED_S)  # the process has no descriptor or memory left for it just now
                continue
            if self._closed.is_set():
                sock.close()
                break
            return sock
        return None

    def _make_room(self) -> None:
        """Where there are as many as may be, those that wait for a request have to go."""
        while not self._free.acquire(timeout=_CROWDED_S):
            if self._closed.is_set():
                return
            with self._lock:
                idle = next((relay for relay in self._relays if relay.is_idle), None)
            if idle is not None:
                idle.close()

    def _serve(self, relay: Relay) -> None:
        try:
            relay.serve()
        finally:
            with self._lock:
                self._relays.pop(relay, None)
            self._free.release()
