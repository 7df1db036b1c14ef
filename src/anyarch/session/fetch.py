"""Local sources of a client: transferred into directories of the store that stay, so that the next build asks
only for what changed."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

from anyarch.api.rpc.status import Code, RpcError
from anyarch.errors import AnyarchError, ContextError, NoContext, PathNotFound, ProtocolError
from anyarch.session.filesync import ContextReceiver
from anyarch.session.lender import encode_values
from anyarch.solver.events import StatusEvent
from anyarch.source.local import Transferred
from anyarch.spec.pattern import PatternMatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyarch.session.lender import Session, Sessions, WireCalls
    from anyarch.solver.events import EventSink
    from anyarch.source.local import LocalFiles

__all__ = ["SessionFiles", "SharedFiles"]

_DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
_PROGRESS_STEP_S = 0.1
_UNGUESSABLE = 20
"""Characters; the ids that Go's client makes have 25 of 36 kinds."""


class SharedFiles:
    """What the builds that run now have received, for builds whose clients offer no files and whose graph is
    one of theirs. Whose it is is told by `local.unique` alone: clients make that at random for each graph, so
    that only who was given the graph can name it; one that can be guessed is not shared. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: dict[LocalFiles, tuple[SessionFiles, Transferred, int]] = {}

    def lend(self, owner: SessionFiles, wanted: LocalFiles, transferred: Transferred, lock: int) -> None:
        """`lock` keeps the directory for whoever has a duplicate of it."""
        if len(wanted.unique) >= _UNGUESSABLE:
            with self._lock:
                self._lent[wanted] = (owner, transferred, lock)

    def take(self, wanted: LocalFiles) -> tuple[Transferred, int] | None:
        """The directory, and a lock of it that the caller closes."""
        with self._lock:
            found = self._lent.get(wanted)
            return (found[1], os.dup(found[2])) if found is not None else None

    def withdraw(self, owner: SessionFiles) -> None:
        """Before the owner's locks are closed."""
        with self._lock:
            self._lent = {wanted: one for wanted, one in self._lent.items() if one[0] is not owner}


class SessionFiles:
    """Implements `source.local.LocalProvider`. The directories it gave stay as they are until `close`."""

    def __init__(
        self,
        sessions: Sessions,
        calls: WireCalls,
        names: Sequence[str],
        root: Path,
        emit: EventSink,
        *,
        shared: SharedFiles,
    ) -> None:
        self._emit = emit
        self._shared = shared
        self._sessions = sessions
        self._calls = calls
        self._names = list(names)
        self._root = root
        self._lock = threading.Lock()
        self._held: list[int] = []
        self.on_received: Callable[[int], object] = lambda size: None
        """Called after each transfer with the bytes that came, on a build's thread."""

    def close(self) -> None:
        self._shared.withdraw(self)
        with self._lock:
            held, self._held = self._held, []
        for fd in held:
            os.close(fd)

    async def directory(self, wanted: LocalFiles, vertex: str) -> Transferred | None:
        """On the build's loop. Raises `ContextError`, `ProtocolError`."""
        return await asyncio.to_thread(self._fetch, wanted, vertex)

    def _fetch(self, wanted: LocalFiles, vertex: str) -> Transferred | None:
        names = [wanted.session] if wanted.session else self._names
        if not names:
            return None
        started = time.time()

        def progress(size: int, is_done: bool, what: str = "transferring") -> None:
            # Both are of one kind, that of the only transfers that BuildKit knows: clients that add up how
            # large a context is find what is sent there each time.
            now = time.time()
            end = now if is_done else None
            text = f"{what} {wanted.name}:"
            self._emit(StatusEvent(vertex, text, "transferring", size, 0, now, started, end))

        session = self._calls(self._session(names))
        if session is None:
            lent = self._shared.take(wanted)
            if lent is None:
                raise NoContext("no local sources enabled")
            transferred, lock = lent
            with self._lock:
                self._held.append(lock)
            return transferred
        key = "\0".join((session.shared_key, wanted.name, wanted.shared_key))
        directory, lock = self._claim(
            hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32],
            f"local source for {wanted.name}",
        )
        receiver = self._calls(self._transfer(session, wanted, directory, progress))
        try:
            self.on_received(receiver.received)
            transferred = Transferred(directory, receiver.digests(), receiver.attributes)
            self._shared.lend(self, wanted, transferred, lock)
            return transferred
        finally:
            receiver.close()

    async def _session(self, names: Sequence[str]) -> Session | None:
        """The first that serves files."""
        for name in names:
            session = await self._sessions.get(name)
            if session.serves(_DIFF_COPY):
                return session
        return None

    def _claim(self, key: str, description: str) -> tuple[str, int]:
        """A directory that no other build uses, of any process, preferably one with files of an earlier
        transfer; and its lock. The lock's file lies beside it and stays when the directory is collected
        (`store.usage`)."""
        self._root.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            directory = self._root / f"{key}-{number}"
            lock = os.open(f"{directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            with self._lock:
                self._held.append(lock)
            directory.mkdir(mode=0o755, exist_ok=True)
            # What `du` shows, and when it was last used.
            os.ftruncate(lock, 0)
            os.pwrite(lock, description.encode("utf-8", "surrogateescape"), 0)
            return str(directory), lock
        raise ContextError("too many builds transfer the same directory at once")

    async def _transfer(
        self, session: Session, wanted: LocalFiles, directory: str, progress: Callable[..., None]
    ) -> ContextReceiver:
        """The receiver that has finished; it is the caller's to close."""
        metadata = [("dir-name", wanted.name)]
        metadata += encode_values("include-patterns", wanted.include)
        metadata += encode_values("exclude-patterns", wanted.exclude)
        metadata += encode_values("followpaths", wanted.follow)
        call = session.channel.start(_DIFF_COPY, metadata=metadata)
        contents_of = None
        if wanted.metadata_only:
            contents_of = PatternMatcher(wanted.metadata_exceptions).matches
        receiver = ContextReceiver(
            directory, call.send_nowait, reuse=wanted.differ != "none", contents_of=contents_of
        )
        failure: list[Exception] = []
        told = time.monotonic()

        def take(message: bytes | memoryview) -> None:
            nonlocal told
            if failure:
                return
            try:
                receiver.feed(message)
            except (AnyarchError, OSError) as error:
                failure.append(error)
                call.cancel()
                return
            now = time.monotonic()
            if now - told >= _PROGRESS_STEP_S:
                told = now
                progress(receiver.received, False)

        progress(0, False)
        try:
            call.on_message(take)
            if (await call.recv()) is not None:
                raise ProtocolError("file transfer: a message too many")
        except RpcError as error:
            if failure:
                raise _named(failure[0], wanted) from error
            if error.code == Code.NOT_FOUND:
                raise PathNotFound(f"failed to transfer {wanted.name}: {error.message}") from None
            if error.code == Code.CANCELLED and not session.channel.closed:
                raise ContextError(f"transfer of {wanted.name} was canceled by the client") from None
            raise ContextError(f"failed to transfer {wanted.name}: {error.message}") from None
        finally:
            call.cancel()
            if not receiver.is_finished:
                receiver.close()
        if not receiver.is_finished:
            raise ProtocolError("file transfer: the sender ended before it had sent all files")
        if receiver.unchanged:
            progress(receiver.unchanged, True, "unchanged")
        progress(receiver.received, True)
        return receiver


def _named(error: Exception, wanted: LocalFiles) -> Exception:
    if isinstance(error, ContextError):
        return ContextError(f"failed to transfer {wanted.name}: {error.message}")
    return error
