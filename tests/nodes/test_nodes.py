"""Builds on anyarch's daemons in network namespaces: real connections, real steps, machines that go away."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

pytestmark = [pytest.mark.root, pytest.mark.emulation]

RECIPE = "FROM busybox\nRUN uname -m > /arch\nCOPY file /file\n"


def builder_of(cli, *daemons):
    for number, daemon in enumerate(daemons):
        append = ["--append"] if number else []
        answer = cli("create", *append, "--name", "b", "--driver", "remote", daemon.endpoint)
        assert answer == (0, "b\n", "")


def write(cli, recipe=RECIPE):
    (cli.directory / "context" / "Dockerfile").write_text(recipe)
    (cli.directory / "context" / "file").write_text("text\n")


def test_two_machines_build_one_image_that_is_that_of_one_machine(cli, node):
    builder_of(cli, node("linux/amd64"), node("linux/arm64"))
    write(cli)
    common = ("--platform", "linux/amd64,linux/arm64", "--build-arg", "SOURCE_DATE_EPOCH=1")
    output = "type=oci,rewrite-timestamp=true,dest="
    many = cli.build(
        "--builder", "b", *common, "-o", f"{output}{cli.directory}/many.tar", "--metadata-file", "m"
    )
    assert many.status == 0, many.err
    assert "node b0 builds linux/amd64 (native)" in many.err
    assert "node b1 builds linux/arm64 (native)" in many.err
    one = cli.build(*common, "-o", f"{output}{cli.directory}/one.tar")
    assert one.status == 0, one.err
    assert (cli.directory / "many.tar").read_bytes() == (cli.directory / "one.tar").read_bytes()
    metadata = json.loads((cli.directory / "m").read_text())
    assert metadata["containerimage.descriptor"]["digest"] == metadata["containerimage.digest"]


def test_files_come_from_the_machine_of_their_platform(cli, node):
    builder_of(cli, node("linux/amd64"), node("linux/arm64"))
    write(cli, RECIPE + "FROM scratch\nCOPY --from=0 /arch /arch\n")
    answer = cli.build("--builder", "b", "--platform", "linux/amd64,linux/arm64", "-o", "out")
    assert answer.status == 0, answer.err
    assert (cli.directory / "out" / "linux_amd64" / "arch").read_text() == "x86_64\n"
    assert (cli.directory / "out" / "linux_arm64" / "arch").read_text() == "aarch64\n"


def wait_for(process, text):
    """Read the error output up to a line with `text`."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    process.communicate()
    raise AssertionError(f"{text!r} was never said: {''.join(lines)}")


SLOW_STEP = (
    "FROM busybox AS run\nRUN echo begun; sleep 5; uname -m > /arch\nFROM scratch\nCOPY --from=run /arch /\n"
)


def test_a_machine_that_dies_during_a_step_is_replaced(cli, node):
    survivor, victim = node("linux/amd64,linux/arm64"), node("linux/arm64")
    builder_of(cli, survivor, victim)
    write(cli, SLOW_STEP)
    words = ("--builder", "b", "--platform", "linux/amd64,linux/arm64", "-o", "out")
    process = cli.start(*cli.build_words(*words))
    wait_for(process, "[b1 linux/arm64 run 1/2] RUN")
    victim.kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "node b1 is lost" in err
    assert "linux/arm64 will be built elsewhere" in err
    assert "node b0 builds linux/arm64 (emulated)" in err
    assert (cli.directory / "out" / "linux_arm64" / "arch").read_text() == "aarch64\n"


def test_a_dead_machine_is_told_and_the_rest_builds(cli, node):
    survivor, victim = node("linux/amd64,linux/arm64"), node("linux/arm64")
    builder_of(cli, survivor, victim)
    victim.kill()
    listed = cli("ls", "--format", "{{.Name}}={{.Status}}").out.splitlines()
    assert "b0=running" in listed
    assert "b1=inactive" in listed


def test_when_the_only_machine_dies_the_build_fails_and_says_why(cli, node):
    victim = node("linux/amd64")
    builder_of(cli, victim)
    write(cli, SLOW_STEP)
    process = cli.start(*cli.build_words("--builder", "b", "-o", "out"))
    wait_for(process, "] RUN echo begun")
    victim.kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "ERROR: failed to build: failed to solve: node b0 at tcp://" in err
    assert not (cli.directory / "out").exists()


@pytest.mark.slow  # the kernel needs 25 seconds to be sure, the daemon is given a minute
@pytest.mark.parametrize("what", ["cut", "drop", "freeze"])
def test_a_machine_that_falls_silent_during_a_step_is_replaced(cli, node, what):
    survivor, victim = node("linux/amd64,linux/arm64"), node("linux/arm64")
    builder_of(cli, survivor, victim)
    write(cli, SLOW_STEP)
    words = ("--builder", "b", "--platform", "linux/amd64,linux/arm64", "-o", "out")
    process = cli.start(*cli.build_words(*words))
    wait_for(process, "[b1 linux/arm64 run 1/2] RUN")
    getattr(victim, what)()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "node b1 is lost" in err
    assert (cli.directory / "out" / "linux_arm64" / "arch").read_text() == "aarch64\n"


def test_stopping_the_client_stops_the_step_on_the_machine(cli, node):
    daemon = node("linux/amd64")
    builder_of(cli, daemon)
    write(cli, "FROM busybox\nRUN echo begun; sleep 1000\n")
    process = cli.start(*cli.build_words("--builder", "b", "-o", "type=cacheonly"))
    wait_for(process, "] RUN echo begun")
    wait_for(process, "begun")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 30
    while children_named(daemon.process.pid, "sleep"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_named(pid, name):
    """Processes below `pid` of that name."""
    found, parents = [], {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    text = file.read()
            except OSError:
                continue
            parents[int(entry)] = (
                int(text.rpartition(")")[2].split()[1]),
                text.partition("(")[2].rpartition(")")[0],
            )
    for number, (_, command) in parents.items():
        above = number
        while above in parents and above != pid:
            above = parents[above][0]
        if above == pid and command == name:
            found.append(number)
    return found


def test_a_plan_says_which_node_would_do_what_and_how_long_it_took_last_time(cli, node):
    builder_of(cli, node("linux/amd64,linux/arm/v7"), node("linux/arm64"))
    write(
        cli,
        "FROM --platform=$BUILDPLATFORM busybox AS make\nARG TARGETARCH\nRUN echo $TARGETARCH > /made\n"
        "FROM busybox\nRUN uname -m > /arch\nCOPY --from=make /made /\n",
    )
    words = ("--builder", "b", "--platform", "linux/amd64,linux/arm64")

    def rows(*more):
        answer = cli.build(*words, "--plan", *more)
        assert answer.status == 0, answer.err
        return [line.split("  ") for line in answer.out.splitlines()]

    def cells(*more):
        return [[cell.strip() for cell in row if cell.strip()] for row in rows(*more)]

    header, *before = cells()
    assert header == ["STAGE", "FOR", "NODE", "RUNS ON", "HOW", "STEPS", "CACHED", "LAST TIME"]
    assert sorted(row[:7] for row in before) == [
        ["make", "linux/amd64", "b0", "linux/amd64", "native", "1", "?"],
        ["make", "linux/arm64", "b1", "linux/arm64", "native", "1", "?"],
        ["stage-1", "linux/amd64", "b0", "linux/amd64", "native", "2", "?"],
        ["stage-1", "linux/arm64", "b1", "linux/arm64", "native", "2", "?"],
    ]
    assert {row[7] for row in before} == {"unknown"}
    assert cli.build(*words, "-o", "type=cacheonly").status == 0
    after = cells()[1:]
    assert [row[:7] for row in after] == [row[:7] for row in before]
    assert all(row[7].endswith("s") for row in after)


def test_a_plan_tells_what_is_emulated_crossed_and_impossible(cli, node):
    builder_of(cli, node("linux/amd64,linux/arm64"))
    first = "FROM --platform=$BUILDPLATFORM busybox AS a\nRUN true\n"
    write(cli, first + "FROM busybox\nRUN true\nCOPY --from=a / /\n")
    answer = cli.build("--builder", "b", "--platform", "linux/arm64", "--plan")
    assert answer.status == 0, answer.err
    how = {(line.split()[0], line.split()[4]) for line in answer.out.splitlines()[1:]}
    assert how == {("a", "cross"), ("stage-1", "emulated"), ("stage-1", "files")}


def test_a_plan_fails_where_a_stage_cannot_run(cli, node):
    builder_of(cli, node("linux/amd64"))
    write(cli, "FROM --platform=linux/arm64 busybox\nRUN true\n")
    answer = cli.build("--builder", "b", "--platform", "linux/amd64", "--plan")
    assert (answer.status, "impossible" in answer.out) == (1, True), answer
    assert "the node runs linux/amd64 only" in answer.out


def test_the_platform_of_a_stage_counts_on_a_node(cli, node):
    builder_of(cli, node("linux/amd64,linux/arm64"))
    write(
        cli,
        "FROM busybox AS base\nCOPY file /file\n"
        "FROM --platform=linux/amd64 base AS assets\nRUN uname -m > /arch\n"
        "FROM scratch\nCOPY --from=assets /arch /\n",
    )
    words = ("--builder", "b", "--platform", "linux/arm64", "-o", "out")
    for option, machine in ((), "aarch64"), (("--stage-platform",), "x86_64"):
        answer = cli.build(*words, *option)
        assert answer.status == 0, answer.err
        assert (cli.directory / "out" / "arch").read_text() == f"{machine}\n"


def test_a_full_disk_of_a_machine_is_told_with_its_name(cli, node, tmp_path):
    (tmp_path / "node1" / "root").mkdir(parents=True)
    small = ("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path / "node1" / "root"))
    subprocess.run(small, check=True)
    try:
        good, full = node("linux/amd64"), node("linux/arm64")
        builder_of(cli, good, full)
        write(cli, "FROM scratch\nCOPY file /\n")
        (cli.directory / "context" / "file").write_bytes(os.urandom(8 << 20))
        answer = cli.build("--builder", "b", "--platform", "linux/amd64,linux/arm64", "-o", "out")
        assert answer.status == 1
        assert "no space left on device" in answer.err
        assert "node: b1" in answer.err
        assert "Traceback" not in answer.err
        full.close()
    finally:
        subprocess.run(["umount", str(tmp_path / "node1" / "root")], check=True)
