from __future__ import annotations

import fcntl
import os
import threading

import msgspec
import pytest

from anyarch.builder.store import InstanceStore, NodeGroup, NodeRecord, peek_current, valid_name
from anyarch.errors import BuilderError, NoSuchBuilder, UsageError
from anyarch.spec.oci import PlatformSpec
from anyarch.spec.platform import Platform

KEY = "unix:///var/run/docker.sock"


@pytest.fixture
def store(tmp_path):
    return InstanceStore(str(tmp_path / "buildx"), {})


def group(name="b", *nodes):
    return NodeGroup(
        name=name, driver="remote", nodes=nodes or (NodeRecord(name="b0", endpoint="tcp://a:1"),)
    )


def test_a_file_of_buildx_is_read(store, tmp_path):
    text = (
        '{"Name":"b","Driver":"docker-container","Nodes":[{"Name":"b0","Endpoint":"far","Platforms":'
        '[{"architecture":"arm","os":"linux","variant":"v7"}],"DriverOpts":{"image":"i"},'
        '"Flags":["--debug"],"Files":{"buildkitd.toml":"YQ=="}},{"Name":"b1","Endpoint":"near",'
        '"Platforms":null,"DriverOpts":null,"Flags":null,"Files":null}],"Dynamic":false}'
    )
    with store.transaction() as transaction:
        (tmp_path / "buildx" / "instances" / "b").write_text(text)
        found = transaction.get("B")
    first, second = found.nodes
    assert first.fixed == (Platform.parse("linux/arm/v7"),)
    assert (first.driver_opts, first.flags) == ({"image": "i"}, ("--debug",))
    assert first.files == {"buildkitd.toml": b"a"}
    assert second == NodeRecord(name="b1", endpoint="near")
    assert msgspec.json.encode(found).decode() == text


def test_files_are_for_their_owner_alone(store, tmp_path):
    with store.transaction() as transaction:
        transaction.save(group())
    path = tmp_path / "buildx" / "instances" / "b"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "buildx").stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["b"]


def test_a_removed_builder_leaves_nothing(store, tmp_path):
    with store.transaction() as transaction:
        transaction.save(group())
        refs = tmp_path / "buildx" / "refs" / "b" / "b0"
        refs.mkdir(parents=True)
        (refs / "ref").write_text("{}")
        assert transaction.last_activity("b").endswith("Z")
        transaction.remove("b")
        assert transaction.all() == []
        assert transaction.last_activity("b") == ""
        with pytest.raises(NoSuchBuilder, match='no builder "b" found'):
            transaction.get("b")
    left = [path for path in (tmp_path / "buildx").rglob("*") if path.is_file()]
    assert left == [tmp_path / "buildx" / ".lock"]


def test_a_damaged_file_is_named(store, tmp_path):
    with store.transaction() as transaction:
        path = tmp_path / "buildx" / "instances" / "b"
        path.write_text('{"Name": 7}')
        with pytest.raises(BuilderError, match="builder b: its file cannot be read") as caught:
            transaction.get("b")
    assert str(path) in caught.value.hint


def test_the_lock_is_that_of_buildx(store, tmp_path):
    with store.transaction():
        pass
    entered = threading.Event()

    def work():
        with store.transaction():
            entered.set()

    with open(tmp_path / "buildx" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=work)
        thread.start()
        assert not entered.wait(0.2)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert entered.wait(20)
        thread.join()


@pytest.mark.parametrize("name", ["", "1a", "a/b", "a b", "../a", "ä", "a\n"])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="invalid name"):
        valid_name(name)


def test_names_are_stored_in_lower_case():
    assert valid_name("My_Build.2-x") == "my_build.2-x"


# the builder in use


def test_the_current_builder_is_that_of_the_endpoint(store):
    with store.transaction() as transaction:
        transaction.save(group())
        assert transaction.current(KEY) is None
        transaction.set_current(KEY, "b")
        assert transaction.current(KEY).name == "b"
        assert transaction.current("other") is None
        transaction.set_current(KEY, "b", is_global=True)
        assert transaction.current("other").name == "b"
        transaction.set_current(KEY, "")
        assert transaction.current(KEY) is None


def test_a_default_outlives_what_is_used_elsewhere(store):
    with store.transaction() as transaction:
        transaction.save(group("b"))
        transaction.save(group("c"))
        transaction.set_current(KEY, "b", is_default=True)
        transaction.set_current("other", "c")
        assert transaction.current(KEY).name == "b"
        assert transaction.current("other").name == "c"


def test_a_current_builder_that_is_gone_counts_for_nothing(store, tmp_path):
    with store.transaction() as transaction:
        transaction.save(group())
        transaction.set_current(KEY, "b", is_global=True)
        transaction.remove("b")
        assert transaction.current(KEY) is None
        (tmp_path / "buildx" / "current").write_text("{")
        assert transaction.current(KEY) is None
    assert peek_current(store.directory, KEY) == ""


def test_peeking_gives_the_same_without_the_lock(store):
    assert peek_current(store.directory, KEY) == ""
    assert not os.path.exists(store.directory)
    with store.transaction() as transaction:
        transaction.save(group())
        transaction.set_current(KEY, "b")
        assert peek_current(store.directory, KEY) == "b"
        assert peek_current(store.directory, "other") == ""


# nodes


def test_platforms_go_to_the_node_that_got_them_last():
    arm, amd = PlatformSpec("arm64", "linux"), PlatformSpec("amd64", "linux")
    one = group("b", NodeRecord(name="b0", endpoint="a", platforms=(arm, amd)))
    two = one.with_node(NodeRecord(name="b1", endpoint="b", platforms=(arm,)))
    assert [node.platforms for node in two.nodes] == [(amd,), (arm,)]
    assert one.nodes[0].platforms == (arm, amd)


def test_an_endpoint_is_one_nodes():
    with pytest.raises(BuilderError, match="invalid duplicate endpoint tcp://a:1"):
        group().with_node(NodeRecord(name="b1", endpoint="tcp://a:1"))
    again = group().with_node(NodeRecord(name="b0", endpoint="tcp://a:1", flags=("x",)))
    assert again.nodes == (NodeRecord(name="b0", endpoint="tcp://a:1", flags=("x",)),)


def test_nodes_leave_but_not_the_last_one():
    two = group().with_node(NodeRecord(name="b1", endpoint="tcp://b:1"))
    one = two.without("b0")
    assert [node.name for node in one.nodes] == ["b1"]
    assert one.next_node_name() == "b0"
    with pytest.raises(BuilderError, match="can not leave last node"):
        one.without("b1")
    with pytest.raises(BuilderError, match='node "x" not found for b'):
        two.without("x")
