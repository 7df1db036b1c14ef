"""The dispatcher's machine code for files that a program reads, as far as its arguments name them.

What an assembler makes of some texts depends on the machine that it runs on. So the dispatcher reads what the
assembler would read. Where that is no file (a pipe, say), nothing is known of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.elf.assembler import AT_FDCWD, O_CLOEXEC, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG
from anyarch.emulation.accelerate.texts import begins, find, pass_over

if TYPE_CHECKING:
    from anyarch.elf.assembler import Assembler

__all__ = ["LONGEST_TEXT", "check_inputs"]

LONGEST_TEXT = 16
_PAGE = 4096


def check_inputs(
    asm: Assembler, *, texts_at: int, given_at: int, status_at: int, mode_at: int, room_at: int, frame_at: int
) -> None:
    """On to what follows if no file among the arguments (`given_at`) has one of an entry's texts
    (`texts_at`), else to `refuse_input`; also for a file of another kind, and for a standard input that is no
    device. In the frame a struct stat has room at `status_at`, a page and a byte at `room_at`, and six
    words at `frame_at`."""
    a, b, c, d, entry, frame, limit, _top = range(8)
    text, place, opened, offset, count, saved = (frame_at + 8 * number for number in range(6))
    find(asm, texts_at)
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "inputs_ok")
    asm.constant(a, 0)
    asm.move(c, frame)
    asm.add_constant(c, status_at)
    asm.system_call("fstat", a, c)
    asm.branch_negative(a, "input_list")  # closed
    _load_kind(asm, status_at + mode_at)
    asm.constant(d, S_IFCHR)
    asm.branch("ne", a, d, "refuse_input")

    asm.label("input_list")  # b at a mark
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "inputs_ok")
    asm.add_constant(b, 1)
    asm.store(b, frame, text)
    asm.load(limit, frame, given_at)
    asm.label("input_next")
    asm.add_constant(limit, 8)
    asm.load(b, limit)
    asm.branch_zero(b, "input_last")
    asm.load(c, b, bits=8)
    asm.constant(d, ord("-"))
    asm.branch("eq", c, d, "input_next")
    asm.constant(a, AT_FDCWD)
    asm.move(c, frame)
    asm.add_constant(c, status_at)
    asm.constant(d, 0)
    asm.system_call("newfstatat", a, b, c, d)
    asm.branch_negative(a, "input_next")  # what it is to write, perhaps
    _load_kind(asm, status_at + mode_at)
    for kind in (S_IFDIR, S_IFCHR):
        asm.constant(d, kind)
        asm.branch("eq", a, d, "input_next")
    asm.constant(d, S_IFREG)
    asm.branch("ne", a, d, "refuse_input")
    asm.constant(a, AT_FDCWD)
    asm.constant(c, O_CLOEXEC)
    asm.constant(d, 0)
    asm.system_call("openat", a, b, c, d)
    asm.branch_negative(a, "input_next")
    asm.store(a, frame, opened)
    asm.store(limit, frame, place)
    asm.store(entry, frame, saved)
    asm.constant(a, 0)
    asm.store(a, frame, offset)

    # by pages, each with the end of the one before; entry = a byte, limit = behind the last
    asm.label("input_read")
    asm.load(a, frame, opened)
    asm.move(b, frame)
    asm.add_constant(b, room_at)
    asm.constant(c, _PAGE)
    asm.load(d, frame, offset)
    asm.system_call("pread64", a, b, c, d)
    asm.branch_negative(a, "input_has")
    asm.store(a, frame, count)
    asm.move(entry, b)
    asm.move(limit, b)
    asm.add(limit, a)
    asm.constant(c, 0)
    asm.store(c, limit, bits=8)
    asm.label("input_byte")
    asm.branch("ge", entry, limit, "input_page_done")
    asm.load(b, frame, text)
    asm.move(a, entry)
    begins(asm, "input_compare", so="input_has")
    asm.add_constant(entry, 1)
    asm.jump("input_byte")
    asm.label("input_page_done")
    asm.load(a, frame, count)
    asm.constant(c, _PAGE)
    asm.branch("lt", a, c, "input_end")
    asm.load(d, frame, offset)
    asm.add_constant(d, _PAGE - LONGEST_TEXT)
    asm.store(d, frame, offset)
    asm.jump("input_read")

    asm.label("input_has")
    _close(asm, opened, saved)
    asm.jump("refuse_input")
    asm.label("input_end")
    _close(asm, opened, saved)
    asm.load(limit, frame, place)
    asm.jump("input_next")
    asm.label("input_last")
    asm.load(b, frame, text)
    pass_over(asm, "input_text", to="input_list")
    asm.label("inputs_ok")


def _load_kind(asm: Assembler, at: int) -> None:
    """a = the kind of a file, whose mode is in the frame; by way of d."""
    a, d, frame = 0, 3, 5
    asm.load(a, frame, at, bits=32)
    asm.constant(d, S_IFMT)
    asm.mask(a, d)


def _close(asm: Assembler, opened: int, saved: int) -> None:
    """The file; the entry's register gets the entry again."""
    a, entry, frame = 0, 4, 5
    asm.load(a, frame, opened)
    asm.system_call("close", a)
    asm.load(entry, frame, saved)
