"""The machine code of the dispatcher (`anyarch.emulation.accelerate.dispatcher`), and its tables."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from anyarch.elf.assembler import AT_FDCWD, O_CLOEXEC, assembler_for
from anyarch.elf.edit import PF_R, PF_X, Program
from anyarch.emulation.accelerate.dispatcher import (
    ARGUMENT,
    BASIS,
    CLOSED,
    ELSEWHERE,
    ENVIRONMENT,
    FAILED,
    GONE,
    HIDDEN,
    LOG,
    PAGE,
    PLUGINS,
    PRIME,
    RAN,
    RECORD,
    REPLACED,
    WORD,
    Condition,
)
from anyarch.emulation.accelerate.places import check_places, encoded
from anyarch.emulation.accelerate.response import expand, give_memory_back
from anyarch.emulation.accelerate.texts import begins, compare, find, pass_over
from anyarch.emulation.accelerate.trial import NOT_STARTED, try_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.elf.assembler import Assembler
    from anyarch.emulation.accelerate.dispatcher import ArgumentRule, EnvironmentRule, Twin

__all__ = ["code", "dispatcher"]

_STAT_DEVICE, _STAT_NUMBER, _STAT_SIZE, _STAT_MTIME = 0, 8, 48, 88  # struct stat of both machines
_STAT_MODE = {"amd64": 24, "arm64": 16}
_STAT_LINKS = {"amd64": 16, "arm64": 20}
_SET_ID = 0o6000
_O_APPEND = 0o2000 | 0o1  # to write
_AT_EXECFD = 2
_F_SETFD, _FD_CLOEXEC = 2, 1

# the marks in the tables of texts
_END, _ITEM, _PREFIX, _NEXT, _SWAP, _ACCEPT, _SUFFIX = b"\0", b"\1", b"\2", b"\3", b"\4", b"\5", b"\6"

_FRAME = 0x2000
_STAT, _HEAD, _MESSAGE, _ARGV, _GIVEN, _RESPONSE = 0, 0x200, 0x1800, 0x1808, 0x1810, 0x1818
_DIFFERS, _PLACES = 0x1900, 0x1908
_MOST_APPENDED = 30
_ENTRY = struct.Struct("<17Q")
_HASH_AT, _SIZE_AT, _MTIME_AT, _NAME_AT, _PROGRAM_AT = range(0, 40, 8)
_ENV_AT, _NEED_AT, _FIRST_AT, _ASKED_AT, _CALLED_AT, _HERE_AT, _PLACES_AT = range(40, 96, 8)
_ARGS_AT, _REST_AT, _NUMBER_AT, _TRIAL_AT, _EXPANDS_AT = range(96, 136, 8)


def dispatcher(emulator: bytes, twins: Sequence[Twin], *, host: str) -> bytes:
    """The emulator (a static program) that knows `twins`. `host` is the architecture that it runs on.

    Raises `NotSupported` for an emulator that cannot be extended or a host without an assembler.
    """
    program = Program(emulator, "the emulator")
    began = program.entry
    program.entry = program.add_segment(
        lambda address: code(assembler_for(host), twins, host=host, go_on=began - address),
        flags=PF_R | PF_X,
    )
    return program.finished()


def code(asm: Assembler, twins: Sequence[Twin], *, host: str, go_on: int) -> bytes:
    """All of the segment. `go_on` is where the emulator begins, as a distance from the first byte."""
    asm.define("emulator", go_on)
    a, b, c, d, entry, frame, limit, top = range(8)

    # on the stack: argc, argv with the dispatcher, the path, then what the program was given
    asm.stack_to(top)
    asm.load(a, top)
    asm.constant(b, 3)
    asm.branch("lt", a, b, "emulate")
    asm.move(frame, top)
    asm.add_constant(frame, -_FRAME)
    asm.stack_from(frame)
    asm.constant(a, 0)
    asm.store(a, frame, _RESPONSE)
    asm.store(a, frame, _DIFFERS)

    asm.load(b, top, 16)
    asm.constant(a, AT_FDCWD)
    asm.constant(c, O_CLOEXEC)
    asm.constant(d, 0)
    asm.system_call("openat", a, b, c, d)
    asm.branch_negative(a, "emulate")
    asm.move(entry, a)  # the descriptor, for now
    asm.move(b, frame)
    asm.system_call("fstat", entry, b)
    asm.move(b, frame)
    asm.add_constant(b, _HEAD)
    asm.constant(c, PAGE)
    asm.constant(d, 0)
    asm.system_call("pread64", entry, b, c, d)
    asm.move(limit, a)
    asm.system_call("close", entry)
    asm.constant(c, PAGE)
    asm.branch("ne", limit, c, "emulate")

    # a program with the bits setuid or setgid has no twin
    asm.load(a, frame, _STAT_MODE[host], bits=32)
    asm.constant(b, _SET_ID)
    asm.mask(a, b)
    asm.constant(b, 0)
    asm.branch("ne", a, b, "emulate")

    # a = hash of the page
    asm.constant(a, BASIS)
    asm.constant(b, PRIME)
    asm.move(c, frame)
    asm.add_constant(c, _HEAD)
    asm.move(limit, c)
    asm.add_constant(limit, PAGE)
    asm.label("hash")
    asm.load(d, c)
    asm.xor(a, d)
    asm.multiply(a, b)
    asm.add_constant(c, 8)
    asm.branch("lt", c, limit, "hash")

    asm.address(entry, "entries")
    asm.address(limit, "entries_end")
    asm.load(b, frame, _STAT_SIZE)
    asm.load(c, frame, _STAT_MTIME)
    asm.label("search")
    asm.branch("ge", entry, limit, "unknown")
    asm.load(d, entry, _HASH_AT)
    asm.branch("ne", d, a, "search_on")
    asm.load(d, entry, _SIZE_AT)
    asm.branch("ne", d, b, "search_on")
    asm.load(d, entry, _MTIME_AT)
    asm.branch("eq", d, c, "known")
    asm.label("search_on")
    asm.add_constant(entry, _ENTRY.size)
    asm.jump("search")

    _check_name(asm)
    _check_place(asm, _STAT_LINKS[host])
    _check_environment(asm)
    _check_needs(asm)
    asm.label("environment_ok")
    check_places(
        asm,
        rules_at=_PLACES_AT,
        frame_at=_PLACES,
        room_at=_HEAD,
        size_at=_STAT_SIZE,
        time_at=_STAT_MTIME,
        host=host,
    )
    expand(
        asm,
        wanted_at=_EXPANDS_AT,
        given_at=_GIVEN,
        frame_at=_RESPONSE,
        mode_at=_STAT_MODE[host],
        size_at=_STAT_SIZE,
    )
    _check_arguments(asm)
    _run(asm)
    _tell(asm)
    give_memory_back(asm, _RESPONSE)

    asm.label("emulate")
    asm.stack_from(top)
    asm.hand_over("emulator")
    _tables(asm, twins)
    return asm.finish()


def _check_name(asm: Assembler) -> None:
    """What the program is called by against the names of the entry: b in those, limit = the name."""
    a, b, c, d, _entry, _frame, limit, top = range(8)
    asm.label("known")
    find(asm, _CALLED_AT)
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "name_ok")
    asm.add_constant(b, 1)
    asm.load(a, top, 24)
    asm.branch_zero(a, "refuse_name")
    asm.load(c, a, bits=8)
    asm.constant(d, ord("-"))
    asm.branch("ne", c, d, "directory")
    asm.add_constant(a, 1)
    asm.label("directory")
    asm.move(limit, a)
    asm.constant(d, ord("/"))
    asm.label("called")
    asm.load(c, a, bits=8)
    asm.branch_zero(c, "called_end")
    asm.add_constant(a, 1)
    asm.branch("eq", c, d, "directory")
    asm.jump("called")
    asm.label("called_end")
    asm.move(a, limit)
    compare(asm, "wrapper_compare", differs="wrapper_skip", equal="wrapper")
    asm.label("wrapper")
    asm.load(limit, top, 32)  # behind the program's own name
    asm.branch_zero(limit, "refuse_name")
    asm.jump("called_rule")
    pass_over(asm, "wrapper_skip", to="called_rule")
    asm.label("called_rule")  # b at a mark: _ITEM or _END
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "refuse_name")
    asm.add_constant(b, 1)
    asm.move(a, limit)
    compare(asm, "called_compare", differs="called_skip", equal="name_ok")
    pass_over(asm, "called_skip", to="called_rule")


def _check_place(asm: Assembler, links: int) -> None:
    """Whether the file is the one that the path of the entry leads to, and has no other name, where that
    counts. `links` is where the number of its names is."""
    a, b, c, d, entry, frame, limit, _top = range(8)
    asm.label("name_ok")
    asm.load(a, entry, _HERE_AT)
    asm.branch_zero(a, "place_ok")
    asm.load(a, frame, links, bits=32)
    asm.constant(b, 1)
    asm.branch("ne", a, b, "refuse_place")
    find(asm, _NAME_AT)
    asm.constant(a, AT_FDCWD)
    asm.move(c, frame)
    asm.add_constant(c, _HEAD)
    asm.move(limit, c)
    asm.constant(d, 0)
    asm.system_call("newfstatat", a, b, c, d)
    asm.branch_negative(a, "refuse_place")
    for offset in (_STAT_DEVICE, _STAT_NUMBER):
        asm.load(a, limit, offset)
        asm.load(b, frame, offset)
        asm.branch("ne", a, b, "refuse_place")


def _check_environment(asm: Assembler) -> None:
    """Every variable against every rule: a = variable, b = rule, c and d bytes, limit = place in envp."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    asm.label("place_ok")
    _variables(asm, limit)
    asm.label("variable")
    asm.load(a, limit)
    asm.branch_zero(a, "needs")
    find(asm, _ENV_AT)
    asm.label("variable_rule")  # b at a mark: _PREFIX or _END
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "next_variable")
    asm.add_constant(b, 1)
    asm.load(a, limit)
    begins(asm, "variable_compare", so="variable_allowed")
    pass_over(asm, "skip_rule", to="skip_items")  # this text, then its items
    asm.label("skip_items")
    asm.load(c, b, bits=8)
    asm.constant(d, _ITEM[0])
    asm.branch("ne", c, d, "variable_rule")
    asm.add_constant(b, 1)
    asm.jump("skip_rule")
    # a at what follows the prefix, b at a mark
    asm.label("variable_allowed")
    asm.load(c, b, bits=8)
    asm.constant(d, _ITEM[0])
    asm.branch("ne", c, d, "refuse_environment")
    asm.add_constant(b, 1)
    asm.store(a, frame, _MESSAGE)
    compare(asm, "item_compare", differs="item_differs", equal="next_variable")
    pass_over(asm, "item_differs", to="item_end")
    asm.label("item_end")
    asm.load(a, frame, _MESSAGE)
    asm.jump("variable_allowed")
    asm.label("next_variable")
    asm.add_constant(limit, 8)
    asm.jump("variable")


def _variables(asm: Assembler, place: int) -> None:
    """The register gets the place of the first variable."""
    a, b, top = 0, 1, 7
    asm.load(a, top)  # argc
    asm.constant(b, 8)
    asm.multiply(a, b)
    asm.move(place, top)
    asm.add(place, a)
    asm.add_constant(place, 16)  # past argc and the end of argv


def _check_needs(asm: Assembler) -> None:
    """For every need some variable that begins with it; the first argument, and one that has to be given."""
    a, b, c, d, _entry, frame, limit, top = range(8)
    asm.label("needs")
    find(asm, _NEED_AT)
    asm.label("need")  # b at a mark: _ITEM or _END
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "first")
    asm.add_constant(b, 1)
    asm.store(b, frame, _ARGV)
    _variables(asm, limit)
    asm.label("need_variable")
    asm.load(a, limit)
    asm.branch_zero(a, "refuse_environment")
    asm.load(b, frame, _ARGV)
    begins(asm, "need_compare", so="need")
    asm.add_constant(limit, 8)
    asm.jump("need_variable")
    asm.label("first")
    find(asm, _FIRST_AT)
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "asked")
    asm.load(a, top, 32)  # behind the program's own name
    asm.branch_zero(a, "refuse_environment")
    begins(asm, "first_compare", so="asked")
    asm.jump("refuse_environment")
    asm.label("asked")
    find(asm, _ASKED_AT)
    asm.store(b, frame, _ARGV)
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "environment_ok")
    asm.move(limit, top)
    asm.add_constant(limit, 32)  # behind the program's own name
    asm.label("asked_argument")
    asm.load(a, limit)
    asm.branch_zero(a, "refuse_environment")
    asm.load(b, frame, _ARGV)
    begins(asm, "asked_compare", so="asked_end")
    asm.jump("asked_on")
    asm.label("asked_end")  # of the text: of the argument too, unless a value follows
    asm.load(d, a, bits=8)
    asm.branch_zero(d, "environment_ok")
    asm.add_constant(b, -2)
    asm.load(c, b, bits=8)
    asm.constant(d, ord("="))
    asm.branch("eq", c, d, "environment_ok")
    asm.label("asked_on")
    asm.add_constant(limit, 8)
    asm.jump("asked_argument")


def _check_arguments(asm: Assembler) -> None:
    """Every argument against every rule. What is swapped is swapped in a copy of argv, in a second pass: the
    emulator, if it comes to that, is to see what was given."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    for number in (1, 2):
        end = f"arguments_done{number}"
        if number == 1:
            asm.load(limit, frame, _GIVEN)
            asm.add_constant(limit, 8)  # behind the program's own name
        else:
            _copy_arguments(asm)
        asm.label(f"argument{number}")
        asm.load(a, limit)
        asm.branch_zero(a, end)
        find(asm, _ARGS_AT)
        asm.label(f"argument_rule{number}")
        asm.load(c, b, bits=8)
        asm.branch_zero(c, f"next_argument{number}")
        asm.store(c, frame, _MESSAGE)
        asm.add_constant(b, 1)
        asm.load(a, limit)
        if number == 1:
            asm.constant(d, _SUFFIX[0])
            asm.branch("eq", c, d, "argument_suffix")
        begins(asm, f"argument_compare{number}", so=f"argument_prefix{number}")
        pass_over(asm, f"argument_skip{number}", to=f"argument_skip_value{number}")
        # every rule has a second text
        pass_over(asm, f"argument_skip_value{number}", to=f"argument_rule{number}")
        # the argument begins with the rule's text; a behind it, b at the second text
        asm.label(f"argument_prefix{number}")
        asm.load(c, frame, _MESSAGE)
        if number == 1:
            asm.constant(d, _PREFIX[0])
            asm.branch("eq", c, d, "refuse_argument")
            asm.constant(d, _ACCEPT[0])
            asm.branch("eq", c, d, "next_argument1")
        asm.load(d, a, bits=8)
        asm.branch_zero(d, f"argument_equal{number}")
        asm.jump(f"argument_skip_value{number}")
        asm.label(f"argument_equal{number}")
        if number == 1:
            # SWAP: it is known, whatever rules come behind; NEXT: the argument behind it has to be its value
            asm.constant(d, _SWAP[0])
            asm.branch("eq", c, d, "next_argument1")
            asm.constant(d, _NEXT[0])
            asm.branch("ne", c, d, "argument_skip_value1")
            asm.load(a, limit, 8)
            asm.branch_zero(a, "refuse_argument")
            compare(asm, "value_compare", differs="refuse_argument", equal="argument_rule1")
        else:
            asm.constant(d, _SWAP[0])
            asm.branch("ne", c, d, "argument_skip_value2")
            asm.store(b, limit)
        asm.label(f"next_argument{number}")
        asm.add_constant(limit, 8)
        asm.jump(f"argument{number}")
        if number == 1:
            _check_suffix(asm)
        asm.label(end)


def _check_suffix(asm: Assembler) -> None:
    """Whether the argument at a ends with the text at b."""
    a, b, _c, d, _entry, frame = range(6)
    asm.label("argument_suffix")
    asm.store(b, frame, _ARGV)
    asm.label("suffix_from")
    asm.store(a, frame, _STAT)
    asm.load(b, frame, _ARGV)
    compare(asm, "suffix_compare", differs="suffix_differs", equal="refuse_argument")
    asm.label("suffix_differs")
    asm.load(a, frame, _STAT)
    asm.load(d, a, bits=8)
    asm.add_constant(a, 1)
    asm.load(b, frame, _ARGV)
    asm.branch_zero(d, "argument_skip1")
    asm.jump("suffix_from")


def _copy_arguments(asm: Assembler) -> None:
    """Below the frame: argv from the program's own name on and what the twin is given behind it. `limit` is
    at that name then, which may be swapped too, and the place of the copy is kept in the frame."""
    a, b, c, d, _entry, frame, limit, _top = range(8)
    asm.load(c, frame, _GIVEN)
    asm.move(d, frame)
    asm.label("copy_room")
    asm.add_constant(d, -8)
    asm.load(a, c)
    asm.add_constant(c, 8)
    asm.branch_zero(a, "copy_begin")
    asm.jump("copy_room")
    asm.label("copy_begin")
    asm.add_constant(d, -8 * (_MOST_APPENDED + 2))
    asm.constant(a, -16)
    asm.mask(d, a)
    asm.stack_from(d)
    asm.store(d, frame, _ARGV)
    asm.move(limit, d)
    asm.load(c, frame, _GIVEN)
    asm.label("copy")
    asm.load(a, c)
    asm.branch_zero(a, "copy_rest")
    asm.store(a, d)
    asm.add_constant(c, 8)
    asm.add_constant(d, 8)
    asm.jump("copy")
    asm.label("copy_rest")
    find(asm, _REST_AT)  # texts, each behind the mark _ITEM
    asm.label("rest")
    asm.load(a, b, bits=8)
    asm.branch_zero(a, "rest_done")
    asm.add_constant(b, 1)
    asm.store(b, d)
    asm.add_constant(d, 8)
    pass_over(asm, "rest_skip", to="rest")
    asm.label("rest_done")
    asm.constant(a, 0)
    asm.store(a, d)


def _run(asm: Assembler) -> None:
    """Tell of it and execute the twin; and what becomes of all others."""
    a, b, c, d, entry, frame, limit, top = range(8)
    _keep_descriptor(asm)
    asm.label("run")
    asm.constant(d, RAN)
    asm.address(c, "run_now")
    asm.jump("tell")
    asm.label("run_now")
    asm.load(a, entry, _TRIAL_AT)
    asm.branch_zero(a, "execute")
    asm.address(c, "texts")
    asm.add(a, c)
    asm.store(a, frame, _MESSAGE)
    try_out(asm, frame_at=_HEAD, text_at=_MESSAGE)
    asm.label("execute")
    _variables(asm, limit)
    asm.load(c, frame, _ARGV)
    asm.load(a, entry, _PROGRAM_AT)
    asm.address(b, "texts")
    asm.add(a, b)
    asm.system_call("execve", a, c, limit)
    # no twin in this root (a chroot), or the arguments have become too long
    asm.load(a, entry, _TRIAL_AT)
    asm.branch_zero(a, "gone")
    asm.constant(a, NOT_STARTED)
    asm.system_call("exit", a)
    asm.label("gone")
    asm.constant(d, GONE)
    asm.address(c, "emulate")
    asm.jump("tell")

    # by this condition; the next entry may be of the same file, with another one
    asm.label("refuse_name")
    asm.load(a, entry, _HASH_AT)
    asm.add_constant(entry, _ENTRY.size)
    asm.load(b, entry, _HASH_AT)
    asm.branch("eq", a, b, "known")
    asm.jump("emulate")
    asm.label("refuse_places")
    asm.constant(a, PLUGINS)
    asm.store(a, frame, _DIFFERS)
    asm.label("refuse_environment")
    asm.load(a, entry, _HASH_AT)
    asm.load(b, entry, _ENTRY.size + _HASH_AT)
    asm.add_constant(entry, _ENTRY.size)
    asm.branch("eq", a, b, "known")
    asm.add_constant(entry, -_ENTRY.size)
    asm.address(c, "emulate")
    asm.load(d, frame, _DIFFERS)
    asm.branch_zero(d, "environment_differs")
    asm.jump("tell")
    asm.label("environment_differs")
    asm.constant(d, ENVIRONMENT)
    asm.jump("tell")
    asm.label("refuse_place")
    asm.constant(d, ELSEWHERE)
    asm.address(c, "emulate")
    asm.jump("tell")
    asm.label("failed")
    asm.constant(d, FAILED)
    asm.address(c, "emulate")
    asm.jump("tell")
    asm.label("refuse_argument")
    asm.constant(d, ARGUMENT)
    asm.address(c, "emulate")
    asm.jump("tell")

    # a program that no twin is known for: is its path one that has a twin?
    asm.label("unknown")
    asm.address(entry, "entries")
    asm.label("name")
    asm.branch("ge", entry, limit, "emulate")
    asm.load(a, entry, _NAME_AT)
    asm.address(b, "texts")
    asm.add(a, b)
    asm.load(b, top, 16)
    compare(asm, "name_compare", differs="name_on", equal="replaced")
    asm.label("name_on")
    asm.add_constant(entry, _ENTRY.size)
    asm.jump("name")
    asm.label("replaced")
    asm.constant(d, REPLACED)
    asm.address(c, "emulate")


def _keep_descriptor(asm: Assembler) -> None:
    """The kernel has opened the program for the emulator, which closes it; the twin is not to have it.

    With the standard input closed that is descriptor 0, which some emulators take for none and leave open:
    what the program reads then depends on the emulator."""
    a, b, c, d, _entry, _frame, limit, _top = range(8)
    _variables(asm, limit)
    asm.label("behind_variables")
    asm.load(a, limit)
    asm.add_constant(limit, 8)
    asm.branch_zero(a, "auxiliary")
    asm.jump("behind_variables")
    asm.label("auxiliary")  # pairs of a kind and a value; the last kind is zero
    asm.load(a, limit)
    asm.branch_zero(a, "run")
    asm.constant(b, _AT_EXECFD)
    asm.branch("eq", a, b, "descriptor")
    asm.add_constant(limit, 16)
    asm.jump("auxiliary")
    asm.label("descriptor")
    asm.load(a, limit, 8)
    asm.branch_zero(a, "input_closed")
    asm.constant(b, _F_SETFD)
    asm.constant(c, _FD_CLOEXEC)
    asm.system_call("fcntl", a, b, c)
    asm.jump("run")
    asm.label("input_closed")
    asm.constant(d, CLOSED)
    asm.address(c, "emulate")
    asm.jump("tell")


def _tell(asm: Assembler) -> None:
    """Append (number of the twin, verdict d) to the log, as well as that goes; then to where c points."""
    a, b, c, d, entry, frame, limit, _top = range(8)
    asm.label("tell")
    asm.store(c, frame, _STAT)
    asm.load(a, entry, _NUMBER_AT)
    asm.constant(b, 1 << 32)
    asm.multiply(b, d)
    asm.add(a, b)
    asm.store(a, frame, _MESSAGE)
    asm.address(b, "log")
    asm.constant(a, AT_FDCWD)
    asm.constant(c, _O_APPEND | O_CLOEXEC)
    asm.constant(d, 0)
    asm.system_call("openat", a, b, c, d)
    asm.branch_negative(a, "told")
    asm.move(limit, a)
    asm.move(b, frame)
    asm.add_constant(b, _MESSAGE)
    asm.constant(c, RECORD.size)
    asm.system_call("write", limit, b, c)
    asm.system_call("close", limit)
    asm.label("told")
    asm.load(c, frame, _STAT)
    asm.address(a, "run_now")
    asm.branch("eq", c, a, "run_now")


def _tables(asm: Assembler, twins: Sequence[Twin]) -> None:
    texts = bytearray(b"\0")  # nothing at 0
    known: dict[bytes, int] = {}

    def text(raw: bytes) -> int:
        if raw not in known:
            known[raw] = len(texts)
            texts.extend(raw)
        return known[raw]

    rows = []
    for number, twin in enumerate(twins):
        name = text(twin.path.encode() + b"\0")
        program = text(f"{HIDDEN}/{twin.program}".encode() + b"\0")
        arguments = text(b"".join(map(_argument_rule, twin.arguments)) + _END)
        rest = text(b"".join(_ITEM + item.encode() + b"\0" for item in twin.append) + _END)
        trial = text(twin.trial.encode() + b"\0") if twin.trial else 0
        assert len(twin.append) <= _MOST_APPENDED
        conditions = [
            (
                text(b"".join(map(_environment_rule, one.rules)) + _END),
                text(b"".join(_ITEM + need.encode() + b"\0" for need in one.needs) + _END),
                text(one.first.encode() + b"\0"),
                text(one.given.encode() + b"\0"),
                text(_names(one)),
                int(one.here),
                text(encoded(one.places)),
            )
            for one in twin.conditions or (Condition(),)
        ]
        for each in twin.identities:
            known_by = (each.hash, each.size, each.mtime & WORD, name, program)
            rest_of = (arguments, rest, number, trial, int(twin.expands))
            rows += [_ENTRY.pack(*known_by, *condition, *rest_of) for condition in conditions]
    asm.align(8)
    asm.label("entries")
    asm.data(b"".join(rows))
    asm.label("entries_end")
    asm.data(bytes(_ENTRY.size))  # behind the last one: of no file
    asm.label("texts")
    asm.data(bytes(texts))
    asm.label("log")
    asm.data(LOG.encode() + b"\0")


def _names(condition: Condition) -> bytes:
    if not condition.names:
        return _END
    wrapper = condition.wrapper or "/"  # no name
    names = b"".join(_ITEM + name.encode() + b"\0" for name in condition.names)
    return _PREFIX + wrapper.encode() + b"\0" + names + _END


def _environment_rule(rule: EnvironmentRule) -> bytes:
    items = b"".join(_ITEM + item.encode() + b"\0" for item in rule.allowed)
    return _PREFIX + rule.prefix.encode() + b"\0" + items


def _argument_rule(rule: ArgumentRule) -> bytes:
    mark = {"refuse": _PREFIX, "end": _SUFFIX, "next": _NEXT, "swap": _SWAP, "accept": _ACCEPT}[rule.kind]
    return mark + rule.text.encode() + b"\0" + rule.value.encode() + b"\0"
