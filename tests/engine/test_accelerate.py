"""Emulated steps with native twins: the same results, no twin to be seen, and every fall-back told.

The base is a small Debian unpacked from packages, for this machine and for arm64.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.header import machine_name
from anyarch.engine.request import Output
from anyarch.engine.storage import prune, selection, usage
from anyarch.solver.events import LogEvent
from anyarch.testing.builder import Builder
from anyarch.testing.debian_roots import TOOL_PACKAGES, root_context

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.emulation]

ARM = "linux/arm64"
BOTH = ("linux/amd64", ARM)
BASE = "FROM scratch\nARG TARGETARCH\nADD rootfs-$TARGETARCH.tar /\n"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Path:
    """An OCI layout with the base image."""
    context = root_context(cache_directory, "tools", ("amd64", "arm64"), TOOL_PACKAGES)
    builder = Builder(tmp_path_factory.mktemp("debian"), context=str(context))
    layout = builder.directory / "layout"
    builder(BASE, platform=BOTH, outputs=(Output("oci", str(layout), {"tar": "false"}),))
    return layout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, debian: Path) -> Builder:
    """Builds above the base, accelerated unless told otherwise; twins are made once for all tests."""
    return Builder(
        tmp_path_factory.mktemp("accelerate"),
        build_contexts={"debian": f"oci-layout://{debian}"},
        accelerate="tools",
    )


def log(image: BuiltImage) -> str:
    return b"".join(event.data for event in image.events if isinstance(event, LogEvent)).decode()


def run(build: Builder, script: str, **request: object) -> tuple[BuiltImage, str]:
    """One RUN step above the base; and its log."""
    image = build(f"FROM debian\nRUN <<END\nset -e\n{script}\nEND\n", platform=ARM, **request)
    return image, log(image)


def notes(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("accelerate: "))


def differing(one: BuiltImage, other: BuiltImage, names: Iterable[str]) -> list[str]:
    """The files of /src that are not equal byte by byte."""
    return [
        name
        for name in names
        if one.path(f"/src/{name}").read_bytes() != other.path(f"/src/{name}").read_bytes()
    ]


def equal_files(one: BuiltImage, other: BuiltImage) -> list[str]:
    """The files of /src, of which both have the same, equal byte by byte."""
    paths = one.listing("/src")
    assert other.listing("/src") == paths
    files = [path for path in paths if one.path(f"/src/{path}").is_file()]
    assert differing(one, other, files) == []
    return files


def test_a_step_is_what_it_is_without_acceleration(shared: Builder) -> None:
    script = r"""
mkdir -p /out/d; for i in 1 2 3 4 5; do echo "line $i" >> /out/lines; done
tar -C /usr/lib -cf - dpkg | gzip -n > /out/a.tar.gz; sha256sum /out/a.tar.gz > /out/sum
find /etc /usr/bin -newermt 2000-01-01 | sort > /out/found
sed s/line/LINE/ /out/lines | grep -c LINE > /out/count
printf 'all: ; echo $(MAKE_HOST) $(shell uname -m) > /out/make\n' > /out/Makefile; make -sC /out
(dpkg-deb --version; dpkg --version; dpkg --print-architecture; dpkg-query -W) > /out/dpkg
cp -a /bin/ls /out/d/ls; ln /out/d/ls /out/d/hard; touch -d @0 /out/*
"""
    plain, _ = run(shared, script, accelerate="off")
    fast, told = run(shared, script)

    assert {path: fast.path(path).read_bytes() for path in FILES} == {
        path: plain.path(path).read_bytes() for path in FILES
    }
    assert fast.read_text("/out/make") == "aarch64-unknown-linux-gnu aarch64\n"
    assert "runs of native programs: " in told


FILES = [f"/out/{name}" for name in ("lines", "a.tar.gz", "sum", "found", "count", "make", "dpkg", "d/ls")]


def test_nothing_of_the_twins_is_to_be_seen(shared: Builder) -> None:
    """Neither by listing, copying or archiving the root; the files of the image stay what they are."""
    image, told = run(
        shared,
        """
find / -path /proc -prune -o -path /sys -prune -o -print > /tmp/found; ls -la / /dev /dev/mqueue > /tmp/ls
od -An -tx1 -j18 -N2 /bin/ls > /tmp/machine
tar --one-file-system -cf /tmp/root.tar --exclude=./tmp --exclude=./proc --exclude=./sys -C / .
mkdir /tmp/copy && cp -a /usr/bin /tmp/copy/
""",
    )
    names = image.read_text("/tmp/found").splitlines()
    assert len(names) > 500
    assert not [name for name in names if "mqueue/" in name or "x86_64" in name or "dispatcher" in name]
    assert "dispatcher" not in image.read_text("/tmp/ls")
    assert image.read_text("/tmp/machine").split() == ["b7", "00"]
    with tarfile.open(image.path("/tmp/root.tar")) as archive:
        archived = archive.getnames()
    assert len(archived) > 500
    assert not [name for name in archived if "dispatcher" in name or "x86_64" in name]
    assert "files of the result are for" not in told
    heads = {
        machine_name(path.read_bytes()[:64])
        for path in image.path("/tmp/copy").rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert heads <= {"", "arm64"}


def test_a_copied_twin_is_an_error(shared: Builder) -> None:
    from anyarch.errors import BuildError

    with pytest.raises(
        BuildError, match=r"/tmp/stolen in the result of an accelerated step is a native twin"
    ):
        run(shared, "cp /../dev/mqueue/t/bin/true /tmp/stolen")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("export LD_LIBRARY_PATH=/nowhere; /bin/true", "a variable such as"),
        ("export LANG=de_DE.UTF-8; /bin/true", "a variable such as"),
        ("export QEMU_CPU=cortex-a53; /bin/true", "a variable such as"),
        ("cp /bin/true /tmp/t; cat /tmp/t > /bin/true; /bin/true", "is not the package's any more"),
        ("/bin/true <&-", "its standard input was closed"),
    ],
)
def test_what_could_change_the_output_is_emulated_and_told(shared: Builder, script: str, reason: str) -> None:
    _, told = run(shared, script)

    lines = [line for line in notes(told).splitlines() if "bin/true was emulated" in line]
    assert len(lines) == 1, told
    assert reason in lines[0]


def test_a_locale_does_not_count_where_another_outdoes_it(shared: Builder) -> None:
    _, told = run(shared, "export LANG=de_DE.UTF-8 LC_CTYPE=tr_TR LC_ALL=C; /bin/true")

    assert "was emulated" not in notes(told)


def test_names_do_not_matter_but_files_do(shared: Builder) -> None:
    """Relative paths, links and faithful copies run natively; a fresh copy is another file."""
    _, told = run(
        shared,
        "cd /usr; bin/true; ln -s /bin/true /tmp/link; /tmp/link; cp -p /bin/true /tmp/same; /tmp/same; "
        "cp /bin/true /tmp/other; /tmp/other",
    )

    assert "accelerate: runs of native programs: 7; " in notes(told)  # sh, ln, cp, cp, and three times true


def test_twins_have_the_descriptors_that_they_were_given(shared: Builder) -> None:
    """Not the one on which the kernel hands the foreign program to its interpreter."""
    tell = "for i in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$i ] && printf $i; done; echo"
    image, told = run(
        shared,
        f"printf '%s\n' '{tell}' > /tell; sh /tell > /one; env nice sh -c 'sh /tell; :' > /three; "
        "sh /tell 5< /tell > /given; sh /tell <&- > /closed",
    )

    assert [image.read_text(f"/{name}") for name in ("one", "three", "given")] == ["012\n", "012\n", "0125\n"]
    assert "/bin/dash was emulated 1 times because its standard input was closed" in notes(told)


def test_a_library_that_was_changed_or_has_another_in_front_leaves_its_programs_to_the_emulator(
    shared: Builder,
) -> None:
    """From the next step on. Programs that do not need it have twins all the same."""
    told = [
        log(shared(f"FROM debian\nRUN {change}\nRUN ls -d / > /ls; cat /etc/group > /cat", platform=ARM))
        for change in (
            "cd /usr/lib/aarch64-linux-gnu && printf x >> $(readlink -f libselinux.so.1)",
            "mkdir -p /opt/l /etc/ld.so.conf.d && cp /usr/lib/aarch64-linux-gnu/libselinux.so.1 /opt/l/ && "
            "echo /opt/l > /etc/ld.so.conf.d/l.conf",
        )
    ]

    need = "/bin/ls is emulated: it needs libselinux.so.1, and"
    assert f"{need} /lib/aarch64-linux-gnu/libselinux.so.1 is not as its package brought it" in told[0]
    assert f"{need} there is one in /opt/l" in told[1]
    for text in told:
        last = [line for line in notes(text).splitlines() if "runs of native programs" in line][-1]
        assert "runs of native programs: 2; " in last  # sh and cat


def test_steps_that_run_at_the_same_time_have_twins_each(shared: Builder) -> None:
    stages = "".join(
        f"FROM debian AS s{number}\nRUN i=0; while [ $i -lt 9 ]; do cat /etc/passwd > /{number}; "
        f"i=$(expr $i + 1); done\n"
        for number in range(4)
    )
    copies = "".join(f"COPY --from=s{number} /{number} /\n" for number in range(4))
    image = shared(f"{stages}FROM scratch\n{copies}", platform=ARM)

    steps = image.result.metadata["anyarch.acceleration"]["steps"].values()
    assert [(step["native"], step["emulated"]) for step in steps] == [(19, {})] * 4  # sh, cat and expr
    assert len({image.read_text(f"/{number}") for number in range(4)}) == 1


def test_a_chroot_inside_a_step_is_emulated(shared: Builder) -> None:
    image, told = run(
        shared,
        "mkdir -p /r/usr; cp -a /usr/bin /usr/lib /r/usr/; cp -a /bin /lib /r/; mkdir /r/out; "
        "chroot /r /bin/sh -c 'uname -m > /out/m; /bin/true'",
    )

    assert image.read_text("/r/out/m") == "aarch64\n"
    assert "accelerate: runs of native programs: 6; " in notes(told)  # sh, mkdir, cp, cp, mkdir, chroot


def test_ordinary_users_of_the_image_run_twins_too(shared: Builder) -> None:
    image = shared(
        "FROM debian\nRUN mkdir -m 777 /out\nUSER nobody\nRUN id -u > /out/id && cat /out/id", platform=ARM
    )

    assert image.read_text("/out/id") == "65534\n"
    assert "accelerate: runs of native programs: 3; " in notes(log(image))


def test_the_result_records_the_twins_of_each_step(shared: Builder) -> None:
    image, _ = run(shared, "export LD_LIBRARY_PATH=/x; cat /etc/passwd > /recorded")

    record = image.result.metadata["anyarch.acceleration"]
    (step,) = record["steps"].values()
    assert record["mode"] == "tools"
    assert step["twins"].startswith("sha256:")
    assert step["native"] == 1
    assert list(step["emulated"]) == ["/bin/cat"]


def test_the_cache_tells_accelerated_results_from_others(shared: Builder) -> None:
    dockerfile = "FROM debian\nRUN echo cached > /cached"
    first = shared(dockerfile, platform=ARM, accelerate="off")
    second = shared(dockerfile, platform=ARM)
    third = shared(dockerfile, platform=ARM)

    assert [len(image.executed) for image in (first, second, third)] == [1, 1, 0]


@pytest.mark.parametrize("filters", [("description==native twins",), ()], ids=["twins", "everything"])
def test_collected_twins_are_made_again(tmp_path: Path, debian: Path, filters: tuple[str, ...]) -> None:
    """By a filter their layer goes and what the store knows of them stays; without one both go."""
    build = Builder(tmp_path, build_contexts={"debian": f"oci-layout://{debian}"}, accelerate="tools")
    root = str(build.store)
    first, told = run(build, "cat /etc/passwd > /first")
    twins = twins_of(first)
    (kept,) = usage(("description==native twins",), root=root)
    removed: list[str] = []
    prune(selection(filters), all=True, on_removed=lambda record: removed.append(record.id), root=root)
    left = [record.id for record in usage(root=root)]
    again, told_again = run(build, "cat /etc/passwd > /again")

    assert kept.id == twins
    assert twins in removed
    assert twins not in left
    assert bool(left) == bool(filters)
    assert twins_of(again) == twins
    assert notes(told_again) == notes(told)
    assert [record.id for record in usage(("description==native twins",), root=root)] == [twins]


def test_collected_packages_of_compilers_are_taken_in_again(tmp_path: Path, debian: Path) -> None:
    """They are layers like others: by a filter they go, the next step that wants them has them again; without
    what they came from, that step has twins of its tools and says so."""
    from anyarch.emulation.accelerate.cross import host_packages, target_packages

    needed = [*host_packages("12", "amd64", "arm64")[0], *target_packages("12", "arm64")[0]]
    for name, _, architecture in (each.partition(":") for each in needed):
        package(tmp_path / "packages", name, architecture)
    filters = ("description==packages for native twins",)
    source = f"cross,packages={tmp_path}/packages"
    build = Builder(tmp_path, build_contexts={"debian": f"oci-layout://{debian}"}, accelerate=source)
    root = str(build.store)
    told = {"first": run(build, "cat /etc/passwd > /first")[1]}
    fetched = {record.id for record in usage(filters, root=root)}
    removed: set[str] = set()
    prune(selection(filters), all=True, on_removed=lambda record: removed.add(record.id), root=root)
    left = usage(filters, root=root)
    told["again"] = run(build, "cat /etc/passwd > /again")[1]
    fetched_again = {record.id for record in usage(filters, root=root)}
    prune(selection(filters), all=True, on_removed=lambda record: removed.add(record.id), root=root)
    shutil.rmtree(tmp_path / "packages")
    (tmp_path / "packages").mkdir()
    told["gone"] = run(build, "cat /etc/passwd > /gone")[1]

    assert len(fetched) == 2  # this machine's and the target's
    assert removed == fetched
    assert not left
    assert fetched_again == fetched
    assert "no cross compilers" not in told["first"] + told["again"]
    assert "accelerate: no cross compilers could be fetched: " in told["gone"]
    assert [text.count("runs of native programs: 2;") for text in told.values()] == [1, 1, 1]  # sh and cat


def package(directory: Path, name: str, architecture: str) -> None:
    """A package with one small file where compilers are."""
    top = directory / name
    library = top / "usr/lib/gcc" / name
    (top / "DEBIAN").mkdir(parents=True)
    library.mkdir(parents=True)
    (library / architecture).write_text(name)
    (top / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 12.2.0-14\nArchitecture: {architecture}\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: none\n"
    )
    subprocess.run(
        ["dpkg-deb", "-Znone", "--build", str(top), f"{top}_12.2.0-14_{architecture}.deb"],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(top)


def twins_of(image: BuiltImage) -> str:
    """The layer with the twins of the image's only step."""
    (step,) = image.result.metadata["anyarch.acceleration"]["steps"].values()
    twins: str = step["twins"]
    return twins


def test_verify_compares_both_results_and_keeps_the_emulated_one(tmp_path: Path, debian: Path) -> None:
    (tmp_path / "none").mkdir()  # tools are enough here
    build = Builder(
        tmp_path,
        build_contexts={"debian": f"oci-layout://{debian}"},
        accelerate=f"verify,packages={tmp_path}/none",
        no_cache=True,
    )
    _, same = run(build, "echo a > /a; mkdir /d; ln -s a /l")
    image, different = run(
        build,
        "cat /proc/sys/kernel/random/uuid > /b; test -e /../dev/mqueue/log || touch /plain; echo a > /a",
    )

    assert "accelerate: verified: the files are the same" in same
    lines = [line for line in different.splitlines() if "DIFFERENT" in line]
    assert [line.split()[2] for line in lines] == ["/b:", "/plain:"]
    assert "it is there only when emulated" in lines[1]
    assert image.path("/plain").exists()


def test_a_base_without_a_native_sibling_is_emulated_and_told(tmp_path: Path, cache_directory: Path) -> None:
    context = root_context(cache_directory, "tools", ("amd64", "arm64"), TOOL_PACKAGES)
    build = Builder(tmp_path, context=str(context))
    image = build(
        "FROM scratch\nADD rootfs-arm64.tar /\nRUN echo done > /done", platform=ARM, accelerate="tools"
    )

    assert image.read_text("/done") == "done\n"
    assert "accelerate: the step is emulated: it does not begin with an image" in log(image)


def test_a_step_leaves_only_what_it_wrote(shared: Builder) -> None:
    image, _ = run(shared, "echo x > /x")

    members = image.members(-1, ARM)
    assert sorted(members) == ["x"]
