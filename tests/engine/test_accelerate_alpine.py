"""Steps of bases like Alpine: busybox is one program that is many, by name, and apk knows the packages.

The bases are Debian's busybox with a database as apk writes it, for this machine and two others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import Output
from anyarch.testing.apk_roots import apk_context, with_database
from anyarch.testing.builder import Builder
from tests.engine.test_accelerate import ARM, BASE, log, notes

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.emulation]

BIG = "linux/s390x"
ARCHITECTURES = ("amd64", "arm64", "s390x")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "s390x": "s390x"}


def context_of(cache: Path, directory: Path, native: str) -> Path:
    """The roots, with another version of this machine's busybox."""
    directory.mkdir()
    for target, machine in MACHINES.items():
        name = f"rootfs-{target}.tar"
        raw = (apk_context(cache, ARCHITECTURES) / name).read_bytes()
        (directory / name).write_bytes(
            with_database(raw, machine, versions={"busybox": native}) if target == "amd64" else raw
        )
    return directory


def builder(directory: Path, context: Path) -> Builder:
    layout = directory / "layout"
    output = Output("oci", str(layout), {"tar": "false"})
    base = Builder(directory / "base", context=str(context))
    base(BASE, platform=("linux/amd64", ARM, BIG), outputs=(output,))
    return Builder(
        directory / "build", build_contexts={"alpine": f"oci-layout://{layout}"}, accelerate="tools"
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache_directory: Path) -> Builder:
    directory = tmp_path_factory.mktemp("alpine")
    return builder(directory, apk_context(cache_directory, ARCHITECTURES))


def run(build: Builder, script: str, platform: str = ARM, **request: Any) -> tuple[BuiltImage, str]:
    """One RUN step above the base; and its log."""
    image = build(f"FROM alpine\nRUN <<'END'\nset -e\n{script}\nEND\n", platform=platform, **request)
    return image, log(image)


SCRIPT = r"""
mkdir -p /out; cd /out
uname -m > machine; busybox uname -m >> machine; arch >> machine
for i in 1 2 3 4 5; do echo "line $i" >> lines; done
sed s/line/LINE/ lines | grep -c LINE > count; sort -r lines > sorted
awk '{ s += $2; a["\303\244" $2] = NF } END { for (k in a) print k, a[k]; print s / 3, 7.9 }' lines > awked
tar -C /bin -cf - . | gzip -n > a.tar.gz; tar -C /bin -cf - . | bzip2 > a.tar.bz2
gzip -dc a.tar.gz | tar -tvf - > listed; gzip -dc a.tar.gz | sha256sum > sum
find /bin /etc | sort > found; busybox > banner 2>&1 || true; ls --help > help 2>&1 || true
cat --nope > usage 2>&1 || true; /bin/busybox sh -c 'echo $0 $((1 << 40)) $(expr 3 \* 7) "$@"' x y > nested
readlink /proc/self/exe > self || true; od -An -tx2 -N16 /bin/busybox > words
od -An -tx1 -N20 /bin/busybox > od
cp -p /bin/busybox busybox; ln -s busybox cat; ./cat lines > own; ln busybox echo; ./echo hard > hard
md5sum /bin/busybox > md5
printf '%05.2f %d\n' 3.14159 42 > printed; stat -c '%n %s %a' /bin/busybox > stat
(exec -a -sh busybox -c 'echo login $0') > login 2>&1 || true
printf '#!/bin/busybox sh\necho script $0 $1\n' > script; chmod 755 script; ./script a > scripted
"""


@pytest.mark.parametrize("platform", [ARM, BIG])
def test_a_step_is_what_it_is_without_acceleration(shared: Builder, platform: str) -> None:
    plain, _ = run(shared, SCRIPT, accelerate="off", platform=platform)
    fast, told = run(shared, SCRIPT, platform=platform)

    own, its = (
        {path.name: path.read_bytes() for path in image.path("/out").iterdir() if path.is_file()}
        for image in (plain, fast)
    )
    assert len(own) > 25
    assert its == own
    assert set(fast.read_text("/out/machine").split()) == {MACHINES[platform.rpartition("/")[2]]}
    (line,) = [line for line in notes(told).splitlines() if "runs of native programs" in line]
    assert int(line.split(": ")[2].split(";")[0]) > 25
    assert line.endswith("programs with a native twin: 1")


def test_applets_that_tell_the_machine_are_emulated_without_a_word(shared: Builder) -> None:
    _, told = run(shared, "uname -m; busybox arch; od -N1 /bin/busybox; busybox | head -1")

    assert "aarch64\naarch64\n" in told
    assert "runs of native programs: 2; " in notes(told)  # sh and head
    assert "was emulated" not in notes(told)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("export LD_PRELOAD=/nowhere.so; cat /etc/passwd", "a variable such as"),
        ("export MUSL_LOCPATH=/nowhere; cat /etc/passwd", "a variable such as"),
        ("cat /proc/self/maps", "an argument asks for"),
        ("cp /bin/busybox /b; mv /b /bin/busybox; /bin/busybox true", "is not the package's any more"),
    ],
)
def test_what_could_change_the_output_is_emulated_and_told(shared: Builder, script: str, reason: str) -> None:
    _, told = run(shared, script)

    lines = [line for line in notes(told).splitlines() if "/bin/busybox was emulated" in line]
    assert len(lines) == 1, told
    assert reason in lines[0]


def test_a_locale_is_nothing_to_musl(shared: Builder) -> None:
    _, told = run(shared, "export LANG=de_DE.UTF-8 LC_ALL=C.UTF-8; cat /etc/passwd", platform=BIG)

    assert "was emulated" not in notes(told)


def test_a_native_image_of_another_version_is_told(tmp_path: Path, cache_directory: Path) -> None:
    context = context_of(cache_directory, tmp_path / "context", "1.35.0-r18")
    image, told = run(builder(tmp_path, context), "uname -m > /machine")

    assert image.read_text("/machine") == "aarch64\n"
    assert "package busybox is emulated: version 1.35.0-r17, but 1.35.0-r18 in the native image" in told
    assert "the step is emulated: nothing in its root has a twin" in told


def test_a_root_without_a_database_is_emulated_and_told(shared: Builder) -> None:
    image = shared("FROM alpine\nRUN rm /lib/apk/db/installed\nRUN true", platform=ARM)

    assert "the step is emulated: no packages of dpkg or apk are in its root" in log(image)


def test_compilers_are_told_to_be_emulated_and_tools_are_not(shared: Builder) -> None:
    _, told = run(shared, "cat /etc/passwd", accelerate="cross")

    assert "cross compilers are known of Debian and Ubuntu, not of this base" in told
    assert "runs of native programs: 2; " in notes(told)
