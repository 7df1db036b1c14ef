"""Wrong command lines, contexts and Dockerfiles: nothing is fetched or run, one paragraph says why."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import anyarch as package
from anyarch.testing.ordinary_user import as_ordinary_user

if TYPE_CHECKING:
    from tests.failures.conftest import Machine

SOURCE = Path(package.__file__).parents[1]
PYTHON = Path(os.path.realpath(os.__file__)).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--platform", "linux/adm64"], 'unknown platform linux/adm64.*"adm64"', "did you mean linux/arm64"),
        (["--platform", "linux/a/b/c"], "'linux/a/b/c' is an invalid platform", "linux/arm/v7"),
        (["--platform", "linux/amd64,,linux/386"], "empty platform", "os/arch"),
        (["--platform", "linux/amd64 linux/386"], "invalid", "os/arch"),
        (["--platfrom", "linux/amd64"], "unknown flag: --platfrom", "--platform"),
        (["-t"], "requires 1 argument", "context"),
        (["another"], "requires 1 argument", "one too many"),
        (["--progress", "fancy"], "fancy", "plain"),
        (["--no-cache=perhaps"], "perhaps", "true"),
        (["-t", "Upper/Case"], 'invalid tag "Upper/Case".*lower case', "upper/case"),
        (["-t", "a:b:c"], 'invalid tag "a:b:c"', "letters"),
        (["-t", "name@sha256:" + "0" * 64], "digest cannot be chosen", "repository"),
        (["--push"], "tag is needed when pushing", "-t "),
        (["--build-arg", "=x"], 'invalid key-value pair "=x"', None),
        (["--output", "type=nothing"], 'exporter "nothing"', "image, registry, oci"),
        (["--output", "type=oci,dest"], "dest", "key=value"),
        (["--output", 'type=oci,"dest=x'], "closing", None),
        (["--output", "type=oci,dest=context"], "context is a directory", "name a file"),
        (["--output", "type=oci,dest=context/file/a/x.tar"], "context/file is not a directory", None),
        (["--output", "type=oci,dest=x,compression=lzma"], "lzma", "gzip, estargz, zstd"),
        (["--output", "type=oci,dest=x,compression-level=99"], "compression-level 99", "0 to 9"),
        (["--output", "type=oci,dest=x,compresion=gzip"], "'compresion'", "compression"),
        (["--output", "type=oci,dest=x,tar=perhaps"], "'perhaps'", "true or false"),
        (["--output", "context/file"], "context/file is a file", "another name"),
        (["--output", "type=tar", "--output", "-"], "multiple outputs", None),
        (["--output", "type=docker,dest=x", "--platform", "linux/amd64,linux/386"], "manifest lists", "oci"),
        (["--network", "bridge"], "bridge", "default, none, host"),
        (["--target", "nothing"], 'target stage "nothing"', "stage-0"),
        (["--file", "nowhere"], "open nowhere: no such file", "relative"),
        (["--file", "context"], "context is a directory", "context/Dockerfile"),
        (["--iidfile", "none/id"], "none/id", "image itself was built"),
        (["--metadata-file", "none/m"], "none/m", "image itself was built"),
        (["--build-arg", "SOURCE_DATE_EPOCH=soon"], "soon", "seconds"),
        (["--shm-size", "much"], "much", None),
        (["--ulimit", "nofile"], "nofile", None),
        (["--add-host", "here"], "here", None),
    ],
)
def test_wrong_arguments_of_build(
    anyarch: Machine, arguments: list[str], message: str, hint: str | None
) -> None:
    anyarch.build(*arguments).check(message, hint=hint)


@pytest.mark.parametrize(
    ("arguments", "status", "message", "hint"),
    [
        (["biuld", "."], 1, "biuld", "did you mean build"),
        (["build"], 1, "requires 1 argument", r"anyarch build \."),
        (["build", "nowhere"], 1, 'path "nowhere" not found', "directory"),
        (["build", "context/file"], 1, "context/file.* is not a directory", "standard input"),
        (["build", "empty"], 1, "open Dockerfile: no such file", "-f"),
        (["build", "-"], 1, "standard input is empty", "Dockerfile"),
        (["build", "-f", "-", "-"], 1, "both build context and dockerfile", "-f"),
        (["run"], 125, "requires at least 1 argument", None),
        (["run", "--platform", "linux/nothing", "x"], 125, "linux/nothing", "linux/amd64"),
        (["run", "Upper"], 125, "lower case", "upper"),
        (["run", "./empty"], 125, "empty", None),
        (["imagetools", "inspect", "a b"], 1, "a b", None),
        (["imagetools"], 0, "", None),
    ],
)
def test_wrong_command_lines(
    anyarch: Machine, arguments: list[str], status: int, message: str, hint: str | None
) -> None:
    (anyarch.directory / "empty").mkdir()
    answer = anyarch(*arguments)
    if status == 0:
        assert (answer.status, answer.errors) == (0, "")
        return
    answer.check(message, status=status, hint=hint)


@pytest.mark.parametrize(
    ("dockerfile", "line", "message", "hint"),
    [
        ("", 0, "cannot be empty", None),
        ("# nothing\n", 0, "file with no instructions", None),
        ("RUN true\n", 1, "no build stage", "FROM"),
        ("FROM scratch\nCOPPY a /\n", 2, "unknown instruction: COPPY.*COPY", None),
        ("FROM scratch\nCOPY --cown=1 a /\n", 2, "unknown flag: --cown", None),
        ("FROM scratch\nCOPY a\n", 2, "COPY", None),
        ("FROM scratch\nCOPY nothing /\n", 2, '"/nothing": not found', "build context"),
        ("FROM scratch\nCOPY hidden /\n", 2, '"/hidden": not found', ".dockerignore leaves it out"),
        ("FROM scratch\nCOPY ../file /up/\nCOPY ../x /\n", 3, '"/x": not found', "build context"),
        ("FROM scratch\nCOPY loop /\n", 2, "loop: too many levels of symbolic links", None),
        (
            "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nFROM a\n",
            2,
            'cannot copy from stage "b", it needs to be defined before',
            None,
        ),
        ("FROM $NOTHING\n", 1, "should not be blank", "ARG"),
        ("FROM Scratch/UPPER\n", 1, "lower case", "upper"),
        ("FROM busybox@sha256:0123\n", 1, "invalid digest", "64"),
        ("FROM --platform=linux/nothing/at/all scratch\n", 1, "linux/nothing/at/all", None),
        ("FROM scratch\nENV\n", 2, "ENV", None),
        ("FROM scratch\nEXPOSE 70000\n", 2, "70000", None),
        ("FROM scratch\nHEALTHCHECK --interval=often CMD x\n", 2, "often", None),
        ("FROM scratch\nRUN --mount=type=nothing true\n", 2, "nothing", None),
        ("FROM scratch\nRUN <<EOF\ntrue\n", 2, "EOF|here", None),
        ("FROM scratch\nADD --checksum=md5:1 http://x.invalid/x /\n", 2, "checksum|digest", None),
        ("FROM scratch\nRUN --security=insecure true\n", 2, "insecure", "--allow"),
        ("FROM scratch\nCOPY file /\x00\n", 2, "NUL", "UTF-8"),
        (os.urandom(0) + b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8, 1, "", None),
    ],
)
def test_wrong_dockerfiles(
    anyarch: Machine, dockerfile: str | bytes, line: int, message: str, hint: str | None
) -> None:
    anyarch.dockerfile(dockerfile)
    (anyarch.context / "hidden").write_text("x")
    (anyarch.context / ".dockerignore").write_text("hidden\n")
    (anyarch.context / "loop").symlink_to("loop")
    answer = anyarch.build("--output", "type=cacheonly")
    answer.check(message, hint=hint)
    if line:
        assert f"Dockerfile:{line}\n" in answer.errors
        assert f" {line:3d} | >>> " in answer.errors


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"\x1f\x8b\x08\x00 this is no gzip stream", "damaged|invalid|truncated|corrupt|incomplete"),
        (b"\x28\xb5\x2f\xfd not zstd", "damaged|invalid|truncated|corrupt|incomplete"),
        (b"BZh9 neither", "damaged|invalid|truncated|corrupt|incomplete"),
        (b"\xfd7zXZ\x00 nor this", "damaged|invalid|truncated|corrupt|incomplete"),
    ],
)
def test_damaged_archives_on_standard_input(anyarch: Machine, archive: bytes, message: str) -> None:
    anyarch("build", "--output", "type=cacheonly", "-", stdin=archive).check(message, hint=None)


def test_an_archive_that_breaks_off(anyarch: Machine) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(anyarch.context, ".")
    whole = buffer.getvalue()
    answer = anyarch("build", "--output", "type=cacheonly", "-", stdin=whole[:1200])
    answer.check("truncated|breaks off|ends|incomplete", hint=None)
    assert anyarch("build", "--output", "type=cacheonly", "-", stdin=whole).status == 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_the_user_may_not_read_in_the_context(anyarch: Machine, kind: str) -> None:
    secret = anyarch.context / "secret"
    if kind == "file":
        secret.write_text("x")
    else:
        secret.mkdir()
        (secret / "x").write_text("x")
    secret.chmod(0)
    anyarch.dockerfile("FROM scratch\nCOPY . /\n")
    anyarch.store.mkdir()
    shutil.chown(anyarch.store, 65534, 65534)
    anyarch.directory.chmod(0o755)
    arguments = ("--output", "type=cacheonly")
    wrapped = as_ordinary_user([], needs=[anyarch.directory, SOURCE, PYTHON])
    answer = anyarch.build(*arguments, wrapped=wrapped)
    answer.check("secret", "[Pp]ermission denied", hint="dockerignore")
    (anyarch.context / ".dockerignore").write_text("secret\n")
    assert anyarch.build(*arguments, wrapped=wrapped).status == 0


def test_sockets_and_pipes_in_the_context_do_not_stop_a_build(anyarch: Machine) -> None:
    os.mkfifo(anyarch.context / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(anyarch.context)  # its path may be longer than a socket's may be
    try:
        listening.bind("socket")
    finally:
        os.chdir(here)
    anyarch.dockerfile("FROM scratch\nCOPY . /\n")
    assert anyarch.build("--output", "type=cacheonly").status == 0
    listening.close()
