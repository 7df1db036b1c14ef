"""Exec operations as any client may send them: mounts and their outputs, keys, exit codes, environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from anyarch.errors import AnyarchError, BuildError, ExecFailed
from anyarch.llb.definition import Definition
from anyarch.llb.ops import (
    ActionMkdir,
    ActionMkfile,
    CacheOpt,
    ContentCache,
    ExecOp,
    FileAction,
    FileOp,
    Input,
    Meta,
    Mount,
    MountType,
    Op,
    ProxyEnv,
    SecretEnv,
    SecretOpt,
    SSHOpt,
    TmpfsOpt,
)
from anyarch.llb.source import image
from anyarch.llb.state import ExecMount, ExecSecret, State, scratch
from anyarch.llb.wire import marshal_op, op_digest, unmarshal_op
from anyarch.testing.graph import GraphBuilder
from anyarch.worker.session import Lent, LentSecret

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Bases

pytestmark = pytest.mark.root

BUSYBOX = image("busybox")


@pytest.fixture
def solve(tmp_path: Path, bases: Bases, monkeypatch: pytest.MonkeyPatch) -> GraphBuilder:
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])
    return GraphBuilder(tmp_path)


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def files(**contents: str) -> State:
    """A tree of files; `__` in a name is a slash."""
    actions: list[ActionMkdir | ActionMkfile] = []
    for name, data in contents.items():
        path = "/" + name.replace("__", "/")
        if path.count("/") > 1:
            actions.append(ActionMkdir(path.rpartition("/")[0], 0o755, True))
        actions.append(ActionMkfile(path, 0o644, data.encode()))
    return scratch().file(*actions)


def exec_op(script: str, *mounts: Mount, output: int = 0, **meta: Any) -> Definition:
    """busybox at `/` (input 0, output 0) and `mounts`; input 1 is a tree of `d/f`; the result is `output`."""
    base = [unmarshal_op(raw) for raw in BUSYBOX.marshal().ops[:-1]]
    actions = (
        FileAction(ActionMkdir("/d", 0o755), -1),
        FileAction(ActionMkfile("/d/f", 0o644, b"f"), 1, output=0),
    )
    tree = Op((), FileOp((actions[0], replace(actions[1], input=0))))
    inputs = (Input(op_digest(base[-1])), Input(op_digest(tree)))
    kind = ExecOp(Meta(tuple(sh(script)), **meta), (Mount("/", 0, output=0), *mounts))
    op = Op(inputs, kind, base[-1].platform)
    last = Op((Input(op_digest(op), output),), None, None, None)
    return Definition(tuple(marshal_op(item) for item in (*base, tree, op, last)))


# outputs --------------------------------------------------------------------------------------------------


def test_every_writable_mount_is_an_output(solve: GraphBuilder) -> None:
    run = BUSYBOX.run(
        sh("echo 1 > /root-file; echo 2 > /m/one; echo 3 > /n/two; rm /n/d/f"),
        mounts=[ExecMount("/m", scratch()), ExecMount("/n", files(d__f="x", d__g="y"))],
    )
    assert solve(run.root).read("/root-file") == b"1\n"
    assert solve(run.mount("/m")).paths == ["one"]
    assert solve(run.mount("/n")).paths == ["d", "d/g", "two"]


def test_mount_that_is_no_output_is_writable_and_forgotten(solve: GraphBuilder) -> None:
    mounted = ExecMount("/m", files(a="1"), no_output=True)
    found = solve(BUSYBOX.run(sh("echo 2 >> /m/a; cat /m/a > /out"), mounts=[mounted]).root)
    assert found.read("/out") == b"12\n"
    assert "m" not in found.entries


def test_mount_of_scratch_without_output_is_writable(solve: GraphBuilder) -> None:
    found = solve(exec_op("echo 1 > /m/a && cat /m/a > /out", Mount("/m", -1)))
    assert found.read("/out") == b"1\n"


def test_readonly_mount_of_scratch_is_an_empty_directory(solve: GraphBuilder) -> None:
    found = solve(exec_op("ls -A /m > /out; ! touch /m/a 2>/dev/null", Mount("/m", -1, readonly=True)))
    assert found.read("/out") == b""


def test_readonly_mount_with_an_output_gives_its_input_back(solve: GraphBuilder) -> None:
    definition = exec_op("cat /m/d/f", Mount("/m", 1, output=1, readonly=True), output=1)
    assert solve(definition).paths == ["d", "d/f"]


def test_readonly_root_cannot_be_written_to(solve: GraphBuilder) -> None:
    run = BUSYBOX.run(
        sh("! touch /x 2>/dev/null && echo 1 > /m/x"),
        readonly_root=True,
        mounts=[ExecMount("/m", scratch()), ExecMount("/new/place", files(a="1"), readonly=True)],
    )
    assert solve(run.mount("/m")).read("/x") == b"1\n"


def test_readonly_root_with_an_output_gives_the_base_back(solve: GraphBuilder) -> None:
    definition = exec_op("true")
    ops = [unmarshal_op(raw) for raw in definition.ops]
    run = ops[-2]
    assert isinstance(run.kind, ExecOp)
    kind = replace(run.kind, mounts=(Mount("/", 0, output=0, readonly=True),))
    op = replace(run, kind=kind)
    last = Op((Input(op_digest(op)),), None, None, None)
    changed = Definition(tuple(marshal_op(item) for item in (*ops[:-2], op, last)))
    assert solve(changed).layers == solve(BUSYBOX).layers


def test_nothing_of_a_mountpoint_enters_the_layer(solve: GraphBuilder) -> None:
    """BuildKit leaves the directories above a mountpoint behind unless it is told to remove them."""
    for recursive in (True, False):
        definition = exec_op(
            "true", Mount("/a/b/c", 1, readonly=True), remove_mount_stubs_recursive=recursive
        )
        assert "a" not in solve(definition).entries


def test_cache_mount_with_an_input_and_an_output_gives_the_input_on(solve: GraphBuilder) -> None:
    mount = Mount("/c", 1, output=1, mount_type=MountType.CACHE, cache_opt=CacheOpt("id"))
    assert solve(exec_op("echo new > /c/n", mount, output=1)).paths == ["d", "d/f"]


def test_relative_mount_lies_below_the_working_directory(solve: GraphBuilder) -> None:
    found = solve(exec_op("cat /w/m/d/f > /out", Mount("m", 1, readonly=True), cwd="/w"))
    assert found.read("/out") == b"f"


def test_mounts_in_mounts(solve: GraphBuilder) -> None:
    inner = Mount("/m/d", -1, output=1)
    found = solve(exec_op("echo 1 > /m/d/x", inner, Mount("/m", 1, readonly=True), output=1))
    assert found.paths == ["x"]


def test_same_layer_twice_below_a_step(solve: GraphBuilder) -> None:
    """The kernel refuses a lower directory that is there twice."""
    from anyarch.llb.ops import MergeOp
    from anyarch.llb.state import diff, merge

    added = files(a="1")
    twice = merge([BUSYBOX, added, files(b="2"), added])
    assert isinstance(diff(scratch(), added), State)
    assert twice.output is not None
    assert isinstance(twice.output.vertex.kind, MergeOp)
    assert solve(twice.run(sh("cat /a /b > /out")).root).read("/out") == b"12"


# what is mounted ------------------------------------------------------------------------------------------


def test_selector_chooses_a_part_of_a_tree(solve: GraphBuilder) -> None:
    source = files(d__f="file", e="other")
    for selector, script in (("/d", "cat /m/f"), ("d/f", "cat /m"), ("/d/../e", "cat /m")):
        run = BUSYBOX.run(
            sh(f"{script} > /out"), mounts=[ExecMount("/m", source, selector=selector, readonly=True)]
        )
        assert solve(run.root).read("/out") == (b"other" if selector.endswith("e") else b"file")


def test_tmpfs_has_the_size_that_is_asked_for(solve: GraphBuilder) -> None:
    mount = Mount("/t", -1, mount_type=MountType.TMPFS, tmpfs_opt=TmpfsOpt(1 << 20))
    found = solve(exec_op("! dd if=/dev/zero of=/t/f bs=1k count=2048 2>/dev/null; df -k /t > /out", mount))
    assert b"1024" in found.read("/out")
    assert "t" not in found.entries


def test_secret_file_has_the_mode_and_owner_that_are_asked_for(solve: GraphBuilder) -> None:
    mount = Mount("/s", -1, output=0, mount_type=MountType.SECRET, secret_opt=SecretOpt("x", 3, 4, 0o440))
    lent = Lent(secrets={"x": LentSecret(env="X")}, env={"X": "value"})
    found = solve(exec_op("cat /s > /out; stat -c '%u %g %a' /s >> /out", mount), lent=lent)
    assert found.read("/out") == b"value3 4 440\n"


def test_secret_and_agent_that_are_optional_and_missing_are_left_out(solve: GraphBuilder) -> None:
    mounts = (
        Mount("/s", -1, mount_type=MountType.SECRET, secret_opt=SecretOpt("x", optional=True)),
        Mount("/a", -1, mount_type=MountType.SSH, ssh_opt=SSHOpt("default", optional=True)),
    )
    assert solve(exec_op("test ! -e /s && test ! -e /a && echo ok > /out", *mounts)).read("/out") == b"ok\n"


def test_secret_variable_that_is_optional_and_missing_is_empty(solve: GraphBuilder) -> None:
    run = BUSYBOX.run(
        sh("echo ${X-unset}${Y} > /out"),
        secrets=[ExecSecret("x", env="X", optional=True), ExecSecret("y", env="Y")],
    )
    lent = Lent(secrets={"y": LentSecret(env="Y")}, env={"Y": "value"})
    assert solve(run.root, lent=lent).read("/out") == b"value\n"


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount("/m", 5), "missing input 5"),
        (Mount("/m", -1, mount_type=MountType.SECRET), "invalid secret mount options"),
        (Mount("/m", -1, mount_type=MountType.SECRET, secret_opt=SecretOpt("")), "secret ID missing"),
        (Mount("/m", -1, mount_type=MountType.SSH), "invalid ssh mount options"),
        (Mount("/m", -1, mount_type=MountType.CACHE), "missing cache mount options"),
        (
            Mount("/m", 1, selector="/d", output=1, content_cache=ContentCache.ON),
            "invalid mount cache content",
        ),
    ],
)
def test_mount_that_cannot_be_is_refused(solve: GraphBuilder, mount: Mount, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        solve(exec_op("true", mount))


def test_step_without_program_or_root_is_refused(solve: GraphBuilder) -> None:
    for kind, words in (
        (ExecOp(Meta(()), (Mount("/", -1, output=0),)), "no args"),
        (ExecOp(Meta(("x",)), (Mount("/m", -1, output=0),)), "no rootfs"),
        (ExecOp(Meta(("x",)), (Mount("/", -1, mount_type=MountType.TMPFS),)), "invalid mount type TMPFS"),
    ):
        op = Op((), kind)
        last = Op((Input(op_digest(op)),), None, None, None)
        with pytest.raises(BuildError, match=words):
            solve(Definition((marshal_op(op), marshal_op(last))))


# processes ------------------------------------------------------------------------------------------------


def test_exit_codes_that_are_accepted(solve: GraphBuilder) -> None:
    assert solve(exec_op("echo 1 > /out; exit 3", valid_exit_codes=(3, 5))).read("/out") == b"1\n"
    for script in ("exit 0", "exit 4"):
        with pytest.raises(ExecFailed):
            solve(exec_op(script, valid_exit_codes=(3, 5)))


def test_environment_of_a_step(solve: GraphBuilder) -> None:
    proxy = ProxyEnv("http://h", "https://s", "ftp://f", "n", "a")
    found = solve(exec_op("env > /out", env=("A=1",), proxy_env=proxy))
    lines = found.read("/out").decode().splitlines()
    for name, value in (("HTTP", "http://h"), ("HTTPS", "https://s"), ("FTP", "ftp://f"), ("ALL", "a")):
        assert f"{name}_PROXY={value}" in lines
        assert f"{name.lower()}_proxy={value}" in lines
    assert {"A=1", "NO_PROXY=n", "no_proxy=n"} <= set(lines)
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)


def test_secret_variable_needs_an_id(solve: GraphBuilder) -> None:
    definition = exec_op("true")
    ops = [unmarshal_op(raw) for raw in definition.ops]
    assert isinstance(ops[-2].kind, ExecOp)
    op = replace(ops[-2], kind=replace(ops[-2].kind, secret_env=(SecretEnv("", "X"),)))
    last = Op((Input(op_digest(op)),), None, None, None)
    with pytest.raises(BuildError, match='secret ID missing for "X"'):
        solve(Definition(tuple(marshal_op(item) for item in (*ops[:-2], op, last))))


# keys -----------------------------------------------------------------------------------------------------


def mounted(tree: State, **more: Any) -> State:
    return BUSYBOX.run(sh("cat /m/* > /out; echo x"), mounts=[ExecMount("/m", tree, **more)]).root


def ran(tree: Any) -> bool:
    return any(name.startswith("/bin/sh") for name in tree.executed)


def test_selected_paths_of_one_tree_have_keys_of_their_own(solve: GraphBuilder) -> None:
    source = files(a__f="A", b__f="B")
    for options in ({"readonly": True}, {"readonly": True, "content_cache": ContentCache.OFF}, {}):
        found = [solve(mounted(source, selector=path, **options)).read("/out") for path in ("/a", "/b")]
        assert found == [b"A", b"B"]


def test_readonly_mount_counts_by_what_is_selected(solve: GraphBuilder) -> None:
    first, second = files(a__f="A", b__f="1"), files(a__f="A", b__f="2")
    assert ran(solve(mounted(first, selector="/a", readonly=True)))
    assert not ran(solve(mounted(second, selector="/a", readonly=True)))
    assert ran(solve(mounted(files(a__f="B"), selector="/a", readonly=True)))


def test_writable_mount_of_a_part_counts_as_a_whole(solve: GraphBuilder) -> None:
    """What was not selected comes out again in the mount's output."""
    assert ran(solve(mounted(files(a__f="A", b__f="1"), selector="/a")))
    assert ran(solve(mounted(files(a__f="A", b__f="2"), selector="/a")))
    assert not ran(solve(mounted(files(a__f="A", b__f="2"), selector="/a")))


def test_content_does_not_count_where_it_is_switched_off(solve: GraphBuilder) -> None:
    off = {"readonly": True, "content_cache": ContentCache.OFF}
    assert ran(solve(mounted(files(a="A"), **off)))
    # The same content by another operation.
    assert ran(solve(mounted(files(b="x").file(ActionMkfile("/a", 0o644, b"A")), **off)))


def test_root_counts_by_content_when_asked(solve: GraphBuilder) -> None:
    def definition(name: str, mode: ContentCache) -> Definition:
        made = exec_op("cat /made > /out")
        ops = [unmarshal_op(raw) for raw in made.ops]
        write = Op(
            (ops[-2].inputs[0],),
            FileOp(
                (
                    FileAction(ActionMkfile("/made", 0o644, name.encode()), 0),
                    FileAction(ActionMkfile("/made", 0o644, b"same"), 1, output=0),
                )
            ),
        )
        kind = replace(ops[-2].kind, mounts=(Mount("/", 0, output=0, content_cache=mode),))  # type: ignore[type-var]
        run = Op((Input(op_digest(write)),), kind, ops[-2].platform)
        last = Op((Input(op_digest(run)),), None, None, None)
        return Definition(tuple(marshal_op(item) for item in (*ops[:-2], write, run, last)))

    assert ran(solve(definition("1", ContentCache.DEFAULT)))
    assert ran(solve(definition("2", ContentCache.DEFAULT)))
    assert ran(solve(definition("3", ContentCache.ON)))
    assert not ran(solve(definition("4", ContentCache.ON)))


def test_what_a_process_cannot_see_does_not_count(solve: GraphBuilder) -> None:
    assert ran(solve(exec_op("true", proxy_env=ProxyEnv(http_proxy="a"))))
    assert not ran(solve(exec_op("true", proxy_env=ProxyEnv(http_proxy="b"))))
    assert not ran(solve(exec_op("true")))


def test_owner_and_mode_of_a_secret_count(solve: GraphBuilder) -> None:
    lent = Lent(secrets={"x": LentSecret(env="X")}, env={"X": "value"})
    for uid in (1, 2):
        mount = Mount("/s", -1, mount_type=MountType.SECRET, secret_opt=SecretOpt("x", uid, mode=0o400))
        assert solve(exec_op("stat -c %u /s > /out", mount), lent=lent).read("/out") == f"{uid}\n".encode()


# images ---------------------------------------------------------------------------------------------------


def test_image_attributes(solve: GraphBuilder) -> None:
    whole = solve(BUSYBOX).layers
    assert solve(image("busybox", layer_limit=1)).layers == whole[:1]
    for attributes, words in (
        ({"layer_limit": 0}, "invalid layer limit 0"),
        ({"layer_limit": 99}, "layer limit 99 is greater than the number of layers in the image"),
        ({"checksum": "sha256:" + "0" * 64}, "does not match expected checksum"),
        ({"resolve_mode": "never"}, "invalid resolvemode: never"),
        ({"record_type": "odd"}, "invalid record type odd"),
    ):
        with pytest.raises(AnyarchError, match=words):
            solve(image("busybox", **attributes))  # type: ignore[arg-type]
    for mode in ("default", "pull", "local"):
        assert solve(image("busybox", resolve_mode=mode, record_type="internal")).layers == whole


# builds at the same time ----------------------------------------------------------------------------------


def test_builds_in_one_process_run_equal_steps_once(solve: GraphBuilder, tmp_path: Path) -> None:
    """Two of three are of one Dockerfile, the third shares its first step."""
    import asyncio

    from anyarch.engine.request import BuildRequest, Output
    from anyarch.engine.solve import BuildStats, build_async
    from anyarch.solver.inflight import InFlight

    (tmp_path / "context").mkdir()
    texts = [
        "FROM busybox\nRUN sleep 0.3; echo shared > /a\nRUN echo one > /b\n",
        "FROM busybox\nRUN sleep 0.3; echo shared > /a\nRUN echo one > /b\n",
        "FROM busybox\nRUN sleep 0.3; echo shared > /a\nRUN echo two > /b\n",
    ]
    stats = [BuildStats() for _ in texts]

    async def all_of_them() -> None:
        in_flight = InFlight()
        await asyncio.gather(
            *(
                build_async(
                    BuildRequest(
                        context=str(tmp_path / "context"),
                        dockerfile_data=text.encode(),
                        outputs=(Output("cacheonly"),),
                        root=str(solve.store),
                    ),
                    stats=found,
                    in_flight=in_flight,
                )
                for text, found in zip(texts, stats, strict=True)
            )
        )

    asyncio.run(all_of_them())
    ran = sorted(vertex.name.rpartition("] ")[2] for found in stats for vertex in found.executed)
    assert ran == ["RUN echo one > /b", "RUN echo two > /b", "RUN sleep 0.3; echo shared > /a"]
