"""Measure anyarch side by side with Debian's buildah and write docs/bench.md: `make bench`.

The sides alternate in one run, so that other work on the machine troubles both alike; medians and ratios
are given. Each measurement of a command is a fresh process. Needs root (buildah's overlay) and takes some
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import builders
import daemon
import language
import once
import report
import sandbox
import transfers
from anyarch.testing.debian_images import PLATFORMS as BASE_PLATFORMS
from anyarch.testing.debian_images import busybox_context, debian_context
from anyarch.testing.debian_registry import DebianRegistry
from anyarch.version import __version__
from layers import make_files
from peers import PLATFORMS, Anyarch, Buildah, CommandFailed, host_emulation, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
MEASURE = "(what the next line is measured by)"


class Result(NamedTuple):
    """One line of the report; times in seconds."""

    workload: str
    ours: float
    theirs: float | None
    target: str
    met: bool


def alternate(
    rounds: int | Sequence[int],
    *measures: Callable[[], float],
    between: Callable[[], None] | None = None,
) -> tuple[float, ...]:
    """Medians of what is measured in turn; `between` (not measured) runs before each. A peer that takes a
    minute may take part in fewer `rounds`: one number for each measure."""
    turns = [rounds] * len(measures) if isinstance(rounds, int) else rounds
    times: list[list[float]] = [[] for _ in measures]
    for turn in range(max(turns)):
        for side, measure, most in zip(times, measures, turns, strict=True):
            if turn >= most:
                continue
            if between:
                between()
            side.append(measure())
    return tuple(map(statistics.median, times))


def faster(workload: str, ours: float, theirs: float) -> Result:
    """A line whose target is no more than to be faster than the peer."""
    return Result(workload, ours, theirs, "faster", ours < theirs)


# --- workloads ---


def start_up(anyarch: Anyarch, buildah: Buildah) -> list[Result]:
    ours, theirs = alternate(21, anyarch.version, buildah.version)
    return [Result("`--version`", ours, theirs, "under 40 ms", ours < 0.040)]


def cached_rebuild(anyarch: Anyarch, buildah: Buildah) -> list[Result]:
    context = ROOT / "examples/emulated"
    anyarch.build(context, platforms=PLATFORMS, oci=True)
    with host_emulation():
        buildah.build(context, platforms=PLATFORMS, oci=True)
    ours, theirs = alternate(
        (11, 5),
        lambda: anyarch.build(context, platforms=PLATFORMS, oci=True),
        lambda: buildah.build(context, platforms=PLATFORMS, oci=True),
    )
    target = "at most 150 ms, at least 2.3 times faster"
    name = f"`emulated` for {len(PLATFORMS)} platforms, all cached, OCI layout"
    return [Result(name, ours, theirs, target, ours <= 0.150 and theirs / ours >= 2.3)]


def copy_many_files(anyarch: Anyarch, buildah: Buildah, directory: Path) -> list[Result]:
    context = directory / "copy"
    make_files(context / "files", 20_000)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")

    def forget() -> None:
        anyarch.forget()
        buildah.forget()
        os.sync()

    results: list[Result] = []
    sides = [
        lambda side=side, platforms=platforms: side.build(context, platforms=platforms, oci=True)
        for platforms in ((), PLATFORMS)
        for side in (anyarch, buildah)
    ]
    # All four in turn: what is compared with one another has to meet the same machine. buildah takes more
    # than a minute for the four platforms.
    medians = alternate((5, 2, 5, 1), *sides, between=forget)
    for platforms, ours, theirs in (((), *medians[:2]), (PLATFORMS, *medians[2:])):
        if platforms:
            bound = 1.15 * results[0].ours
            target = f"at most 1.15 times one platform ({ours / results[0].ours:.2f} times)"
            met = ours <= bound
        else:
            target, met = "at least 4 times faster", theirs / ours >= 4
        count = f"{len(platforms)} platforms" if platforms else "1 platform"
        name = f"COPY of 20,000 files, {count}, empty store, OCI layout"
        results.append(Result(name, ours, theirs, target, met))
    return results


def trivial_steps(anyarch: Anyarch, buildah: Buildah, directory: Path) -> list[Result]:
    contexts = {}
    for count in (1, 20):
        contexts[count] = directory / f"steps{count}"
        contexts[count].mkdir()
        lines = ["FROM busybox", *(f"RUN echo {number} > /number" for number in range(count))]
        (contexts[count] / "Dockerfile").write_text("\n".join(lines) + "\n")
    anyarch.build(contexts[1])  # both have pulled the base
    buildah.build(contexts[1])
    medians = {
        count: alternate(
            (5, 3),
            lambda count=count: anyarch.build(contexts[count], "--no-cache"),  # type: ignore[misc]
            lambda count=count: buildah.build(contexts[count], "--no-cache"),  # type: ignore[misc]
        )
        for count in (1, 20)
    }
    ours, theirs = ((medians[20][side] - medians[1][side]) / 19 for side in (0, 1))
    target = "at most 10 ms, at least 20 times faster"
    return [
        faster("one RUN step, whole process", *medians[1]),
        faster("20 RUN steps, whole process", *medians[20]),
        Result("each further RUN step (slope)", ours, theirs, target, ours <= 0.010 and theirs / ours >= 20),
    ]


def one_layer(directory: Path) -> list[Result]:
    def measured(what: str) -> dict[str, float]:
        where = directory / what
        where.mkdir()
        argv = [sys.executable, str(ROOT / "bench/layers.py"), what, str(where)]
        text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        shutil.rmtree(where)
        return json.loads(text)  # type: ignore[no-any-return]

    times = measured("speed")
    memory = measured("memory")
    ours, theirs = times["ours_s"], times["theirs_s"]
    larger = times["ours_bytes"] / times["theirs_bytes"] - 1
    peak = memory["peak_bytes"] / 1e6
    return [
        Result(
            f"a layer of 50,000 files ({times['ours_bytes'] / 1e6:.1f} MB), against `tarfile` and zlib 6",
            ours,
            theirs,
            f"at least 5 times faster, at most 15 % larger ({100 * larger:+.1f} %)",
            theirs / ours >= 5 and larger <= 0.15,
        ),
        Result(
            "a layer of 1 GB in one file",
            memory["seconds"],
            None,
            f"peak memory under 200 MB ({peak:.0f} MB)",
            peak < 200,
        ),
    ]


def exports() -> list[Result]:
    argv = [sys.executable, str(ROOT / "bench/exports.py"), "2048"]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    seconds_, compared = found["seconds"], found["compared"]
    peak = found["peak_bytes"] / 1e6

    def line(name: str, what: str, faster: float, larger: float) -> Result:
        ratio = seconds_["zlib6"] / seconds_[name]
        more = compared[name] / compared["zlib6"] - 1
        target = f"at least {faster:g} times faster, at most {100 * larger:g} % larger ({100 * more:+.1f} %)"
        met = ratio >= faster and more <= larger
        return Result(f"{what}, against zlib 6 in one thread", seconds_[name], seconds_["zlib6"], target, met)

    disk = seconds_["disk"]
    return [
        line("default", "2 GB of layers, default gzip", 8, 0.15),
        line("small", "2 GB of layers, `compression-level=6`", 3, 0.05),
        Result(
            "2 GB of layers, zstd, against writing them to the disk",
            seconds_["zstd"],
            disk,
            f"as fast as the disk; memory flat (+{peak:.0f} MB)",
            seconds_["zstd"] <= 1.1 * disk and peak < 100,
        ),
    ]


# --- report ---


def table(results: list[Result], peer: str) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Made by `make bench`: anyarch {__version__} (CPython {platform.python_version()}) and {peer},",
        "alternating in one run, medians of fresh processes.",
        report.machine(),
        "",
        "| workload | anyarch | peer | ratio | target | met |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join((*lines, *map(row, results))) + "\n"


def row(result: Result) -> str:
    theirs = "" if result.theirs is None else seconds(result.theirs)
    ratio = "" if result.theirs is None else f"{result.theirs / result.ours:.1f}x"
    met = "" if result.target in ("", MEASURE) else "yes" if result.met else "**no**"
    return f"| {result.workload} | {seconds(result.ours)} | {theirs} | {ratio} | {result.target} | {met} |"


def seconds(value: float) -> str:
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.2f} s"


def push_base(anyarch: Anyarch, registry: str) -> None:
    """`busybox` under its name on Docker Hub, made by anyarch; its store forgets it again."""
    argv = [str(Path(sys.executable).parent / "anyarch"), "build", "--progress=quiet", "--push"]
    argv += ["--platform=" + ",".join(BASE_PLATFORMS), f"--tag={registry}/library/busybox"]
    argv += [f"--file={ROOT}/examples/bases/busybox/Dockerfile", str(busybox_context(ROOT / ".cache"))]
    run(argv, anyarch.env)
    anyarch.forget()


def single_steps(directory: Path) -> list[Result]:
    found = sandbox.measure_steps(directory / "sandbox", busybox_context(ROOT / ".cache"))
    check, export = sandbox.measure_check(directory / "check", debian_context(ROOT / ".cache"))
    rows = (
        ("one native step alone, against `runc`", found.native, found.peer, 10, ""),
        ("one foreign step alone, QEMU's start included", found.foreign, None, 25, ""),
        (
            "private registration of five emulators, added to its first step",
            found.registration,
            None,
            1,
            " a build",
        ),
    )
    share = f"under 5 % of its export ({100 * check / export:.1f} %)"
    return [
        *(
            Result(name, ours, theirs, f"at most {most} ms{rest}", ours <= most / 1000)
            for name, ours, theirs, most, rest in rows
        ),
        Result("architecture check of a Debian system (CPU)", check, None, share, check <= 0.05 * export),
    ]


def frontend() -> list[Result]:
    small, large = language.measure(200), language.measure(400)
    name = f"Dockerfile of %d instructions for {len(language.PLATFORMS)} platforms, converted (CPU)"
    return [
        Result(name % 200, small, None, "under 150 ms", small < 0.150),
        Result(name % 400, large, None, f"linear ({large / small:.2f} times 200)", large <= 2.5 * small),
    ]


def large_context(anyarch: Anyarch, directory: Path) -> list[Result]:
    first, second = once.context(anyarch, directory)
    return [
        Result(
            "context of 50,000 files in place, first build, whole process",
            first,
            None,
            "under 2 s",
            first < 2,
        ),
        Result(
            "the same unchanged, whole process", second, None, "under 0.65 s: 0.5 s of scan", second < 0.65
        ),
    ]


def neutral_steps(anyarch: Anyarch, directory: Path) -> list[Result]:
    single, six = once.neutral(anyarch, directory)
    target = f"at most 1.15 times one platform ({six / single:.2f} times)"
    return [
        Result("neutral and COPY steps, 1 platform, OCI layout", single, None, MEASURE, True),
        Result("the same for 6 platforms", six, None, target, six <= 1.15 * single),
    ]


def unpacked_image(anyarch: Anyarch, buildah: Buildah, directory: Path, registry: str) -> list[Result]:
    found = once.unpack(anyarch, buildah, directory, registry)
    name = "image of 10 layers and 50,000 files pulled, unpacked, mounted (ours: and a step run)"
    results = [faster(name, found["anyarch"], found["buildah"])]
    if "buildkitd" in found:
        name = "the same image pulled and a step run by the daemon, against buildkitd"
        results.append(faster(name, found["anyarchd"], found["buildkitd"]))
    return results


def cached_graph() -> list[Result]:
    half, whole = once.graph(2500), once.graph(5000)
    target = f"under 1 s, linear ({whole / half:.2f} times 2,500)"
    name = "graph of 5,000 cached vertices solved (CPU)"
    return [Result(name, whole, None, target, whole < 1 and whole <= 2.5 * half)]


def several_nodes(directory: Path) -> list[Result]:
    found = builders.measure(directory / "builders")
    ratio = found["one"] / found["two"]
    return [
        Result("ls with five nodes, one of them dead", found["ls"], None, "under 1.5 s", found["ls"] < 1.5),
        Result("6 platforms, steps that sleep, one node", found["one"], None, MEASURE, True),
        Result(
            "the same on two equal nodes",
            found["two"],
            None,
            f"at least 1.8 times as fast ({ratio:.2f} times)",
            ratio >= 1.8,
        ),
    ]


def the_daemon(directory: Path) -> list[Result]:
    found = daemon.measure(directory / "daemon")

    def line(key: str, what: str, *, most: float | None = None) -> Result:
        ours, *peer = found[key]
        theirs = peer[0] if peer else None
        if most is not None:
            return Result(what, ours, theirs, f"under {seconds(most)}", ours < most)
        # What is not slower by more than such measurements scatter is not slower.
        met = theirs is None or ours <= 1.05 * theirs
        return Result(what, ours, theirs, "not slower than buildkitd" if theirs is not None else "", met)

    memory = found["clients_bytes"][0]
    return [
        line("start_s", "daemon: from its start until it accepts, against buildkitd", most=0.3),
        line("call_s", "daemon: an empty call, both ends on one processor, against buildkitd", most=0.0004),
        line("many_files_s", "daemon: a context of 20,000 files, 64 MB, against buildkitd"),
        line("many_files_whole_s", "daemon: the build that copies them all, against buildkitd"),
        line("one_file_s", "daemon: a context of one file of 1 GB, against buildkitd"),
        line("one_file_whole_s", "daemon: the build that copies it, against buildkitd"),
        line("cached_s", "daemon: a cached build by `anyarch build`", most=0.3),
        Result(
            f"daemon: {daemon.CLIENTS} clients at a time, a step of 2 s each",
            found["clients_s"][0],
            None,
            f"all finish, memory under 1 GB ({memory / 1e6:.0f} MB)",
            memory < 1e9,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="measure this workload and write no report")
    options = parser.parse_args()
    wanted = options.only
    if os.geteuid() != 0:
        print("the benchmarks need root: buildah mounts overlays and needs binfmt_misc handlers")
        return 1
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as scratch:
        directory = Path(scratch)
        with DebianRegistry(directory / "registry") as server:
            anyarch, buildah = Anyarch(directory, server.address), Buildah(directory, server.address)
            results: list[Result] = []
            try:
                push_base(anyarch, server.address)
                workloads: dict[str, Callable[[], list[Result]]] = {
                    "start-up": lambda: start_up(anyarch, buildah),
                    "cached": lambda: cached_rebuild(anyarch, buildah),
                    "steps": lambda: trivial_steps(anyarch, buildah, directory),
                    "copy": lambda: copy_many_files(anyarch, buildah, directory),
                    "layers": lambda: one_layer(directory),
                    "language": frontend,
                    "exports": exports,
                    "transfers": lambda: [Result(*one) for one in transfers.measure(directory, alternate)],
                    "sandbox": lambda: single_steps(directory),
                    "context": lambda: large_context(anyarch, directory),
                    "neutral": lambda: neutral_steps(anyarch, directory),
                    "unpack": lambda: unpacked_image(anyarch, buildah, directory, server.address),
                    "graph": cached_graph,
                    "builders": lambda: several_nodes(directory),
                    "daemon": lambda: the_daemon(directory),
                }
                unknown = set(wanted or ()) - set(workloads)
                if unknown:
                    parser.error(
                        f"no workload {', '.join(sorted(unknown))}: there are {', '.join(workloads)}"
                    )
                for name in wanted or workloads:
                    print(f"measuring: {name} ...", flush=True)
                    began = time.monotonic()
                    found = workloads[name]()
                    print(*map(row, found), f"({time.monotonic() - began:.0f} s)", sep="\n", flush=True)
                    results += found
                peer = buildah.release()
            except CommandFailed as error:
                print(f"bench failed: {error}", file=sys.stderr)
                return 1
            finally:
                buildah.forget()
    text = table(results, peer)
    print(f"\n{text}")
    if not wanted:
        report.replace_top(text)
        print(f"written to {report.REPORT.relative_to(ROOT)}")
    return 0  # a target that was missed is in the report; machines are noisy


if __name__ == "__main__":
    sys.exit(main())
