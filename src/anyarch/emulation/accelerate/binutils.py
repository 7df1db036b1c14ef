"""Twins of the assembler, the linker and their companions, from a distribution's cross packages.

Most of them load plug-ins: what GCC's tells of objects with bytecode belongs into an archive's index and into
what `nm` says. They look for plug-ins in two directories, one of which has none but binutils' own, that
knows no objects. What lies in the other decides: where that is GCC's plug-in as its package brought it, the
native programs have the native one; where it is nothing, they load nothing as well; else they are emulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.elf.edit import Program
from anyarch.emulation.accelerate.dispatcher import HIDDEN, ArgumentRule, Place, Twin, exemptions, refusals
from anyarch.emulation.accelerate.natives import Natives, read_file
from anyarch.emulation.accelerate.packages import is_same_source
from anyarch.emulation.accelerate.selection import TARGETS
from anyarch.emulation.accelerate.words import narrow_hashes
from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.emulation.accelerate.dispatcher import Condition, Identity
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["PROGRAMS", "SAME_BYTECODE", "Binutils", "foreign_plugin", "library_changes", "owner_of"]

_LOADING = ("ar", "nm", "ranlib", "strip", "objcopy", "objdump", "size", "addr2line", "strings")
PROGRAMS = ("as", "ld.bfd", "readelf", "c++filt", *_LOADING)
"""Behind the triplet and a dash."""

SAME_BYTECODE = ("arm64", "riscv64", "ppc64le")
"""Where native compilers write the same bytecode, and link the same of it, as seen with programs of C and
C++; on arm C++ differed."""

_PLUGIN = "liblto_plugin.so"
_LIBRARY = "libbfd-"
_DIRECTORIES = ("usr/libexec", "usr/lib")  # where it is in both, the latter leads to the former
_OF_COMPILERS = "usr/lib/bfd-plugins"
# GNU's getopt takes an option by its first letters
_REFUSED = ("--he", "--pl", "-plugin=", "-flto")
_LD_REFUSED = (
    *("--help", "--plugin", "-plugin=", "-flto"),
    # every option of several letters may have one dash or two
    *("--sysroot", "-sysroot", "-help", "--verb", "-verb"),
    *("-Map", "--Map", "-M", "--print-map", "-print-map", "-rpath-link", "--rpath-link"),
)
# what goes to standard output cannot be taken back
_LD_TELLING = (
    *("-t", "--trace", "-trace", "-y", "--print", "-print", "--cref", "-cref", "--stats", "-stats"),
    *("-v", "-V", "--version", "-version"),
)
_LD_ACCEPTED = ("--version-script", "-version-script", "--version-exports-section")
# The assembler forces an address into a line table where a function begins, if code before it may have ended
# with a piece of the assembler's memory, which holds less where pointers are longer (binutils,
# gas/dwarf2dbg.c, process_entries). Compilers ask for that by the first text.
_OF_POINTERS = ("view -0", ".include")
_NEVER_SAID = "no linker says so\n"


class Binutils:
    """Of one set of twins. `targets` are the trees that may have foreign programs; the native ones are those
    of `natives`, or of `group` where they load GCC's plug-in."""

    def __init__(
        self,
        targets: Sequence[Packages],
        natives: Natives,
        group: str,
        *,
        target: str,
        gcc: str,
        conditions: tuple[Condition, ...],
    ) -> None:
        self._natives = natives
        self._triplet, self._bits = TARGETS[target].multiarch, TARGETS[target].bits
        # of symbols in bytecode the plug-in tells names as they are, numbers in its machine's byte order; and
        # with words of 32 bits, C++ that was linked came out different
        self._reads_bytecode = target in SAME_BYTECODE
        self._conditions = conditions
        # the native plug-in, where it is put, and by which name it is asked for; empty if there is none
        self._plugin, self._place, self._seen = self._native_plugin(gcc)
        foreign = (foreign_plugin(packages, self._triplet, gcc) for packages in targets)
        theirs = tuple(dict.fromkeys(found for found in foreign if found is not None))
        nothing = (self._of_binutils(), Place(f"/{_OF_COMPILERS}"))
        self._places: list[tuple[Natives, tuple[Place, ...]]] = [(natives, nothing)]
        if theirs and self._plugin:
            one = (
                self._of_binutils(),
                Place(f"/{_OF_COMPILERS}", (_PLUGIN,)),
                Place(f"/{_OF_COMPILERS}/{_PLUGIN}", files=theirs),
            )
            texts = {b"/usr/bin/../lib/bfd-plugins": f"{HIDDEN}/{group}b".encode()}
            changes = (
                *natives.library_changes.get(_LIBRARY, ()),
                lambda program: program.replace_texts(texts),
            )
            with_plugin = Natives(
                natives.packages, group, host=natives.host, target=target, library_changes={_LIBRARY: changes}
            )
            with_plugin.files = natives.files
            with_plugin.data(self._plugin, f"{group}b/{_PLUGIN}")
            self._places.insert(0, (with_plugin, one))

    def twins(self, packages: Packages, path: str, found: Identity) -> list[Twin]:
        """Of one program of `PROGRAMS`. Raises `NotSupported`."""
        package = f"binutils-{self._triplet}"
        own, other = packages.version(package), self._natives.packages.version(package)
        if not is_same_source(own, other):
            raise NotSupported(f"version {own or 'unknown'}, but {other or 'none'} of the native package")
        name = path.rpartition("/")[2].removeprefix(f"{self._triplet}-")
        if name not in _LOADING:
            if name == "ld.bfd" and self._bits == 32 and _LIBRARY not in self._natives.library_changes:
                raise NotSupported("the order of its symbols depends on the width of words")
            place = self._natives.program(path, path, texts={})
            twin = Twin(f"/{path}", place, (found,), self._conditions, refusals(_REFUSED), expands=True)
            if name == "as" and self._bits == 32:
                twin = msgspec.structs.replace(twin, without=_OF_POINTERS)
            return [self._linker(twin) if name == "ld.bfd" else twin]
        made = []
        for natives, places in self._places:
            conditions = tuple(
                msgspec.structs.replace(one, here=True, places=places) for one in self._conditions
            )
            rules = refusals(_REFUSED)
            if name != "nm" or self._reads_bytecode:
                rules = (*self._known_plugin("--plugin"), *rules)
            elif natives is not self._natives:
                continue
            place = natives.program(path, path, texts={})
            made.append(Twin(f"/{path}", place, (found,), conditions, rules, expands=True))
        return made

    def _of_binutils(self) -> Place:
        return Place(f"/usr/lib/{self._triplet}/bfd-plugins", ("libdep.so",))

    def _native_plugin(self, gcc: str) -> tuple[str, str, str]:
        for directory in _DIRECTORIES:
            path = f"{directory}/gcc-cross/{self._triplet}/{gcc}/{_PLUGIN}"
            try:
                place = self._natives.data(path)
            except NotSupported:
                continue
            return path, f"{HIDDEN}/{place}", f"/{directory}/gcc/{self._triplet}/{gcc}/{_PLUGIN}"
        return "", "", ""

    def _known_plugin(self, option: str) -> tuple[ArgumentRule, ...]:
        if not self._plugin:
            return ()
        return (
            ArgumentRule("next", option, self._seen),
            *exemptions((option,)),
            ArgumentRule("swap", self._seen, self._place),
        )

    def _linker(self, twin: Twin) -> Twin:
        # the driver names the system root that it has
        root = exemptions(("--sysroot=/",))
        # and may find the linker under another name, which is told in front of what the linker says
        named = ArgumentRule("swap", f"/usr/bin/{self._triplet}-ld", "/usr/bin/ld")
        name = () if self._natives.host == "amd64" else (named,)
        plugin = self._known_plugin("-plugin") or refusals(("-plugin",))
        others = refusals(_LD_REFUSED)
        if self._plugin and not self._reads_bytecode:
            # once there is bytecode it fails, before anything comes of these numbers, and is emulated
            wrapper = f"-plugin-opt={self._seen.removesuffix(_PLUGIN)}lto-wrapper"
            plugin = (*plugin, ArgumentRule("swap", wrapper, f"-plugin-opt={HIDDEN}/none"))
            accepted = tuple(ArgumentRule("accept", text) for text in _LD_ACCEPTED)
            more = ("-plugin-opt=-nop", "-plugin-opt=nop", *_LD_TELLING)
            others = (*others, *accepted, *refusals(more))
            twin = msgspec.structs.replace(twin, trial=_NEVER_SAID)
        return msgspec.structs.replace(twin, arguments=(*root, *name, *plugin, *others))


def library_changes(packages: Packages, target: str) -> dict[str, tuple[Callable[[Program], None], ...]]:
    """What the libraries of a target's native binutils need (for `Natives`): nothing, also if it cannot be
    had; the linker has no twin then."""
    if TARGETS[target].bits == 64:
        return {}
    names = packages.files(f"binutils-{TARGETS[target].multiarch}")
    paths = [path for path in names if path.rpartition("/")[2].startswith(_LIBRARY)]
    try:
        for path in paths:
            narrow_hashes(Program(read_file(packages, path), path))
    except NotSupported:
        return {}
    return {_LIBRARY: (narrow_hashes,)} if paths else {}


def foreign_plugin(packages: Packages, triplet: str, gcc: str) -> tuple[int, int] | None:
    """Size and time of change of a tree's own GCC plug-in, if that is as its package brought it."""
    for directory in _DIRECTORIES:
        path = f"{directory}/gcc/{triplet}/{gcc}/{_PLUGIN}"
        try:
            owner_of(packages, path, triplet, gcc)
        except NotSupported:
            continue
        node = packages.tree.lookup(packages.tree.resolve(path))
        assert node is not None  # it has been read
        entry = packages.tree.target(node).entry
        return entry.size, entry.mtime_ns // 1_000_000_000
    return None


def owner_of(packages: Packages, path: str, triplet: str, gcc: str) -> str:
    """The package of a compiler or binutils that a file is of and has not been changed since. Raises
    `NotSupported` if there is none."""
    names = [f"binutils-{triplet}"]
    names += [f"{each}-{gcc}{end}" for each in ("cpp", "gcc", "g++") for end in ("", f"-{triplet}")]
    owner = next((name for name in names if path in packages.files(name)), "")
    if not owner or not packages.is_intact(owner, path):
        raise NotSupported("it is not as its package brought it")
    return owner
