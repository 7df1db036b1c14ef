from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.progress import tty
from anyarch.progress.trace import Trace
from anyarch.progress.tty import Row, TTYRenderer, colors, frame
from anyarch.solver.events import VertexEvent
from tests.unit.progress.events import T0, begun, ended, moved, said
from tests.unit.progress.screen import Screen

PLATFORMS = ["amd64", "arm64", "arm/v7", "386", "riscv64", "s390x", "ppc64le", "mips64le"]


def traced(*events):
    trace = Trace(kept_lines=20)
    for event in events:
        trace.apply(event)
    return trace


def texts(trace, *, now=T0 + 3.1, height=24, **options):
    return [row.text for row in frame(trace, now, height=height, **options)]


def test_the_header_counts_and_each_step_has_a_row():
    trace = traced(
        ended("a", "A", 0, 1), ended("b", "B", 0, 0, cached=True), begun("c", "C"), VertexEvent("d", "D")
    )
    assert texts(trace) == ["[+] Building 3.1s (2/4)", " => A", " => CACHED B", " => C"]


def test_the_last_picture_says_how_it_ended():
    assert texts(traced(ended("a", "A", 0, 1)), is_final=True)[0].endswith("(1/1) FINISHED")
    unneeded = traced(ended("a", "A", 0, 1), VertexEvent("b", "B"))
    assert texts(unneeded, is_final=True)[0].endswith("(1/2) FINISHED")
    stopped = traced(ended("a", "A", 0, 1, error="context canceled"))
    assert texts(stopped, is_final=True)[0].endswith("CANCELED")
    failed = texts(traced(ended("a", "A", 0, 1, error="boom")), is_final=True)
    assert failed[0].endswith("FAILED")
    assert failed[1] == " => ERROR A"


def test_running_steps_show_their_last_lines():
    trace = traced(begun("a", "A"), said("a", b"".join(b"line %d\n" % n for n in range(20)), 1))
    assert texts(trace)[2:] == [f" => => # line {n}" for n in range(14, 20)]
    assert texts(trace, log_lines=2)[2:] == [" => => # line 18", " => => # line 19"]


def test_a_line_that_is_not_finished_is_shown_too():
    trace = traced(begun("a", "A"), said("a", b"one\n10%\r20%", 1))
    assert texts(trace)[2:] == [" => => # one", " => => # 20%"]


def test_output_is_gone_when_the_step_is_done():
    assert len(texts(traced(begun("a", "A"), said("a", b"x\n", 1), ended("a", "A", 0, 2)))) == 2


def test_control_sequences_of_programs_do_not_reach_the_terminal():
    trace = traced(begun("a", "A"), said("a", b"\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07\tend\n", 1))
    assert texts(trace)[2] == " => => # red     end"


def test_transfers_are_shown_under_their_step():
    trace = traced(begun("a", "A"), moved("a", "sha256:abc", 1_050, 2_100_000, 1))
    assert texts(trace)[2] == " => => sha256:abc 1.05kB / 2.10MB"


def eight_platforms(lines=10, done=30):
    events = [ended(f"d{n}", f"done {n}", 0, n / 10) for n in range(done)]
    for platform in PLATFORMS:
        events.append(begun(platform, f"[linux/{platform} 2/3] RUN make", 1))
        events += [said(platform, f"{platform} {n}\n".encode(), 2) for n in range(lines)]
    events.append(VertexEvent("later", "later"))
    return traced(*events)


@pytest.mark.parametrize("height", [12, 16, 24, 40, 60])
def test_eight_running_platforms_are_all_seen_whatever_the_height(height):
    rows = texts(eight_platforms(), height=height)
    assert len(rows) <= height - 1
    for platform in PLATFORMS:
        assert f" => [linux/{platform} 2/3] RUN make" in rows
    assert any("to come (not shown)" in row for row in rows) == (height < 40)


def test_every_running_platform_shows_some_output_when_there_is_room():
    rows = texts(eight_platforms(), height=24)
    for platform in PLATFORMS:
        assert f" => => # {platform} 9" in rows


def test_what_is_not_shown_is_counted():
    rows = texts(eight_platforms(), height=12)
    hidden = int(rows[1].split()[2])
    assert hidden + sum(" => done" in row for row in rows) == 30
    assert rows[1].endswith("1 to come (not shown)")


@given(st.integers(0, 40), st.integers(0, 12), st.integers(0, 30), st.integers(5, 70))
def test_a_picture_never_outgrows_the_terminal(done, running, lines, height):
    events = [ended(f"d{n}", f"d{n}", 0, 1) for n in range(done)]
    for n in range(running):
        events += [begun(f"r{n}", f"r{n}"), said(f"r{n}", b"x\n" * lines, 1)]
    assert len(texts(traced(*events), height=height)) <= height - 1


@given(st.text(max_size=60), st.sampled_from(["", "1.0s"]), st.integers(20, 60))
def test_a_row_never_outgrows_its_width(text, right, width):
    from rich.cells import cell_len

    assert cell_len(Row(text, right).fit(width)) <= width


class Terminal(io.StringIO):
    """A stream that is a terminal of a size the test sets."""

    def __init__(self, monkeypatch, columns=80, rows=24):
        super().__init__()
        self.screen = Screen(columns, rows)
        monkeypatch.setattr(tty, "_terminal_size", lambda stream: (stream.screen.columns, stream.screen.rows))

    def write(self, text):
        self.screen.feed(text)
        return len(text)


def test_pictures_replace_one_another(monkeypatch):
    terminal = Terminal(monkeypatch)
    renderer = TTYRenderer(terminal, {})
    trace = traced(begun("a", "A"), said("a", b"1\n2\n3\n", 1))
    renderer.refresh(trace, T0 + 1)
    trace.apply(ended("a", "A", 0, 2))
    renderer.refresh(trace, T0 + 2)
    renderer.finish(trace, T0 + 2)
    assert [line.rstrip() for line in terminal.screen.text.splitlines()] == [
        "[+] Building 2.0s (1/1) FINISHED",
        " => A" + " " * 70 + "2.0s",
    ]
    assert terminal.screen.cursor_visible


def test_nothing_is_left_over_when_the_terminal_becomes_narrower(monkeypatch):
    terminal = Terminal(monkeypatch, columns=100)
    renderer = TTYRenderer(terminal, {})
    trace = traced(*(begun(p, f"[linux/{p} 2/3] RUN make") for p in PLATFORMS))
    renderer.refresh(trace, T0 + 2)
    terminal.screen.resize(60)
    renderer.refresh(trace, T0 + 3)
    assert terminal.screen.text.count("[+] Building") == 1
    for platform in PLATFORMS:
        assert terminal.screen.text.count(f"[linux/{platform} 2/3]") == 1


def test_pictures_are_not_drawn_more_often_than_the_tick(monkeypatch):
    terminal = Terminal(monkeypatch)
    renderer = TTYRenderer(terminal, {}, tick_s=0.1)
    trace = traced(begun("a", "A"))
    renderer.refresh(trace, T0 + 1)
    before = terminal.screen.text
    renderer.refresh(trace, T0 + 1.05)
    assert terminal.screen.text == before


def test_nothing_is_drawn_before_something_has_begun(monkeypatch):
    terminal = Terminal(monkeypatch)
    renderer = TTYRenderer(terminal, {})
    renderer.refresh(Trace(), T0)
    renderer.finish(Trace(), T0)
    assert terminal.screen.text == ""


def test_no_color_means_no_color(monkeypatch):
    for environment, wanted in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(monkeypatch)
        TTYRenderer(terminal, environment).finish(traced(ended("a", "A", 0, 1)), T0)
        assert bool(terminal.screen.sgr) == wanted


@pytest.mark.parametrize(
    ("text", "style", "code"),
    [
        ("run=green", "run", "32"),
        ("error=light-red:run=blue", "error", "91"),
        ("cancel=255,165,0", "cancel", "38;2;255;165;0"),
        ("warning=256,0,0", "warning", "33"),
        ("run=nonsense", "run", "34"),
        ("log=red", "log", "2"),
    ],
)
def test_colors_can_be_chosen(text, style, code):
    assert colors({"BUILDKIT_COLORS": text})[style] == code


def test_the_size_of_something_that_is_no_terminal_is_the_usual_one():
    with open(os.devnull, "w") as stream:
        assert tty._terminal_size(stream) == (80, 24)
