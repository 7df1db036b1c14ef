"""`RUN --device`: devices that CDI files of the machine describe, given to steps that may have them."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.errors import BuildError, DockerfileError, NotSupported, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder

pytestmark = pytest.mark.root

LABS = "# syntax=docker/dockerfile:1-labs\nFROM busybox\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only CDI files are."""
    found = tmp_path / "cdi"
    found.mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f'[cdi]\nspecDirs = ["{found}"]\nautoAllowed = ["free.example/thing"]\n')
    monkeypatch.setenv("ANYARCH_CONFIG", str(config))
    return found


def describe(directory: Path, kind: str, *devices: dict[str, Any], **more: Any) -> None:
    document = {"cdiVersion": "0.6.0", "kind": kind, "devices": list(devices), **more}
    (directory / f"{kind.replace('/', '-')}.json").write_text(json.dumps(document))


def variable(name: str, value: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"env": [f"DEVICE_{name}={value}"]}, **more}


def test_a_step_gets_the_node_the_mount_and_the_variables_of_a_device(
    build: Builder, directory: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.write_text("of the driver\n")
    node = {"path": "/dev/own/null", "hostPath": "/dev/null", "fileMode": 0o640, "uid": 7, "gid": 8}
    mount = {"hostPath": str(library), "containerPath": "/opt/library", "options": ["ro", "nosuid", "rbind"]}
    describe(
        directory,
        "vendor.example/class",
        {"name": "one", "containerEdits": {"deviceNodes": [node], "mounts": [mount], "env": ["A=device"]}},
        containerEdits={"env": ["COMMON=1"]},
    )
    image = build(
        f"""{LABS}ENV A=stage
RUN --device=vendor.example/class=one stat -c '%a %u:%g %t,%T %F' /dev/own/null > /node && \\
    echo lost > /dev/own/null && cat /opt/library > /library && env > /env && \\
    ! touch /opt/library 2>/dev/null
RUN ls /dev/own /opt/library 2>/dev/null; env > /without
""",
        allow=("device",),
    )
    assert image.read_text("/node") == "640 7:8 1,3 character special file\n"
    assert image.read_text("/library") == "of the driver\n"
    assert {"A=device", "COMMON=1"} <= set(image.read_text("/env").splitlines())
    assert "A=stage" in image.read_text("/without").splitlines()
    # The mountpoints are no part of the image.
    assert not image.path("/opt/library").exists()


def test_a_class_without_name_is_its_first_device_and_a_star_is_all(build: Builder, directory: Path) -> None:
    describe(directory, "vendor.example/class", variable("b", "2"), variable("a", "1"))
    text = f"""{LABS}RUN --device=vendor.example/class env > /first
RUN --device=vendor.example/class=* env > /all
"""
    image = build(text, allow=("device",))
    assert [line for line in image.read_text("/first").splitlines() if "DEVICE" in line] == ["DEVICE_a=1"]
    assert {"DEVICE_a=1", "DEVICE_b=2"} <= set(image.read_text("/all").splitlines())


def test_a_device_is_found_by_the_class_it_is_annotated_with(build: Builder, directory: Path) -> None:
    annotations = {"org.mobyproject.buildkit.device.class": "gpu"}
    describe(directory, "vendor.example/class", variable("a", "1", annotations=annotations))
    image = build(f"{LABS}RUN --device=gpu,required env > /env\n", allow=("device",))
    assert "DEVICE_a=1" in image.read_text("/env").splitlines()


def test_an_optional_device_may_be_missing_and_a_required_one_not(build: Builder, directory: Path) -> None:
    image = build(f"{LABS}RUN --device=vendor.example/class=none echo ran > /x\n", allow=("device",))
    assert image.read_text("/x") == "ran\n"
    for flag in ("vendor.example/class=none,required", "name=vendor.example/class=none,required=true"):
        with pytest.raises(
            BuildError, match=r'required device "vendor.example/class=none" is not registered'
        ) as failure:
            build(f"{LABS}RUN --device={flag} true\n", allow=("device",))
        assert str(directory) in (failure.value.hint or "")
        assert failure.value.source is not None
        assert failure.value.source.start == 3


def test_a_device_has_to_be_allowed(build: Builder, directory: Path) -> None:
    describe(directory, "vendor.example/class", variable("a", "1"), variable("b", "2"))
    text = f"{LABS}RUN --device=vendor.example/class=a env > /env\n"
    refused = "device vendor.example/class=a is requested by the build but not allowed"
    with pytest.raises(BuildError, match=refused) as failure:
        build(text)
    assert "--allow device=vendor.example/class=a" in (failure.value.hint or "")
    with pytest.raises(BuildError, match=refused):
        build(text, allow=("device=vendor.example/class=b",))
    with pytest.raises(
        BuildError, match=r"devices vendor.example/class=a, vendor.example/class=b are requested"
    ):
        build(f"{LABS}RUN --device=vendor.example/class=* true\n")
    image = build(text, allow=("device=vendor.example/class=a",))
    assert "DEVICE_a=1" in image.read_text("/env").splitlines()


def test_a_device_may_be_lent_under_another_name(build: Builder, directory: Path) -> None:
    describe(directory, "vendor.example/class", variable("a", "1"))
    text = f"{LABS}RUN --device=mine,required env > /env\n"
    image = build(text, allow=("device=vendor.example/class=a,alias=mine",))
    assert "DEVICE_a=1" in image.read_text("/env").splitlines()


def test_what_the_machine_gives_to_everyone_needs_no_permission(build: Builder, directory: Path) -> None:
    annotations = {"org.mobyproject.buildkit.device.autoallow": True}
    describe(directory, "vendor.example/class", variable("a", "1", annotations=annotations))
    describe(directory, "free.example/thing", variable("b", "2"))
    text = f"{LABS}RUN --device=vendor.example/class=a --device=free.example/thing=b env > /env\n"
    assert {"DEVICE_a=1", "DEVICE_b=2"} <= set(build(text).read_text("/env").splitlines())


def test_files_may_be_yaml(build: Builder, directory: Path) -> None:
    (directory / "vendor.yaml").write_text(
        """cdiVersion: "0.6.0"
kind: vendor.example/class
annotations:
  org.mobyproject.buildkit.device.autoallow: true
devices:
- name: 0
  containerEdits:
    env:
    - FROM_YAML=yes
"""
    )
    image = build(f"{LABS}RUN --device=vendor.example/class=0,required env > /env\n")
    assert "FROM_YAML=yes" in image.read_text("/env").splitlines()


@pytest.mark.emulation
def test_emulated_steps_get_devices_too(build: Builder, directory: Path) -> None:
    node = {"path": "/dev/own", "hostPath": "/dev/zero"}
    describe(directory, "vendor.example/class", {"name": "a", "containerEdits": {"deviceNodes": [node]}})
    text = f"{LABS}RUN --device=vendor.example/class=a head -c 3 /dev/own > /zeros\n"
    image = build(text, platform="linux/arm64", allow=("device",))
    assert image.path("/zeros").read_bytes() == b"\0\0\0"


def test_the_devices_that_a_step_gets_are_part_of_its_key(build: Builder, directory: Path) -> None:
    text = f"{LABS}RUN --device=vendor.example/class env > /env\n"
    assert "DEVICE" not in build(text, allow=("device",)).read_text("/env")
    describe(directory, "vendor.example/class", variable("a", "1"))
    again = build(text, allow=("device",))
    assert "DEVICE_a=1" in again.read_text("/env").splitlines()
    assert build(text, allow=("device",)).executed == []


def test_only_the_labs_syntax_knows_devices(build: Builder, directory: Path) -> None:
    describe(directory, "vendor.example/class", variable("a", "1"))
    step = "FROM busybox\nRUN --device=vendor.example/class=a env > /env\n"
    for head in ("", "# syntax=docker/dockerfile:1\n"):
        with pytest.raises(
            DockerfileError, match=r"only supported in Dockerfile frontend 1.14.0-labs or later"
        ):
            build(head + step, allow=("device",))
    image = build(step, allow=("device",), build_args={"BUILDKIT_SYNTAX": "docker/dockerfile:labs"})
    assert "DEVICE_a=1" in image.read_text("/env").splitlines()


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/hook"}]},
         "/bin/hook run as a createContainer hook"),
        ({"netDevices": [{"hostInterfaceName": "eth9", "name": "eth0"}]}, "a network interface"),
        ({"mounts": [{"hostPath": "/", "containerPath": "/x", "options": ["idmap"]}]}, "the option idmap"),
    ],
)  # fmt: skip
def test_what_a_device_needs_and_is_not_done_is_refused(
    build: Builder, directory: Path, edits: dict[str, Any], said: str
) -> None:
    describe(directory, "vendor.example/class", {"name": "a", "containerEdits": edits})
    with pytest.raises(NotSupported, match=said):
        build(f"{LABS}RUN --device=vendor.example/class=a true\n", allow=("device",))


def test_a_device_that_the_machine_lacks_is_named(build: Builder, directory: Path) -> None:
    node = {"path": "/dev/nowhere"}
    describe(directory, "vendor.example/class", {"name": "a", "containerEdits": {"deviceNodes": [node]}})
    with pytest.raises(BuildError, match='failed to stat CDI host device "/dev/nowhere": No such file'):
        build(f"{LABS}RUN --device=vendor.example/class=a true\n", allow=("device",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "truncated"),
        ('{"cdiVersion": "9.0.0", "kind": "a/b", "devices": []}', "invalid version '9.0.0'"),
        ('{"cdiVersion": "0.6.0", "kind": "ab", "devices": []}', "invalid kind 'ab'"),
        ('{"cdiVersion": "0.6.0", "kind": "a/b", "devices": '
         '[{"name": "../x", "containerEdits": {"env": ["A=1"]}}]}',
         "invalid device name"),
        ('{"cdiVersion": "0.6.0", "kind": "a/b", "devices": [], "more": 1}', "unknown field"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_good_is_named_where_its_device_is_missed(
    build: Builder, directory: Path, content: str, said: str
) -> None:
    (directory / "bad.json").write_text(content)
    with pytest.raises(BuildError) as failure:
        build(f"{LABS}RUN --device=a/b,required true\n", allow=("device",))
    assert "bad.json" in (failure.value.hint or "")
    assert said in (failure.value.hint or "")


def test_two_files_that_claim_one_device_make_it_none(build: Builder, directory: Path) -> None:
    describe(directory, "vendor.example/class", variable("a", "1"))
    os.link(directory / "vendor.example-class.json", directory / "again.json")
    with pytest.raises(BuildError, match="not registered") as failure:
        build(f"{LABS}RUN --device=vendor.example/class=a,required true\n", allow=("device",))
    assert "conflicting device" in (failure.value.hint or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device=a/b=c,name=x", 'unknown device config key "name"'),
        ("device=a/b=c,alias", 'invalid device config "alias"'),
        ("devices", "unknown entitlement devices"),
    ],
)
def test_permissions_that_make_no_sense_are_refused(scratch_build: Builder, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scratch_build("FROM scratch\nWORKDIR /x\n", allow=(text,))


def test_a_pipe_of_a_device_is_made(build: Builder, directory: Path) -> None:
    node = {"path": "/run/pipe", "type": "p", "fileMode": 0o600}
    describe(directory, "vendor.example/class", {"name": "a", "containerEdits": {"deviceNodes": [node]}})
    step = "RUN --device=vendor.example/class=a stat -c '%f' /run/pipe > /mode\n"
    image = build(f"{LABS}{step}", allow=("device",))
    assert int(image.read_text("/mode"), 16) == stat.S_IFIFO | 0o600
