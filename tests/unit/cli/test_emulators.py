"""`anyarch emulators`: what is shown of what the engine found."""

from __future__ import annotations

import json

import pytest

import anyarch.engine.emulators
from anyarch.cli.main import main
from anyarch.emulation.register import Change
from anyarch.emulation.survey import Status

WORKS = Status("linux/arm64", "private", True, "/usr/bin/qemu-aarch64-static", "7.2", "PCF", "private")
MISSING = Status("linux/s390x", problem="no qemu-s390x was found", hint="apt-get install qemu-user-static")
CRASHES = Status("linux/arm/v7", "host", False, "/q", "1.0", "OCF", "qemu-arm", "it ends with 139", "newer")


@pytest.fixture
def asked(monkeypatch):
    """What the engine was asked for; it answers with `asked.found`."""

    class Asked(list):
        def __init__(self):
            super().__init__()
            self.found = [WORKS, MISSING]

    asked = Asked()

    def list_emulators(platforms=(), *, probe=True, emulators=""):
        asked.append((tuple(platforms), probe))
        return [s for s in asked.found if not platforms or s.platform in platforms]

    monkeypatch.setattr(anyarch.engine.emulators, "list_emulators", list_emulators)
    return asked


def test_ls_shows_a_row_a_platform_and_what_to_do(asked, capsys):
    assert main(["emulators", "ls"]) == 0

    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("linux/arm64")]
    assert row.split() == [
        *("linux/arm64", "private", "ok", "/usr/bin/qemu-aarch64-static", "7.2", "PCF", "private")
    ]
    assert "linux/s390x:\n  no qemu-s390x was found\n  hint: apt-get install qemu-user-static\n" in out
    assert asked == [((), True)]


def test_ls_fails_only_for_a_platform_that_was_asked_for(asked):
    asked.found = [WORKS, MISSING, CRASHES]
    assert main(["emulators", "ls"]) == 0
    assert main(["emulators", "ls", "--platform", "linux/arm64"]) == 0
    assert main(["emulators", "ls", "--platform", "linux/s390x"]) == 1
    assert main(["emulators", "ls", "--platform", "linux/arm/v7"]) == 1


def test_ls_in_json_has_all_fields_for_every_platform(asked, capsys):
    assert main(["emulators", "ls", "--format=json", "--no-probe"]) == 0

    works, missing = json.loads(capsys.readouterr().out)
    assert works.keys() == missing.keys()
    assert works["registeredBy"] == "private"
    assert missing["route"] == ""
    assert asked == [((), False)]


def test_ls_refuses_flags_that_contradict(asked, capsys):
    assert main(["emulators", "ls", "--probe", "--no-probe"]) == 1
    assert "cannot be used together" in capsys.readouterr().err
    assert main(["emulators", "ls", "--probe=false"]) == 0
    assert asked == [((), False)]


def test_install_says_what_it_did_and_fails_when_one_is_missing(monkeypatch, capsys):
    changes = [Change("aarch64", "registered", "anyarch-qemu-aarch64: /q, flags PCF")]
    asked = []

    def install_emulators(text, **sources):
        asked.append((text, sources))
        return True, changes

    monkeypatch.setattr(anyarch.engine.emulators, "install_emulators", install_emulators)

    assert main(["emulators", "install", "arm64", "--from", "/opt"]) == 0
    assert capsys.readouterr().out == (
        "mounted binfmt_misc at /proc/sys/fs/binfmt_misc\n"
        "arm64: registered: anyarch-qemu-aarch64: /q, flags PCF\n"
    )
    assert asked == [("arm64", {"directory": "/opt", "image": None})]
    changes.append(Change("s390x", "missing", "no static qemu-s390x was found"))
    assert main(["emulators", "install", "arm64,s390x"]) == 1
    assert "apt-get install" in capsys.readouterr().err
    assert main(["emulators", "install", "all", "--from", "a", "--from-image", "b"]) == 1


def test_uninstall_says_what_was_removed(monkeypatch, capsys):
    changes = [Change("aarch64", "removed", "anyarch-qemu-aarch64")]
    monkeypatch.setattr(anyarch.engine.emulators, "uninstall_emulators", lambda text: changes)

    assert main(["emulators", "uninstall", "all"]) == 0
    assert capsys.readouterr().out == "arm64: removed: anyarch-qemu-aarch64\n"
    changes.clear()
    assert main(["emulators", "uninstall", "all"]) == 0
    assert capsys.readouterr().out == "nothing of ours is registered\n"
