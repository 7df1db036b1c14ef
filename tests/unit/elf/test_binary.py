"""What is read from the headers of programs, and what is said of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.elf.binary import Binary, inspect
from anyarch.elf.findings import Finding, check_binary, check_command
from anyarch.elf.tiny import ARCHITECTURES, tiny_executable
from anyarch.spec.platform import Platform

ARM64, AMD64 = Platform("linux", "arm64"), Platform("linux", "amd64")


def binary(raw: bytes) -> Binary | None:
    return inspect(lambda offset, size: raw[offset : offset + size])


def pe(machine: int, *, is_dotnet: bool = False) -> bytes:
    directories = b"".join(
        struct.pack("<II", 0x2000 if number == 14 and is_dotnet else 0, 0) for number in range(16)
    )
    optional = struct.pack("<H", 0x20B) + bytes(110) + directories
    coff = struct.pack("<HHIIIHH", machine, 0, 0, 0, 0, len(optional), 0)
    return b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional


# headers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture_of_an_elf_program_is_read(architecture: str) -> None:
    found = binary(tiny_executable(architecture))

    assert found is not None
    assert (found.format, found.architectures, found.interpreter) == ("elf", (architecture,), "")
    assert found.order in ("little", "big")


def test_dynamic_program_tells_its_loader_and_libraries() -> None:
    found = binary(Path("/bin/ls").read_bytes())

    assert found is not None
    assert found.interpreter.startswith("/lib")
    assert "libc.so.6" in found.needed


def test_a_name_behind_megabytes_of_others_is_found() -> None:
    """As in LLVM, whose table of names holds those of all its symbols."""
    table, position, name = 0x1000, (2 << 20) - 16, b"libedit.so.2\0"
    names = bytes(position) + name
    dynamic = struct.pack("<8Q", 1, position, 5, table, 10, len(names), 0, 0)
    size = table + len(names)
    segments = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    segments += struct.pack("<IIQQQQQQ", 2, 4, 0x200, 0x200, 0x200, len(dynamic), len(dynamic), 8)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    raw = ((header + segments).ljust(0x200, b"\0") + dynamic).ljust(table, b"\0") + names

    found = inspect(lambda at, length: raw[at : at + length], of_library=True)

    assert found is not None
    assert found.needed == ("libedit.so.2",)


def test_libraries_tell_what_they_need_when_asked() -> None:
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = [Path(path).read_bytes() for path in {line.split()[-1] for line in lines if ".so" in line}]
    libraries = [raw for raw in files if (found := binary(raw)) is not None and not found.interpreter]
    asked = [inspect(lambda at, size, raw=raw: raw[at : at + size], of_library=True) for raw in libraries]

    assert any(found is not None and "libc.so.6" in found.needed for found in asked)


@pytest.mark.parametrize(("flags", "abi"), [(0x05000400, "hard"), (0x05000200, "soft"), (0x05000000, "")])
def test_float_abi_of_arm_is_read(flags: int, abi: str) -> None:
    raw = bytearray(tiny_executable("arm"))
    raw[36:40] = struct.pack("<I", flags)
    found = binary(bytes(raw))
    assert found is not None
    assert found.float_abi == abi


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (pe(0x8664), Binary("pe", ("amd64",))),
        (pe(0x14C, is_dotnet=True), Binary("pe", ("386",), is_native=False)),
        (b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C) + bytes(24), Binary("macho", ("arm64",), 64)),
        (
            b"\xca\xfe\xba\xbe" + struct.pack(">I", 2) + struct.pack(">5I", 0x01000007, 3, 0, 0, 0)
            + struct.pack(">5I", 0x0100000C, 0, 0, 0, 0),
            Binary("macho", ("amd64", "arm64")),
        ),
        (b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(60), None),  # a Java class file
        (b"MZ but no program" + bytes(100), None),
        (b"#!/bin/sh\n", None),
        (b"\x7fELF", None),
        (b"", None),
    ],
    ids=["pe", "dotnet", "macho", "universal", "class", "mz", "script", "cut", "empty"],
)  # fmt: skip
def test_other_formats_are_told_apart(raw: bytes, found: Binary | None) -> None:
    assert binary(raw) == found


def test_object_files_and_kernel_modules_are_data() -> None:
    raw = bytearray(tiny_executable("amd64"))
    raw[16] = 1  # ET_REL
    assert binary(bytes(raw)) is None


@given(st.data())
def test_damaged_files_are_read_without_failing(data: st.DataObject) -> None:
    raw = bytearray(_LS[:4096] if data.draw(st.booleans()) else pe(0x8664))
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    binary(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


_LS = Path("/bin/ls").read_bytes()


# findings


class FakeFiles:
    def __init__(self, *paths: str, heads: dict[str, bytes] | None = None, mode: int = 0o755) -> None:
        self.heads = {**dict.fromkeys(paths, b""), **(heads or {})}
        self.mode = mode
        self.libraries: dict[str, Binary] = {}

    def exists(self, path: str) -> bool:
        return path in self.heads

    def head(self, path: str) -> tuple[bytes, int] | None:
        return (self.heads[path], self.mode) if path in self.heads else None

    def binary(self, path: str) -> Binary | None:
        return binary(self.heads[path])

    def library(self, path: str) -> Binary | None:
        return self.libraries.get(path)

    def named(self, name: str) -> bool:
        return any(path.rpartition("/")[2] == name for path in self.heads)

    def library_directories(self) -> list[str]:
        return ["/opt/lib"]


def dynamic(**fields: object) -> Binary:
    values = {"format": "elf", "architectures": ("arm64",), "interpreter": "/lib/ld.so", **fields}
    return Binary(**values)  # type: ignore[arg-type]


def kinds(found: list[Finding]) -> list[str]:
    return [item.kind for item in found]


@pytest.mark.parametrize(
    ("architecture", "platform", "is_fine"),
    [
        ("arm64", "linux/arm64", True),
        ("amd64", "linux/arm64", False),
        ("386", "linux/amd64", True),
        ("arm", "linux/arm64", True),
        ("amd64", "linux/386", False),
        ("arm", "linux/arm/v6", True),
        ("ppc64", "linux/ppc64le", False),
        ("machine 300", "linux/arm64", False),
    ],
)
def test_programs_are_for_their_platform_or_one_that_it_runs(
    architecture: str, platform: str, is_fine: bool
) -> None:
    found = check_binary("/x", Binary("elf", (architecture,)), Platform.parse(platform), FakeFiles())
    assert kinds(found) == ([] if is_fine else ["machine"])


def test_programs_of_other_systems_are_data() -> None:
    assert check_binary("/x.exe", Binary("pe", ("amd64",)), ARM64, FakeFiles()) == []
    windows = Platform("windows", "arm64")
    assert kinds(check_binary("/x.exe", Binary("pe", ("amd64",)), windows, FakeFiles())) == ["machine"]
    portable = Binary("pe", ("386",), is_native=False)
    assert check_binary("/x.dll", portable, windows, FakeFiles()) == []


def test_loader_has_to_be_in_the_image() -> None:
    assert kinds(check_binary("/x", dynamic(), ARM64, FakeFiles())) == ["loader"]
    assert check_binary("/x", dynamic(), ARM64, FakeFiles("/lib/ld.so")) == []


@pytest.mark.parametrize(
    ("place", "search"),
    [
        ("/lib/a.so", ()),
        ("/usr/lib64/a.so", ()),
        ("/opt/lib/a.so", ()),
        ("/app/lib/a.so", ("$ORIGIN/../lib",)),
        ("/app/bin/a.so", ("${ORIGIN}",)),
        ("/strange/place/a.so", ()),
    ],
)
def test_libraries_are_found_where_the_loader_looks_or_a_start_script_may_point(
    place: str, search: tuple[str, ...]
) -> None:
    program = dynamic(needed=("a.so",), search=search)
    assert check_binary("/app/bin/x", program, ARM64, FakeFiles("/lib/ld.so", place)) == []


def test_missing_libraries_are_named() -> None:
    (found,) = check_binary(
        "/x", dynamic(needed=("a.so", "b.so")), ARM64, FakeFiles("/lib/ld.so", "/lib/a.so")
    )
    assert found == Finding("library", "/x", "it needs a library that is not in the image: b.so")


def library(*needed: str, search: tuple[str, ...] = ()) -> Binary:
    return Binary("elf", ("arm64",), needed=needed, search=search)


def test_what_libraries_need_in_turn_is_named_with_the_library_that_needs_it() -> None:
    files = FakeFiles("/lib/ld.so", "/lib/a.so", "/usr/lib/b.so", "/lib/c.so")
    files.libraries = {
        "/lib/a.so": library("b.so"),
        "/usr/lib/b.so": library("c.so", "gone.so", "a.so"),  # a circle
        "/lib/c.so": library("lost.so"),
    }
    (found,) = check_binary("/x", dynamic(needed=("a.so",)), ARM64, files)
    assert found.message == (
        "it needs libraries that are not in the image: gone.so (for /usr/lib/b.so), lost.so (for /lib/c.so)"
    )


def test_library_is_looked_for_where_the_one_that_needs_it_says() -> None:
    files = FakeFiles("/lib/ld.so", "/app/a.so", "/app/inner/b.so", "/lib/b.so")
    files.libraries = {
        "/app/a.so": library("b.so", search=("$ORIGIN/inner",)),
        "/app/inner/b.so": library("gone.so"),
    }
    program = dynamic(needed=("a.so",), search=("$ORIGIN",))
    (found,) = check_binary("/app/x", program, ARM64, files)
    assert found.message == "it needs a library that is not in the image: gone.so (for /app/inner/b.so)"


def test_needs_of_what_is_no_library_are_not_asked() -> None:
    assert check_binary("/x", dynamic(needed=("a.so",)), ARM64, FakeFiles("/lib/ld.so", "/lib/a.so")) == []


def command(files: FakeFiles, *argv: str, env: tuple[str, ...] = ()) -> list[Finding]:
    return check_command(argv, env=env, directory="/work", platform=ARM64, files=files)


def test_command_is_looked_for_as_a_runtime_would() -> None:
    program = tiny_executable("arm64")
    assert command(FakeFiles(heads={"/bin/app": program}), "app") == []
    assert command(FakeFiles(heads={"/opt/app": program}), "app", env=("PATH=/opt",)) == []
    assert command(FakeFiles(heads={"/work/app": program}), "./app") == []
    assert kinds(command(FakeFiles(), "app")) == ["command"]
    assert command(FakeFiles()) == []


def test_script_runs_if_its_interpreter_does() -> None:
    script = b"#!/bin/sh -e\n"
    assert command(FakeFiles(heads={"/a": script, "/bin/sh": tiny_executable("arm64")}), "/a") == []
    (foreign,) = command(FakeFiles(heads={"/a": script, "/bin/sh": tiny_executable("amd64")}), "/a")
    assert (foreign.path, "for amd64" in foreign.message) == ("/bin/sh", True)
    (missing,) = command(FakeFiles(heads={"/a": script}), "/a")
    assert (missing.path, "not in the image" in missing.message) == ("/bin/sh", True)
    assert command(FakeFiles(heads={"/a": b"#!/a\n"}), "/a") == []  # a circle ends


def test_command_has_to_be_executable_and_a_program_of_the_system() -> None:
    assert "not executable" in command(FakeFiles("/a", mode=0o644), "/a")[0].message
    assert "no program of linux/arm64" in command(FakeFiles(heads={"/a": pe(0xAA64)}), "/a")[0].message
