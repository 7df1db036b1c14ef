from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.progress.trace import Trace, clean_name, format_bytes, format_offset
from anyarch.solver.events import VertexEvent, WarningEvent
from tests.unit.progress.events import T0, begun, ended, moved, said


def traced(*events):
    trace = Trace()
    for event in events:
        trace.apply(event)
    return trace


def test_a_step_is_counted_when_it_is_announced_and_done_when_it_completes():
    trace = traced(VertexEvent("a", "A"), begun("b", "B"), ended("c", "C", 0, 1))
    assert trace.counts() == (1, 3)
    assert [step.name for step in trace.started] == ["B", "C"]


def test_a_step_that_runs_again_is_running_and_its_times_add_up():
    trace = traced(ended("a", "A", 0, 1), begun("a", "A", 5))
    step = trace.steps["a"]
    assert step.is_running
    assert step.seconds(T0 + 7) == pytest.approx(3)
    trace.apply(ended("a", "A", 5, 8))
    assert step.spent == pytest.approx(4)


def test_a_completion_that_is_told_twice_counts_once():
    trace = traced(begun("a", "A"), ended("a", "A", 0, 1), ended("a", "A", 0, 1))
    assert trace.steps["a"].spent == pytest.approx(1)


def test_an_announcement_after_the_start_changes_nothing():
    trace = traced(begun("a", "A"), VertexEvent("a", "A"))
    assert trace.steps["a"].is_running


def test_output_is_returned_by_whole_lines_with_the_time_since_the_start():
    trace = traced(begun("a", "A"))
    assert trace.apply(said("a", b"one\ntw", 0.5)) == ["0.500 one"]
    assert trace.apply(said("a", b"o\n", 12)) == ["12.00 two"]


def test_a_part_of_a_line_is_shown_when_the_step_ends():
    trace = traced(begun("a", "A"), said("a", b"no newline", 0.1))
    assert trace.apply(ended("a", "A", 0, 2)) == ["2.000 no newline"]


def test_of_a_line_rewritten_with_carriage_returns_the_last_state_is_shown():
    trace = traced(begun("a", "A"))
    assert trace.apply(said("a", b"10%\r50%\r100%\r\n", 1)) == ["1.000 100%"]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_lines_do_not_depend_on_how_output_was_cut(data, cuts):
    whole, parts = traced(begun("a", "A")), traced(begun("a", "A"))
    wanted = whole.apply(said("a", data, 1))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert [line for piece in pieces for line in parts.apply(said("a", piece, 1))] == wanted


def test_a_failure_has_the_last_lines_and_a_canceled_step_is_none():
    trace = traced(
        begun("a", "RUN a"),
        begun("b", "RUN b"),
        said("a", b"".join(b"%d\n" % n for n in range(30)), 1),
        ended("a", "RUN a", 0, 1, error="exit code: 1"),
        ended("b", "RUN b", 0, 1, error="context canceled"),
    )
    (failure,) = trace.failures()
    assert failure.name == "RUN a"
    assert failure.lines == [f"1.000 {n}" for n in range(20, 30)]


def test_warnings_are_kept_even_of_steps_that_are_not_known():
    assert len(traced(WarningEvent("?", "short")).warnings) == 1


def test_events_of_unknown_steps_are_dropped():
    trace = traced(said("?", b"x\n", 1), moved("?", "transferring", 1, 2, 1))
    assert trace.counts() == (0, 0)


def test_names_show_no_password_and_stay_on_one_line():
    assert clean_name("fetch https://user:secret@host/x\ny") == "fetch https://xxxxx:xxxxx@host/x y"
    assert "secret" not in str(traced(begun("a", "https://me:secret@h")).steps["a"].name)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (31, "31B"),
        (1050, "1.05kB"),
        (2_100_000, "2.10MB"),
        (999_999, "1.00MB"),
        (10**13, "10.00TB"),
    ],
)
def test_sizes_are_written_in_decimal_units(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0.000"), (0.2134, "0.213"), (12.345, "12.35"), (103.21, "103.2")]
)
def test_offsets_have_four_digits(seconds, text):
    assert format_offset(seconds) == text
