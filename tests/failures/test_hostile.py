"""Inputs that mean harm or are out of all proportion: archives, names, links, sizes."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.failures.conftest import Machine

OUTPUT = ("--output", "type=cacheonly")


def member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


DOCKERFILE = member("Dockerfile", b"FROM scratch\nCOPY . /all/\n")


def below(directory: Path) -> set[str]:
    """All names in the directory of the test but those of the store and the result."""
    return {
        str(path)
        for top in directory.iterdir()
        if top.name not in ("store", "out")
        for path in (top, *top.rglob("*"))
    }


@pytest.mark.parametrize(
    "members",
    [
        [member("/absolute", b"x")],
        [member("../above", b"x")],
        [member("a/../../../above", b"x")],
        [link("out", "../.."), member("out/planted", b"x")],
        [link("out", "/"), member("out/tmp/planted-by-a-test", b"x")],
        [link("a", "b"), link("b", "a"), member("a/x", b"x")],
        [link("hard", "/etc/passwd", tarfile.LNKTYPE)],
        [link("hard", "../../../../../../etc/passwd", tarfile.LNKTYPE)],
        [link("hard", "hard", tarfile.LNKTYPE)],
        [member("device", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
        [member("x", b"file"), member("x/y", b"below a file")],
        [member("d", type=tarfile.DIRTYPE), member("d", b"now a file")],
        [member("Dockerfile", type=tarfile.DIRTYPE)],
        [member("a" * 5000, b"x")],
        [member("/".join(["d"] * 500) + "/f", b"x")],
        [member("nul\0name", b"x")],
        [member(".wh.Dockerfile", b""), member(".wh..wh..opq", b"")],
    ],
    ids=[
        "absolute", "above", "far above", "link out", "link to the root", "link loop", "hard link out",
        "hard link far out", "hard link to itself", "device", "file as directory", "directory then file",
        "Dockerfile is a directory", "long name", "deep", "NUL", "whiteouts",
    ],
)  # fmt: skip
def test_archives_as_context_stay_inside(
    anyarch: Machine, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    before = below(anyarch.directory)
    passwd = os.stat("/etc/passwd")
    answer = anyarch("build", "--output", "out", "-", stdin=archive(DOCKERFILE, *members))
    if answer.status:
        answer.check("", hint=None)
    assert "Traceback" not in answer.errors
    assert below(anyarch.directory) == before
    assert not os.path.exists("/tmp/planted-by-a-test")
    assert os.stat("/etc/passwd").st_nlink == passwd.st_nlink


@pytest.mark.parametrize(
    "raw",
    [
        archive(DOCKERFILE)[:257] + b"ustar\0" + b"\xff" * 1300,
        archive(DOCKERFILE, member("x", b"y" * 600)).replace(b"00000001130\0", b"77777777777\0", 1),
        archive(member("Dockerfile", b"FROM scratch\n"), form=tarfile.GNU_FORMAT).replace(
            b"0000644\0", b"99999zz\0", 1
        ),
    ],
    ids=["binary", "size", "mode"],
)
def test_archives_with_impossible_headers(anyarch: Machine, raw: bytes) -> None:
    answer = anyarch("build", *OUTPUT, "-", stdin=raw)
    answer.check("", hint=None)


def test_an_archive_that_unpacks_to_more_than_it_says_takes_no_memory(anyarch: Machine) -> None:
    """A gigabyte of zeros in a megabyte, with less memory than that."""
    import gzip

    info = tarfile.TarInfo("zeros")
    info.size = 1 << 30
    packed = io.BytesIO()
    dockerfile, text = member("Dockerfile", b"FROM scratch\nCOPY Dockerfile /\n")
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        stream.write(dockerfile.tobuf(tarfile.PAX_FORMAT) + text.ljust(512, b"\0"))
        stream.write(info.tobuf(tarfile.PAX_FORMAT))
        block = bytes(1 << 20)
        for _ in range(1 << 10):
            stream.write(block)
        stream.write(bytes(1024))
    answer = anyarch("build", *OUTPUT, "-", stdin=packed.getvalue(), shell=f"ulimit -v {700 << 10}\n")
    assert answer.status == 0, answer.errors


def test_names_that_are_not_utf_8_are_files_like_others(anyarch: Machine) -> None:
    name = b"caf\xe9-\xff\xfe"
    (anyarch.context / "d").mkdir()
    path = os.path.join(os.fsencode(anyarch.context), b"d", name)
    with open(path, "wb") as file:
        file.write(b"1")
    anyarch.dockerfile(b"FROM scratch\nCOPY d /d\nCOPY d/" + name + b" /" + name + b"\n")
    answer = anyarch.build("--output", "out", "--output", "type=oci,dest=image.tar")
    assert answer.status == 0, answer.errors
    root = os.path.join(os.fsencode(anyarch.directory), b"out")
    assert os.listdir(os.path.join(root, b"d")) == [name]
    assert name in os.listdir(root)
    # What is wrong with such a name is told too.
    answer = anyarch.build("--file", os.fsdecode(path), *OUTPUT)
    answer.check("parse error|unknown instruction", hint=None)
    anyarch.build("-t", os.fsdecode(name), *OUTPUT).check("invalid tag", hint=None)


def test_names_with_control_characters_do_not_reach_the_terminal(anyarch: Machine) -> None:
    anyarch.dockerfile("FROM scratch\nCOPY \x1b]0;title\x07\x1b7x /\n")
    answer = anyarch.build(*OUTPUT)
    answer.check("not found", hint=None)
    assert "\x1b" not in answer.paragraph


OTHER_BYTES = [
    b"ARG a=\xe9", b"ENV a=\xe9 \xe9=1", b"LABEL \xe9=\xe9", b"WORKDIR /\xe9", b"USER \xe9", b"VOLUME /\xe9",
    b"EXPOSE \xe9", b"CMD \xe9", b'ENTRYPOINT ["\xe9"]', b'SHELL ["\xe9"]', b"STOPSIGNAL \xe9",
    b"HEALTHCHECK CMD \xe9", b"ONBUILD RUN \xe9", b"MAINTAINER \xe9", b"COPY --chown=\xe9 file /",
    b"COPY --from=\xe9 file /", b"COPY --exclude=\xe9 . /x/", b"COPY --link file /\xe9", b"COPY \xe9* /",
    b"COPY <<\xe9 /\xe9\n\xe9\n\xe9", b"ADD http://127.0.0.1:1/\xe9 /", b"ADD file /\xe9", b"RUN \xe9",
    b"RUN --mount=type=cache,target=/\xe9 true", b"RUN --mount=type=bind,from=\xe9 true", b"FROM \xe9",
    b"FROM scratch AS \xe9", b"\xe9 x", b"# \xe9\n# check=skip=\xe9\nLABEL a b",
]  # fmt: skip


@pytest.mark.parametrize("line", OTHER_BYTES, ids=ascii)
def test_other_bytes_than_utf_8_are_taken_or_refused_anywhere(anyarch: Machine, line: bytes) -> None:
    anyarch.dockerfile(b"FROM scratch\n" + line + b"\n")
    answer = anyarch.build("--output", "type=oci,dest=image.tar")
    if answer.status:
        answer.check("", hint=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM scratch\nLABEL a=" + "x" * 70_000 + "\n", "65535|65 535|too long"),
        ("FROM scratch\nENV a=" + "${a:-" * 13_000 + "\n", "nest|deep|substitution|unterminated|missing"),
        ("FROM scratch\nENV a=" + "${a:-" * 9_000 + "x" + "}" * 9_000 + "\n", "nest|deep"),
        ("FROM scratch\nSHELL " + "[" * 30_000 + "\n", "JSON"),
        ("FROM scratch\n" + "ONBUILD " * 8000 + "RUN x\n", "ONBUILD"),
        ("FROM scratch\nEXPOSE 1-65535\nEXPOSE 1-65536\n", "65536"),
        ("FROM scratch\nCOPY --from=99999999999999999999 a b\n", "99999999999999999999"),
        ("FROM scratch\nHEALTHCHECK --retries=99999999999999999999 CMD x\n", "99999999999999999999"),
        ("FROM scratch\nRUN --mount=type=tmpfs,target=/x,size=99999999999999999999g true\n", "9999|size"),
        ("FROM scratch\nRUN <<" + "A" * 60_000 + "\n", "unterminated|heredoc"),
        ("# escape=" + "x" * 60_000 + "\nFROM scratch\n", "escape"),
        ("FROM scratch AS " + "a" * 60_000 + "!\n", "name"),
        ("FROM " + "a/" * 30_000 + "b\n", "reference|name|128|255"),
    ],
    ids=[
        "line", "open expansions", "nested expansions", "json", "onbuild", "ports", "stage", "retries",
        "size", "heredoc", "escape", "name", "reference",
    ],
)  # fmt: skip
def test_dockerfiles_out_of_proportion(anyarch: Machine, text: str, message: str) -> None:
    anyarch.dockerfile(text)
    answer = anyarch.build(*OUTPUT)
    answer.check(message, hint=None)
    assert len(answer.paragraph) < 300_000


def test_a_dockerfile_of_many_megabytes_is_read_or_refused(anyarch: Machine) -> None:
    anyarch.dockerfile(
        "FROM scratch\n" + "# a comment of eighty characters, to make this file large ......\n" * 200_000
    )
    answer = anyarch.build(*OUTPUT)
    if answer.status:
        answer.check("too large|bytes|size", hint=None)


@pytest.mark.parametrize("pattern", ["[", "a[", "\\", "!", "[]", "[a-", "**[", "a" * 100_000 + "["])
def test_ignore_files_that_cannot_be_read(anyarch: Machine, pattern: str) -> None:
    (anyarch.context / ".dockerignore").write_text(f"ok\n{pattern}\n")
    answer = anyarch.build(*OUTPUT)
    if answer.status:
        answer.check("pattern|syntax|ignore file", hint=None)


def test_an_ignore_file_of_many_patterns(anyarch: Machine) -> None:
    lines = [f"**/*x{number}*/**/y?" for number in range(3000)]
    (anyarch.context / ".dockerignore").write_text("\n".join(lines))
    assert anyarch.build(*OUTPUT).status == 0


def test_links_in_the_context_do_not_lead_out_of_it(anyarch: Machine) -> None:
    (anyarch.directory / "outside").write_text("secret\n")
    (anyarch.context / "file").unlink()
    (anyarch.context / "file").symlink_to("../outside")
    (anyarch.context / "up").symlink_to("..")
    anyarch.dockerfile("FROM scratch\nCOPY file /a\n")
    anyarch.build(*OUTPUT).check("file", "not found", hint=None)
    anyarch.dockerfile("FROM scratch\nCOPY up/outside /a\n")
    anyarch.build(*OUTPUT).check("outside", "not found", hint=None)
    # A Dockerfile of the user's that is a link out of the context is the user's own wish.
    (anyarch.directory / "elsewhere").write_text("FROM scratch\nWORKDIR /x\n")
    (anyarch.context / "Dockerfile").unlink()
    (anyarch.context / "Dockerfile").symlink_to("../elsewhere")
    answer = anyarch.build(*OUTPUT)
    if answer.status:
        answer.check("Dockerfile", hint=None)


@pytest.mark.root
@pytest.mark.parametrize("place", ["store", "output"])
def test_a_full_disk_is_told_and_loses_nothing(anyarch: Machine, place: str) -> None:
    (anyarch.context / "file").write_bytes(os.urandom(8 << 20))
    full = anyarch.directory / "full"
    full.mkdir()
    target = full / "image.tar" if place == "output" else anyarch.directory / "image.tar"
    environment = {"ANYARCH_ROOT": str(full / "store")} if place == "store" else {}
    answer = anyarch.build(
        "--output",
        f"type=oci,dest={target}",
        shell=f"mount -t tmpfs -o size=4m tmpfs {full}",
        environment=environment,
    )
    answer.check("[Nn]o space left on device", hint="free some space")
    assert not target.exists()
    assert anyarch.build("--output", f"type=oci,dest={target}").status == 0
