"""The commands about builders, with nodes that are not there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from anyarch.builder import driver
from anyarch.cli import plugin
from anyarch.cli.tabwriter import align
from anyarch.testing import nodes
from anyarch.testing.nodes import FakeNode, register
from anyarch.version import __version__


@pytest.fixture
def home(context, tmp_path, monkeypatch):
    for name in ("BUILDX_CONFIG", "BUILDX_BUILDER", "BUILDKIT_HOST", "DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    monkeypatch.setitem(driver.DRIVERS, "remote", "anyarch.testing.nodes")
    yield tmp_path
    nodes.clear()


@pytest.fixture
def two_nodes(cli, home):
    first = register("tcp://a:1", FakeNode(platforms=("linux/amd64", "linux/386")))
    second = register("tcp://b:1", FakeNode(platforms=("linux/arm64",)))
    assert cli("create", "--name", "b", "--driver", "remote", "tcp://a:1") == (0, "b\n", "")
    assert cli("create", "--append", "--name", "b", "--platform", "linux/arm64", "tcp://b:1").out == "b\n"
    return first, second


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_ls_shows_builders_and_nodes(cli, two_nodes):
    answer = cli("ls")
    assert (answer.status, answer.err) == (0, "")
    table = rows(answer.out)
    assert table[0] == ["NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"]
    assert table[1] == ["b", "remote"]
    assert table[2] == ["\\_", "b0", "\\_", "tcp://a:1", "running", "v0.0-fake", "linux/amd64,", "linux/386"]
    assert table[3] == ["\\_", "b1", "\\_", "tcp://b:1", "running", "v0.0-fake", "linux/arm64*"]
    assert table[4] == ["default*", "embedded"]
    assert table[5][:6] == ["\\_", "default", "\\_", "default", "running", f"v{__version__}"]


def test_ls_tells_which_node_does_not_answer_and_shows_the_rest(cli, two_nodes):
    two_nodes[1].is_lost = True
    answer = cli("ls")
    assert answer.status == 0
    assert rows(answer.out)[3] == ["\\_", "b1", "\\_", "tcp://b:1", "error", "linux/arm64*"]
    assert answer.err == "\nFailed to get status for b (b1): connection refused\n"


def test_ls_waits_no_longer_than_it_is_told_to(cli, two_nodes):
    two_nodes[0].delay_s = 30
    answer = cli("ls", "--timeout", "50ms")
    assert "Failed to get status for b (b0): no answer within 0.05 seconds" in answer.err
    assert cli("ls", "--timeout", "soon").status == 1


def test_ls_as_json_has_the_keys_of_buildx(cli, two_nodes):
    builder, default = (json.loads(line) for line in cli("ls", "--format", "json").out.splitlines())
    assert (builder["Name"], builder["Driver"], builder["Current"], builder["Dynamic"]) == (
        "b",
        "remote",
        False,
        False,
    )
    node = builder["Nodes"][1]
    assert node["Platforms"] == ["linux/arm64"]
    assert (node["Name"], node["Endpoint"], node["Status"], node["Version"]) == (
        "b1",
        "tcp://b:1",
        "running",
        "v0.0-fake",
    )
    assert node["Labels"] == {"kind": "fake"}
    assert (default["Name"], default["Current"]) == ("default", True)
    assert default["LastActivity"] == "0001-01-01T00:00:00Z"


def test_ls_by_a_template(cli, two_nodes):
    out = cli("ls", "--format", "{{.Name}}={{.Status}}").out.splitlines()
    assert out[:3] == ["b=", "b0=running", "b1=running"]
    table = cli("ls", "--format", "table {{.Name}}\\t{{.Platforms}}").out.splitlines()
    assert table[0] == "NAME/NODE     PLATFORMS"
    assert table[2] == " \\_ b0        linux/amd64, linux/386"


def test_use_and_who_is_in_use(cli, two_nodes, monkeypatch):
    def current():
        lines = cli("ls", "--format", "json").out.splitlines()
        return [value["Name"] for value in map(json.loads, lines) if value["Current"]]

    assert cli("use", "b") == (0, "", "")
    assert current() == ["b"]
    assert "Name:          b\n" in cli("inspect").out
    assert cli("use", "default").status == 0
    assert current() == ["default"]
    monkeypatch.setenv("BUILDX_BUILDER", "b")
    assert "Name:          b\n" in cli("inspect").out
    assert "Name:   default\n" in cli("--builder", "default", "inspect").out
    assert "Name:   default\n" in cli("inspect", "--builder", "default").out
    answer = cli("use", "nobody")
    assert (answer.status, answer.err.splitlines()[0]) == (1, 'ERROR: failed to find instance "nobody"')


def test_create_with_use(cli, home):
    register("tcp://a:1", FakeNode())
    cli("create", "--use", "--name", "b", "--driver", "remote", "tcp://a:1")
    assert "Name:          b\n" in cli("inspect").out


def test_inspect_shows_options_and_starts_on_demand(cli, home):
    node = register("tcp://a:1", FakeNode(status="stopped"))
    cli("create", "--name", "b", "--driver", "remote", "--driver-opt", "x=1", "tcp://a:1")
    out = cli("inspect", "b").out
    assert 'Driver Options: x="1"\n' in out
    assert "Status:         stopped\n" in out
    answer = cli("inspect", "--bootstrap", "b")
    assert "starting" in answer.err
    assert "Status:           running\n" in answer.out
    assert "BuildKit version: v0.0-fake\n" in answer.out
    assert "start" in node.calls
    assert cli("stop", "b").status == 0
    assert "Status:         stopped\n" in cli("inspect", "b").out


def test_rm_removes_daemons_and_entries(cli, two_nodes, home):
    assert cli("rm", "b") == (0, "", "b removed\n")
    for node in two_nodes:
        assert node.calls[-2:] == ["stop", "remove keep_state=False keep_daemon=False"]
    assert cli("ls", "--format", "{{.Name}}").out == "default\ndefault\n"
    answer = cli("rm", "b", "default")
    assert answer.status == 1
    assert answer.err.splitlines()[:2] == [
        'failed to remove b: no builder "b" found',
        "failed to remove default: context builder cannot be removed, run `docker context rm default` to "
        "remove this context",
    ]


def test_rm_can_leave_state_and_daemons(cli, two_nodes):
    cli("rm", "--keep-state", "b")
    assert two_nodes[0].calls[-1] == "remove keep_state=True keep_daemon=False"
    cli("create", "--name", "b", "--driver", "remote", "tcp://a:1")
    before = list(two_nodes[0].calls)
    cli("rm", "--keep-daemon", "b")
    assert two_nodes[0].calls == before


def test_rm_of_all_that_do_not_run(cli, two_nodes):
    stopped = register("tcp://c:1", FakeNode(status="stopped"))
    cli("create", "--name", "idle", "--driver", "remote", "tcp://c:1")
    answer = cli("rm", "--all-inactive", "--force")
    assert (answer.status, answer.err) == (0, "idle removed\n")
    assert stopped.calls[-1].startswith("remove")
    assert cli("rm", "--all-inactive", "b").status == 1


def test_rm_forgets_a_builder_whose_node_is_gone(cli, two_nodes):
    two_nodes[1].is_lost = True
    answer = cli("rm", "b")
    assert answer.status == 1
    assert "failed to remove node b1: connection refused" in answer.err
    assert "b" not in cli("ls", "--format", "{{.Name}}").out.split()


def test_a_failed_append_changes_nothing(cli, two_nodes, home):
    path = home / ".docker" / "buildx" / "instances" / "b"
    before = path.read_bytes()
    answer = cli("create", "--append", "--name", "b", "--platform", "linux/arm64", "tcp://nowhere:1")
    assert answer.status == 1
    assert "failed to initialize builder b (b2): no node at tcp://nowhere:1" in answer.err
    assert path.read_bytes() == before


def test_dial_stdio_leads_to_the_node(cli, two_nodes, tmp_path):
    import socket

    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    two_nodes[1].dial_path = str(tmp_path / "s")

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100).upper())
            while connection.recv(100):
                """Until the other side has ended."""

    thread = threading.Thread(target=serve)
    thread.start()
    source, sink = os.pipe()
    os.write(sink, b"hello")
    os.close(sink)
    saved = os.dup(0)
    os.dup2(source, 0)
    try:
        answer = cli("dial-stdio", "--builder", "b", "--platform", "linux/arm64")
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(source)
        thread.join(20)
        server.close()
    assert (answer.status, answer.out) == (0, "HELLO")


# columns


def test_columns_are_as_wide_as_their_widest_cell():
    assert align([["a", "b"], ["long", "c"]]) == "a    b\nlong c\n"
    assert align([["a", "", "x"]], least=10, padding=3) == "a                   x\n"


def test_a_line_without_the_cell_ends_a_column():
    assert align([["a", "1"], [""], ["longer", "2"]]) == "a 1\n\nlonger 2\n"
    assert align([["", "k:", "v"], ["", "key:", "v"]]) == " k:   v\n key: v\n"


# the plugin of docker


def test_docker_asks_for_metadata(capfd):
    assert plugin.main(["docker-cli-plugin-metadata"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values == {
        "SchemaVersion": "0.1.0",
        "Vendor": "anyarch",
        "Version": f"v{__version__}",
        "ShortDescription": "Docker Buildx (anyarch)",
    }


def test_flags_of_docker_before_the_name_become_variables():
    words = "--context far -D --tlsverify --config=/c -H tcp://h:1 -l debug buildx build --push ."
    assert plugin.split_docker_flags(words.split()) == (
        {
            "DOCKER_CONTEXT": "far",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CONFIG": "/c",
            "DOCKER_HOST": "tcp://h:1",
        },
        True,
        ["build", "--push", "."],
    )


def test_docker_calls_with_its_own_words(cli, home, monkeypatch, capfd):
    monkeypatch.setenv(plugin.ORIGINAL, "/usr/bin/docker")
    assert plugin.main(["buildx", "version"]) == 0
    assert __version__ in capfd.readouterr().out
    monkeypatch.delenv(plugin.ORIGINAL)
    assert plugin.main(["version"]) == 0


def test_the_plugin_is_installed_and_taken_away(cli, home):
    path = home / ".docker" / "cli-plugins" / "docker-buildx"
    answer = cli("plugin", "install")
    assert answer.out.splitlines()[0] == f"{path} is anyarch"
    assert path.stat().st_mode & stat.S_IXUSR
    done = subprocess.run([path, "docker-cli-plugin-metadata"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["Vendor"] == "anyarch"
    assert cli("plugin", "install").status == 0
    assert cli("plugin", "uninstall").out == f"{path} removed\n"
    assert not path.exists()
    assert cli("plugin", "uninstall").status == 1


def test_a_plugin_of_others_is_only_replaced_on_demand_and_comes_back(cli, home):
    path = home / ".docker" / "cli-plugins" / "docker-buildx"
    path.parent.mkdir(parents=True)
    path.write_text("stock")
    answer = cli("plugin", "install")
    assert answer.status == 1
    assert "exists and is not anyarch's" in answer.err
    assert path.read_text() == "stock"
    assert cli("plugin", "install", "--force").status == 0
    assert cli("plugin", "uninstall").status == 0
    assert path.read_text() == "stock"


def test_a_standalone_program_is_anyarch_itself(cli, home):
    assert cli("plugin", "install", "--standalone", "--dir", str(home / "bin")).status == 0
    done = subprocess.run([home / "bin" / "buildx", "version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"anyarch {__version__}\n"


def test_install_and_uninstall_set_the_alias_and_are_not_listed(cli, home):
    config = home / ".docker" / "config.json"
    answer = cli("install")
    assert (answer.status, answer.out) == (0, "")
    assert "deprecated" in answer.err
    assert json.loads(config.read_text()) == {"aliases": {"builder": "buildx"}}
    cli("uninstall")
    assert json.loads(config.read_text()) == {}
    assert "\n  install " not in cli("--help").out


def test_docker_that_goes_away_ends_the_build(home, tmp_path):
    import socket

    path = str(tmp_path / "docker.sock")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    code = (
        "import anyarch.engine, anyarch.engine.request, sys, time\n"
        "def build(request, on_event, cancel):\n"
        "    print('building', file=sys.stderr, flush=True)\n"
        "    while not cancel.is_set(): time.sleep(0.01)\n"
        "    from anyarch.errors import Canceled\n"
        "    raise Canceled('context canceled')\n"
        "anyarch.engine.build = build\n"
        "from anyarch.cli.plugin import main\n"
        "sys.exit(main(['buildx', 'build', '-o', 'type=cacheonly', '.']))"
    )
    env = {**os.environ, plugin.ORIGINAL: "docker", "DOCKER_CLI_PLUGIN_SOCKET": path}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
    connection, _ = server.accept()
    assert process.stderr.readline() == b"building\n"
    connection.close()
    server.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"context canceled" in err
