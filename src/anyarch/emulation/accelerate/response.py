"""The dispatcher's machine code for files of arguments: `@FILE` stands for the words in the file.

Compilers and what belongs to them read such files themselves (libiberty's `expandargv`). Rules on arguments
have to see what is in there, and to change some of it: so the dispatcher reads the file, looks at its words
as at all other arguments, and gives a twin these. The emulator, if it comes to that, gets what was given.

It reads regular files of plain words alone. With quotes, backslashes or another `@FILE` in it, and if it is
very long, the file is left to the emulated program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.elf.assembler import AT_FDCWD, O_CLOEXEC, S_IFMT, S_IFREG

if TYPE_CHECKING:
    from anyarch.elf.assembler import Assembler

__all__ = ["expand", "give_memory_back"]

_MOST_TEXT, _MOST_WORDS = 256 << 10, 16384
_SPACES = b" \t\n\v\f\r"


def expand(
    asm: Assembler, *, wanted_at: int, given_at: int, frame_at: int, mode_at: int, size_at: int
) -> None:
    """Put the place of the arguments that count, from the program's own name on, into the frame at
    `given_at`: those that were given or, if the entry wants it (`wanted_at`) and there are files, others.
    From `frame_at` on a struct stat and the addresses of `_SLOTS` have room in the frame; the first of them
    has to be zero."""
    a, b, c, d, entry, frame, limit, top = range(8)
    start, text, out, source, word = (frame_at + 8 * number for number in range(5))
    status = frame_at + 64
    asm.move(a, top)
    asm.add_constant(a, 24)
    asm.store(a, frame, given_at)
    asm.load(a, entry, wanted_at)
    asm.branch_zero(a, "given")
    asm.move(limit, top)
    asm.add_constant(limit, 32)
    asm.constant(d, ord("@"))
    asm.label("file_sought")
    asm.load(a, limit)
    asm.branch_zero(a, "given")
    asm.add_constant(limit, 8)
    asm.load(c, a, bits=8)
    asm.branch("ne", c, d, "file_sought")

    # memory behind the emulator's own, which it has not yet asked for: pointers, then the files' texts
    asm.constant(a, 0)
    asm.system_call("brk", a)
    asm.store(a, frame, start)
    asm.move(d, a)
    asm.add_constant(a, _MOST_TEXT + 8 * _MOST_WORDS + 16)
    asm.move(b, a)
    asm.system_call("brk", b)
    asm.branch("ne", a, b, "refuse_argument")
    asm.add_constant(d, 8)
    asm.constant(a, -8)
    asm.mask(d, a)
    asm.store(d, frame, given_at)
    asm.store(d, frame, out)
    asm.add_constant(d, 8 * _MOST_WORDS)
    asm.store(d, frame, text)
    asm.move(limit, top)
    asm.add_constant(limit, 24)
    asm.store(limit, frame, source)
    asm.load(a, limit)
    asm.jump("word_put")  # the program's own name is none

    asm.label("word_next")
    asm.load(limit, frame, source)
    asm.load(a, limit)
    asm.branch_zero(a, "words_done")
    asm.load(c, a, bits=8)
    asm.constant(d, ord("@"))
    asm.branch("eq", c, d, "file")
    asm.label("word_put")
    asm.store(a, frame, word)
    _put(asm, out, word, given_at)
    asm.label("word_on")
    asm.load(limit, frame, source)
    asm.add_constant(limit, 8)
    asm.store(limit, frame, source)
    asm.jump("word_next")

    # the file is read to its end, or for what there is room: limit = behind what was read
    asm.label("file")
    asm.add_constant(a, 1)
    asm.move(b, a)
    asm.constant(a, AT_FDCWD)
    asm.move(c, frame)
    asm.add_constant(c, status)
    asm.constant(d, 0)
    asm.move(limit, b)
    asm.system_call("newfstatat", a, b, c, d)  # first: who opens a pipe is seen at its other end
    asm.branch_negative(a, "refuse_argument")
    asm.load(a, frame, status + mode_at, bits=32)
    asm.constant(b, S_IFMT)
    asm.mask(a, b)
    asm.constant(b, S_IFREG)
    asm.branch("ne", a, b, "refuse_argument")
    asm.load(a, frame, text)
    asm.load(b, frame, status + size_at)
    asm.add(a, b)
    asm.branch("lt", a, b, "refuse_argument")
    asm.load(b, frame, given_at)
    asm.add_constant(b, 8 * _MOST_WORDS + _MOST_TEXT - 1)
    asm.branch("ge", a, b, "refuse_argument")
    asm.constant(a, AT_FDCWD)
    asm.constant(c, O_CLOEXEC)
    asm.system_call("openat", a, limit, c, d)
    asm.branch_negative(a, "refuse_argument")
    asm.move(d, a)
    asm.load(limit, frame, text)
    asm.label("file_read")
    asm.load(c, frame, given_at)
    asm.add_constant(c, 8 * _MOST_WORDS + _MOST_TEXT - 1)
    asm.constant(b, -1)
    asm.multiply(b, limit)
    asm.add(c, b)
    asm.branch_zero(c, "file_long")
    asm.system_call("read", d, limit, c)
    asm.branch_negative(a, "file_long")
    asm.branch_zero(a, "file_read_all")
    asm.add(limit, a)
    asm.jump("file_read")
    asm.label("file_long")
    asm.system_call("close", d)
    asm.jump("refuse_argument")
    asm.label("file_read_all")
    asm.system_call("close", d)
    asm.constant(a, 0)
    asm.store(a, limit, bits=8)

    # b = a byte of it
    asm.load(b, frame, text)
    asm.label("space")
    asm.branch("ge", b, limit, "file_end")
    asm.load(c, b, bits=8)
    for space in _SPACES:
        asm.constant(d, space)
        asm.branch("eq", c, d, "space_on")
    asm.constant(d, ord("@"))
    asm.branch("eq", c, d, "refuse_argument")
    asm.store(b, frame, word)
    asm.label("letter")
    asm.branch("ge", b, limit, "word_end")
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "refuse_argument")
    for special in b"\"'\\":
        asm.constant(d, special)
        asm.branch("eq", c, d, "refuse_argument")
    for space in _SPACES:
        asm.constant(d, space)
        asm.branch("eq", c, d, "word_end")
    asm.add_constant(b, 1)
    asm.jump("letter")
    asm.label("space_on")
    asm.add_constant(b, 1)
    asm.jump("space")
    asm.label("word_end")
    asm.constant(a, 0)
    asm.store(a, b, bits=8)
    _put(asm, out, word, given_at)
    asm.add_constant(b, 1)
    asm.jump("space")
    asm.label("file_end")
    asm.add_constant(limit, 1)
    asm.store(limit, frame, text)
    asm.jump("word_on")

    asm.label("words_done")
    asm.load(d, frame, out)
    asm.constant(a, 0)
    asm.store(a, d)
    asm.label("given")


def _put(asm: Assembler, out: int, word: int, given_at: int) -> None:
    """The word behind all others, unless there are too many; keeps b and limit."""
    a, _b, c, d, _entry, frame, _limit, _top = range(8)
    asm.load(d, frame, out)
    asm.load(c, frame, given_at)
    asm.add_constant(c, 8 * (_MOST_WORDS - 1))
    asm.branch("ge", d, c, "refuse_argument")
    asm.load(a, frame, word)
    asm.store(a, d)
    asm.add_constant(d, 8)
    asm.store(d, frame, out)


def give_memory_back(asm: Assembler, frame_at: int) -> None:
    """What `expand` asked for, if it did, before the emulator goes on."""
    a, _b, _c, _d, _entry, frame, _limit, _top = range(8)
    asm.load(a, frame, frame_at)
    asm.branch_zero(a, "emulate")
    asm.system_call("brk", a)
