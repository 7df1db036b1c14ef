"""What a machine can run, from facts that are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.elf.tiny import ARCHITECTURES, tiny_executable
from anyarch.emulation.emulator import (
    QEMU_ARCHITECTURES,
    Emulator,
    find_emulator,
    find_emulators,
    magic_and_mask,
    registration,
    unusable_emulator,
)
from anyarch.emulation.host import Host, amd64_level, arm64_versions, parse_handler
from anyarch.emulation.route import Route, plan, registered
from anyarch.errors import EmulatorMissing, SandboxError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.sandbox.plan import Registration

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
QEMU = Emulator("aarch64", "/nowhere/qemu-aarch64")


class DictMemo:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value


class RefusingExecutor:
    """As on a kernel that has no binfmt_misc for user namespaces."""

    def __init__(self, message: str = "") -> None:
        self.message = message
        self.asked = 0

    def check_emulators(self, emulators: Sequence[Registration]) -> None:
        self.asked += 1
        if self.message:
            raise SandboxError(self.message)


def machine(
    platform: Platform = AMD64,
    *,
    binfmt_misc: Path = Path("/nowhere"),
    flags: str = "",
    runs: Callable[[str], bool] = lambda _architecture: True,
    emulator: Emulator | None = None,
    executor: RefusingExecutor | None = None,
    memo: DictMemo | None = None,
) -> Host:
    return Host(
        platform=platform,
        binfmt_misc=str(binfmt_misc),
        cpu_flags=lambda: frozenset(flags.split()),
        runs=runs,
        emulator=lambda _arch: emulator,
        executor=executor,  # type: ignore[arg-type]  # the one method that is used
        memo=memo,
    )


def handler_text(
    arch: str, interpreter: str = "/usr/bin/qemu", flags: str = "F", state: str = "enabled"
) -> str:
    magic, mask = magic_and_mask(arch)
    head = f"{state}\ninterpreter {interpreter}\nflags: {flags}\noffset 0\n"
    return head + f"magic {magic.hex()}\nmask {mask.hex()}\n"


@pytest.fixture
def binfmt_misc(tmp_path: Path) -> Path:
    directory = tmp_path / "binfmt_misc"
    directory.mkdir()
    (directory / "register").touch()
    (directory / "status").write_text("enabled\n")
    return directory


# recognising programs


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) & set(QEMU_ARCHITECTURES)))
def test_registration_matches_programs_of_its_architecture_only(architecture: str) -> None:
    magic, mask = magic_and_mask(QEMU_ARCHITECTURES[architecture])

    def matches(head: bytes) -> bool:
        return all(byte & bit == want & bit for byte, want, bit in zip(head, magic, mask, strict=False))

    assert [name for name in ARCHITECTURES if matches(tiny_executable(name))] == [architecture]


def test_registration_takes_shared_objects_and_any_abi_but_no_object_files() -> None:
    magic, mask = magic_and_mask("s390x")
    program = bytearray(tiny_executable("s390x"))

    def matches() -> bool:
        return all(byte & bit == want & bit for byte, want, bit in zip(program, magic, mask, strict=False))

    program[7], program[8] = 3, 1  # Linux ABI, a version
    program[16:18] = b"\0\3"  # ET_DYN
    assert matches()
    program[16:18] = b"\0\1"  # ET_REL
    assert not matches()


def test_registration_line_names_all_the_kernel_wants() -> None:
    entry = registration(QEMU)

    assert (entry.name, entry.interpreter, len(entry.magic), len(entry.mask)) == (
        *("qemu-aarch64", "/nowhere/qemu-aarch64"),
        *(20, 20),
    )
    assert "F" in entry.flags


# the host's handlers


def test_handler_of_the_host_is_recognised_by_its_magic(binfmt_misc: Path) -> None:
    (binfmt_misc / "any-name").write_text(handler_text("aarch64", "/usr/libexec/q", "POCF"))
    (binfmt_misc / "python3").write_text(
        "enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic 6f0d0d0a\n"
    )

    (found,) = machine(binfmt_misc=binfmt_misc).handlers("aarch64")

    assert (found.name, found.interpreter, found.is_fixed) == ("any-name", "/usr/libexec/q", True)
    assert machine(binfmt_misc=binfmt_misc).handlers("arm") == []


def test_debians_own_entry_is_recognised() -> None:
    """As the kernel shows what /usr/lib/binfmt.d/qemu-aarch64.conf registers."""
    text = (
        "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n"
        "magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
    )
    handler = parse_handler("qemu-aarch64", text)

    assert handler is not None
    assert (handler.arch, handler.is_fixed) == ("aarch64", True)


@pytest.mark.parametrize("text", ["", "enabled\n", "disabled\n", "enabled\ninterpreter /x\nmagic zz\n"])
def test_other_entries_are_no_handlers(text: str) -> None:
    assert parse_handler("x", text) is None
    assert parse_handler("x", handler_text("arm", state="disabled")) is None


def test_disabled_table_counts_for_nothing(binfmt_misc: Path) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64"))
    (binfmt_misc / "status").write_text("disabled\n")

    assert machine(binfmt_misc=binfmt_misc).handlers("aarch64") == []


# native platforms


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("", 1),
        ("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3", 2),
        ("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", 3),
        ("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", 1),  # no level without the ones below
    ],
)
def test_amd64_level_follows_from_cpu_flags(flags: str, level: int) -> None:
    assert amd64_level(frozenset(flags.split())) == level


def test_amd64_runs_lower_levels_and_386_if_the_kernel_does() -> None:
    flags = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"

    def native(host: Host) -> list[str]:
        return [str(platform) for platform in host.native_platforms()]

    assert native(machine(flags=flags)) == ["linux/amd64/v2", "linux/amd64", "linux/386"]
    assert native(machine(runs=lambda _architecture: False)) == ["linux/amd64"]
    assert native(machine(ARM64)) == [
        "linux/arm64",
        "linux/arm/v8",
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/arm/v5",
    ]


def test_trial_is_made_once_and_kept_until_the_next_boot() -> None:
    tried: list[str] = []
    memo = DictMemo()

    def runs(architecture: str) -> bool:
        tried.append(architecture)
        return True

    for _ in range(2):
        host = machine(runs=runs, memo=memo)
        assert host.is_native(Platform("linux", "386"))
        assert host.is_native(Platform("linux", "386"))

    assert tried == ["386"]


# routes


def test_route_of_root_prefers_the_hosts_handler(binfmt_misc: Path) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64"))
    host = machine(binfmt_misc=binfmt_misc, emulator=QEMU)

    assert plan(ARM64, host, is_root=True).kind == "host"
    assert plan(ARM64, host, is_root=False).kind == "private"


def test_route_without_a_fixed_handler_is_private(binfmt_misc: Path) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64", flags="OC"))

    route = plan(ARM64, machine(binfmt_misc=binfmt_misc, emulator=QEMU), is_root=True)

    assert route == Route(
        "private",
        (registration(QEMU),),
        "qemu-aarch64 /nowhere/qemu-aarch64",
        interpreter="/nowhere/qemu-aarch64",
    )


def test_ordinary_user_falls_back_to_the_hosts_handler(binfmt_misc: Path) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64"))
    executor = RefusingExecutor("no binfmt_misc here")

    assert (
        plan(ARM64, machine(binfmt_misc=binfmt_misc, emulator=QEMU, executor=executor), is_root=False).kind
        == "host"
    )
    assert executor.asked == 1


def test_emulator_that_the_user_has_chosen_takes_no_handlers_place(
    binfmt_misc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64"))
    place_emulator(tmp_path / "own" / "qemu-aarch64", tiny_executable("amd64"))
    own = Emulator("aarch64", str(tmp_path / "own" / "qemu-aarch64"))

    chosen = Host(platform=AMD64, binfmt_misc=str(binfmt_misc), directory=str(tmp_path / "own"))
    assert plan(ARM64, chosen, is_root=True).interpreter == own.path

    host = machine(binfmt_misc=binfmt_misc, emulator=own)
    assert plan(ARM64, host, is_root=True).kind == "host"
    monkeypatch.setenv("ANYARCH_QEMU_DIR", str(tmp_path / "own"))
    assert plan(ARM64, host, is_root=True).interpreter == own.path


def test_chosen_directory_without_the_emulator_is_named(binfmt_misc: Path, tmp_path: Path) -> None:
    (binfmt_misc / "a").write_text(handler_text("aarch64"))
    host = Host(platform=AMD64, binfmt_misc=str(binfmt_misc), directory=str(tmp_path))

    with pytest.raises(EmulatorMissing, match=f"{tmp_path} holds no static qemu-aarch64"):
        plan(ARM64, host, is_root=True)


def test_root_registers_an_emulator_with_a_machine_that_has_no_private_one(
    binfmt_misc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    place_emulator(tmp_path / "qemu-aarch64", tiny_executable("amd64"))
    emulator = Emulator("aarch64", str(tmp_path / "qemu-aarch64"))
    (binfmt_misc / "status").write_text("enabled\n")
    (binfmt_misc / "register").touch()
    executor = RefusingExecutor("no binfmt_misc here")
    host = machine(binfmt_misc=binfmt_misc, emulator=emulator, executor=executor)

    planned = plan(ARM64, host, is_root=True)
    assert (planned.kind, planned.interpreter) == ("register", emulator.path)
    assert (binfmt_misc / "register").read_bytes() == b""  # planning changes nothing

    route = registered(planned, ARM64, host)
    assert (route.kind, route.interpreter) == ("host", emulator.path)
    assert route.cache_identity == planned.cache_identity
    assert "registered with this machine" in route.note
    assert b"anyarch-qemu-aarch64" in (binfmt_misc / "register").read_bytes()


def test_registering_that_fails_is_told_with_what_refused_before(
    binfmt_misc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (binfmt_misc / "status").write_text("disabled\n")
    (binfmt_misc / "register").touch()
    executor = RefusingExecutor("the gate is shut")
    host = machine(binfmt_misc=binfmt_misc, emulator=QEMU, executor=executor)

    planned = plan(ARM64, host, is_root=True)
    with pytest.raises(EmulatorMissing, match=r"the gate is shut, nor can it be registered .* switched off"):
        registered(planned, ARM64, host)


def test_native_platform_needs_nothing() -> None:
    assert plan(AMD64, machine(), is_root=False) == Route("native")
    assert plan(Platform("linux", "386"), machine(), is_root=False) == Route("native")


@pytest.mark.parametrize(
    ("platform", "host", "message", "hint"),
    [
        ("linux/arm64", machine(), "linux/arm64 needs an emulator", "apt-get install qemu-user-static"),
        ("linux/arm64", machine(), "no qemu-aarch64 was found", "ANYARCH_QEMU_DIR"),
        ("linux/amd64/v3", machine(), "does not run linux/amd64/v3", "v3"),
        ("windows/amd64", machine(), "cannot run on linux/amd64", "COPY"),
        ("linux/sparc64", machine(), "no emulator for linux/sparc64", "cross-compile"),
    ],
)
def test_missing_route_says_what_is_missing_and_what_to_do(
    platform: str, host: Host, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.emulation.route.unusable_emulator", lambda _arch: "")

    with pytest.raises(EmulatorMissing, match=message) as caught:
        plan(Platform.parse(platform), host, is_root=True)
    assert hint in (caught.value.hint or "")
    assert caught.value.platform == platform


def test_handler_without_flag_f_is_blamed_when_it_is_all_there_is(
    binfmt_misc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.emulation.route.unusable_emulator", lambda _arch: "")
    (binfmt_misc / "mine").write_text(handler_text("aarch64", flags="OC"))

    with pytest.raises(EmulatorMissing, match=r"mine .* lacks the flag F"):
        plan(ARM64, machine(binfmt_misc=binfmt_misc), is_root=True)


# finding emulators


def test_own_directory_of_emulators_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_emulator(tmp_path / "own" / "qemu-riscv64", tiny_executable("amd64"))
    place_emulator(tmp_path / "path" / "qemu-riscv64-static", tiny_executable("amd64"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    assert find_emulator("riscv64") == Emulator("riscv64", str(tmp_path / "path" / "qemu-riscv64-static"))
    monkeypatch.setenv("ANYARCH_QEMU_DIR", str(tmp_path / "own"))
    assert find_emulator("riscv64") == Emulator("riscv64", str(tmp_path / "own" / "qemu-riscv64"))
    assert find_emulators()["riscv64"].path.startswith(str(tmp_path))


def test_emulator_that_needs_libraries_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_emulator(tmp_path / "qemu-hexagon", Path("/bin/sh").read_bytes())
    monkeypatch.setenv("ANYARCH_QEMU_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("anyarch.emulation.emulator._DIRECTORIES", ())

    assert find_emulator("hexagon") is None
    assert unusable_emulator("hexagon") == str(tmp_path / "qemu-hexagon")


def test_facts_about_an_emulator_are_kept_until_its_file_changes(tmp_path: Path) -> None:
    script = tmp_path / "qemu-arm"
    counter = tmp_path / "count"
    place_emulator(script, f"#!/bin/sh\necho x >>{counter}\necho 'qemu-arm version 9.9 (test)'\n".encode())
    emulator, memo = Emulator("arm", str(script)), DictMemo()

    assert [emulator.version(memo) for _ in range(3)] == ["9.9 (test)"] * 3
    assert counter.read_text() == "x\n"
    script.write_text(script.read_text() + "\n")
    assert emulator.version(memo) == "9.9 (test)"
    assert counter.read_text() == "x\nx\n"
    assert emulator.digest(memo).startswith("sha256:")


def test_vanished_emulator_has_no_facts() -> None:
    assert QEMU.version() == ""
    assert QEMU.digest() == ""


def place_emulator(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


# CPUs of arm64

_V8_2 = "fp asimd aes crc32 atomics fphp asimdhp cpuid asimdrdm dcpop"
_V9 = f"{_V8_2} jscvt fcma lrcpc paca pacg asimddp dit uscat ilrcpc flagm flagm2 frint sb sve sve2"


@pytest.mark.parametrize(
    ("features", "versions"),
    [
        ("fp asimd evtstrm crc32 cpuid", []),  # Cortex-A72
        (_V8_2, ["v8.1", "v8.2"]),  # Neoverse N1 has more, but not all of v8.3
        (_V9, ["v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v9"]),
    ],
)
def test_versions_of_arm64_follow_from_its_features(features: str, versions: list[str]) -> None:
    assert arm64_versions(frozenset(features.split())) == versions


def test_arm64_host_runs_what_its_cpu_has_and_arm() -> None:
    host = machine(ARM64, flags=_V9)
    texts = [str(platform) for platform in host.native_platforms()]
    assert texts == ["linux/arm64/v9", "linux/arm64", *(f"linux/arm/{v}" for v in ("v8", "v7", "v6", "v5"))]

    old = machine(ARM64, flags=_V8_2, runs=lambda _: False)
    assert [str(platform) for platform in old.native_platforms()] == ["linux/arm64"]
    assert old.is_native(Platform("linux", "arm64", "v8.2"))
    with pytest.raises(EmulatorMissing, match="does not run linux/arm64/v9"):
        plan(Platform("linux", "arm64", "v9"), old, is_root=True)
