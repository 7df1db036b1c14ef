"""Builds on several nodes, each an engine with a store of its own; one node that does all is the oracle."""

from __future__ import annotations

import asyncio
import json
import tarfile

import msgspec
import pytest

from anyarch.builder.build import build_on
from anyarch.builder.builder import Builder
from anyarch.builder.store import NodeGroup, NodeRecord
from anyarch.engine import build as build_here
from anyarch.engine.request import Annotation, BuildRequest, BuildResult, CancelToken, Output
from anyarch.engine.validate import prepare
from anyarch.errors import BuilderError, BuildError, Canceled, NodeLost, OutputError
from anyarch.solver.events import VertexEvent, WarningEvent
from anyarch.testing.nodes import FakeNode
from anyarch.testing.registry import FakeRegistry

PLATFORMS = ("linux/arm64", "linux/amd64", "linux/riscv64")


@pytest.fixture
def context(tmp_path):
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "file").write_text("text\n")
    (directory / "Dockerfile").write_text(
        "FROM scratch\nARG TARGETARCH\nCOPY file /a\nENV ARCH=$TARGETARCH\n"
        "FROM scratch\nCOPY --from=0 /a /\nLABEL for=$TARGETARCH\nCOPY --link file /deep/b\n"
    )
    return directory


@pytest.fixture
def nodes(fake_nodes, tmp_path):
    """One node a platform."""
    made = {}
    for name in ("amd64", "arm64", "riscv64"):
        made[name] = FakeNode(str(tmp_path / f"root-{name}"), (f"linux/{name}",))
        fake_nodes.register(name, made[name])
    return made


@pytest.fixture
def builder(surroundings, nodes):
    return make_builder(surroundings, *nodes)


def make_builder(surroundings, *endpoints, **fixed):
    records = [NodeRecord(name=f"n-{name}", endpoint=name, platforms=fixed.get(name)) for name in endpoints]
    return Builder(NodeGroup(name="b", driver="remote", nodes=tuple(records)), surroundings)


def request(context, *outputs, **values):
    values.setdefault("platforms", PLATFORMS)
    made = BuildRequest(
        context=str(context), outputs=outputs, build_args={"SOURCE_DATE_EPOCH": "7"}, **values
    )
    return prepare(made)


def run(builder, wanted, cancel=None):
    events = []
    result = asyncio.run(build_on(builder, wanted, events.append, cancel))
    return result, [event.name for event in events if isinstance(event, VertexEvent)], events


def alone(wanted, tmp_path):
    return build_here(msgspec.structs.replace(wanted, root=str(tmp_path / "root-alone")))


def test_every_node_builds_its_own_platform(builder, nodes, context):
    run(builder, request(context, Output("cacheonly")))
    assert {name: node.requests[0].platforms for name, node in nodes.items()} == {
        "amd64": ("linux/amd64",),
        "arm64": ("linux/arm64",),
        "riscv64": ("linux/riscv64",),
    }


@pytest.mark.parametrize(
    "attrs", [{}, {"compression": "zstd"}, {"oci-mediatypes": "false"}, {"name": "app:1,app:2"}]
)
def test_an_oci_archive_is_that_of_one_node(builder, context, tmp_path, attrs):
    merged, _, _ = run(builder, request(context, Output("oci", str(tmp_path / "a.tar"), attrs)))
    one = alone(request(context, Output("oci", str(tmp_path / "b.tar"), attrs)), tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (merged.digest, merged.descriptor, merged.image_names) == (
        one.digest,
        one.descriptor,
        one.image_names,
    )
    assert [item.platform for item in merged.platforms] == list(PLATFORMS)


def test_a_layout_directory_is_that_of_one_node(builder, context, tmp_path):
    run(builder, request(context, Output("oci", str(tmp_path / "a"), {"tar": "false"})))
    alone(request(context, Output("oci", str(tmp_path / "b"), {"tar": "false"})), tmp_path)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def tree(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_files_are_those_of_one_node(builder, context, tmp_path):
    run(builder, request(context, Output("local", str(tmp_path / "a"))))
    alone(request(context, Output("local", str(tmp_path / "b"))), tmp_path)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert (tmp_path / "a" / "linux_arm64" / "deep" / "b").read_text() == "text\n"


def test_a_tar_of_files_is_that_of_one_node(builder, context, tmp_path):
    run(builder, request(context, Output("tar", str(tmp_path / "a.tar"))))
    alone(request(context, Output("tar", str(tmp_path / "b.tar"))), tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert "linux_riscv64/a" in tar.getnames()


def test_annotations_of_all_levels_come_out_as_from_one_node(builder, context, tmp_path):
    notes = (
        Annotation("a", "1"),
        Annotation("b", "2", "manifest-descriptor", "linux/arm64"),
        Annotation("c", "3", "index"),
        Annotation("d", "4", "index-descriptor"),
    )
    run(builder, request(context, Output("oci", str(tmp_path / "a.tar")), annotations=notes))
    alone(request(context, Output("oci", str(tmp_path / "b.tar")), annotations=notes), tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_push_is_by_digest_and_then_one_index_under_every_tag(builder, nodes, context, tmp_path):
    with FakeRegistry() as registry:
        names = tuple(f"{registry.address}/team/app:{tag}" for tag in ("1", "2"))
        wanted = request(context, Output("image", None, {"push": "true"}), tags=names)
        merged, _, _ = run(builder, wanted)
        tagged = [item.path for item in registry.requests("PUT", "/manifests/") if "sha256" not in item.path]
        assert tagged == ["/v2/team/app/manifests/1", "/v2/team/app/manifests/2"]
        assert registry.requests("PUT", "/manifests/")[-1].path == "/v2/team/app/manifests/2"
    one = alone(request(context, Output("oci", str(tmp_path / "b.tar"), {"name": names[0]})), tmp_path)
    assert merged.digest == one.digest
    assert merged.image_names == names
    assert [item.digest for item in merged.platforms] == [item.digest for item in one.platforms]
    for node in nodes.values():
        (output,) = node.requests[0].outputs
        assert output.attrs["push-by-digest"] == "true"
        assert output.attrs["name"] == f"{registry.address}/team/app"


def test_a_push_without_a_name_is_refused_before_anything_is_built(builder, nodes, context):
    wanted = BuildRequest(
        context=str(context), platforms=PLATFORMS, outputs=(Output("image", None, {"push": "true"}),)
    )
    with pytest.raises(Exception, match="tag is needed when pushing"):
        run(builder, wanted)
    assert not any(node.requests for node in nodes.values())


def test_archives_of_docker_hold_one_platform_only(builder, nodes, context, tmp_path):
    with pytest.raises(OutputError, match="manifest lists"):
        run(builder, request(context, Output("docker", str(tmp_path / "a.tar"))))
    assert not any(node.requests for node in nodes.values())


def test_platforms_of_one_node_are_one_request_as_it_was(builder, nodes, context, tmp_path):
    wanted = request(context, Output("docker", str(tmp_path / "a.tar")), platforms=("linux/arm64",))
    run(builder, wanted)
    (sent,) = nodes["arm64"].requests
    assert msgspec.structs.replace(sent, ref="") == wanted
    assert not nodes["amd64"].requests


def test_without_platforms_the_first_node_builds(builder, nodes, context):
    run(builder, request(context, Output("cacheonly"), platforms=()))
    assert len(nodes["amd64"].requests) == 1
    assert not nodes["arm64"].requests


def test_nodes_that_are_not_needed_are_not_started(surroundings, nodes, context):
    from anyarch.spec.oci import PlatformSpec

    nodes["amd64"].status = nodes["arm64"].status = "stopped"
    builder = make_builder(surroundings, "amd64", "arm64", arm64=(PlatformSpec("arm64", "linux"),))
    run(builder, request(context, Output("cacheonly"), platforms=("linux/arm64",)))
    assert "start" in nodes["arm64"].calls
    assert "state" not in nodes["amd64"].calls


def test_an_archive_on_standard_input_reaches_every_node(builder, nodes, context, tmp_path):
    path = tmp_path / "context.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(context, ".")
    with open(path, "rb") as stream:
        wanted = prepare(
            BuildRequest(
                context="-",
                context_tar=stream,
                platforms=PLATFORMS,
                outputs=(Output("local", str(tmp_path / "out")),),
            )
        )
        run(builder, wanted)
    assert len(list((tmp_path / "out").glob("linux_*/a"))) == 3


# nodes that fail


def test_equal_nodes_share_and_a_dead_ones_platforms_go_to_the_others(
    surroundings, fake_nodes, context, tmp_path
):
    all_platforms = ("linux/amd64", "linux/arm64", "linux/riscv64")
    first = fake_nodes.register("one", FakeNode(str(tmp_path / "1"), all_platforms))
    second = fake_nodes.register("two", FakeNode(str(tmp_path / "2"), all_platforms))
    builder = make_builder(surroundings, "one", "two")
    run(builder, request(context, Output("cacheonly")))
    assert [len(node.requests[0].platforms) for node in (first, second)] == [2, 1]
    second.is_lost = True
    _, names, _ = run(builder, request(context, Output("cacheonly")))
    assert first.requests[1].platforms == PLATFORMS
    assert "[internal] node n-two is lost: connection refused" in names


def test_a_fixed_platform_of_a_dead_node_moves_and_it_is_said(surroundings, nodes, context):
    from anyarch.spec.oci import PlatformSpec

    nodes["amd64"].platforms = ("linux/amd64", "linux/arm64")
    nodes["arm64"].is_lost = True
    builder = make_builder(surroundings, "amd64", "arm64", arm64=(PlatformSpec("arm64", "linux"),))
    _, names, _ = run(
        builder, request(context, Output("cacheonly"), platforms=("linux/amd64", "linux/arm64"))
    )
    assert nodes["amd64"].requests[0].platforms == ("linux/amd64", "linux/arm64")
    assert "[internal] node n-arm64 is lost: connection refused; linux/arm64 will be built elsewhere" in names


def test_a_node_that_goes_away_during_the_build_costs_only_its_own_part(
    surroundings, nodes, context, tmp_path
):
    nodes["amd64"].platforms = ("linux/amd64", "linux/riscv64")
    nodes["riscv64"].lose_after = 3
    builder = make_builder(surroundings, "amd64", "arm64", "riscv64")
    merged, names, _ = run(builder, request(context, Output("oci", str(tmp_path / "a.tar"))))
    one = alone(request(context, Output("oci", str(tmp_path / "b.tar"))), tmp_path)
    assert merged.digest == one.digest
    assert [item.platforms for item in nodes["amd64"].requests] == [("linux/amd64",), ("linux/riscv64",)]
    assert len(nodes["arm64"].requests) == 1
    assert any("node n-riscv64 is lost: connection reset by peer; linux/riscv64" in name for name in names)
    assert "[internal] node n-amd64 builds linux/riscv64 (emulated)" in names


def test_a_lone_node_that_goes_away_is_replaced(surroundings, fake_nodes, context, tmp_path):
    first = fake_nodes.register("one", FakeNode(str(tmp_path / "1"), ("linux/amd64",)))
    second = fake_nodes.register("two", FakeNode(str(tmp_path / "2"), ("linux/amd64",)))
    first.lose_after = 3
    result, _, _ = run(
        make_builder(surroundings, "one", "two"),
        request(context, Output("oci", str(tmp_path / "a.tar")), platforms=("linux/amd64",)),
    )
    assert result.digest
    assert len(second.requests) == 1


def test_when_no_node_is_left_each_is_named(builder, nodes, context):
    for node in nodes.values():
        node.is_lost = True
    with pytest.raises(BuilderError, match="no node of builder b can be used") as caught:
        run(builder, request(context, Output("cacheonly")))
    assert "n-amd64: connection refused" in caught.value.hint


def test_a_lone_nodes_own_error_is_told_as_it_is(surroundings, nodes, context):
    nodes["amd64"].is_lost = True
    with pytest.raises(NodeLost, match="connection refused"):
        run(make_builder(surroundings, "amd64"), request(context, Output("cacheonly"), platforms=()))


def test_a_failed_build_names_the_node_and_ends_the_others(builder, nodes, context):
    def fail(wanted):
        raise BuildError("no such thing")

    nodes["arm64"].answer = fail
    nodes["amd64"].delay_s = 0
    with pytest.raises(ExceptionGroup) as caught:
        run(builder, request(context, Output("cacheonly")))
    (error,) = caught.value.exceptions
    assert (str(error), error.node) == ("no such thing", "n-arm64")


def test_canceling_ends_all_nodes(builder, nodes, context):
    cancel = CancelToken()

    def stop(wanted):
        cancel.set()
        return BuildResult()

    nodes["amd64"].answer = stop
    with pytest.raises(Canceled):
        run(builder, request(context, Output("cacheonly")), cancel)


def test_a_run_for_a_platform_of_no_node_is_refused_before_any_work(builder, nodes, context):
    (context / "Dockerfile").write_text("FROM busybox AS a\nRUN true\nFROM scratch\nCOPY --from=a / /\n")
    with pytest.raises(BuilderError, match="no node of the builder can run linux/s390x") as caught:
        run(builder, request(context, Output("cacheonly"), platforms=("linux/s390x", "linux/amd64")))
    assert "node n-arm64: linux/arm64" in caught.value.hint
    assert not any(node.requests for node in nodes.values())


def test_files_alone_are_built_for_any_platform(builder, nodes, context):
    run(builder, request(context, Output("cacheonly"), platforms=("linux/s390x", "linux/arm64")))
    assert nodes["amd64"].requests[0].platforms == ("linux/s390x",)
    (context / "Dockerfile").write_text(
        "FROM --platform=$BUILDPLATFORM busybox AS a\nRUN true\nFROM scratch\nCOPY --from=a / /\n"
    )
    for node in nodes.values():
        node.answer = lambda wanted: BuildResult()
    run(builder, request(context, Output("cacheonly"), platforms=("linux/s390x", "linux/arm64")))


def test_a_cache_that_several_nodes_write_is_warned_of(builder, nodes, context):
    from anyarch.engine.request import CacheOption

    for node in nodes.values():
        node.answer = lambda wanted: BuildResult()
    option = CacheOption("registry", {"ref": "r.example/cache"})
    _, _, events = run(builder, request(context, Output("cacheonly"), cache_to=(option,)))
    warnings = [event.short for event in events if isinstance(event, WarningEvent)]
    assert warnings == ["several nodes export their cache to r.example/cache: the last one's is kept"]


def test_steps_are_told_apart_by_their_node(builder, context):
    _, names, events = run(builder, request(context, Output("cacheonly")))
    assert any(name.startswith("[n-arm64 linux/arm64 stage-1 1/2] COPY") for name in names)
    contexts = {
        event.digest for event in events if isinstance(event, VertexEvent) and "build context" in event.name
    }
    assert len(contexts) == 3
    json.dumps(sorted(contexts))
