"""Control groups of version 2 for real: of a mount namespace that has no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

_MEMORY = 64 << 20
# Whatever is mounted of control groups goes, and the one hierarchy of version 2 takes its place.
_ONLY_VERSION_2 = "umount -R /sys/fs/cgroup || :; mount -t cgroup2 none /sys/fs/cgroup"
_SCRIPT = """
import json, os, sys
from anyarch.sandbox.executor import Executor
from anyarch.sandbox.plan import *
base, here, parent, memory = sys.argv[1:]
place = "/sys/fs/cgroup" + parent
result = {"controllers": open("/sys/fs/cgroup/cgroup.controllers").read().split(), "groups": [], "out": ""}
notes = []

def on_output(stream, data):
    result["out"] += data.decode()
    if result["groups"]:
        return
    for name in os.listdir(place):
        directory = f"{place}/{name}"
        if os.path.isdir(directory):
            files = {}
            for file in ("cgroup.procs", "memory.max", "cgroup.type"):
                if os.path.exists(f"{directory}/{file}"):
                    files[file] = open(f"{directory}/{file}").read().split()
            result["groups"].append(files)

with Executor(here + "/state") as executor:
    for part in ("upper", "work"):
        os.mkdir(f"{here}/{part}")
    request = ExecRequest(
        ("sh", "-c", "cat /proc/self/cgroup; sleep 1"), RootFS((base,), here + "/upper", here + "/work"),
        env=("PATH=/bin",), cgroup_parent=parent, resources=Resources(memory=int(memory)),
    )
    result["code"] = executor.run(request, on_output=on_output, on_note=lambda kind, text: notes.append(text))
result["left"] = [name for name in os.listdir(place) if os.path.isdir(f"{place}/{name}")]
result["notes"] = notes
print(json.dumps(result))
"""


@pytest.fixture
def in_version_2(tmp_path: Path, busybox_layer: Path) -> dict[str, Any]:
    """What a step with a limit of memory was given below a parent of its own."""
    parent = f"/anyarch.v2.{os.getpid()}"
    arguments = [sys.executable, "-c", _SCRIPT, str(busybox_layer), str(tmp_path), parent, str(_MEMORY)]
    remove = f"rmdir /sys/fs/cgroup{parent}"
    script = _ONLY_VERSION_2 + '; "$@"; code=$?; ' + remove + "; exit $code"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_step_joins_a_group_below_its_parent_and_the_group_goes_with_it(in_version_2: dict[str, Any]) -> None:
    assert in_version_2["code"] == 0
    (group,) = in_version_2["groups"]
    assert len(group["cgroup.procs"]) >= 2  # init and the step's program
    assert in_version_2["left"] == []
    assert "0::/\n" in in_version_2["out"]  # and the step sees itself at the root


def test_limit_is_in_force_or_said_to_be_missing(in_version_2: dict[str, Any]) -> None:
    """The kernel has a controller in one version at a time."""
    (group,) = in_version_2["groups"]
    if "memory" in in_version_2["controllers"]:
        assert group["memory.max"] == [str(_MEMORY)]
        assert in_version_2["notes"] == []
    else:
        assert in_version_2["notes"] == ["memory: this machine has no control group for memory"]
