"""When a failed exchange is repeated, and after which pause. Pure decisions; the clock is the caller's.

An answer of 429 or 5xx and a broken connection are worth another try; a refused connection is worth very few
(nobody listens, and somebody waits for us to say so); a name that does not exist or a certificate that is not
trusted is worth none.
"""

from __future__ import annotations

import random

import msgspec

from anyarch.spec.number import natural

__all__ = ["IMPATIENT", "RETRY_STATUSES", "RetryPolicy", "retry_after_s"]

RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSAL_BUDGET_S = 1.0  # a name look-up that took longer than this has waited for its own retries
_RETRY_KINDS = frozenset({"timeout", "reset", "closed", "refused", "dns", "other"})


class RetryPolicy(msgspec.Struct, frozen=True):
    """How patient to be. Times in seconds.

    At most `attempts` tries in all, and none begins later than `budget_s` after the first. Refused
    connections and failed name look-ups are repeated only `refusals` times, `refusal_delay_s` apart.
    """

    attempts: int = 10
    budget_s: float = 60.0
    first_delay_s: float = 0.25
    max_delay_s: float = 10.0
    refusals: int = 2
    refusal_delay_s: float = 0.3

    def delay(
        self,
        failures: int,
        elapsed_s: float,
        *,
        kind: str = "",
        after_s: float | None = None,
        jitter: float | None = None,
    ) -> float | None:
        """The pause before the next try, None to give up.

        `failures` tries have failed so far, the last one as `kind` (of `NetworkError`; empty for an HTTP
        status); `after_s` is what the server's Retry-After asks for; `jitter` in 0..1 is drawn if not given.
        """
        if kind and kind not in _RETRY_KINDS:
            return None
        if kind in ("refused", "dns"):
            quick = elapsed_s < _REFUSAL_BUDGET_S
            return self.refusal_delay_s if quick and failures <= self.refusals else None
        if failures >= self.attempts:
            return None
        if jitter is None:
            jitter = random.random()
        delay = min(self.max_delay_s, self.first_delay_s * 2 ** (failures - 1)) * (0.5 + jitter / 2)
        if after_s is not None:
            # A server that names a time is taken at its word; jitter on top, so that clients do not come back
            # as one.
            delay = after_s + jitter * self.first_delay_s
        return delay if elapsed_s + delay <= self.budget_s else None


IMPATIENT = RetryPolicy(attempts=2, budget_s=5.0, refusals=0)
"""For a place that has alternatives."""


def retry_after_s(text: str | None, now: float) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date. `now` is time.time()."""
    if not text:
        return None
    text = text.strip()
    seconds = natural(text)
    if seconds is not None:
        return float(min(seconds, 86400))
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, date.timestamp() - now), 86400.0)
