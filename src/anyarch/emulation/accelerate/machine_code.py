"""The machine code of the dispatcher (`anyarch.emulation.accelerate.dispatcher`), put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.elf.assembler import AT_FDCWD, O_CLOEXEC, assembler_for
from anyarch.elf.edit import PF_R, PF_X, Program
from anyarch.emulation.accelerate.arguments import check_arguments
from anyarch.emulation.accelerate.dispatcher import (
    ARGUMENT,
    BASIS,
    CLOSED,
    ELSEWHERE,
    ENVIRONMENT,
    FAILED,
    GONE,
    INPUT,
    PAGE,
    PLUGINS,
    PRIME,
    RAN,
    RECORD,
    REPLACED,
)
from anyarch.emulation.accelerate.entries import (
    ASKED_AT,
    CALLED_AT,
    ENTRY,
    ENV_AT,
    EXPANDS_AT,
    FIRST_AT,
    HASH_AT,
    HERE_AT,
    MTIME_AT,
    NAME_AT,
    NEED_AT,
    NUMBER_AT,
    PLACES_AT,
    PROGRAM_AT,
    SIZE_AT,
    TRIAL_AT,
    WITHOUT_AT,
    put_tables,
)
from anyarch.emulation.accelerate.inputs import check_inputs
from anyarch.emulation.accelerate.places import check_places
from anyarch.emulation.accelerate.response import expand, give_memory_back
from anyarch.emulation.accelerate.texts import ITEM, begins, compare, find, pass_over
from anyarch.emulation.accelerate.trial import NOT_STARTED, try_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.elf.assembler import Assembler
    from anyarch.emulation.accelerate.dispatcher import Twin

__all__ = ["code", "dispatcher"]

_STAT_DEVICE, _STAT_NUMBER, _STAT_SIZE, _STAT_MTIME = 0, 8, 48, 88  # struct stat of both machines
_STAT_MODE = {"amd64": 24, "arm64": 16}
_STAT_LINKS = {"amd64": 16, "arm64": 20}
_SET_ID = 0o6000
_O_APPEND = 0o2000 | 0o1  # to write
_AT_EXECFD = 2
_F_SETFD, _FD_CLOEXEC = 2, 1

_FRAME = 0x2000
_STAT, _HEAD, _MESSAGE, _ARGV, _GIVEN, _RESPONSE = 0, 0x200, 0x1800, 0x1808, 0x1810, 0x1818
_DIFFERS, _PLACES = 0x1900, 0x1908

# where nothing is tried any more -> what is told
_REFUSALS = {
    "refuse_place": ELSEWHERE,
    "failed": FAILED,
    "refuse_input": INPUT,
    "refuse_argument": ARGUMENT,
}


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
    asm.load(d, entry, HASH_AT)
    asm.branch("ne", d, a, "search_on")
    asm.load(d, entry, SIZE_AT)
    asm.branch("ne", d, b, "search_on")
    asm.load(d, entry, MTIME_AT)
    asm.branch("eq", d, c, "known")
    asm.label("search_on")
    asm.add_constant(entry, ENTRY.size)
    asm.jump("search")

    _check_name(asm)
    _check_place(asm, _STAT_LINKS[host])
    _check_environment(asm)
    _check_needs(asm)
    asm.label("environment_ok")
    check_places(
        asm,
        rules_at=PLACES_AT,
        frame_at=_PLACES,
        room_at=_HEAD,
        size_at=_STAT_SIZE,
        time_at=_STAT_MTIME,
        host=host,
    )
    expand(
        asm,
        wanted_at=EXPANDS_AT,
        given_at=_GIVEN,
        frame_at=_RESPONSE,
        mode_at=_STAT_MODE[host],
        size_at=_STAT_SIZE,
    )
    check_inputs(
        asm,
        texts_at=WITHOUT_AT,
        given_at=_GIVEN,
        status_at=_STAT,
        mode_at=_STAT_MODE[host],
        room_at=_HEAD,
        frame_at=_PLACES,
    )
    check_arguments(asm, given_at=_GIVEN, copy_at=_ARGV, mark_at=_MESSAGE, free_at=_STAT)
    _run(asm)
    _tell(asm)
    give_memory_back(asm, _RESPONSE)

    asm.label("emulate")
    asm.stack_from(top)
    asm.hand_over("emulator")
    put_tables(asm, twins)
    return asm.finish()


def _check_name(asm: Assembler) -> None:
    """What the program is called by against the names of the entry: b in those, limit = the name."""
    a, b, c, d, _entry, _frame, limit, top = range(8)
    asm.label("known")
    find(asm, CALLED_AT)
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
    asm.label("called_rule")  # b at a mark: ITEM or END
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
    asm.load(a, entry, HERE_AT)
    asm.branch_zero(a, "place_ok")
    asm.load(a, frame, links, bits=32)
    asm.constant(b, 1)
    asm.branch("ne", a, b, "refuse_place")
    find(asm, NAME_AT)
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
    find(asm, ENV_AT)
    asm.label("variable_rule")  # b at a mark: PREFIX or END
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "next_variable")
    asm.add_constant(b, 1)
    asm.load(a, limit)
    begins(asm, "variable_compare", so="variable_allowed")
    pass_over(asm, "skip_rule", to="skip_items")  # this text, then its items
    asm.label("skip_items")
    asm.load(c, b, bits=8)
    asm.constant(d, ITEM[0])
    asm.branch("ne", c, d, "variable_rule")
    asm.add_constant(b, 1)
    asm.jump("skip_rule")
    # a at what follows the prefix, b at a mark
    asm.label("variable_allowed")
    asm.load(c, b, bits=8)
    asm.constant(d, ITEM[0])
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
    find(asm, NEED_AT)
    asm.label("need")  # b at a mark: ITEM or END
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
    find(asm, FIRST_AT)
    asm.load(c, b, bits=8)
    asm.branch_zero(c, "asked")
    asm.load(a, top, 32)  # behind the program's own name
    asm.branch_zero(a, "refuse_environment")
    begins(asm, "first_compare", so="asked")
    asm.jump("refuse_environment")
    asm.label("asked")
    find(asm, ASKED_AT)
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


def _run(asm: Assembler) -> None:
    """Tell of it and execute the twin; and what becomes of all others."""
    a, b, c, d, entry, frame, limit, top = range(8)
    _keep_descriptor(asm)
    asm.label("run")
    asm.constant(d, RAN)
    asm.address(c, "run_now")
    asm.jump("tell")
    asm.label("run_now")
    asm.load(a, entry, TRIAL_AT)
    asm.branch_zero(a, "execute")
    asm.address(c, "texts")
    asm.add(a, c)
    asm.store(a, frame, _MESSAGE)
    try_out(asm, frame_at=_HEAD, text_at=_MESSAGE)
    asm.label("execute")
    _variables(asm, limit)
    asm.load(c, frame, _ARGV)
    asm.load(a, entry, PROGRAM_AT)
    asm.address(b, "texts")
    asm.add(a, b)
    asm.system_call("execve", a, c, limit)
    # no twin in this root (a chroot), or the arguments have become too long
    asm.load(a, entry, TRIAL_AT)
    asm.branch_zero(a, "gone")
    asm.constant(a, NOT_STARTED)
    asm.system_call("exit", a)
    asm.label("gone")
    asm.constant(d, GONE)
    asm.address(c, "emulate")
    asm.jump("tell")

    # by this condition; the next entry may be of the same file, with another one
    asm.label("refuse_name")
    asm.load(a, entry, HASH_AT)
    asm.add_constant(entry, ENTRY.size)
    asm.load(b, entry, HASH_AT)
    asm.branch("eq", a, b, "known")
    asm.jump("emulate")
    asm.label("refuse_places")
    asm.constant(a, PLUGINS)
    asm.store(a, frame, _DIFFERS)
    asm.label("refuse_environment")
    asm.load(a, entry, HASH_AT)
    asm.load(b, entry, ENTRY.size + HASH_AT)
    asm.add_constant(entry, ENTRY.size)
    asm.branch("eq", a, b, "known")
    asm.add_constant(entry, -ENTRY.size)
    asm.address(c, "emulate")
    asm.load(d, frame, _DIFFERS)
    asm.branch_zero(d, "environment_differs")
    asm.jump("tell")
    asm.label("environment_differs")
    asm.constant(d, ENVIRONMENT)
    asm.jump("tell")
    for label, verdict in _REFUSALS.items():
        asm.label(label)
        asm.constant(d, verdict)
        asm.address(c, "emulate")
        asm.jump("tell")

    # a program that no twin is known for: is its path one that has a twin?
    asm.label("unknown")
    asm.address(entry, "entries")
    asm.label("name")
    asm.branch("ge", entry, limit, "emulate")
    asm.load(a, entry, NAME_AT)
    asm.address(b, "texts")
    asm.add(a, b)
    asm.load(b, top, 16)
    compare(asm, "name_compare", differs="name_on", equal="replaced")
    asm.label("name_on")
    asm.add_constant(entry, ENTRY.size)
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
    asm.load(a, entry, NUMBER_AT)
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
