"""Networks by CNI plugins: how plugins are called, and what is undone when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.errors import SandboxError
from anyarch.sandbox.net.cni import CniNetworks
from anyarch.sandbox.net.pool import NetworkPool

from .machines import in_own_machine

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Steps

pytestmark = pytest.mark.root

_PLUGIN = f"""#!{sys.executable} -I
import json, os, subprocess, sys
told = json.load(sys.stdin)
names = ("COMMAND", "CONTAINERID", "NETNS", "IFNAME", "ARGS", "PATH")
call = {{name: os.environ["CNI_" + name] for name in names}}
with open(__file__ + ".calls", "a") as file:
    json.dump({{"plugin": os.path.basename(__file__), **call, "config": told}}, file)
    file.write("\\n")
if call["COMMAND"] == "ADD":
    if told.get("fails"):
        print(json.dumps({{"cniVersion": "1.0.0", "code": 7, "msg": "no room", "details": "at all"}}))
        sys.exit(1)
    if told.get("link"):
        inside = ["nsenter", "--net=" + call["NETNS"], "ip", "link"]
        subprocess.run([*inside, "add", call["IFNAME"], "type", "bridge"], check=True)
    before = told.get("prevResult", {{"cniVersion": "1.0.0", "by": []}})
    print(json.dumps({{**before, "by": before["by"] + [told["type"]]}}))
"""


class Plugins:
    """A directory of plugins that note how they are called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.binaries = directory / "bin"
        self.binaries.mkdir()
        self.state = directory / "daemon"
        for name in ("first", "second"):
            path = self.binaries / name
            path.write_text(_PLUGIN)
            path.chmod(0o755)

    def write(self, name: str, document: dict[str, Any]) -> str:
        path = self.directory / name
        path.write_text(json.dumps(document))
        return str(path)

    def list(self, **of_second: Any) -> str:
        plugins = [{"type": "first", "link": True}, {"type": "second", **of_second}]
        return self.write("c.conflist", {"cniVersion": "1.0.0", "name": "net", "plugins": plugins})

    def open(self, config: str, notes: list[str] | None = None) -> CniNetworks:
        notes = [] if notes is None else notes
        return CniNetworks(self.state, config, str(self.binaries), note=notes.append)

    def calls(self) -> list[dict[str, Any]]:
        found = []
        for name in ("first", "second"):
            path = self.binaries / f"{name}.calls"
            if path.exists():
                found += [json.loads(line) for line in path.read_text().splitlines()]
                path.unlink()
        return found


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


@in_own_machine
def test_a_step_runs_in_the_namespace_that_the_plugins_were_given(
    root_steps: Steps, plugins: Plugins
) -> None:
    pool = NetworkPool(plugins.open(plugins.list()), uses_names=True)
    pool.try_one()
    with pool.lease() as lease:
        assert "eth0" in root_steps.sh("ip link", network="own", namespace=lease.namespace)
    pool.close()
    assert os.listdir(plugins.state / "net" / "cni") == []


@in_own_machine
def test_each_plugin_gets_the_result_of_the_one_before(plugins: Plugins) -> None:
    networks = plugins.open(plugins.list(extra=[1]))
    networks.remove(networks.make(""))
    first_add, first_del, second_add, second_del = plugins.calls()
    assert first_add["config"] == {"type": "first", "link": True, "name": "net", "cniVersion": "1.0.0"}
    assert second_add["config"]["prevResult"] == {"cniVersion": "1.0.0", "by": ["first"]}
    assert second_add["config"]["extra"] == [1]
    whole = {"cniVersion": "1.0.0", "by": ["first", "second"]}
    assert first_del["config"]["prevResult"] == second_del["config"]["prevResult"] == whole
    for call in (first_add, first_del, second_add, second_del):
        assert call["CONTAINERID"] == first_add["CONTAINERID"]
        assert call["IFNAME"] == "eth0"
        assert call["PATH"] == str(plugins.binaries)
        assert call["NETNS"] == str(plugins.state / "net" / "cni" / call["CONTAINERID"])
    assert [call["COMMAND"] for call in (first_add, first_del)] == ["ADD", "DEL"]


@in_own_machine
def test_a_configuration_of_one_plugin_is_a_list_of_one(plugins: Plugins) -> None:
    config = plugins.write("c.json", {"cniVersion": "1.0.0", "name": "one", "type": "second", "mtu": 9})
    networks = plugins.open(config)
    networks.remove(networks.make(""))
    assert plugins.calls()[0]["config"] == {
        "cniVersion": "1.0.0",
        "name": "one",
        "type": "second",
        "mtu": 9,
    }


@in_own_machine
@pytest.mark.parametrize(
    ("hostname", "arguments"),
    [("", ""), ("web.1", "K8S_POD_NAME=web.1;IgnoreUnknown=1"), ("a;K8S_POD_NAMESPACE=b", "")],
    ids=["none", "plain", "hostile"],
)
def test_plugins_are_told_the_name_of_a_step_and_nothing_else_by_it(
    plugins: Plugins, hostname: str, arguments: str
) -> None:
    networks = plugins.open(plugins.list())
    networks.remove(networks.make(hostname))
    assert {call["ARGS"] for call in plugins.calls()} == {arguments}


@in_own_machine
def test_what_a_plugin_refuses_is_told_and_undone(plugins: Plugins) -> None:
    networks = plugins.open(plugins.list(fails=True))
    with pytest.raises(SandboxError, match=r'^plugin type="second" failed \(add\): no room at all$'):
        networks.make("")
    assert [(call["plugin"], call["COMMAND"]) for call in plugins.calls()] == [
        ("first", "ADD"),
        ("first", "DEL"),
        ("second", "ADD"),
        ("second", "DEL"),
    ]
    assert os.listdir(plugins.state / "net" / "cni") == []


_DIES = """
import os, sys
from pathlib import Path
from anyarch.sandbox.net.cni import CniNetworks
networks = CniNetworks(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
network = networks.make("")
print("ready", flush=True)
sys.stdin.read()
"""


@in_own_machine
def test_what_a_killed_daemon_leaves_is_undone_by_the_next_one_and_not_sooner(plugins: Plugins) -> None:
    config = plugins.list()
    process = subprocess.Popen(
        [sys.executable, "-c", _DIES, str(plugins.state), config, str(plugins.binaries)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (added, _) = plugins.calls()
    plugins.open(config)
    assert plugins.calls() == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    path = added["NETNS"]
    assert os.path.ismount(path) or path in open("/proc/self/mountinfo").read()  # noqa: SIM115
    plugins.open(config)
    undone = plugins.calls()
    assert [call["COMMAND"] for call in undone] == ["DEL", "DEL"]
    assert {call["CONTAINERID"] for call in undone} == {added["CONTAINERID"]}
    assert os.listdir(plugins.state / "net" / "cni") == []


@in_own_machine
def test_a_configuration_that_cannot_be_used_is_one_clear_error(plugins: Plugins) -> None:
    with pytest.raises(SandboxError, match=r"failed to read cni config .*: no such file or directory"):
        plugins.open(str(plugins.directory / "none.json"))
    missing = plugins.write("m.json", {"name": "x", "type": "third"})
    with pytest.raises(SandboxError, match='failed to find plugin "third" in path'):
        plugins.open(missing)
    outside = plugins.write("o.json", {"name": "x", "type": "../bin/first"})
    with pytest.raises(SandboxError, match="failed to find plugin"):
        plugins.open(outside)
    with pytest.raises(SandboxError, match="needs a name, and a type for each plugin"):
        plugins.open(plugins.write("n.conflist", {"name": "x", "plugins": []}))
    with pytest.raises(SandboxError, match="failed to read cni binary dir"):
        CniNetworks(plugins.state, missing, str(plugins.directory / "none"))
