from __future__ import annotations

import errno
import io

import pytest

from anyarch import errors
from anyarch.cli.errors import excerpt, report
from anyarch.errors import SourceRange

TEXT = b"".join(b"line %d\n" % n for n in range(1, 13))


def reported(error, **options):
    stream = io.StringIO()
    status = report(error, stream, **options)
    return status, stream.getvalue()


def test_one_line_is_shown_with_two_around_it():
    assert excerpt(SourceRange("Dockerfile", 5, 5, data=TEXT)) == (
        "Dockerfile:5\n"
        "--------------------\n"
        "   3 |     line 3\n"
        "   4 |     line 4\n"
        "   5 | >>> line 5\n"
        "   6 |     line 6\n"
        "   7 |     line 7\n"
        "--------------------\n"
    )


def test_several_lines_are_all_marked_with_one_around_them():
    text = excerpt(SourceRange("a/Dockerfile", 11, 12, data=TEXT))
    assert text.splitlines()[2:-1] == ["  10 |     line 10", "  11 | >>> line 11", "  12 | >>> line 12"]


@pytest.mark.parametrize(("start", "end"), [(1, 1), (12, 12), (12, 99), (1, 99)])
def test_the_ends_of_the_file_are_no_trouble(start, end):
    assert excerpt(SourceRange("Dockerfile", start, end, data=TEXT)).count("\n") >= 4


def test_a_range_without_text_still_says_where():
    assert excerpt(SourceRange("Dockerfile", 7, 7)) == "Dockerfile:7\n"
    assert excerpt(SourceRange("Dockerfile", 0, 0)) == ""


def test_the_platform_is_named_when_nothing_else_does():
    _, text = reported(errors.BuildError("no such thing", platform="linux/arm64", hint="try\nthat"))
    assert text == "ERROR: no such thing\n  platform: linux/arm64\n  hint: try\n  hint: that\n"
    _, text = reported(errors.BuildError("no linux/arm64 here", platform="linux/arm64"))
    assert "platform:" not in text


def test_what_an_index_has_is_listed():
    error = errors.NoMatchingPlatform(
        "no match for platform linux/s390x in busybox", available=["linux/amd64", "linux/arm64"]
    )
    assert "  available: linux/amd64, linux/arm64\n" in reported(error)[1]


def test_the_output_of_a_step_comes_from_the_error_when_no_display_saw_it():
    error = errors.ExecFailed(["make"], 2, tail=b"1\n2\n")
    error.platform = "linux/arm64"
    assert reported(error)[1].startswith("------\n > [linux/arm64] make:\n1\n2\n------\nERROR: process")


def test_errors_of_several_platforms_are_all_told_and_equal_ones_once():
    group = BaseExceptionGroup(
        "", [errors.BuildError("a"), ExceptionGroup("", [errors.BuildError("b"), errors.BuildError("a")])]
    )
    assert reported(group) == (1, "ERROR: a\nERROR: b\n")


def test_many_errors_are_counted():
    group = ExceptionGroup("", [errors.BuildError(str(n)) for n in range(9)])
    assert reported(group)[1].endswith("ERROR: 3\nERROR: and 5 more\n")


def test_cancellation_beside_an_error_is_not_told():
    import asyncio

    group = BaseExceptionGroup("", [asyncio.CancelledError(), errors.Canceled("x"), errors.BuildError("a")])
    assert reported(group) == (1, "ERROR: a\n")
    assert reported(asyncio.CancelledError())[0] == 130
    assert reported(KeyboardInterrupt())[0] == 130


def test_whatever_fails_after_ctrl_c_is_the_cancellation():
    assert reported(OSError("pipe"), canceled=True, prefix="x: ") == (
        130,
        "ERROR: x: Canceled: context canceled\n",
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_of_the_machine(number):
    status, text = reported(OSError(number, "full", "/x"))
    assert status == 1
    assert text.startswith("ERROR: no space left on device: /x\n  hint: ")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "many")])
def test_what_the_machine_has_too_little_of_is_told_with_a_way_out(error):
    status, text = reported(error)
    assert status == 1
    assert "  hint: " in text


def test_a_fault_of_ours_is_one_line_and_a_way_to_report_it():
    status, text = reported(ValueError("a\nb"), command="build")
    assert status == 70
    assert text.splitlines()[0] == "anyarch: internal error: ValueError: a b"
    assert "report it with the output of `anyarch -D build …`" in text


def test_a_closed_error_stream_changes_only_that_nothing_is_told():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    assert report(errors.BuildError("x"), Closed()) == 1
