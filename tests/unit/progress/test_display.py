from __future__ import annotations

import io
import json
import threading

import pytest

from anyarch.errors import UsageError
from anyarch.progress import choose_mode, open_display
from anyarch.progress import display as display_module
from anyarch.progress.display import Display
from anyarch.solver.events import WarningEvent
from tests.unit.progress.events import begun, ended, said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_events_from_many_threads_all_arrive():
    stream = io.StringIO()
    display = open_display("rawjson", stream, {})

    def emit(name):
        for n in range(100):
            display.sink(begun(f"{name}{n}", "x"))

    threads = [threading.Thread(target=emit, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    display.close()
    assert len({json.loads(line)["vertexes"][0]["digest"] for line in stream.getvalue().splitlines()}) == 400


def test_a_renderer_that_fails_does_not_disturb_the_build():
    class Broken:
        def update(self, trace, updates, now):
            raise RuntimeError("no")

        refresh = finish = update

    with Display(Broken()).start() as display:
        display.sink(begun("a", "A"))
        display.sink(ended("a", "A", 0, 1, error="x"))
    assert isinstance(display.failure, RuntimeError)
    assert display.trace.failures()[0].name == "A"


def test_a_closed_stream_does_not_disturb_the_build():
    stream = io.StringIO()
    stream.close()
    with open_display("plain", stream, {}) as display:
        display.sink(begun("a", "A"))
    assert display.trace.counts() == (0, 1)


@pytest.mark.parametrize("mode", ["quiet", "none"])
def test_quiet_modes_print_nothing_and_still_know_what_happened(mode):
    stream = io.StringIO()
    with open_display(mode, stream, {}) as display:
        display.sink(ended("a", "A", 0, 1, error="x"))
        display.sink(WarningEvent("a", "w"))
    assert stream.getvalue() == ""
    assert len(display.trace.warnings) == len(display.trace.failures()) == 1


def test_closing_twice_is_fine():
    display = open_display("none", io.StringIO(), {})
    display.close()
    display.close()


def test_output_faster_than_the_display_is_dropped_and_said_to_be(monkeypatch):
    monkeypatch.setattr(display_module, "_MOST_WAITING_BYTES", 10)
    gate = threading.Event()
    lines = []

    class Slow:
        def update(self, trace, updates, now):
            gate.wait(10)
            lines.extend(line for _, new in updates for line in new)

        def refresh(self, trace, now):
            pass

        finish = refresh

    display = Display(Slow(), tick_s=0.01).start()
    display.sink(begun("a", "A"))
    while not display._queue.empty():
        pass  # the thread has taken it, and now waits in update
    for _ in range(5):
        display.sink(said("a", b"12345678\n", 1))
    display._waiting_bytes = 0
    display.sink(said("a", b"last\n", 1))
    gate.set()
    display.close()
    assert [line.partition(" ")[2] for line in lines] == [
        "12345678",
        "12345678",
        "[27 bytes of output not shown: faster than the display]",
        "last",
    ]


def test_plain_writes_while_the_build_runs():
    class Stream(io.StringIO):
        written = threading.Event()

        def flush(self):
            self.written.set()

    stream = Stream()
    with open_display("plain", stream, {}) as display:
        display.sink(begun("a", "A"))
        assert stream.written.wait(10)
        assert stream.getvalue() == "#1 A\n"


@pytest.mark.parametrize(
    ("wanted", "stream", "term", "mode"),
    [
        ("auto", Terminal(), "xterm", "tty"),
        ("auto", Terminal(), "dumb", "plain"),
        ("auto", Terminal(), "", "plain"),
        ("auto", io.StringIO(), "xterm", "plain"),
        ("tty", Terminal(), "dumb", "tty"),
        ("plain", Terminal(), "xterm", "plain"),
        ("rawjson", Terminal(), "xterm", "rawjson"),
        ("none", Terminal(), "xterm", "none"),
    ],
)
def test_auto_is_tty_on_a_terminal_that_can_move_its_cursor(wanted, stream, term, mode):
    assert choose_mode(wanted, stream, {"TERM": term}) == mode


def test_tty_without_a_terminal_and_unknown_modes_are_errors():
    with pytest.raises(UsageError, match="not a terminal"):
        choose_mode("tty", io.StringIO(), {})
    with pytest.raises(UsageError, match="invalid progress mode fancy"):
        choose_mode("fancy", io.StringIO(), {})
