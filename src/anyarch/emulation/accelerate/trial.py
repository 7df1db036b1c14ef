"""The dispatcher's machine code for a twin that is only tried.

Whether a compiler can do without a library of its own architecture is sometimes known by no one but itself:
it fails where it cannot. Here it is a child of the dispatcher, with a pipe for its standard error. What comes
through is kept until the child has ended well, or has said the text by which it tells that it needs nothing
more (a build tool may be waiting for that). If it fails before, the dispatcher, which has been nothing but
a waiting process all the time, goes on as the emulator, and nobody has heard of the child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.elf.assembler import O_CLOEXEC

if TYPE_CHECKING:
    from anyarch.elf.assembler import Assembler

__all__ = ["NOT_STARTED", "try_out"]

NOT_STARTED = 126
"""What a child ends with that has found no twin."""

_MOST_KEPT = 64 << 20  # what is more is passed on
_LONGEST_TEXT = 64
_SIGCHLD, _SIGKILL = 17, 9
_PR_SET_PDEATHSIG = 1
_STDERR = 2


def try_out(asm: Assembler, *, frame_at: int, text_at: int) -> None:
    """To the label `execute` in a child. The parent ends as the child does, or goes on at `failed` or, where
    nothing can be tried, `emulate`. `text_at` is where in the frame the address of the text is; from
    `frame_at` on the frame is free."""
    a, b, c, d, entry, frame, limit, _top = range(8)
    pipe, child, start, end, state, passing, saved, status = range(frame_at, frame_at + 64, 8)

    # memory for what it says: behind the emulator's own, which the emulator has not yet asked for any of
    asm.constant(a, 0)
    asm.system_call("brk", a)
    asm.store(a, frame, start)
    asm.move(limit, a)
    asm.add_constant(a, _MOST_KEPT)
    asm.store(a, frame, end)
    asm.move(b, a)
    asm.system_call("brk", b)
    asm.branch("ne", a, b, "emulate")

    asm.move(a, frame)
    asm.add_constant(a, pipe)
    asm.constant(b, O_CLOEXEC)
    asm.system_call("pipe2", a, b)
    asm.branch_negative(a, "trial_off")
    asm.constant(a, _SIGCHLD)
    asm.constant(b, 0)
    asm.system_call("clone", a, b, b, b)
    asm.store(a, frame, child)
    asm.branch_negative(a, "trial_closed")
    asm.branch_zero(a, "trial_child")

    asm.constant(a, 0)
    asm.store(a, frame, passing)
    asm.load(a, frame, pipe + 4, bits=32)
    asm.system_call("close", a)

    # limit = where what comes next is put
    asm.label("trial_read")
    asm.load(c, frame, end)
    asm.constant(a, -1)
    asm.multiply(a, limit)
    asm.add(c, a)
    asm.load(a, frame, pipe, bits=32)
    asm.system_call("read", a, limit, c)
    asm.branch_zero(a, "trial_end")
    asm.branch_negative(a, "trial_end")
    asm.move(d, limit)  # scanned from here
    asm.add(limit, a)
    asm.load(a, frame, passing)
    asm.branch_zero(a, "trial_scan")
    asm.label("trial_pass")
    _write_all(asm, "trial_passed", start)
    asm.load(limit, frame, start)
    asm.jump("trial_read")

    # does it say the text? It may have come in pieces. d = where it could begin, entry = a byte of it
    asm.label("trial_scan")
    asm.store(entry, frame, saved)
    asm.load(a, frame, start)
    asm.add_constant(d, -_LONGEST_TEXT)
    asm.branch("ge", d, a, "trial_place")
    asm.move(d, a)
    asm.label("trial_place")
    asm.branch("ge", d, limit, "trial_silent")
    asm.load(b, frame, text_at)
    asm.move(entry, d)
    asm.label("trial_compare")
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "trial_said")
    asm.branch("ge", entry, limit, "trial_silent")
    asm.load(a, entry, bits=8)
    asm.add_constant(b, 1)
    asm.add_constant(entry, 1)
    asm.branch("eq", a, c, "trial_compare")
    asm.add_constant(d, 1)
    asm.jump("trial_place")
    asm.label("trial_silent")
    asm.load(entry, frame, saved)
    asm.load(a, frame, end)
    asm.branch("lt", limit, a, "trial_read")
    asm.jump("trial_no_more")
    asm.label("trial_said")
    asm.load(entry, frame, saved)
    asm.label("trial_no_more")
    asm.constant(a, 1)
    asm.store(a, frame, passing)
    asm.jump("trial_pass")

    asm.label("trial_end")
    asm.constant(a, -1)
    asm.store(a, frame, status)  # where the kernel reaps for those who ignore SIGCHLD
    asm.load(a, frame, child)
    asm.move(b, frame)
    asm.add_constant(b, status)
    asm.constant(c, 0)
    asm.system_call("wait4", a, b, c, c)
    asm.load(d, frame, status, bits=32)
    asm.load(a, frame, passing)
    asm.branch_zero(a, "trial_decide")
    _end_alike(asm, state)
    asm.label("trial_decide")
    asm.branch_zero(d, "trial_good")
    asm.load(a, frame, start)
    asm.system_call("brk", a)
    asm.load(a, frame, pipe, bits=32)
    asm.system_call("close", a)
    asm.constant(a, NOT_STARTED << 8)
    asm.branch("eq", a, d, "gone")
    asm.jump("failed")
    asm.label("trial_good")
    _write_all(asm, "trial_told", start)
    asm.constant(a, 0)
    asm.system_call("exit", a)

    asm.label("trial_closed")
    asm.load(a, frame, pipe, bits=32)
    asm.system_call("close", a)
    asm.load(a, frame, pipe + 4, bits=32)
    asm.system_call("close", a)
    asm.label("trial_off")
    asm.load(a, frame, start)
    asm.system_call("brk", a)
    asm.jump("emulate")

    asm.label("trial_child")
    asm.constant(a, _PR_SET_PDEATHSIG)
    asm.constant(b, _SIGKILL)
    asm.system_call("prctl", a, b)
    asm.load(a, frame, pipe + 4, bits=32)
    asm.constant(b, _STDERR)
    asm.constant(c, 0)
    asm.system_call("dup3", a, b, c)


def _write_all(asm: Assembler, done: str, start: int) -> None:
    """What lies from `start` to limit, to standard error as far as that takes it."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    asm.load(b, frame, start)
    asm.label(f"{done}_more")
    asm.branch("ge", b, limit, done)
    asm.constant(c, -1)
    asm.multiply(c, b)
    asm.add(c, limit)
    asm.constant(a, _STDERR)
    asm.move(d, b)
    asm.system_call("write", a, b, c)
    asm.branch_negative(a, done)
    asm.move(b, d)
    asm.add(b, a)
    asm.jump(f"{done}_more")
    asm.label(done)


def _end_alike(asm: Assembler, state: int) -> None:
    """d = the status of a child: by its signal or with its code. Keeps nothing."""
    a, b, c, d, _entry, frame, _limit, _top = range(8)
    asm.move(b, d)
    asm.constant(c, 0x7F)
    asm.mask(b, c)
    asm.branch_zero(b, "trial_exited")
    asm.system_call("getpid")
    asm.system_call("kill", a, b)
    asm.constant(a, 1)
    asm.system_call("exit", a)
    asm.label("trial_exited")
    asm.store(d, frame, state)
    asm.load(a, frame, state + 1, bits=8)
    asm.system_call("exit", a)
