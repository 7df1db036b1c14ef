from __future__ import annotations

import io

from anyarch.progress.plain import PlainRenderer
from anyarch.progress.trace import Trace
from anyarch.solver.events import StatusEvent, WarningEvent
from tests.unit.progress.events import T0, begun, ended, moved, said


class Plain:
    """A plain display under a clock of the test."""

    def __init__(self):
        self.stream, self.trace = io.StringIO(), Trace()
        self.renderer = PlainRenderer(self.stream)

    def at(self, seconds, *events):
        self.renderer.update(self.trace, [(event, self.trace.apply(event)) for event in events], T0 + seconds)
        return self

    def tick(self, seconds):
        self.renderer.refresh(self.trace, T0 + seconds)
        return self

    def finish(self, seconds=100):
        self.renderer.finish(self.trace, T0 + seconds)
        return self.stream.getvalue()


def test_steps_one_after_the_other():
    text = (
        Plain()
        .at(0, begun("a", "[internal] load build definition from Dockerfile"))
        .at(
            0.1,
            moved("a", "transferring dockerfile:", 31, 0, 0, end=0),
            ended("a", "[internal] load", 0, 0.04),
        )
        .at(1, ended("b", "[linux/arm64 1/2] FROM busybox", 1, 1, cached=True))
        .at(1, begun("c", "[linux/arm64 2/2] RUN make", 1))
        .at(2, said("c", b"hello\n", 2))
        .at(3, ended("c", "[linux/arm64 2/2] RUN make", 1, 3))
        .finish()
    )
    assert text == (
        "#1 [internal] load build definition from Dockerfile\n"
        "#1 transferring dockerfile: 31B done\n"
        "#1 DONE 0.0s\n"
        "\n"
        "#2 [linux/arm64 1/2] FROM busybox\n"
        "#2 CACHED\n"
        "\n"
        "#3 [linux/arm64 2/2] RUN make\n"
        "#3 1.000 hello\n"
        "#3 DONE 2.0s\n"
    )


def test_a_step_that_completes_meanwhile_interrupts_the_one_that_runs():
    plain = Plain().at(0, begun("a", "A"), said("a", b"a1\n", 0))
    plain.at(0.1, begun("b", "B", 0.1), said("b", b"b1\n", 0.1))
    plain.at(0.2, ended("b", "B", 0.1, 0.2))
    text = plain.at(0.3, said("a", b"a2\n", 0.3)).at(0.4, ended("a", "A", 0, 0.4)).finish()
    assert text == (
        "#1 A\n#1 0.000 a1\n#1 ...\n\n#2 B\n#2 0.000 b1\n#2 DONE 0.1s\n\n#1 A\n#1 0.300 a2\n#1 DONE 0.4s\n"
    )


def test_output_of_others_waits_while_the_running_step_talks():
    plain = Plain().at(0, begun("a", "A"), begun("b", "B"), said("a", b"1\n", 0))
    for n in range(5):
        plain.at(n / 10, said("a", b"x\n", n / 10), said("b", b"y\n", n / 10))
    assert "B" not in plain.stream.getvalue()


def test_a_silent_step_gives_way():
    plain = Plain().at(0, begun("a", "A"), said("a", b"1\n", 0))
    plain.at(0.5, begun("b", "B", 0.5), said("b", b"b\n", 0.5))
    assert "#2" not in plain.stream.getvalue()
    plain.tick(2)
    assert plain.stream.getvalue().endswith("#1 ...\n\n#2 B\n#2 0.000 b\n")


def test_a_step_that_talks_all_the_time_gives_way_after_a_while():
    plain = Plain().at(0, begun("a", "A"), begun("b", "B"), said("a", b"a\n", 0), said("b", b"b\n", 0))
    for n in range(1, 70):
        plain.at(n / 10, said("a", b"x\n", n / 10))
    assert "#2 B\n#2 0.000 b\n" in plain.stream.getvalue()


def test_numbers_follow_the_order_of_appearance_not_of_announcement():
    text = Plain().at(0, ended("late", "Z", 0, 2)).at(0, ended("early", "A", 0, 1)).finish()
    assert text.index("#1 Z") < text.index("#2 A")


def test_steps_that_complete_together_are_printed_in_order_of_completion():
    text = Plain().at(3, ended("b", "B", 0, 2), ended("a", "A", 0, 1)).finish()
    assert text.index("#1 A") < text.index("#2 B")


def test_errors_and_cancellation():
    text = (
        Plain()
        .at(
            1, ended("a", "A", 0, 1, error="exit code: 1"), ended("b", "B", 0, 1, error="x: context canceled")
        )
        .finish()
    )
    assert "#1 ERROR: exit code: 1\n" in text
    assert "#2 CANCELED\n" in text


def test_part_of_a_line_waits_for_the_rest():
    plain = Plain().at(0, begun("a", "A"), said("a", b"par", 0.1))
    assert "par" not in plain.stream.getvalue()
    plain.at(1, said("a", b"tial\n", 1))
    assert "#1 1.000 partial\n" in plain.stream.getvalue()


def test_transfers_are_not_mentioned_for_each_block():
    plain = Plain().at(0, begun("a", "A"))
    for n in range(1000):
        plain.at(n / 1000, moved("a", "sha256:abc", n * 1000, 1_000_000, n / 1000))
    text = plain.at(1, moved("a", "sha256:abc", 1_000_000, 1_000_000, 1, end=1)).finish()
    assert 15 < text.count("sha256:abc") < 25
    assert "#1 sha256:abc 1.00MB / 1.00MB 1.0s done\n" in text


def test_a_transfer_without_a_size_is_mentioned_every_few_seconds():
    plain = Plain().at(0, begun("a", "A"))
    for n in range(100):
        plain.at(n / 10, StatusEvent("a", "extracting", current=n, timestamp=T0 + n / 10))
    assert plain.finish().count("extracting") == 2


def test_a_warning_is_mentioned_at_its_step():
    text = Plain().at(0, begun("a", "A"), WarningEvent("a", "LegacyKeyValueFormat: use ENV k=v")).finish()
    assert "#1 WARN: LegacyKeyValueFormat: use ENV k=v\n" in text


def test_what_is_told_again_is_not_printed_again():
    text = (
        Plain().at(0, ended("a", "A", 0, 0, cached=True)).at(1, ended("a", "A", 0, 0, cached=True)).finish()
    )
    assert text == "#1 A\n#1 CACHED\n"


def test_nothing_is_lost_when_the_build_ends_while_steps_run():
    plain = Plain().at(0, begun("a", "A"), begun("b", "B"))
    plain.at(0.1, said("a", b"a\n", 0.1), said("b", b"b\n", 0.1))
    text = plain.finish(0.2)
    assert "0.100 a\n" in text
    assert "0.100 b\n" in text
