"""Copy images from where they are to where they go: everything below a descriptor, once, in parallel.

Blobs go first, all of them side by side whichever platform they belong to, then the documents from the leaves
up, so that at any instant the target holds nothing that leads nowhere. What the target has already is not
moved; a copy that was broken off goes on where it stood.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from anyarch.errors import AnyarchError, Canceled, UnsupportedMedia
from anyarch.imagetools.origin import Origin
from anyarch.solver.events import StatusEvent, VertexEvent
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.intoto import ARTIFACT_TYPE
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anyarch.http.cancel import Cancel
    from anyarch.imagetools.target import Target
    from anyarch.solver.events import EventSink

__all__ = ["SIGNATURES", "Meter", "Totals", "copy_all", "in_parallel"]


SIGNATURES = (
    ARTIFACT_TYPE,
    "application/vnd.dev.cosign.artifact.sig.v1+json",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
)
"""What goes along with a manifest when nothing else is said: attestations and signatures."""

_WORKERS = 8  # as many as the HTTP client has connections to one server
_MAX_DEPTH = 8
_TICK_S = 0.2
_FOREIGN = "nondistributable", "foreign"

T = TypeVar("T")
R = TypeVar("R")


class Totals(msgspec.Struct):
    """What a copy did: documents and blobs that are at the target now, bytes that had to be moved."""

    documents: int = 0
    blobs: int = 0
    moved_blobs: int = 0
    moved_bytes: int = 0


class Meter:
    """Progress of one piece of work as a vertex of the event stream. Safe for threads."""

    def __init__(self, emit: EventSink | None, name: str) -> None:
        self._emit = emit or _nowhere
        self._name = name
        self._digest = Digest.of(name.encode())
        self._started = time.time()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Meter]:
        self._started = time.time()
        self._emit(VertexEvent(self._digest, self._name, started=self._started))
        error = ""
        try:
            yield self
        except BaseException as failure:
            error = str(failure) or "context canceled"
            raise
        finally:
            self._emit(
                VertexEvent(
                    self._digest, self._name, started=self._started, completed=time.time(), error=error
                )
            )

    def said(self, text: str) -> None:
        """Something that is done."""
        now = time.time()
        self._emit(StatusEvent(self._digest, text, "", 0, 0, now, now, now))

    def blob(self, descriptor: Descriptor) -> _Bar:
        return _Bar(self._emit, self._digest, descriptor)


def _nowhere(event: object) -> None:
    """Nobody watches."""


class _Bar:
    """The progress of one blob."""

    def __init__(self, emit: EventSink, vertex: str, descriptor: Descriptor) -> None:
        self._emit = emit
        self._vertex = vertex
        self._descriptor = descriptor
        self._started = time.time()
        self._last = 0.0
        self.current = 0

    def __call__(self, count: int) -> None:
        self.current += count
        now = time.time()
        if now - self._last >= _TICK_S:
            self._last = now
            self._tell(now, None)

    def done(self, *, moved: bool) -> None:
        if moved:
            now = time.time()
            self.current = self._descriptor.size
            self._tell(now, now)

    def _tell(self, now: float, completed: float | None) -> None:
        self._emit(
            StatusEvent(
                self._vertex,
                self._descriptor.digest,
                "copying",
                self.current,
                self._descriptor.size,
                now,
                self._started,
                completed,
            )
        )


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, workers: int = _WORKERS) -> list[R]:
    """The results of `work` in the order of `items`. After the first error no further item is begun; it is
    raised when those that run have ended."""
    waiting = list(items)
    if len(waiting) <= 1:
        return [work(item) for item in waiting]
    with ThreadPoolExecutor(min(workers, len(waiting)), thread_name_prefix="copy") as pool:
        futures = [pool.submit(work, item) for item in waiting]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        failures = [
            error for f in futures if f.done() and not f.cancelled() and (error := f.exception()) is not None
        ]
        if failures:
            # One that was stopped because of another is not the one to tell of.
            raise next((error for error in failures if not isinstance(error, Canceled)), failures[0])
        return [future.result() for future in futures]


class _Part(msgspec.Struct, frozen=True):
    """A document that is to be copied. `depth` 0 is a manifest without documents below it."""

    blob: Blob
    origin: Origin
    depth: int
    descriptor: Descriptor


class _Gathering:
    """Finds what belongs to the images, and what of it the target lacks."""

    def __init__(self, target: Target, referrer_types: Sequence[str] | None) -> None:
        self._target = target
        self._referrer_types = referrer_types
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.parts: dict[str, _Part] = {}
        self.blobs: dict[str, tuple[Descriptor, Origin]] = {}
        self.referrers: dict[str, tuple[Descriptor, Origin]] = {}

    def run(self, roots: Sequence[tuple[Descriptor, Origin]]) -> None:
        level = [(descriptor, origin, 0) for descriptor, origin in roots]
        while level:
            found = in_parallel(self._look, level)
            level = [item for items in found for item in items]

    def _look(self, item: tuple[Descriptor, Origin, int]) -> list[tuple[Descriptor, Origin, int]]:
        """Take in one document; what has to be looked at next."""
        descriptor, origin, depth = item
        with self._lock:
            if descriptor.digest in self._seen:
                return []
            self._seen.add(descriptor.digest)
        if depth > _MAX_DEPTH:
            raise UnsupportedMedia(f"{origin.name}: its documents are nested more than {_MAX_DEPTH} deep")
        following = self._referrers_of(descriptor, origin, depth)
        if descriptor.media_type in media.INDEXES:
            blob = origin.document(descriptor)
            entries = decode(Index, blob.raw).manifests
            with self._lock:
                self.parts[descriptor.digest] = _Part(blob, origin, _MAX_DEPTH + 1 - depth, descriptor)
                for entry in entries:
                    if not _is_document(entry):
                        self.blobs.setdefault(entry.digest, (entry, origin))
            return following + [(entry, origin, depth + 1) for entry in entries if _is_document(entry)]
        if self._target.has_document(descriptor):
            return following
        blob = origin.document(descriptor)
        if blob.media_type not in media.MANIFESTS:
            raise UnsupportedMedia(f"{origin.name}: {blob.media_type or descriptor.digest} is no image")
        manifest = decode(Manifest, blob.raw)
        with self._lock:
            self.parts[descriptor.digest] = _Part(blob, origin, 0, descriptor)
            for layer in (manifest.config, *manifest.layers):
                if not (layer.urls and any(word in layer.media_type for word in _FOREIGN)):
                    self.blobs.setdefault(layer.digest, (layer, origin))
        return following

    def _referrers_of(
        self, descriptor: Descriptor, origin: Origin, depth: int
    ) -> list[tuple[Descriptor, Origin, int]]:
        if self._referrer_types is None:
            return []
        found = origin.referrers(Digest.parse(descriptor.digest), self._referrer_types)
        with self._lock:
            for referrer in found:
                self.referrers[referrer.digest] = (referrer, origin)
        return [(referrer, origin, depth + 1) for referrer in found if _is_document(referrer)]


def _is_document(descriptor: Descriptor) -> bool:
    return descriptor.media_type in media.MANIFESTS or descriptor.media_type in media.INDEXES


def copy_all(
    roots: Sequence[tuple[Descriptor, Origin]],
    target: Target,
    *,
    referrer_types: Sequence[str] | None = None,
    meter: Meter | None = None,
    cancel: Cancel | None = None,
) -> Totals:
    """Make `target` have all that the descriptors lead to. Names are left to the caller (`put_name`).

    With `referrer_types` (empty: of any type) what refers to the documents goes along. Raises what origins
    and targets raise; what was copied until then stays.
    """
    from anyarch.http.cancel import check

    meter = meter or Meter(None, "copy")
    gathering = _Gathering(target, referrer_types)
    gathering.run(roots)
    totals = Totals()
    lock = threading.Lock()
    stop = threading.Event()

    def send(item: tuple[Descriptor, Origin]) -> None:
        descriptor, origin = item
        check(cancel)
        check(stop)
        bar = meter.blob(descriptor)
        try:
            moved = target.put_blob(descriptor, origin, bar)
        except AnyarchError:
            stop.set()
            raise
        bar.done(moved=moved)
        with lock:
            totals.blobs += 1
            totals.moved_blobs += moved
            totals.moved_bytes += descriptor.size if moved else 0

    # The largest first: a big one that begins last would be waited for alone. The same order each time, so
    # that a copy that goes on finds what it had first.
    in_parallel(send, sorted(gathering.blobs.values(), key=lambda item: (-item[0].size, item[0].digest)))
    parts = gathering.parts.values()
    for depth in sorted({part.depth for part in parts}):
        check(cancel)
        in_parallel(lambda part: target.put_document(part.blob), [p for p in parts if p.depth == depth])
    totals.documents = len(gathering.parts)
    for referrer, _ in gathering.referrers.values():
        target.put_referrer(referrer)
    return totals
