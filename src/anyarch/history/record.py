"""A build's record as a daemon keeps it."""

from __future__ import annotations

import msgspec

from anyarch.spec.intoto import PREDICATE_TYPE

__all__ = ["Attachment", "BuildRecord", "RecordError"]

CANCELLED = 1
"""gRPC's code of a call that its caller gave up."""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a build left in the daemon's content store. `platform` is empty where it is for none."""

    digest: str
    media_type: str
    size: int = 0
    platform: str = ""
    annotations: dict[str, str] = {}

    @property
    def type(self) -> str:
        """That of an attestation's predicate, else the media type."""
        return self.annotations.get(PREDICATE_TYPE) or self.media_type


class RecordError(msgspec.Struct, frozen=True):
    """Why a build failed: gRPC's code, and the message."""

    code: int
    message: str


class BuildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Times are nanoseconds since the epoch; `completed` is None while the build runs, when `now` is the
    daemon's clock. `attestations` and `results` are what it left, `details` the failure with all that a
    client was told of it."""

    ref: str
    attrs: dict[str, str] = {}
    started: int = 0
    completed: int | None = None
    now: int = 0
    error: RecordError | None = None
    details: Attachment | None = None
    steps: int = 0
    completed_steps: int = 0
    cached_steps: int = 0
    attestations: tuple[Attachment, ...] = ()
    results: tuple[Attachment, ...] = ()

    @property
    def duration(self) -> int:
        """Nanoseconds; so far, while it runs."""
        return max(0, (self.now if self.completed is None else self.completed) - self.started)

    @property
    def status(self) -> str:
        """What filters call it: running, completed, error or canceled."""
        if self.completed is None:
            return "running"
        if self.error is None:
            return "completed"
        is_canceled = self.error.code == CANCELLED or "context canceled" in self.error.message
        return "canceled" if is_canceled else "error"
