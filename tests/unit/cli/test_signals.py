from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from anyarch.cli.signals import stopping
from anyarch.engine.request import CancelToken

# An engine that says when it has begun, and that stops when it is told to, or never.
PROGRAM = """
    import sys, time, threading
    import anyarch.engine
    from anyarch.errors import Canceled
    from anyarch.solver.events import VertexEvent

    def build(request, on_event=None, cancel=None):
        stopped = threading.Event()
        cancel.add_callback(stopped.set)
        on_event(VertexEvent("a", "[1/1] RUN sleep", started=time.time()))
        print("begun", flush=True)
        while True:
            if stopped.wait(0.01) and {obeys}:
                raise Canceled("context canceled")
            if stopped.is_set():
                print("deaf", flush=True)
                time.sleep(60)

    anyarch.engine.build = build
    from anyarch.cli.main import main
    sys.exit(main(["build", "--progress={mode}", "-o", "type=cacheonly", {context!r}]))
"""


@pytest.fixture
def start(context):
    started = []

    def run(*, obeys=True, mode="plain"):
        program = textwrap.dedent(PROGRAM).format(obeys=obeys, mode=mode, context=str(context))
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_build_with_130(start, number):
    process = start()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.endswith("ERROR: failed to build: failed to solve: Canceled: context canceled\n")
    assert ("stopping; once more to stop at once" in err) == (number == signal.SIGINT)
    assert "Traceback" not in err


def test_a_second_signal_ends_the_process_at_once(start):
    process = start(obeys=False)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_closed_error_stream_does_not_stop_a_build(start):
    process = start(obeys=True)
    process.stderr.close()
    process.stderr = None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130


def test_handlers_are_what_they_were_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stopping(CancelToken()):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_other_threads_change_no_handlers():
    seen = []

    def work():
        with stopping(CancelToken()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_a_token_calls_each_callback_once():
    token, calls = CancelToken(), []
    token.add_callback(lambda: calls.append(1))
    token.set()
    token.set()
    token.add_callback(lambda: calls.append(2))
    assert (token.is_set(), calls) == (True, [1, 2])
