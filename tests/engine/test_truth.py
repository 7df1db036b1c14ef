"""The architecture check of whole builds: a corpus of seeded faults, and good images."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import tiny_executable
from anyarch.errors import BuildError, UsageError
from anyarch.solver.events import WarningEvent
from tests.engine.test_steps import SEVEN

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder, BuiltImage

pytestmark = pytest.mark.root

AMD64, ARM64 = tiny_executable("amd64"), tiny_executable("arm64")
TWO = ("linux/amd64", "linux/arm64")


def warnings(image: BuiltImage) -> list[WarningEvent]:
    return [
        event
        for event in image.events
        if isinstance(event, WarningEvent) and event.short.startswith("ArchCheck: ")
    ]


def texts(image: BuiltImage) -> list[str]:
    return [event.short.removeprefix("ArchCheck: ") for event in warnings(image)]


# seeded faults: (Dockerfile, what is said, the line that is named)
FAULTS = {
    "last stage on the build platform": (
        "FROM --platform=$BUILDPLATFORM busybox\nCMD [\"sh\"]\n",
        "linux/arm64: its base image is for linux/amd64",
        1,
    ),
    "wrong COPY": (
        "FROM busybox\nRUN true\nCOPY --chmod=755 amd64 /usr/bin/tool\n",
        "linux/arm64: /usr/bin/tool: it is for amd64, the image for linux/arm64",
        3,
    ),
    "wrong COPY with a link of its own": (
        "FROM busybox\nCOPY --link --chmod=755 amd64 /tool\n",
        "linux/arm64: /tool: it is for amd64",
        2,
    ),
    "wrong COPY from a stage": (
        "FROM --platform=$BUILDPLATFORM busybox AS b\nFROM scratch\nCOPY --from=b /bin/busybox /busybox\n",
        "linux/arm64: /busybox: it is for amd64",
        3,
    ),
    "wrong download": (
        "FROM scratch\nADD --chmod=755 amd64 /tool\nENTRYPOINT [\"/tool\"]\n",
        "linux/arm64: /tool: it is for amd64",
        2,
    ),
    "wrong library": (
        "FROM scratch\nCOPY amd64 /usr/lib/libx.so.1.2\n",
        "linux/arm64: /usr/lib/libx.so.1.2: it is for amd64",
        2,
    ),
    "missing loader": (
        "FROM scratch\nCOPY --chmod=755 dynamic /dynamic\n",
        "linux/amd64: /dynamic: its loader /lib64/ld-linux-x86-64.so.2 is not in the image",
        2,
    ),
    "missing library": (
        "FROM scratch\nCOPY --chmod=755 dynamic /dynamic\nCOPY amd64 /lib64/ld-linux-x86-64.so.2\n",
        "linux/amd64: /dynamic: it needs",
        2,
    ),
    "missing command": (
        "FROM busybox\nRUN true\nENTRYPOINT [\"/nowhere/app\"]\n",
        "/nowhere/app: it is the image's command, and is not in the image",
        0,
    ),
    "script without its interpreter": (
        "FROM scratch\nCOPY --chmod=755 script /script\nCMD [\"/script\"]\n",
        "/bin/bash: the image's command needs it, and it is not in the image",
        0,
    ),
    "command that is not executable": (
        "FROM scratch\nCOPY --chmod=644 script /script\nCMD [\"/script\"]\n",
        "/script: the image's command runs it, and it is not executable",
        2,
    ),
}  # fmt: skip


@pytest.fixture
def corpus(build: Builder) -> Builder:
    with open("/bin/ls", "rb") as file:
        dynamic = file.read()
    build.write({"amd64": AMD64, "dynamic": dynamic, "script": "#!/bin/bash\n" + "#" * 100})
    return build


@pytest.mark.emulation
@pytest.mark.parametrize("name", FAULTS)
def test_seeded_fault_is_found_with_its_line(corpus: Builder, name: str) -> None:
    dockerfile, said, line = FAULTS[name]
    platform = "linux/amd64" if said.startswith("linux/amd64") else "linux/arm64"

    image = corpus(dockerfile, platform=platform)

    assert [text for text in texts(image) if said in text], texts(image)
    (found,) = [event for event in warnings(image) if said in event.short]
    if line:
        assert found.lines == ((line, line),)
        assert f"Dockerfile:{line}" in found.short
        assert "layer " in found.short or "base image" in said


@pytest.mark.emulation
def test_nothing_is_found_in_good_images_of_seven_platforms(build: Builder) -> None:
    image = build(
        """
        FROM busybox AS tools
        RUN cp /bin/busybox /tool
        FROM busybox
        COPY --from=tools --chmod=755 /tool /usr/local/bin/tool
        RUN ln -s tool /usr/local/bin/alias && printf '#!/bin/sh\\n' > /start && chmod 755 /start
        WORKDIR /usr/local/bin
        ENTRYPOINT ["/start"]
        CMD ["tool"]
        """,
        platform=SEVEN,
    )
    assert texts(image) == []


def test_nothing_is_found_in_scratch_images_of_seven_platforms(scratch_build: Builder) -> None:
    files = {f"tool-{name}": tiny_executable(name.split("/")[1]) for name in SEVEN}
    scratch_build.write({name.replace("/", "-"): data for name, data in files.items()})
    image = scratch_build(
        "FROM scratch\nARG TARGETPLATFORM\nARG TARGETARCH\nARG TARGETVARIANT\n"
        "COPY --chmod=755 tool-linux-${TARGETARCH}${TARGETVARIANT:+-}${TARGETVARIANT} /tool\n"
        "ENTRYPOINT [\"/tool\"]\n",
        platform=SEVEN,
    )  # fmt: skip
    assert texts(image) == []


def test_dynamic_programs_of_a_real_system_are_complete(scratch_build: Builder) -> None:
    """ls, its loader and libraries as this machine has them."""
    import subprocess

    listed = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    paths = {word for word in listed.split() if word.startswith("/")}
    files: dict[str, bytes] = {"bin/ls": _content("/bin/ls")}
    for path in paths:
        files[path.lstrip("/")] = _content(path)
    scratch_build.write(files)

    image = scratch_build("FROM scratch\nCOPY --chmod=755 . /\nCMD [\"ls\"]\n")  # fmt: skip

    assert texts(image) == []


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_error_mode_fails_before_anything_leaves(corpus: Builder) -> None:
    with pytest.raises(BuildError, match="linux/arm64: /tool: it is for amd64") as caught:
        corpus("FROM scratch\nCOPY --chmod=755 amd64 /tool\n", platform=TWO, arch_check="error")

    assert caught.value.source is not None
    assert (caught.value.source.start, caught.value.platform) == (2, "linux/arm64")
    assert "--arch-check-allow" in (caught.value.hint or "")
    assert not list(corpus.directory.glob("out*/layout/index.json"))


def test_allowed_and_unchecked_files_are_not_told(corpus: Builder) -> None:
    text = "FROM scratch\nCOPY --chmod=755 amd64 /opt/foreign/tool\n"
    assert texts(corpus(text, platform="linux/arm64", arch_check_allow=("/opt/**/tool",))) == []
    assert texts(corpus(text, platform="linux/arm64", arch_check="off")) == []
    assert len(texts(corpus(text, platform="linux/arm64", arch_check_allow=("/opt/else",)))) == 1
    with pytest.raises(UsageError, match="'maybe'"):
        corpus(text, arch_check="maybe")


def test_finding_is_told_again_from_the_cache_without_reading_files(
    corpus: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "FROM scratch\nCOPY --chmod=755 amd64 /tool\n"
    first = texts(corpus(text, platform="linux/arm64"))

    def read(*_: object) -> None:
        raise AssertionError("a cached build looks into files")

    monkeypatch.setattr("anyarch.engine.truthfiles.inspect_image", read)
    assert texts(corpus(text, platform="linux/arm64")) == first != []


def test_file_that_a_later_step_replaced_is_not_told(corpus: Builder) -> None:
    corpus.write({"arm64": ARM64})
    image = corpus(
        "FROM scratch\nCOPY --chmod=755 amd64 /tool\nCOPY --chmod=755 arm64 /tool\n", platform="linux/arm64"
    )
    assert texts(image) == []


def test_file_that_a_later_step_removed_is_not_told(corpus: Builder) -> None:
    image = corpus(
        "FROM busybox\nCOPY --chmod=755 amd64 /tool\nRUN rm /tool\n",
        platform="linux/arm64",
        arch_check="error",
    )
    assert texts(image) == []


@pytest.mark.parametrize(
    ("name", "program", "platform", "said"),
    [
        ("float ABI", "arm-hard", "linux/arm/v5", "hard float ABI"),
        ("byte order", "ppc64", "linux/ppc64le", "it is for ppc64, the image for linux/ppc64le"),
        ("class", "arm64", "linux/arm/v7", "it is for arm64"),
        ("a PE program of another machine", "pe-amd64", "windows/arm64", "it is for amd64"),
        ("a Mach-O program of another machine", "macho-amd64", "darwin/arm64", "it is for amd64"),
    ],
)
def test_wrong_machine_is_found_by_every_part_of_the_header(
    scratch_build: Builder, name: str, program: str, platform: str, said: str
) -> None:
    image = scratch_build(
        "FROM scratch\nCOPY --chmod=755 file /bin/tool.exe\n",
        files={"file": _program(program)},
        platform=platform,
    )
    assert [text for text in texts(image) if said in text], (name, texts(image))


@pytest.mark.parametrize("program", ["pe-amd64", "macho-amd64"])
def test_command_of_another_system_is_found(scratch_build: Builder, program: str) -> None:
    image = scratch_build(
        'FROM scratch\nCOPY --chmod=755 file /tool\nCMD ["/tool"]\n',
        files={"file": _program(program)},
        platform="linux/amd64",
    )
    assert any("it is no program of linux/amd64" in text for text in texts(image)), texts(image)


def _program(name: str) -> bytes:
    """A file whose headers say what `name` says."""
    import struct

    match name:
        case "arm-hard":
            # The smallest program, with the flag of hard floats and a segment that makes it dynamic.
            raw = bytearray(tiny_executable("arm"))
            raw[36:40] = struct.pack("<I", 0x05000400)
            raw[28:32], raw[44:46] = struct.pack("<I", len(raw)), struct.pack("<H", 1)
            interpreter = b"/lib/ld-linux-armhf.so.3\0"
            start = len(raw) + 32
            raw += struct.pack("<8I", 3, start, 0, 0, len(interpreter), len(interpreter), 4, 1) + interpreter
            return bytes(raw)
        case "pe-amd64":
            coff = struct.pack("<HHIIIHH", 0x8664, 0, 0, 0, 0, 240, 0)
            return (
                b"MZ"
                + bytes(58)
                + struct.pack("<I", 64)
                + b"PE\0\0"
                + coff
                + struct.pack("<H", 0x20B)
                + bytes(238)
            )
        case "macho-amd64":
            return b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x01000007) + bytes(120)
    return tiny_executable(name)


def test_nothing_is_found_in_a_whole_debian_system(scratch_build: Builder, cache_directory: Path) -> None:
    from anyarch.testing.debian_images import debian_context

    (archive,) = debian_context(cache_directory).glob("*.tar")
    shutil.copy(archive, scratch_build.context)
    image = scratch_build(f'FROM scratch\nADD {archive.name} /\nCMD ["bash"]\n')
    assert texts(image) == []
