"""Native programs made fit for life in a foreign root: with their own loader and libraries, and telling of
that root's architecture where they tell of one.

The loader is a copy of the C library's whose list of directories is `HIDDEN/LIB` alone (`loaders`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from anyarch.archive.entry import Kind
from anyarch.elf.binary import inspect
from anyarch.elf.edit import Program, is_printable
from anyarch.emulation.accelerate.dispatcher import HIDDEN
from anyarch.emulation.accelerate.loaders import OF_LOADER, GlibcLoader, loaders
from anyarch.emulation.accelerate.selection import TARGETS, native_texts
from anyarch.errors import NotSupported, PathNotFound
from anyarch.snapshot.slices import reader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from anyarch.elf.binary import Binary
    from anyarch.emulation.accelerate.loaders import Loader
    from anyarch.emulation.accelerate.packages import Packages

__all__ = ["Natives", "read_file"]


class Natives:
    """The native programs of one tree of packages, with one loader for all. `files` gathers what the set of
    twins has to hold, by path below `HIDDEN`; `group` (a letter) keeps sets of several trees apart.

    Every method raises `NotSupported` for what cannot be made fit.
    """

    def __init__(
        self,
        packages: Packages,
        group: str,
        *,
        host: str,
        target: str,
        names: Mapping[bytes, bytes] | None = None,
        directories: Sequence[str] = (),
        library_changes: Mapping[str, Sequence[Callable[[Program], None]]] | None = None,
    ) -> None:
        """`names` are texts that name this machine's architecture, and the target's. Libraries are looked
        for in `directories` before the usual ones; those whose names begin so get `library_changes`.
        """
        self.packages = packages
        self.files: dict[str, bytes] = {}
        self._group = group
        self.host = host
        self._names = native_texts(host, target) if names is None else names
        self._libraries: dict[str, str] = {}
        self.library_changes = library_changes or {}
        multiarch = TARGETS[host].multiarch
        usual = (f"lib/{multiarch}", f"usr/lib/{multiarch}", "lib64", "usr/lib64", "lib", "usr/lib")
        self._directories = (*directories, *usual)

    @cached_property
    def _loaders(self) -> Sequence[Loader]:
        return loaders(self.host)

    def program(
        self,
        path: str,
        name: str,
        *,
        texts: dict[bytes, bytes] | None = None,
        like: bytes = b"",
        changes: Iterable[Callable[[Program], None]] = (),
    ) -> str:
        """Take the program `path` in as `name`, with its libraries; answer where it is below `HIDDEN`.

        `texts` are put into it; without them those that name this machine's architecture become the target's,
        each of which has to stand in the foreign program, whose bytes are `like`.
        """
        place = f"{self._group}/{name}"
        raw = read_file(self.packages, path)
        found = _inspected(raw)
        if found is None or found.architectures != (self.host,) or found.format != "elf":
            raise NotSupported(f"/{path} is no program of {self.host}")
        program = Program(raw, f"/{path}")
        pairs = self._named_texts(program, like) if texts is None else dict(texts)
        own = f"{HIDDEN}/{self._group}l"
        for directory in found.search:
            if len(directory) >= len(own):
                pairs[directory.encode()] = own.ljust(len(directory), "/").encode()
            elif directory.startswith("$ORIGIN/"):
                pairs[directory.encode()] = b""  # glibc's and musl's loaders pass over none at all
            else:
                raise NotSupported(f"/{path} looks for libraries in {directory}")
        program.replace_texts(pairs)
        for change in changes:
            change(program)
        if found.interpreter:
            program.set_interpreter(f"{HIDDEN}/{self._loader(found.interpreter, path)}")
        for soname in found.needed:
            self.library(soname)
        self.files[place] = program.finished()
        return place

    def made(self, program: bytes, name: str) -> str:
        """Take a static program in that is in no package; answer where it is below `HIDDEN`."""
        place = f"{self._group}/{name}"
        self.files[place] = program
        return place

    def data(self, path: str, place: str = "") -> str:
        """Take a library in that is named by its path, such as a plug-in; answer where it is (at `place` if
        that is told) below `HIDDEN`."""
        raw = read_file(self.packages, path)
        found = _inspected(raw)
        if found is None or found.architectures != (self.host,):
            raise NotSupported(f"/{path} is no library of {self.host}")
        for soname in found.needed:
            self.library(soname)
        place = place or f"{self._group}/{path}"
        self.files[place] = raw
        return place

    def library(self, soname: str) -> None:
        """Take a library in, with those that it needs."""
        if soname in self._libraries or soname.startswith(OF_LOADER):
            return
        path = self._find(soname)
        raw = read_file(self.packages, path)
        found = _inspected(raw)
        if found is None or found.architectures != (self.host,):
            raise NotSupported(f"/{path} is no library of {self.host}")
        self._libraries[soname] = path
        try:
            if not soname.startswith("ld-linux"):
                for each in found.needed:
                    self.library(each)
                self.files[f"{self._group}l/{soname}"] = self._changed(soname, raw)
            else:
                # the name by which libraries ask for the loader; it is there already when they do
                self.files[f"{self._group}l/{soname}"] = GlibcLoader(self.host).patched(
                    raw, self._place_of_libraries()
                )
        except NotSupported:
            del self._libraries[soname]  # nor has the next program that asks for it all of it
            raise

    def _changed(self, soname: str, raw: bytes) -> bytes:
        for start, changes in self.library_changes.items():
            if soname.startswith(start):
                program = Program(raw, soname)
                for change in changes:
                    change(program)
                raw = program.finished()
        return raw

    def libraries_of(self, path: str) -> dict[str, str]:
        """Sonames and paths of all libraries that a program needs, at any remove."""
        wanted = [path]
        found: dict[str, str] = {}
        while wanted:
            binary = _inspected_file(self.packages, wanted.pop())
            for soname in binary.needed if binary is not None else ():
                if soname not in found:
                    found[soname] = self._find(soname)
                    wanted.append(found[soname])
        return found

    def _find(self, soname: str) -> str:
        if "/" in soname:
            raise NotSupported(f"the library {soname} is named by a path")
        for directory in self._directories:
            path = f"{directory}/{soname}"
            try:
                real = self.packages.tree.resolve(path)
            except PathNotFound:
                continue
            node = self.packages.tree.lookup(real)
            if node is not None and node.entry.kind in (Kind.FILE, Kind.HARDLINK):
                return path
        raise NotSupported(f"the library {soname} is missing")

    def _loader(self, interpreter: str, path: str) -> str:
        """The place of what a program has for its loader; there is one for each that programs ask for."""
        number = next((n for n, each in enumerate(self._loaders) if each.path == interpreter), None)
        if number is None:
            raise NotSupported(f"/{path} has the loader {interpreter}")
        place = f"{self._group}{'dm'[number]}"
        if place not in self.files:
            raw = read_file(self.packages, interpreter.lstrip("/"))
            self.files[place] = self._loaders[number].patched(raw, self._place_of_libraries())
        return place

    def _place_of_libraries(self) -> str:
        return f"{HIDDEN}/{self._group}l"

    def _named_texts(self, program: Program, like: bytes) -> dict[bytes, bytes]:
        """What in it names the architecture, and what has to stand there."""
        pairs: dict[bytes, bytes] = {}
        for own, other in self._names.items():
            for text in _texts_with(bytes(program.raw), own):
                new = text.replace(own, other)
                if (
                    text in pairs
                    or text.endswith(b".debug")
                    or text.startswith(OF_LOADER.encode())
                    or text.decode("latin-1") in {loader.path for loader in self._loaders}
                ):
                    continue
                if program.texts(text):
                    if new + b"\0" not in like:
                        raise NotSupported(f"{program.what} tells the architecture in another way")
                    pairs[text] = new
        return pairs


def _inspected(raw: bytes) -> Binary | None:
    return inspect(lambda offset, size: raw[offset : offset + size], of_library=True)


def _texts_with(raw: bytes, part: bytes) -> Iterator[bytes]:
    start = 0
    while (start := raw.find(part, start)) >= 0:
        begin, end = start, raw.find(b"\0", start)
        while begin and is_printable(raw[begin - 1]):
            begin -= 1
        if end - begin < 4096:
            yield raw[begin:end]
        start = end if end > 0 else len(raw)


def _inspected_file(packages: Packages, path: str) -> Binary | None:
    """Of a large library some pages are read only."""
    with _opened(packages, path) as file:
        return inspect(reader_of(file), of_library=True)


def read_file(packages: Packages, path: str) -> bytes:
    """`NotSupported` when there is no such file."""
    with _opened(packages, path) as file:
        return file.read()


def _opened(packages: Packages, path: str) -> BinaryIO:
    tree = packages.tree
    try:
        node = tree.lookup(tree.resolve(path))
        if node is None:
            raise NotSupported(f"/{path} is missing")
        return tree.open(node)
    except PathNotFound as error:
        raise NotSupported(f"/{path} cannot be read: {error.message}") from None
