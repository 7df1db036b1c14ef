"""The dispatcher's code does the same on each machine that it is made for: amd64 as it is, arm64 under QEMU.

A static busybox called `echo` stands for the emulator: it prints what it would have been given. Another, for
this machine, is the twin.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from anyarch.emulation.accelerate.configuration import offloading_rules
from anyarch.emulation.accelerate.dispatcher import (
    ARGUMENT,
    ELSEWHERE,
    ENVIRONMENT,
    FAILED,
    GONE,
    INPUT,
    PAGE,
    PLUGINS,
    RAN,
    REPLACED,
    ArgumentRule,
    Condition,
    EnvironmentRule,
    Place,
    Twin,
    identity,
    read_log,
)
from anyarch.emulation.accelerate.machine_code import dispatcher
from anyarch.testing.debian_images import busybox_context

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.emulation]

ENVIRONMENT_RULES = (EnvironmentRule("LD_PRELOAD=", ("",)), EnvironmentRule("LANG=", ("", "C", "C.UTF-8")))
CONDITIONS = (
    Condition(("GOOS=linux", "GOARCH="), ENVIRONMENT_RULES, "build"),
    Condition(rules=(*ENVIRONMENT_RULES, EnvironmentRule("GO"))),
)
GIVEN = tuple(Condition(rules=ENVIRONMENT_RULES, first="make", given=given) for given in ("-target", "--as="))
ARGUMENT_RULES = (
    ArgumentRule("next", "-plugin", "/own.so"),
    ArgumentRule("swap", "/own.so", "/native.so"),
    ArgumentRule("swap", "/bin/cat", "echo"),
    ArgumentRule("accept", "--version-script"),
    ArgumentRule("refuse", "--version"),
    ArgumentRule("refuse", "-march=native"),
    ArgumentRule("refuse", "@"),
    ArgumentRule("end", ".zig"),
    *offloading_rules("aarch64-linux-gnu", "14"),
)
NAMES = (
    Condition(rules=ENVIRONMENT_RULES, names=("sh", "[", "cat"), wrapper="many"),
    Condition(("LATER=",), names=("later",)),
)
CALLED = ("sh", "/bin/sh", "-sh", "-/bin/sh", "/a/b/[", "many", "/bin/many", "later")
PROGRAM = bytes(range(256)) * 32
MANY = PROGRAM[::-1]
FIXED = PROGRAM[1:] + PROGRAM[:1]
TRIED = PROGRAM[2:] + PROGRAM[:2]
READING = PROGRAM[3:] + PROGRAM[:3]
LOADING = PROGRAM[4:] + PROGRAM[:4]
# a directory whose files are loaded: with one that is known, or with none
WITH = (Place("/load", ("one.so", "two.so")), Place("/load/one.so", files=((3, 7), (5, 1 << 33))))
PLACES = (
    Condition(("A=",), places=WITH),
    Condition(("B=",), places=WITH),
    Condition(("B=",), places=(Place("/load"), Place("/more", ("x",)))),
)
GIVEN_ONE = PROGRAM[5:] + PROGRAM[:5]
CAREFUL = PROGRAM[6:] + PROGRAM[:6]


class Root:
    """A root directory with an emulator that has the dispatcher, and a program that has a twin."""

    def __init__(self, directory: Path, host: str, emulator: bytes, native: bytes) -> None:
        self.directory = directory
        self.host = host
        for name in ("bin", "dev/mqueue/t"):
            (directory / name).mkdir(parents=True)
        self.program = directory / "bin/program"
        self.write(self.program, PROGRAM)
        self.write(directory / "dev/mqueue/t/echo", native)
        found = identity(PROGRAM, size=len(PROGRAM), mtime=1000)
        assert found is not None
        others = [
            Twin(f"/bin/other{number}", "t/other", (found.__class__(1, number, 3),)) for number in range(50)
        ]
        twin = Twin("/bin/program", "t/echo", (found,), CONDITIONS, ARGUMENT_RULES, ("-end", "all"))
        self.write(directory / "bin/many", MANY)
        again = identity(MANY, size=len(MANY), mtime=1000)
        assert again is not None
        # it tells its arguments where it is called `echo`, whatever it is told to be called
        swaps = tuple(ArgumentRule("swap", name, "echo") for name in CALLED)
        many = Twin("/bin/many", "t/echo", (again,), NAMES, swaps, ("-end",))
        self.write(directory / "bin/fixed", FIXED)
        fixed = identity(FIXED, size=len(FIXED), mtime=1000)
        assert fixed is not None
        there = Twin("/bin/fixed", "t/echo", (fixed,), (Condition(here=True),), append=("-end",))
        self.write(directory / "bin/given", GIVEN_ONE)
        given = identity(GIVEN_ONE, size=len(GIVEN_ONE), mtime=1000)
        assert given is not None
        told = Twin("/bin/given", "t/echo", (given,), GIVEN)
        else_told = Twin("/bin/given", "t/echo", (given,), append=("-end",))
        self.write(directory / "dev/mqueue/t/sh", native)
        self.write(directory / "bin/tried", TRIED)
        tried = identity(TRIED, size=len(TRIED), mtime=1000)
        assert tried is not None
        shell = Twin("/bin/tried", "t/sh", (tried,), trial="no more is needed\n")
        self.write(directory / "bin/reading", READING)
        reading = identity(READING, size=len(READING), mtime=1000)
        assert reading is not None
        rules = tuple(rule for rule in ARGUMENT_RULES if rule.text != "@")
        reader = Twin("/bin/reading", "t/echo", (reading,), (), rules, ("-end",), expands=True)
        self.write(directory / "bin/loading", LOADING)
        loading = identity(LOADING, size=len(LOADING), mtime=1000)
        assert loading is not None
        loaders = [
            Twin("/bin/loading", "t/echo", (loading,), (one,), append=(f"-{number}",))
            for number, one in enumerate(PLACES)
        ]
        self.write(directory / "bin/careful", CAREFUL)
        careful = identity(CAREFUL, size=len(CAREFUL), mtime=1000)
        assert careful is not None
        reluctant = Twin(
            "/bin/careful", "t/echo", (careful,), append=("-end",), without=("view -0", "a text of 16 by.")
        )
        twins = [*others, twin, many, there, shell, reader, *loaders, told, else_told, reluctant]
        self.write(directory / "bin/echo", dispatcher(emulator, twins, host=host))
        if host != "amd64":
            shutil.copy("/usr/bin/qemu-aarch64-static", directory / "bin/qemu")
        self.log = directory / "dev/mqueue/log"
        self.log.touch()
        self.number, self.many, self.fixed = (len(others) + more for more in range(3))
        self.count = len(twins)

    def write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        path.chmod(0o755)
        os.utime(path, (1000, 1000))

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        path: str = "/bin/program",
        name: str = "echo",
        stdin: int = subprocess.DEVNULL,
    ) -> str:
        """What is printed when the kernel starts the emulator for `path`, as flag P of binfmt_misc has it."""
        done = subprocess.run(
            self.command(path, name, *arguments),
            env=dict(env or {}),
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def command(self, *arguments: str) -> list[str]:
        before = ["/bin/qemu", "-0", "/bin/echo"] if self.host != "amd64" else []
        return ["/usr/sbin/chroot", str(self.directory), *before, "/bin/echo", *arguments]

    def run_tried(self, script: str) -> tuple[str, str, int]:
        """Output, error output and exit code of what is tried."""
        command = self.command("/bin/tried", "sh", "-c", script)
        done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
        return done.stdout, done.stderr, done.returncode

    def verdicts(self) -> dict[int, int]:
        """Of the one program that was run since the last call."""
        found = read_log(self.log.read_bytes(), self.count)
        self.log.write_bytes(b"")
        assert len(found) <= 1
        return next(iter(found.values()), {})


@pytest.fixture(params=["amd64", "arm64"])
def root(request: pytest.FixtureRequest, tmp_path: Path, cache_directory: Path) -> Root:
    context = busybox_context(cache_directory)
    raw = {}
    for architecture in ("amd64", request.param):
        with tarfile.open(context / f"rootfs-{architecture}.tar") as files:
            content = files.extractfile("bin/busybox")
            assert content is not None
            raw[architecture] = content.read()
    return Root(tmp_path / "root", request.param, raw[request.param], raw["amd64"])


EMULATED = "/bin/program echo"
TEXT = b"view -0"


def test_a_known_program_is_its_twin(root: Root) -> None:
    assert root.run("a", "", "b c") == "a  b c -end all"
    assert root.run() == "-end all"
    assert root.run("-plugin", "/own.so", "x") == "-plugin /native.so x -end all"
    assert root.verdicts() == {RAN: 3}


def test_what_is_accepted_is_not_refused_by_a_shorter_rule(root: Root) -> None:
    script = "--version-script=a.map"
    assert root.run(script, "-plugin", "/own.so") == f"{script} -plugin /native.so -end all"
    assert root.run(script, "--version") == f"{EMULATED} {script} --version"
    assert root.verdicts() == {RAN: 1, ARGUMENT: 1}


def test_what_an_argument_may_not_end_with_may_be_in_it(root: Root) -> None:
    arguments = ("a.zig.c", ".zi", "zig", "a.zigs", "", "-plugin", "/own.so")
    assert root.run(*arguments) == "a.zig.c .zi zig a.zigs  -plugin /native.so -end all"


def test_the_name_that_it_is_called_by_can_become_another(root: Root) -> None:
    assert root.run("x", "/bin/cat", name="/bin/cat") == "x echo -end all"
    assert root.run("-march=native", name="/bin/cat") == "/bin/program /bin/cat -march=native"


def test_many_and_long_arguments_reach_the_twin(root: Root) -> None:
    arguments = [f"{number}" * 20 for number in range(2000)] + ["x" * 100_000]

    assert root.run(*arguments) == " ".join([*arguments, "-end all"])


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("a", "-march=native"), {}),
        (("@file",), {}),
        (("-plugin", "/other.so"), {}),
        (("-plugin",), {}),
        (("-march=native-and-more",), {}),
        (("a.c", "b.zig.zig"), {}),
        ((".zig",), {}),
    ],
)
def test_arguments_that_stand_in_the_way_leave_it_to_the_emulator(
    root: Root, arguments: tuple[str, ...], env: dict[str, str]
) -> None:
    assert root.run(*arguments, env=env) == " ".join([EMULATED, *arguments])
    assert root.verdicts() == {ARGUMENT: 1}


def read(root: Root, text: str | bytes, *arguments: str) -> tuple[str, dict[int, int]]:
    """What a program that knows files of arguments gets where `/file` has this text; and the verdict."""
    (root.directory / "file").write_bytes(text.encode() if isinstance(text, str) else text)
    return root.run(*(arguments or ("before", "@/file", "behind")), path="/bin/reading"), root.verdicts()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-O2 -DX=1\n", "-O2 -DX=1 "),
        (" \t\v\f\r\n a\n\n b", "a b "),
        ("", ""),
        (" \n ", ""),
        ("x", "x "),
        ("-plugin /own.so other.o a@b", "-plugin /native.so other.o a@b "),
        ("-fopenmp-simd " * 9000, "-fopenmp-simd " * 9000),
    ],
)
def test_a_twin_gets_the_words_of_a_file_of_arguments(root: Root, text: str, words: str) -> None:
    assert read(root, text) == (f"before {words}behind -end", {RAN: 1})


def test_several_files_stand_where_they_are_named(root: Root) -> None:
    (root.directory / "other").write_text("c\nd\n")
    found = read(root, "a b", "@/file", "-m", "@/other", "@/file", "/own.so", "@file")
    assert found == ("a b -m c d a b /native.so a b -end", {RAN: 1})


@pytest.mark.parametrize(
    "text",
    [
        *("-march=native", "-O2\n-fopenmp", "-plugin /other.so", "-plugin", "@/more", "a @/more", "'a b'"),
        *('"a"', "a\\ b", 'a"b', b"a\0b", b"\0", "x" * (256 << 10), "x " * 17000),
    ],
    ids=range(14),
)
def test_a_file_of_arguments_that_stand_in_the_way_is_left_to_the_emulator(
    root: Root, text: str | bytes
) -> None:
    assert read(root, text) == ("/bin/reading echo before @/file behind", {ARGUMENT: 1})


def test_what_is_no_regular_file_is_not_opened(root: Root) -> None:
    os.mkfifo(root.directory / "pipe")
    for name in ("pipe", "bin", "none", ""):
        assert read(root, "x", f"@/{name}") == (f"/bin/reading echo @/{name}", {ARGUMENT: 1})


@pytest.mark.parametrize(
    ("argument", "is_native"),
    [
        *[
            (f"-f{name}", False)
            for name in ("openmp", "openacc", "openacc-dim=1", "tree-parallelize-loops=4")
        ],
        *[(f"-foffload{rest}", False) for rest in ("", "=disable", "-options=-O3", "-abi=lp64")],
        *[("--openmp", False), ("-lgomp", False), ("/usr/lib/gcc/aarch64-linux-gnu/14/libgomp.so", False)],
        *[("-fopenmp-simd", True), ("-fno-openmp", True), ("-lm", True), ("/usr/lib/libgomp.c", True)],
    ],
)
def test_what_offloads_is_left_to_the_emulator(root: Root, argument: str, *, is_native: bool) -> None:
    found = root.run("x", argument, "y")
    assert found == (f"x {argument} y -end all" if is_native else f"{EMULATED} x {argument} y")
    assert root.verdicts() == {RAN if is_native else ARGUMENT: 1}


@pytest.mark.parametrize(
    ("env", "is_native"),
    [
        ({"LD_PRELOAD": "/x.so"}, False),
        ({"LD_PRELOAD": ""}, True),
        ({"A": "1", "LANG": "de_DE", "B": "2"}, False),
        ({"LANG": "C.UTF-8"}, True),
        ({"LANG": "C.UTF-8x"}, False),
        ({"LANG": "C."}, False),
        ({"LANGUAGE": "de", "XLANG": "de"}, True),
    ],
)
def test_variables_are_looked_at(root: Root, env: dict[str, str], *, is_native: bool) -> None:
    assert root.run("x", env=env) == ("x -end all" if is_native else f"{EMULATED} x")
    assert root.verdicts() == {RAN if is_native else ENVIRONMENT: 1}


@pytest.mark.parametrize(
    ("arguments", "env", "is_native"),
    [
        (("build", "x"), {"GOARCH": "arm64", "A": "b", "GOOS": "linux"}, True),
        (("builder",), {"GOARCH": "", "GOOS": "linux2"}, True),
        (("test", "x"), {"GOARCH": "arm64", "GOOS": "linux"}, False),
        (("build",), {"GOARCH": "arm64"}, False),
        (("build",), {"GOARCH": "arm64", "GOOS": "plan9"}, False),
        (("build",), {"GOARCH": "arm64", "GOOS": "linux", "LANG": "de"}, False),
        (("test", "x"), {}, True),
        ((), {}, True),
        ((), {"GOARCH": "arm64", "GOOS": "linux"}, False),
    ],
)
def test_one_of_its_conditions_has_to_hold(
    root: Root, arguments: tuple[str, ...], env: dict[str, str], *, is_native: bool
) -> None:
    found = root.run(*arguments, env=env)
    assert found == " ".join([*arguments, "-end all"] if is_native else [EMULATED, *arguments])


def test_another_file_at_its_path_is_emulated_and_told(root: Root) -> None:
    root.write(root.program, PROGRAM[:-1] + b"xx")
    assert root.run("x") == f"{EMULATED} x"
    root.write(root.program, b"y" + PROGRAM[1:])
    assert root.run("x") == f"{EMULATED} x"
    root.write(root.program, PROGRAM)
    os.utime(root.program, (1000, 1001))
    assert root.run("x") == f"{EMULATED} x"
    assert root.verdicts() == {REPLACED: 3}


def test_names_do_not_matter(root: Root) -> None:
    shutil.copy2(root.program, root.directory / "bin/copy")
    (root.directory / "bin/link").symlink_to("program")

    assert root.run("x", path="/bin/copy") == root.run("x", path="bin/link") == "x -end all"


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755])
def test_a_program_that_changes_its_user_has_no_twin(root: Root, mode: int) -> None:
    root.program.chmod(mode)

    assert root.run("x") == f"{EMULATED} x"
    assert root.verdicts() == {}


def test_where_the_twin_is_missing_the_emulator_goes_on(root: Root) -> None:
    (root.directory / "dev/mqueue/t/echo").unlink()

    assert root.run("x") == f"{EMULATED} x"
    assert root.verdicts() == {RAN: 1, GONE: 1}


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", PROGRAM[: PAGE - 1], PROGRAM[:PAGE]])
def test_small_and_unknown_files_are_emulated(root: Root, content: bytes) -> None:
    root.write(root.directory / "bin/small", content)

    assert root.run("x", path="/bin/small") == "/bin/small echo x"
    assert root.run("x", path="/bin/nowhere") == "/bin/nowhere echo x"


def test_no_log_is_no_hindrance(root: Root) -> None:
    root.log.unlink()

    assert root.run("x") == "x -end all"


@pytest.mark.parametrize(
    ("name", "arguments", "is_native"),
    [
        *[(name, ("x",), True) for name in CALLED[:5]],
        *[(name, ("sh", "x"), True) for name in CALLED[5:7]],
        *[("many", arguments, False) for arguments in ((), ("uname",), ("/bin/sh",), ("",))],
        *[(name, ("x",), False) for name in ("uname", "", "/", "-", "s", "shx", "sh/", "--sh", "many1")],
    ],
)
def test_of_a_file_that_is_many_programs_some_are_native(
    root: Root, name: str, arguments: tuple[str, ...], *, is_native: bool
) -> None:
    found = root.run(*arguments, path="/bin/many", name=name)

    if is_native:
        told = ["echo" if each in CALLED else each for each in arguments]
        assert found == " ".join([*told, "-end"])
    else:
        assert found == " ".join(["/bin/many", name, *arguments])
    verdicts = read_log(root.log.read_bytes(), root.count)
    assert verdicts == ({root.many: {RAN: 1}} if is_native else {})


def test_each_of_many_programs_has_conditions_of_its_own(root: Root) -> None:
    assert root.run("x", path="/bin/many", name="later", env={"LATER": "1"}) == "x -end"
    assert root.run("x", path="/bin/many", name="later") == "/bin/many later x"
    assert root.run("x", path="/bin/many", name="sh", env={"LD_PRELOAD": "/x"}) == "/bin/many sh x"


def test_a_program_that_looks_around_where_it_is_has_a_twin_in_its_place_alone(root: Root) -> None:
    place = root.directory / "bin/fixed"
    shutil.copy2(place, root.directory / "bin/copy")
    (root.directory / "bin/link").symlink_to("fixed")

    assert root.run("x", path="/bin/fixed") == root.run("x", path="bin/link") == "x -end"
    assert root.run("x", path="/bin/copy") == "/bin/copy echo x"
    os.link(place, root.directory / "bin/name")
    assert root.run("x", path="/bin/name") == "/bin/name echo x"
    assert root.run("x", path="/bin/fixed") == "/bin/fixed echo x"
    (root.directory / "bin/name").unlink()
    place.rename(root.directory / "bin/moved")
    assert root.run("x", path="/bin/moved") == "/bin/moved echo x"
    assert read_log(root.log.read_bytes(), root.count) == {root.fixed: {RAN: 2, ELSEWHERE: 4}}


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ((), "-end"),
        (("make",), "make -end"),
        (("make", "a", "b"), "make a b -end"),
        (("make", "a", "-target"), "make a -target"),
        (("make", "--as=y", "b"), "make --as=y b"),
        (("a", "-target"), "a -target -end"),
        (("make", "-targe", "x-target", "-target="), "make -targe x-target -target= -end"),
        (("make", "--as", "-as=y"), "make --as -as=y -end"),
    ],
)
def test_a_condition_can_ask_for_an_argument(root: Root, arguments: tuple[str, ...], printed: str) -> None:
    assert root.run(*arguments, path="/bin/given") == printed
    assert root.verdicts() == {RAN: 1}


LINES = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i + 1)); done; "
WRITTEN = "".join(f"line {number}\n" for number in range(3000))


def load(root: Root, files: Mapping[str, tuple[int, int]], env: str = "B") -> tuple[str, dict[int, int]]:
    """What a program is that loads the files of a directory, which have these sizes and times."""
    for path in ("load", "more"):
        shutil.rmtree(root.directory / path, ignore_errors=True)
    for path, (size, mtime) in files.items():
        place = root.directory / path
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(size))
        os.utime(place, (mtime, mtime))
    return root.run("x", path="/bin/loading", env={env: ""}), root.verdicts()


ONE = {"load/one.so": (3, 7)}


@pytest.mark.parametrize(
    ("files", "env", "end"),
    [
        (ONE, "A", "-0"),
        (ONE, "B", "-1"),
        ({"load/one.so": (5, 1 << 33)}, "B", "-1"),
        ({**ONE, "load/two.so": (1, 1)}, "B", "-1"),
        ({**ONE, **{f"more/{number}": (1, 1) for number in range(500)}}, "B", "-1"),
        ({}, "B", "-2"),
        ({"more/x": (1, 1)}, "B", "-2"),
    ],
)
def test_what_a_program_would_load_decides_on_its_twin(
    root: Root, files: Mapping[str, tuple[int, int]], env: str, end: str
) -> None:
    assert load(root, files, env) == (f"x {end}", {RAN: 1})


@pytest.mark.parametrize(
    ("files", "env", "verdict"),
    [
        ({"load/one.so": (4, 7)}, "B", PLUGINS),
        ({"load/one.so": (3, 8)}, "B", PLUGINS),
        ({"load/one.so": (3, 1 << 33)}, "B", PLUGINS),
        ({**ONE, "load/one": (1, 1)}, "B", PLUGINS),
        ({**ONE, "load/one.sox": (1, 1)}, "B", PLUGINS),
        ({**ONE, "load/.x": (1, 1)}, "B", PLUGINS),
        ({**ONE, "load/..x": (1, 1)}, "B", PLUGINS),
        ({**ONE, "load/...": (1, 1)}, "B", PLUGINS),
        ({**ONE, **{f"load/{number:0200}": (1, 1) for number in range(100)}}, "B", PLUGINS),
        ({"load/two.so": (3, 7)}, "B", PLUGINS),
        ({"more/y": (1, 1)}, "B", PLUGINS),
        ({}, "A", PLUGINS),
        (ONE, "C", ENVIRONMENT),
    ],
)
def test_what_only_the_emulated_program_can_load_leaves_it_to_the_emulator(
    root: Root, files: Mapping[str, tuple[int, int]], env: str, verdict: int
) -> None:
    assert load(root, files, env) == ("/bin/loading echo x", {verdict: 1})


def emulated(script: str) -> tuple[str, str, int]:
    return f"/bin/tried sh -c {script}\n", "", 0


def test_what_is_tried_and_ends_well_has_said_all(root: Root) -> None:
    assert root.run_tried(f"{LINES} echo out") == ("out\n", WRITTEN, 0)
    assert root.run_tried(":") == ("", "", 0)
    assert root.verdicts() == {RAN: 2}


@pytest.mark.parametrize("end", ["exit 1", "exit 126", "kill -9 $$"])
def test_of_what_is_tried_and_fails_nothing_is_heard(root: Root, end: str) -> None:
    script = f"{LINES} {end}"
    assert root.run_tried(script) == emulated(script)
    assert root.verdicts() == {RAN: 1, (GONE if end == "exit 126" else FAILED): 1}


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("kill -9 $$", -9), ("exit 0", 0)])
def test_with_the_text_a_trial_is_over(root: Root, end: str, code: int) -> None:
    """The text may come in pieces."""
    pause = "i=0; while [ $i -lt 9000 ]; do i=$((i + 1)); done; "
    said = f"echo -n 'x no mo' >&2; {pause} echo -n 're is need' >&2; {pause} echo ed >&2"

    assert root.run_tried(f"{LINES} {said}; echo more >&2; {end}") == (
        "",
        f"{WRITTEN}x no more is needed\nmore\n",
        code,
    )
    assert root.verdicts() == {RAN: 1}


def test_who_waits_for_the_text_hears_it_at_once(root: Root) -> None:
    script = "echo before >&2; echo no more is needed >&2; read answer; echo $answer >&2; exit 4"
    with subprocess.Popen(
        root.command("/bin/tried", "sh", "-c", script),
        env={},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert [process.stderr.readline() for _ in range(2)] == ["before\n", "no more is needed\n"]
        process.stdin.write("answer\n")
        assert process.stderr.read() == "answer\n"
    assert process.returncode == 4


def test_a_trial_ends_with_the_program_that_it_is(root: Root) -> None:
    script = "echo $$ >&3; exec sleep 1000"
    read, write = os.pipe()
    with subprocess.Popen(
        root.command("/bin/tried", "sh", "-c", script.replace(">&3", f">&{write}")), env={}, pass_fds=[write]
    ) as process:
        os.close(write)
        with os.fdopen(read) as told:
            assert int(told.readline()) != process.pid
            process.kill()
            assert told.read() == ""  # whoever had the other end is gone


def test_a_trial_whose_twin_is_missing_is_emulated(root: Root) -> None:
    (root.directory / "dev/mqueue/t/sh").unlink()

    assert root.run_tried("exit 3") == emulated("exit 3")
    assert root.verdicts() == {RAN: 1, GONE: 1}


@pytest.mark.parametrize(
    ("content", "is_native"),
    [
        (b"", True),
        (b".loc 1 2 3 view .LVU1\n", True),
        (b"x" * 4090 + TEXT[:6], True),
        (b"view -" * 2000, True),
        (b"x" * 4096 + b"\0" * 4096, True),
        (TEXT, False),
        (b"vview -view -0", False),
        *(
            (b"x" * (4096 * pages + place) + TEXT + b"\n", False)
            for pages in (0, 3)
            for place in (0, 4088, 4093)
        ),
        (b"x" * 4090 + b"a text of 16 by.", False),
        (b"\0" * 5 * (4096 - 16) + b"a text of 16 by.", False),
        (b"a text of 16 byy", True),
    ],
)
def test_what_a_file_among_the_arguments_has_decides(root: Root, content: bytes, *, is_native: bool) -> None:
    (root.directory / "one").write_bytes(b".text\n")
    (root.directory / "two").write_bytes(content)

    assert (root.run("/one", "/two", path="/bin/careful") == "/one /two -end") == is_native
    assert root.verdicts() == ({RAN: 1} if is_native else {INPUT: 1})


def test_of_what_is_no_file_nothing_is_known(root: Root) -> None:
    reader, writer = os.pipe()
    os.mkfifo(root.directory / "pipe")
    (root.directory / "-two").write_bytes(TEXT)
    try:
        assert root.run("-o", path="/bin/careful", stdin=reader) == "/bin/careful echo -o"
        assert root.verdicts() == {INPUT: 1}
    finally:
        os.close(reader)
        os.close(writer)
    assert root.run("/bin", "/none", "-two", path="/bin/careful") == "/bin /none -two -end"
    assert root.verdicts() == {RAN: 1}
    assert root.run("/pipe", path="/bin/careful") == "/bin/careful echo /pipe"
    assert root.verdicts() == {INPUT: 1}
