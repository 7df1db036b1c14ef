from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.errors import UsageError
from anyarch.llb.definition import Definition, SourceInfo
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    CacheSharing,
    Chown,
    ExecOp,
    FileOp,
    Input,
    MergeOp,
    Mount,
    MountType,
    SourceOp,
    UserByName,
)
from anyarch.llb.source import from_definition, http, image, local, oci_layout
from anyarch.llb.state import (
    Constraints,
    CopySource,
    ExecMount,
    ExecSecret,
    ExecSsh,
    State,
    chown,
    diff,
    merge,
    scratch,
)
from anyarch.llb.vertex import Deferred
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from anyarch.llb.ops import (
        Op,
    )

ARM64 = Platform("linux", "arm64")


def base() -> State:
    return image("busybox", platform=ARM64)


def kinds(definition: Definition) -> list[object]:
    return [op.kind for op in definition.decoded.values()]


def last_exec(state: State) -> ExecOp:
    kind = list(state.marshal().decoded.values())[-2].kind
    assert isinstance(kind, ExecOp)
    return kind


def last_file(state: State) -> tuple[Op, FileOp]:
    op = list(state.marshal().decoded.values())[-2]
    assert isinstance(op.kind, FileOp)
    return op, op.kind


def test_scratch_is_the_empty_definition() -> None:
    assert scratch().marshal() == Definition()
    assert scratch().marshal().head() is None


def test_image_reference_is_normalised_and_keeps_its_platform() -> None:
    op = next(iter(base().marshal().decoded.values()))
    assert op.kind == SourceOp("docker-image://docker.io/library/busybox:latest")
    assert op.platform == ARM64


def test_head_is_the_result() -> None:
    definition = base().run(["true"]).root.marshal()
    assert definition.head() == Input(definition.digests[-2], 0)


def test_run_inherits_what_the_state_says() -> None:
    state = base().add_env("A", "1").set_dir("/w").set_dir("x").set_user("u").set_hostname("h")
    meta = last_exec(state.add_host("a", "1.2.3.4").run(["make"]).root).meta
    assert (meta.args, meta.env, meta.cwd, meta.user, meta.hostname) == (
        ("make",),
        ("A=1",),
        "/w/x",
        "u",
        "h",
    )
    assert meta.remove_mount_stubs_recursive


def test_assigning_a_variable_again_moves_it_to_the_end() -> None:
    state = base().add_env("A", "1").add_env("B", "2").add_env("A", "3")
    assert state.env.to_list() == ("B=2", "A=3")
    assert base().env.to_list() == ()


def test_mounts_are_sorted_and_writable_ones_are_outputs() -> None:
    source = local("context", session_id="s")
    done = base().run(
        ["x"],
        mounts=[
            ExecMount("/z", source),
            ExecMount("/a", source, readonly=True, selector="/sub"),
            ExecMount("/c", cache_id="id", sharing=CacheSharing.LOCKED),
            ExecMount("/t", tmpfs=True, size=5),
            ExecMount("/n", source, no_output=True),
        ],
    )
    mounts = last_exec(done.root).mounts
    assert [(mount.dest, mount.input, mount.output) for mount in mounts] == [
        ("/", 0, 0),
        ("/a", 1, -1),
        ("/c", -1, -1),
        ("/n", 1, -1),
        ("/t", -1, -1),
        ("/z", 1, 1),
    ]
    assert mounts[2].mount_type is MountType.CACHE
    head = done.mount("/z").marshal().head()
    assert head is not None
    assert head.index == 1
    assert done.mount("/a").output is source.output
    with pytest.raises(UsageError, match="no output"):
        done.mount("/c")


def test_equal_inputs_are_listed_once_even_when_they_were_made_apart() -> None:
    mounts = [
        ExecMount("/a", local("context", session_id="s"), readonly=True),
        ExecMount("/b", local("context", session_id="s"), readonly=True),
    ]
    op = list(base().run(["x"], mounts=mounts).root.marshal().decoded.values())[-2]
    assert len(op.inputs) == 2
    assert isinstance(op.kind, ExecOp)
    assert [mount.input for mount in op.kind.mounts] == [0, 1, 1]


def test_secret_and_ssh_mounts_follow_the_others() -> None:
    kind = last_exec(
        base()
        .run(
            ["x"],
            mounts=[ExecMount("/z", readonly=True)],
            secrets=[ExecSecret("s", "/run/s"), ExecSecret("e", None, "E", optional=True)],
            ssh=[ExecSsh("k"), ExecSsh(target="/own")],
        )
        .root
    )
    assert [mount.dest for mount in kind.mounts] == ["/", "/z", "/run/s", "/run/buildkit/ssh_agent.0", "/own"]
    assert [(env.id, env.name) for env in kind.secret_env] == [("e", "E")]
    assert kind.meta.env == ("SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0",)


def test_readonly_root_gives_the_base_back() -> None:
    state = base()
    assert state.run(["x"], readonly_root=True).root.output is state.output


def test_run_without_a_program_is_refused() -> None:
    with pytest.raises(UsageError, match="program"):
        base().run([])


def test_file_actions_chain_and_resolve_relative_paths() -> None:
    state = base().set_dir("/w")
    source = local("context", session_id="s")
    op, kind = last_file(
        state.file(
            ActionMkdir("d", 0o755),
            CopySource(source, ActionCopy("a/../b", "d/", owner=chown("app:5"))),
            ActionMkfile("/f", 0o644, b"x"),
            ActionRm("../gone"),
        )
    )
    assert len(op.inputs) == 2
    assert [(item.input, item.secondary_input, item.output) for item in kind.actions] == [
        (0, -1, -1),
        (2, 1, -1),
        (3, -1, -1),
        (4, -1, 0),
    ]
    copy = kind.actions[1].action
    assert isinstance(copy, ActionCopy)
    assert (copy.src, copy.dest) == ("/b", "/w/d/")
    assert copy.owner == Chown(UserByName("app", 0), 5)
    assert [getattr(item.action, "path", "") for item in kind.actions] == ["/w/d", "", "/f", "/gone"]


@pytest.mark.parametrize(
    ("dest", "clean"),
    [
        ("a", "/w/a"),
        ("a/", "/w/a/"),
        ("/", "/"),
        (".", "/w"),
        ("./", "/w/"),
        ("/a/.", "/a/."),
        ("/.", "/."),
        ("//x", "/x"),
    ],
)
def test_destinations_keep_what_says_directory(dest: str, clean: str) -> None:
    _, kind = last_file(base().set_dir("/w").file(CopySource(base(), ActionCopy("/x", dest))))
    action = kind.actions[0].action
    assert isinstance(action, ActionCopy)
    assert action.dest == clean


def test_copy_onto_scratch_has_no_primary_input() -> None:
    op, kind = last_file(scratch().file(CopySource(base(), ActionCopy("/x", "/y", owner=chown("n")))))
    assert len(op.inputs) == 1
    assert (kind.actions[0].input, kind.actions[0].secondary_input) == (-1, 0)
    action = kind.actions[0].action
    assert isinstance(action, ActionCopy)
    assert action.owner == Chown(UserByName("n", -1), None)


def test_file_and_merge_ops_have_no_platform() -> None:
    made = scratch().file(ActionMkdir("/a", 0o755))
    ops = list(merge([base(), made]).marshal().decoded.values())
    assert [op.platform for op in ops] == [ARM64, None, None, None]


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("0", Chown(0)),
        ("root:root", Chown(0, 0)),
        ("1:2", Chown(1, 2)),
        (":7", Chown(0, 7)),
        ("app", Chown(UserByName("app", -1))),
        ("99999999999", Chown(UserByName("99999999999", -1))),
    ],
)
def test_owner_texts(text: str, owner: Chown) -> None:
    assert chown(text) == owner


def test_merge_of_one_filesystem_is_that_one() -> None:
    state = base()
    assert merge([scratch(), state]) is state
    assert merge([scratch()]).output is None


def test_merge_lists_equal_inputs_twice() -> None:
    state = base()
    op = list(merge([state, state]).marshal().decoded.values())[-2]
    assert op.kind == MergeOp((0, 1))
    assert len(op.inputs) == 2


def test_diff_against_scratch_is_the_other() -> None:
    state = base()
    assert diff(scratch(), state) is state
    assert diff(state, scratch()).output is not None


def test_local_source_attributes_are_go_json() -> None:
    state = local(
        "ctx", session_id="s", exclude=["<&>", "é"], follow_paths=["a"], shared_key_hint="h", differ="none"
    )
    kind = kinds(state.marshal())[0]
    assert kind == SourceOp(
        "local://ctx",
        {
            "local.session": "s",
            "local.followpaths": '["a"]',
            "local.excludepatterns": '["\\u003c\\u0026\\u003e","é"]',
            "local.sharedkeyhint": "h",
            "local.differ": "none",
        },
    )


def test_other_sources_have_their_attributes() -> None:
    assert kinds(http("https://a/b", filename="f", mode=0o644, uid=1, headers={"accept": "x"}).marshal())[
        0
    ] == SourceOp(
        "https://a/b", {"http.filename": "f", "http.perm": "0644", "http.uid": "1", "http.header.accept": "x"}
    )
    state = oci_layout("x@sha256:0", platform=ARM64, session_id="s", store_id="t", layer_limit=2)
    assert kinds(state.marshal())[0] == SourceOp(
        "oci-layout://x@sha256:0", {"oci.session": "s", "oci.store": "t", "oci.layerlimit": "2"}
    )


def test_names_and_places_ride_in_the_metadata() -> None:
    info = SourceInfo("Dockerfile", b"RUN x\n", "Dockerfile")
    constraints = Constraints.named("do it", places=((info, ((1, 1),)),), ignore_cache=True)
    definition = base().run(["x"], constraints=constraints).root.marshal()
    digest = definition.digests[-2]
    assert definition.metadata[digest].description == {"llb.customname": "do it"}
    assert definition.metadata[digest].ignore_cache
    assert definition.locations(digest) == [(info, ((1, 1),))]
    assert definition.digests == base().run(["x"]).root.marshal().digests


def test_equal_ops_made_twice_appear_once_with_both_their_metadata() -> None:
    first = scratch().file(ActionMkdir("/a", 0o755), constraints=Constraints.named("one"))
    second = scratch().file(ActionMkdir("/a", 0o755), constraints=Constraints(ignore_cache=True))
    definition = base().run(["x"], mounts=[ExecMount("/1", first), ExecMount("/2", second)]).root.marshal()
    files = [digest for digest, op in definition.decoded.items() if isinstance(op.kind, FileOp)]
    assert len(files) == 1
    metadata = definition.metadata[files[0]]
    assert (metadata.description, metadata.ignore_cache) == ({"llb.customname": "one"}, True)


def test_deferred_input_is_decided_before_marshalling() -> None:
    deferred = Deferred()
    state = base().file(CopySource(State(deferred), ActionCopy("/a", "/b")))
    with pytest.raises(UsageError, match="never resolved"):
        state.marshal()
    deferred.resolve(local("context", session_id="s").output)
    assert len(state.marshal().ops) == 4


def test_deferred_scratch_renumbers_the_inputs() -> None:
    deferred = Deferred()
    deferred.resolve(None)
    op, kind = last_file(base().file(CopySource(State(deferred), ActionCopy("/a", "/b")), ActionRm("/c")))
    assert len(op.inputs) == 1
    assert [(item.input, item.secondary_input) for item in kind.actions] == [(0, -1), (1, -1)]


def test_shared_vertices_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyarch.llb.vertex as module

    calls: list[Op] = []
    real = module.marshal_op
    monkeypatch.setattr(module, "marshal_op", lambda op: calls.append(op) or real(op))
    common = base().run(["one"]).root.run(["two"]).root
    first, second = common.run(["a"]).root, common.run(["b"]).root
    first.marshal()
    second.marshal()
    assert sum(op.kind is not None for op in calls) == 5


def test_a_chain_longer_than_the_recursion_limit_is_marshalled() -> None:
    state = base()
    for number in range(3000):
        state = state.run([str(number)]).root
    assert len(state.marshal().ops) == 3002


def test_definition_made_elsewhere_can_be_built_upon() -> None:
    made = base().run(["x"]).root.marshal()
    loaded = from_definition(Definition.unmarshal(made.marshal()))
    assert loaded.marshal().digests == made.digests
    assert loaded.platform == ARM64
    assert (
        loaded.run(["y"]).root.marshal().digests == base().run(["x"]).root.run(["y"]).root.marshal().digests
    )
    assert from_definition(Definition()).output is None


def test_definition_that_lacks_an_input_is_refused() -> None:
    made = base().run(["x"]).root.marshal()
    with pytest.raises(UsageError, match="malformed LLB"):
        from_definition(Definition(made.ops[1:]))
    with pytest.raises(UsageError, match="does not hold"):
        made.op("sha256:0")


def test_mount_default_is_scratch_and_no_output() -> None:
    assert (Mount("/x").input, Mount("/x").output) == (-1, -1)
