"""LLB as any client may send it, through the embedded engine, without processes: every file action, merge,
diff, passthrough, nested builds, local directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from anyarch.archive.entry import Kind
from anyarch.errors import AnyarchError, BuildError, PathNotFound
from anyarch.llb.definition import Definition
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    BuildOp,
    Chown,
    DiffOp,
    FileAction,
    FileOp,
    Input,
    MergeOp,
    Op,
    PassthroughOp,
    UserByName,
)
from anyarch.llb.source import local
from anyarch.llb.state import CopySource, diff, merge, scratch
from anyarch.llb.wire import marshal_op, op_digest
from anyarch.testing.graph import GraphBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.llb.state import Action, State


@pytest.fixture
def solve(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path)


def file(path: str, data: str = "x", mode: int = 0o644, **more: object) -> ActionMkfile:
    return ActionMkfile(path, mode, data.encode(), **more)  # type: ignore[arg-type]


def mkdir(path: str, mode: int = 0o755, **more: object) -> ActionMkdir:
    return ActionMkdir(path, mode, True, **more)  # type: ignore[arg-type]


def tree(*actions: Action) -> State:
    return scratch().file(*actions)


def define(*ops: Op, result: int = 0) -> Definition:
    """A definition of `ops`, whose result is output `result` of the last of them."""
    last = Op((Input(op_digest(ops[-1]), result),), None, None, None)
    return Definition(tuple(marshal_op(op) for op in (*ops, last)))


def copy(state: State, src: str, dest: str, **more: object) -> CopySource:
    return CopySource(state, ActionCopy(src, dest, **more))  # type: ignore[arg-type]


# file actions ---------------------------------------------------------------------------------------------


def test_mkfile_into_a_file_that_is_there_keeps_its_mode_and_owner(solve: GraphBuilder) -> None:
    base = tree(file("/f", "old", 0o600, owner=Chown(5, 6)))
    found = solve(base.file(file("/f", "new", 0o644)))
    entry = found.entry("/f")
    assert (entry.mode, entry.uid, entry.gid, found.read("/f")) == (0o600, 5, 6, b"new")


def test_mkfile_through_a_link_writes_what_the_link_leads_to(solve: GraphBuilder) -> None:
    found = solve(tree(mkdir("/d"), ActionSymlink("d/f", "/l"), file("/d/f", "1"), file("/l", "2")))
    assert found.read("/d/f") == b"2"
    assert found.entry("/l").kind is Kind.SYMLINK


def test_modes_of_mkdir_and_mkfile_are_permissions_only(solve: GraphBuilder) -> None:
    found = solve(tree(mkdir("/d", 0o1777), file("/f", mode=0o4755)))
    assert (found.entry("/d").mode, found.entry("/f").mode) == (0o777, 0o755)


def test_mkdir_of_what_is_there_changes_nothing(solve: GraphBuilder) -> None:
    found = solve(tree(mkdir("/d", 0o700), ActionMkdir("/d", 0o755)))
    assert found.entry("/d").mode == 0o700


def test_mkdir_without_parents_needs_them(solve: GraphBuilder) -> None:
    with pytest.raises(PathNotFound, match="no such file or directory"):
        solve(tree(ActionMkdir("/a/b", 0o755)))


def test_times_that_are_given_are_kept(solve: GraphBuilder) -> None:
    stamp = 1_600_000_000_123_456_789
    found = solve(
        tree(
            mkdir("/d", timestamp=stamp),
            file("/f", timestamp=stamp),
            ActionSymlink("f", "/l", timestamp=stamp),
            copy(tree(file("/g")), "/g", "/h", timestamp=stamp),
        )
    )
    assert {found.entry(name).mtime_ns for name in ("/f", "/l", "/h", "/d")} == {stamp}


def test_symlink_that_is_there_already_is_an_error(solve: GraphBuilder) -> None:
    with pytest.raises(BuildError, match="file exists"):
        solve(tree(file("/l"), ActionSymlink("x", "/l")))


def test_symlink_has_the_owner_that_is_asked_for(solve: GraphBuilder) -> None:
    entry = solve(tree(ActionSymlink("x", "/l", owner=Chown(7, 8)))).entry("/l")
    assert (entry.uid, entry.gid, entry.linkname) == (7, 8, "x")


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("/a*/b?", ["a1", "a1/c", "a2", "keep"]),
        ("/*/b1", ["a1", "a1/c", "a2", "a2/b2", "keep"]),
        ("/a[12]", ["keep"]),
        ("/nothing*", ["a1", "a1/b1", "a1/c", "a2", "a2/b2", "keep"]),
    ],
)
def test_rm_takes_wildcards_in_every_component(solve: GraphBuilder, pattern: str, left: list[str]) -> None:
    base = tree(mkdir("/a1"), mkdir("/a2"), file("/a1/b1"), file("/a1/c"), file("/a2/b2"), file("/keep"))
    assert solve(base.file(ActionRm(pattern, allow_wildcard=True))).paths == left


def test_rm_of_a_missing_path_is_an_error_unless_allowed(solve: GraphBuilder) -> None:
    base = tree(file("/f"))
    with pytest.raises(PathNotFound):
        solve(base.file(ActionRm("/g")))
    assert solve(base.file(ActionRm("/g", allow_not_found=True))).paths == ["f"]


def test_rm_of_a_link_leaves_what_it_leads_to(solve: GraphBuilder) -> None:
    base = tree(mkdir("/d"), file("/d/f"), ActionSymlink("d", "/l"))
    assert solve(base.file(ActionRm("/l"))).paths == ["d", "d/f"]
    assert solve(base.file(ActionRm("/l/f"))).paths == ["d", "l"]


def test_rm_of_the_root_is_refused(solve: GraphBuilder) -> None:
    with pytest.raises(BuildError, match="root"):
        solve(tree(file("/f"), ActionRm("/")))


def test_copy_replaces_other_kinds_only_when_told(solve: GraphBuilder) -> None:
    source = tree(mkdir("/d/x"), file("/d/x/f"))
    base = tree(mkdir("/d"), file("/d/x", "a file"))
    plain = copy(source, "/d", "/d", dir_copy_contents=True)
    with pytest.raises(BuildError, match="non-directory"):
        solve(base.file(plain))
    always = replace(plain.action, always_replace_existing_dest_paths=True)
    assert solve(base.file(CopySource(source, always))).paths == ["d", "d/x", "d/x/f"]


def test_copy_needs_the_paths_it_requires(solve: GraphBuilder) -> None:
    source = tree(mkdir("/d"), file("/d/a"), file("/d/b"))
    wanted = copy(
        source, "/", "/", dir_copy_contents=True, include_patterns=("d/a", "d/z"), required_paths=("d/z",)
    )
    with pytest.raises(PathNotFound, match="d/z"):
        solve(scratch().file(wanted))
    there = replace(wanted.action, required_paths=("d/a",))
    assert solve(scratch().file(CopySource(source, there))).paths == ["d", "d/a"]


def test_copy_leaves_out_and_takes_in_by_patterns(solve: GraphBuilder) -> None:
    source = tree(mkdir("/d/e"), file("/d/a.go"), file("/d/b.txt"), file("/d/e/c.go"))
    found = solve(
        scratch().file(
            copy(
                source,
                "/",
                "/",
                dir_copy_contents=True,
                include_patterns=("**/*.go",),
                exclude_patterns=("d/e",),
            )
        )
    )
    assert found.paths == ["d", "d/a.go"]


def test_copy_without_create_dest_path_needs_the_parent(solve: GraphBuilder) -> None:
    source = tree(file("/f"))
    with pytest.raises(PathNotFound, match="failed to stat"):
        solve(scratch().file(copy(source, "/f", "/a/b")))
    assert solve(scratch().file(copy(source, "/f", "/a/b", create_dest_path=True))).paths == ["a", "a/b"]


def test_copy_of_a_wildcard_without_match(solve: GraphBuilder) -> None:
    source = tree(file("/f"))
    with pytest.raises(PathNotFound, match="not found"):
        solve(scratch().file(copy(source, "/x*", "/", allow_wildcard=True)))
    assert (
        solve(scratch().file(copy(source, "/x*", "/", allow_wildcard=True, allow_empty_wildcard=True))).paths
        == []
    )


def test_copy_sets_mode_by_number_and_by_words(solve: GraphBuilder) -> None:
    source = tree(file("/f", mode=0o640))
    assert solve(scratch().file(copy(source, "/f", "/f", mode=0o600))).entry("/f").mode == 0o600
    assert solve(scratch().file(copy(source, "/f", "/f", mode_str="u+x,o=r"))).entry("/f").mode == 0o744


def test_owner_by_name_is_looked_up_in_the_input_it_names(solve: GraphBuilder) -> None:
    base = tree(
        mkdir("/etc"), file("/etc/passwd", "bob:x:12:34::/:/bin/sh\n"), file("/etc/group", "g:x:56:\n")
    )
    entry = solve(base.file(file("/f", owner=Chown(UserByName("bob", -1), UserByName("g", -1))))).entry("/f")
    assert (entry.uid, entry.gid) == (12, 56)


def test_owner_by_name_may_be_looked_up_in_an_earlier_action(solve: GraphBuilder) -> None:
    """An index at or above the number of inputs is an action, here as everywhere in a file operation."""
    actions = (
        FileAction(mkdir("/etc"), -1),
        FileAction(file("/etc/passwd", "bob:x:12:34::/:/bin/sh\n"), 0),
        FileAction(file("/f", owner=Chown(UserByName("bob", 1), None)), 1, output=0),
    )
    found = solve(define(Op((), FileOp(actions))))
    assert found.entry("/f").uid == 12


def test_copy_between_intermediate_results_of_one_operation(solve: GraphBuilder) -> None:
    """Action 1 copies from what action 0 made onto an empty root; both are outputs."""
    actions = (
        FileAction(file("/a", "1"), -1, output=0),
        FileAction(ActionCopy("/a", "/b"), -1, 0, output=1),
    )
    op = Op((), FileOp(actions))
    assert solve(define(op, result=0)).paths == ["a"]
    assert solve(define(op, result=1)).paths == ["b"]


def test_file_operation_that_refers_to_nothing_is_refused(solve: GraphBuilder) -> None:
    for actions in (
        (),
        (FileAction(file("/a"), 3, output=0),),
        (FileAction(ActionCopy("/a", "/b"), -1, 7, output=0),),
    ):
        with pytest.raises(BuildError, match="invalid file"):
            solve(define(Op((), FileOp(actions))))


def test_copies_of_different_paths_from_an_input_that_is_changed_too_are_kept_apart(
    solve: GraphBuilder,
) -> None:
    """The content of such an input does not stand for it in the key, so the paths have to."""
    base, other = tree(file("/a", "A"), file("/b", "B")), tree(file("/o", "O"))
    found = []
    for path in ("/a", "/b"):
        state = base.file(copy(base, path, "/c"), copy(other, "/o", "/o"))
        # Another origin of the same content makes the solver ask by content.
        unlike = tree(file("/o", "O"), file("/unused", path))
        state = base.file(copy(base, path, "/c"), copy(unlike, "/o", "/o"))
        found.append(solve(state).read("/c"))
    assert found == [b"A", b"B"]


def test_equal_content_from_other_vertices_is_found_by_content(solve: GraphBuilder) -> None:
    first = solve(scratch().file(copy(tree(file("/f", "same"), file("/g", "1")), "/f", "/x")))
    second = solve(scratch().file(copy(tree(file("/f", "same"), file("/g", "2")), "/f", "/x")))
    assert second.layers == first.layers
    assert [name for name in second.executed if name.startswith("copy")] == []


# merge and diff -------------------------------------------------------------------------------------------


def test_merge_lays_trees_over_one_another_and_honours_what_was_removed(solve: GraphBuilder) -> None:
    base = tree(file("/a", "base"), file("/b", "base"))
    removed = diff(base, base.file(ActionRm("/a"), file("/c", "new")))
    found = solve(merge([tree(file("/a", "low"), file("/d")), removed]))
    assert found.paths == ["c", "d"]


def test_merge_of_a_tree_with_itself(solve: GraphBuilder) -> None:
    one, two = tree(file("/a", "1")), tree(file("/a", "2"))
    assert solve(merge([one, two, one])).read("/a") == b"1"


def test_merge_and_diff_refuse_inputs_that_are_not_there(solve: GraphBuilder) -> None:
    for kind in (MergeOp((0,)), DiffOp(0, -1), DiffOp(-1, 4)):
        with pytest.raises(BuildError, match="input index"):
            solve(define(Op((), kind)))


def test_diff_of_scratch_with_scratch_is_nothing(solve: GraphBuilder) -> None:
    assert solve(define(Op((), DiffOp(-1, -1)))).paths == []


def test_diff_reuses_the_layers_that_were_put_on_top(solve: GraphBuilder) -> None:
    base = tree(file("/a"))
    upper = base.file(file("/b"))
    assert solve(diff(base, upper)).layers == solve(upper).layers[1:]


def test_diff_of_trees_that_are_not_built_on_one_another_compares_them(solve: GraphBuilder) -> None:
    lower = tree(
        mkdir("/same"), file("/same/f"), file("/changed", "1"), file("/gone"), mkdir("/dir"), file("/kind")
    )
    upper = tree(
        mkdir("/same"),
        file("/same/f"),
        file("/changed", "2"),
        mkdir("/dir", 0o700),
        mkdir("/kind"),
        file("/kind/x"),
        mkdir("/new/deep"),
        ActionSymlink("f", "/new/l"),
    )
    difference = diff(lower, upper)
    alone = solve(difference)
    assert alone.paths == ["changed", "dir", "kind", "kind/x", "new", "new/deep", "new/l"]
    whole, wanted = solve(merge([lower, difference])), solve(upper)
    assert whole.paths == wanted.paths
    for path in wanted.paths:
        ours, theirs = whole.entry(path), wanted.entry(path)
        assert (ours.kind, ours.mode, ours.linkname) == (theirs.kind, theirs.mode, theirs.linkname)


def test_diff_against_nothing_takes_all_away(solve: GraphBuilder) -> None:
    lower = tree(file("/a"), mkdir("/d"), file("/d/f"))
    assert solve(merge([lower, diff(lower, scratch())])).paths == []


def test_diff_of_equal_trees_is_empty(solve: GraphBuilder) -> None:
    one = tree(file("/a"), file("/b"))
    two = tree(file("/b"), file("/a"))
    assert solve(diff(one, two)).layers == ()


def test_diff_in_a_directory_brings_the_directories_it_lies_in(solve: GraphBuilder) -> None:
    lower = tree(mkdir("/a/b", 0o711), file("/a/b/f", "1"))
    upper = tree(mkdir("/a/b", 0o711), file("/a/b/f", "2"))
    found = solve(diff(lower, upper))
    assert found.paths == ["a", "a/b", "a/b/f"]
    assert found.entry("/a/b").mode == 0o711


def test_names_of_merge_and_diff_tell_their_inputs(solve: GraphBuilder) -> None:
    one, two = tree(file("/a")), tree(file("/b"))
    assert "merge (mkfile /a, mkfile /b)" in solve(merge([one, two])).executed
    assert "diff mkfile /a -> mkfile /b" in solve(diff(one, two)).executed


# passthrough and nested builds ----------------------------------------------------------------------------


def two_files() -> tuple[Op, Op]:
    return tuple(  # type: ignore[return-value]
        Op((), FileOp((FileAction(file(path), -1, output=0),))) for path in ("/a", "/b")
    )


def test_passthrough_gives_inputs_on_in_its_own_order(solve: GraphBuilder) -> None:
    a, b = two_files()
    through = Op((Input(op_digest(a)), Input(op_digest(b))), PassthroughOp("p", (1, 0)))
    assert solve(define(a, b, through, result=0)).paths == ["b"]
    assert solve(define(a, b, through, result=1)).paths == ["a"]


def test_passthrough_that_cannot_be_is_refused(solve: GraphBuilder) -> None:
    a, _ = two_files()
    for kind, words in (
        (PassthroughOp("", (0,)), "no id"),
        (PassthroughOp("p", ()), "no outputs"),
        (PassthroughOp("p", (1,)), "input index 1"),
        (PassthroughOp("p", (-1,)), "input index -1"),
    ):
        with pytest.raises(BuildError, match=words):
            solve(define(a, Op((Input(op_digest(a)),), kind)))


def nested(definition: bytes, name: str = "buildkit.llb.definition", **attrs: str) -> Definition:
    written = Op((), FileOp((FileAction(ActionMkfile(f"/{name}", 0o644, definition), -1, output=0),)))
    build = BuildOp(-1, {"buildkit.llb.definition": 0}, attrs)
    return define(written, Op((Input(op_digest(written)),), build))


def test_nested_build_solves_the_definition_in_a_file(solve: GraphBuilder) -> None:
    inner = tree(file("/inner")).marshal().marshal()
    assert solve(nested(inner)).paths == ["inner"]
    assert solve(nested(inner, "other", **{"llbbuild.filename": "other"})).paths == ["inner"]
    assert solve(nested(scratch().marshal().marshal())).paths == []


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (nested(b"\xff\xff"), "malformed LLB"),
        (nested(b"", "x"), "no such file"),
        (define(Op((), BuildOp(-1))), "no llb definition input"),
        (define(Op((), BuildOp(0, {"buildkit.llb.definition": 0}))), "only LLB builder"),
        (define(Op((), BuildOp(-1, {"buildkit.llb.definition": 0}))), "invalid index 0"),
    ],
)
def test_nested_build_that_cannot_be_is_refused(
    solve: GraphBuilder, definition: Definition, words: str
) -> None:
    with pytest.raises(AnyarchError, match=words):
        solve(definition)


def test_nested_builds_may_nest(solve: GraphBuilder) -> None:
    definition = tree(file("/inner")).marshal()
    for _ in range(5):
        definition = nested(definition.marshal())
    assert solve(definition).paths == ["inner"]


# local sources --------------------------------------------------------------------------------------------


def test_local_source_takes_what_the_patterns_let_through(solve: GraphBuilder, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "d").mkdir(parents=True)
    for name in ("a", "b.go", "d/c.go", "d/e"):
        (context / name).write_text(name)
    (context / "l").symlink_to("d/e")
    locals = {"src": str(context)}
    everything = local("src", unique="1")
    assert solve(everything, locals=locals).paths == ["a", "b.go", "d", "d/c.go", "d/e", "l"]
    included = local(
        "src", unique="1", include=("**/*.go",), exclude=("d",), differ="none", shared_key_hint="k"
    )
    assert solve(included, locals=locals).paths == ["b.go"]
    assert solve(local("src", unique="1", follow_paths=("l",)), locals=locals).paths == ["d", "d/e", "l"]


def test_local_source_that_nobody_offers_is_an_error(solve: GraphBuilder) -> None:
    with pytest.raises(AnyarchError, match="no local directory 'src' was offered"):
        solve(local("src", session_id="s"))


def test_local_source_is_asked_of_a_client_that_transfers_it(solve: GraphBuilder, tmp_path: Path) -> None:
    from anyarch.source.local import LocalFiles, Transferred

    (tmp_path / "f").write_text("from the client")
    asked: list[LocalFiles] = []

    class Client:
        async def directory(self, wanted: LocalFiles, vertex: str) -> Transferred:
            asked.append(wanted)
            return Transferred(str(tmp_path), {})

    wanted = local("src", session_id="s1", include=("f",), follow_paths=("f",), shared_key_hint="k")
    assert solve(wanted, files=Client()).read("/f") == b"from the client"
    assert asked == [LocalFiles(name="src", session="s1", include=("f",), follow=("f",), shared_key="k")]
