from __future__ import annotations

import pytest

from anyarch.http.retry import IMPATIENT, RetryPolicy, retry_after_s


def delays(policy: RetryPolicy, **more: object) -> list[float]:
    """All pauses of a series of failures, without jitter and with no time spent on the tries."""
    found: list[float] = []
    while (delay := policy.delay(len(found) + 1, sum(found), jitter=1.0, **more)) is not None:  # type: ignore[arg-type]
        found.append(delay)
    return found


def test_pauses_double_up_to_a_limit_and_end_within_the_budget():
    found = delays(RetryPolicy(attempts=20, budget_s=60, first_delay_s=0.25, max_delay_s=10))
    assert found[:6] == [0.25, 0.5, 1, 2, 4, 8]
    assert max(found) == 10
    assert sum(found) <= 60


def test_attempts_are_bounded():
    assert len(delays(RetryPolicy(attempts=4, budget_s=1e9))) == 3


def test_jitter_makes_a_pause_shorter_but_never_less_than_half():
    policy = RetryPolicy()
    assert policy.delay(1, 0, jitter=0.0) == policy.first_delay_s / 2


def test_refused_connections_give_up_within_a_second():
    found = delays(RetryPolicy(), kind="refused")
    assert len(found) == 2
    assert sum(found) <= 1


def test_a_place_with_alternatives_is_left_at_the_first_refusal():
    assert delays(IMPATIENT, kind="refused") == []


def test_a_slow_failed_name_lookup_is_not_repeated():
    assert RetryPolicy().delay(1, 10.0, kind="dns") is None


@pytest.mark.parametrize("kind", ["tls", "not_tls", "only_tls", "protocol", "proxy", "body"])
def test_what_will_not_change_is_not_repeated(kind):
    assert RetryPolicy().delay(1, 0.0, kind=kind) is None


def test_the_server_says_when():
    assert RetryPolicy().delay(1, 0.0, after_s=7.0, jitter=0.0) == 7.0


def test_a_server_that_says_too_late_is_not_waited_for():
    assert RetryPolicy(budget_s=60).delay(1, 10.0, after_s=55.0, jitter=0.0) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 1970 00:17:10 GMT", 30.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text, expected):
    assert retry_after_s(text, now=1000.0) == expected
