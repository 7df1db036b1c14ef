"""How much of the output of steps the daemon keeps."""

from __future__ import annotations

import asyncio

import pytest

from anyarch.daemon.clip import Clip
from anyarch.daemon.events import EventLog
from anyarch.solver.events import LogEvent, VertexEvent


def told(clip: Clip, *events: LogEvent | VertexEvent) -> str:
    found = [item for event in events for item in clip.events(event)]
    return b"".join(item.data for item in found if isinstance(item, LogEvent)).decode()


def out(text: str, time: float = 0.0, *, vertex: str = "v", stream: int = 1) -> LogEvent:
    return LogEvent(vertex, stream, text.encode(), time)


def done(vertex: str = "v") -> VertexEvent:
    return VertexEvent(vertex, "step", (), started=0.0, completed=9.0)


def test_output_within_the_limits_is_left_alone() -> None:
    assert told(Clip(size=10, speed=10), out("abc"), out("defg", 0.5), done()) == "abcdefg"


def test_of_what_is_too_much_the_last_words_are_kept() -> None:
    clip = Clip(size=4, speed=-1)
    text = told(clip, out("abc"), out("defg"), out("h" * 300_000), out("the end"))
    assert text == "abcd\n[output clipped, log limit 4B reached]\n"
    assert (
        told(clip, out("other", vertex="w"), out("err", stream=2))
        == "othe\n[output clipped, log limit 4B reached]\nerr"
    )
    tail = told(clip, done())
    assert tail.endswith("hhthe end")
    assert len(tail) == 256 << 10


def test_what_comes_too_fast_goes_on_when_it_has_slowed_down() -> None:
    clip = Clip(size=1 << 20, speed=2048)
    assert told(clip, out("a" * 3000)) == "a" * 2048 + "\n[output clipped, log limit 2KiB/s reached]\n"
    assert told(clip, out("b" * 10, 0.9)) == ""
    assert told(clip, out("c" * 10, 2.5)) == "c" * 10
    assert told(clip, done()) == ""


@pytest.mark.parametrize(
    ("env", "kept"),
    [
        ({}, 200 << 10),
        ({"BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}, 2 << 20),
        ({"BUILDKIT_STEP_LOG_MAX_SPEED": "-1", "BUILDKIT_STEP_LOG_MAX_SIZE": "-1"}, 4 << 20),
        ({"BUILDKIT_STEP_LOG_MAX_SIZE": "1000"}, 1000),
        ({"BUILDKIT_STEP_LOG_MAX_SIZE": "nonsense", "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}, 2 << 20),
    ],
)
def test_the_limits_are_those_of_the_variables(env: dict[str, str], kept: int) -> None:
    assert told(Clip.of(env), out("x" * (4 << 20))).count("x") == kept


def test_the_log_of_a_build_that_writes_without_end_is_bounded() -> None:
    async def work() -> None:
        log = EventLog(asyncio.get_running_loop())
        for number in range(2000):
            log.add(out("y" * 32_768, number / 100))
        log.add(done())
        log.close()
        kept = sum(len(event.data) for event in log.events if isinstance(event, LogEvent))
        assert kept < 3 << 20

    asyncio.run(work())


def test_a_clock_that_is_set_back_takes_no_output_away() -> None:
    clip = Clip(size=100, speed=10)
    told(clip, out("a" * 10, 5000.0), out("b" * 10, 5001.5), out("c" * 10, 101.0))
    assert told(clip, out("d" * 10, 103.0), done()) == "d" * 10
