"""What a Dockerfile becomes: traps of the language, sharing between platforms, errors with their lines."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import AnyarchError, DockerfileError
from anyarch.frontend.dockerfile.build import build
from anyarch.llb.ops import ActionCopy, ActionMkdir, ActionMkfile, ExecOp, FileOp, MergeOp, NetMode, SourceOp
from tests.unit.frontend.fakes import FakeGateway

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.frontend.gateway import FrontendResult
    from anyarch.llb.definition import Definition

TWO = {"platform": "linux/amd64,linux/arm64"}


def convert(
    dockerfile: str, opts: Mapping[str, str] | None = None, images: Mapping[str, Any] | None = None
) -> FrontendResult:
    return asyncio.run(build(FakeGateway(dockerfile, opts=opts, images=images)))


def graph(dockerfile: str, opts: Mapping[str, str] | None = None) -> Definition:
    (definition,) = convert(dockerfile, opts).refs.values()
    assert definition is not None
    return definition


def config(
    dockerfile: str, opts: Mapping[str, str] | None = None, images: Mapping[str, Any] | None = None
) -> Any:
    (raw,) = convert(dockerfile, opts, images).configs.values()
    return json.loads(raw)


def execs(definition: Definition) -> list[ExecOp]:
    return [op.kind for op in definition.decoded.values() if isinstance(op.kind, ExecOp)]


def actions(definition: Definition) -> list[Any]:
    return [
        item.action
        for op in definition.decoded.values()
        if isinstance(op.kind, FileOp)
        for item in op.kind.actions
    ]


def copies(definition: Definition) -> list[ActionCopy]:
    return [action for action in actions(definition) if isinstance(action, ActionCopy)]


def names(definition: Definition) -> list[str]:
    return [
        definition.metadata[digest].description["llb.customname"]
        for digest in definition.digests
        if "llb.customname" in definition.metadata[digest].description
    ]


def local_of(definition: Definition) -> dict[str, str]:
    return next(
        op.kind.attrs
        for op in definition.decoded.values()
        if isinstance(op.kind, SourceOp) and op.kind.identifier == "local://context"
    )


# --- the checklist of traps ---


def test_several_sources_to_a_name_without_slash_overwrite_one_another() -> None:
    assert [copy.dest for copy in copies(graph("FROM scratch\nCOPY a b /x\n"))] == ["/x", "/x"]


def test_chmod_and_link_together_make_no_link() -> None:
    assert not any(
        isinstance(op.kind, MergeOp)
        for op in graph("FROM busybox\nCOPY --link --chmod=600 a /b\n").decoded.values()
    )
    assert any(
        isinstance(op.kind, MergeOp) for op in graph("FROM busybox\nCOPY --link a /b\n").decoded.values()
    )


def test_linked_copy_does_not_depend_on_the_base() -> None:
    for op in graph("FROM busybox\nCOPY --link a /b\n").decoded.values():
        if isinstance(op.kind, FileOp):
            assert op.kind.actions[0].input == -1
            assert len(op.inputs) == 1


def test_cache_mounts_are_the_same_for_all_platforms_unless_the_id_tells() -> None:
    mounts = "--mount=type=cache,target=/a --mount=type=cache,target=/b,id=$TARGETARCH"
    dockerfile = f"FROM busybox\nARG TARGETARCH\nRUN {mounts} x\n"
    ids = []
    for definition in convert(dockerfile, TWO).refs.values():
        assert definition is not None
        ids.append([mount.cache_opt.id for mount in execs(definition)[0].mounts if mount.cache_opt])
    assert ids == [["//a", "/amd64"], ["//a", "/arm64"]]


def test_final_config_claims_the_target_whatever_its_last_stage_was_for() -> None:
    found = config("FROM --platform=linux/amd64 busybox\n", {"platform": "linux/arm64"})
    assert (found["os"], found["architecture"]) == ("linux", "arm64")


def test_two_part_platform_is_taken_literally() -> None:
    result = convert("FROM scratch\nCOPY a b\n", {"platform": "arm64/v8"})
    assert [name for name, _ in result.platforms] == ["arm64/v8"]


def test_inline_files_lose_backslashes_and_keep_quotes() -> None:
    made = [
        item
        for item in actions(graph("FROM scratch\nCOPY <<EOF /x\na\\nb \"q\" '$'\nEOF\n"))
        if isinstance(item, ActionMkfile)
    ]
    assert made[0].data == b"anb \"q\" '$'\n"


def test_json_typo_is_the_shell_form() -> None:
    assert config('FROM busybox\nCMD ["a",\n')["config"]["Cmd"] == ["/bin/sh", "-c", '["a",']


def test_entrypoint_clears_the_cmd_of_a_parent_stage_but_not_its_own() -> None:
    assert "Cmd" not in config('FROM busybox AS a\nCMD x\nFROM a\nENTRYPOINT ["e"]\n')["config"]
    assert config('FROM busybox\nCMD ["x"]\nENTRYPOINT ["e"]\n')["config"]["Cmd"] == ["x"]


def test_onbuild_of_a_parent_stage_fires_and_is_not_inherited_twice() -> None:
    definition = graph("FROM busybox AS a\nONBUILD RUN t\nFROM a AS b\nFROM b\nRUN x\n")
    assert [op.meta.args[-1] for op in execs(definition)] == ["t", "x"]
    assert "OnBuild" not in config("FROM busybox AS a\nONBUILD RUN t\nFROM a\n")["config"]
    assert names(definition)[1] == "[b 1/1] ONBUILD RUN t"


def test_arg_after_env_wins_for_the_build_and_not_in_the_image() -> None:
    dockerfile = "FROM busybox\nENV G=a\nARG G=b\nRUN x\n"
    assert "G=b" in execs(graph(dockerfile))[0].meta.env
    assert "G=a" in config(dockerfile)["config"]["Env"]


def test_global_args_are_invisible_until_declared() -> None:
    definition = graph("ARG V=1\nFROM busybox\nRUN one\nARG V TARGETARCH\nRUN two\n")
    first, second = execs(definition)
    assert not any(item.startswith(("V=", "TARGETARCH=")) for item in first.meta.env)
    assert {"V=1", "TARGETARCH=amd64"} <= set(second.meta.env)


def test_copy_from_a_name_used_twice_takes_the_last_and_from_the_nearest() -> None:
    definition = graph(
        "FROM busybox AS x\nRUN one\nFROM x AS x\nRUN two\nFROM scratch\nCOPY --from=x /a /b\n"
    )
    assert [op.meta.args[-1] for op in execs(definition)] == ["one", "two"]


def test_workdir_makes_a_directory_of_the_current_user() -> None:
    made = [
        item
        for item in actions(graph("FROM busybox\nUSER 7:8\nWORKDIR /a/b\n"))
        if isinstance(item, ActionMkdir)
    ]
    assert made[0].path == "/a/b"
    assert made[0].make_parents
    assert made[0].owner is not None
    assert (made[0].owner.user, made[0].owner.group) == (7, 8)
    assert not actions(graph("FROM busybox\nWORKDIR /\n"))


def test_variables_of_one_instruction_see_the_environment_before_it() -> None:
    assert config("FROM busybox\nENV a=1\nENV a=2 b=$a\n")["config"]["Env"][1:] == ["a=2", "b=1"]


def test_args_of_one_line_see_one_another() -> None:
    assert "B=1x" in execs(graph("FROM busybox\nARG A=1 B=${A}x\nRUN y\n"))[0].meta.env


# --- history and config ---


def test_history_of_run_lists_the_args_it_saw() -> None:
    history = config("FROM busybox\nARG A=1\nENV B=2\nRUN make all\n")["history"]
    assert history[-1] == {
        "created_by": "RUN |1 A=1 /bin/sh -c make all # buildkit",
        "comment": "buildkit.dockerfile.v0",
    }
    assert [entry.get("empty_layer", False) for entry in history[1:]] == [True, True, False]


def test_times_are_left_to_the_exporter() -> None:
    found = config("FROM busybox\nRUN x\n")
    assert "created" not in found
    assert all("created" not in entry for entry in found["history"][1:])


def test_base_config_is_inherited_and_handed_on_for_comparison() -> None:
    result = convert("FROM busybox\nENV A=1\n", images={"busybox": {"User": "u", "Labels": {"a": "b"}}})
    (raw,) = result.configs.values()
    assert json.loads(raw)["config"] == {"User": "u", "Env": ["PATH=/bin", "A=1"], "Labels": {"a": "b"}}
    (base,) = result.base_configs.values()
    assert json.loads(base)["config"]["User"] == "u"


def test_healthcheck_history_is_written_like_go_does() -> None:
    history = config('FROM busybox\nHEALTHCHECK --interval=90s --timeout=1500ms --retries=2 CMD ["a"]\n')[
        "history"
    ]
    assert history[-1]["created_by"] == (
        "HEALTHCHECK {Test:[CMD a] Interval:1m30s Timeout:1.5s StartPeriod:0s StartInterval:0s Retries:2}"
    )


def test_labels_of_the_command_line_come_last() -> None:
    assert config("FROM busybox\nLABEL a=1 b=2\n", {"label:a": "9"})["config"]["Labels"] == {
        "a": "9",
        "b": "2",
    }


# --- the context ---


def test_only_what_reachable_stages_copy_is_transferred() -> None:
    definition = graph("FROM busybox AS other\nCOPY unused /\nFROM scratch\nCOPY b a/c/../d /x/\n")
    assert json.loads(local_of(definition)["local.followpaths"]) == ["a/d", "b"]


def test_mounting_the_whole_context_transfers_all_of_it() -> None:
    definition = graph("FROM busybox\nCOPY a /\nRUN --mount=target=/src make\n")
    assert "local.followpaths" not in local_of(definition)


def test_tmpfs_mount_does_not_make_the_context_larger() -> None:
    definition = graph("FROM busybox\nCOPY a /\nRUN --mount=type=tmpfs,target=/t make\n")
    assert json.loads(local_of(definition)["local.followpaths"]) == ["a"]


def test_all_platforms_share_one_transfer_of_the_context() -> None:
    result = convert("FROM scratch\nARG TARGETARCH\nCOPY bin-$TARGETARCH /bin\n", TWO)
    found = [local_of(definition) for definition in result.refs.values() if definition is not None]
    assert found[0] == found[1]
    assert json.loads(found[0]["local.followpaths"]) == ["bin-amd64", "bin-arm64"]


# --- sharing ---


def test_stage_on_the_build_platform_is_one_vertex_for_all_targets() -> None:
    result = convert(
        "FROM --platform=$BUILDPLATFORM golang AS b\nRUN one\nARG TARGETARCH\nRUN two\n"
        "FROM scratch\nCOPY --from=b /x /x\n",
        TWO,
    )
    first, second = (set(definition.digests) for definition in result.refs.values() if definition is not None)
    shared = first & second
    definition = next(iter(result.refs.values()))
    assert definition is not None
    assert {"RUN one"} == {
        name.split("] ")[1] for name in names(definition) if "RUN" in name and "one" in name
    }
    assert len([digest for digest in shared if isinstance(definition.op(digest).kind, ExecOp)]) == 1


def test_stage_that_sees_no_target_argument_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyarch.frontend.dockerfile.convert as module

    calls: list[str] = []
    real = module.run
    monkeypatch.setattr(
        module, "run", lambda *args: (calls.append(args[2].instruction.original), real(*args))[1]
    )
    convert(
        "FROM --platform=$BUILDPLATFORM golang AS b\nRUN one\nFROM busybox\nRUN two\nCOPY --from=b /x /x\n",
        {"platform": "linux/amd64,linux/arm64,linux/riscv64"},
    )
    assert sorted(calls) == ["RUN one", "RUN two", "RUN two", "RUN two"]


def test_stages_that_see_target_arguments_are_kept_apart() -> None:
    result = convert("FROM --platform=$BUILDPLATFORM golang\nARG TARGETARCH\nRUN x\n", TWO)
    envs = [execs(definition)[0].meta.env for definition in result.refs.values() if definition is not None]
    assert [env[-1] for env in envs] == ["TARGETARCH=amd64", "TARGETARCH=arm64"]


def test_triggers_of_a_base_image_that_see_target_arguments_are_kept_apart() -> None:
    result = convert(
        "FROM --platform=$BUILDPLATFORM golang\n",
        TWO,
        images={"golang": {"OnBuild": ["ARG TARGETARCH", "RUN x"]}},
    )
    envs = [execs(definition)[0].meta.env for definition in result.refs.values() if definition is not None]
    assert [env[-1] for env in envs] == ["TARGETARCH=amd64", "TARGETARCH=arm64"]


def test_neutral_files_are_one_graph_for_all_platforms() -> None:
    first, second = convert("FROM scratch\nCOPY a /b\n", TWO).refs.values()
    assert first is not None
    assert second is not None
    assert first.digests == second.digests


# --- names ---


def test_cross_compilation_shows_both_platforms() -> None:
    result = convert("FROM --platform=$BUILDPLATFORM busybox\nARG TARGETOS TARGETARCH\nRUN x\n", TWO)
    definition = result.refs["linux/arm64"]
    assert definition is not None
    assert names(definition)[-1] == "[linux/amd64->arm64 2/2] RUN x"


def test_numbers_are_aligned_when_there_are_ten_steps() -> None:
    found = names(graph("FROM busybox\n" + "RUN x\n" * 9))
    assert found[0].startswith("[ 1/10] FROM")
    assert found[-1] == "[10/10] RUN x"


def test_secrets_in_the_environment_are_masked_in_names() -> None:
    assert "echo ****" in names(graph("FROM busybox\nRUN --mount=type=secret,id=a,env=TOK echo $TOK\n"))[-1]


def test_here_document_shows_its_first_line() -> None:
    assert names(graph("FROM busybox\nRUN <<EOF\none\ntwo\nEOF\n"))[-1] == "[2/2] RUN <<EOF (one...)"


def test_ops_point_at_their_lines() -> None:
    definition = graph("FROM busybox\n\nRUN a \\\n  b\n")
    ((info, lines),) = definition.locations(definition.digests[-2])
    assert (info.filename, info.language, lines) == ("Dockerfile", "Dockerfile", ((3, 4),))


# --- run ---


def test_shebang_script_is_mounted_and_run_itself() -> None:
    definition = graph("FROM busybox\nRUN <<EOF\n#!/usr/bin/perl\nprint 1\nEOF\n")
    (op,) = execs(definition)
    assert op.meta.args == ("/bin/sh", "-c", "/dev/pipes/EOF")
    assert [(mount.dest, mount.readonly) for mount in op.mounts] == [("/", False), ("/dev/pipes/", True)]
    assert actions(definition)[0].data == b"#!/usr/bin/perl\nprint 1\n"


def test_complex_here_document_is_given_back_to_the_shell() -> None:
    (op,) = execs(graph("FROM busybox\nRUN cat <<A <<B\n1\nA\n2\nB\n"))
    assert op.meta.args == ("/bin/sh", "-c", "cat <<A <<B\n1\nA\n2\nB")


def test_run_flag_wins_over_the_build_network() -> None:
    found = execs(graph("FROM busybox\nRUN a\nRUN --network=none b\nRUN c\n", {"force-network-mode": "host"}))
    assert [op.network for op in found] == [NetMode.HOST, NetMode.NONE, NetMode.HOST]


def test_relative_mount_targets_start_at_the_workdir() -> None:
    (op,) = execs(graph("FROM busybox\nWORKDIR /w\nRUN --mount=type=cache,target=c x\n"))
    assert [mount.dest for mount in op.mounts] == ["/", "/w/c"]
    assert op.mounts[1].cache_opt is not None
    assert op.mounts[1].cache_opt.id == "/c"


def test_no_cache_marks_the_steps_of_the_named_stages() -> None:
    definition = graph("FROM busybox AS a\nRUN one\nFROM a AS b\nRUN two\n", {"no-cache": "B"})
    marked = [
        name
        for name in names(definition)
        for digest in definition.digests
        if definition.metadata[digest].ignore_cache
        and definition.metadata[digest].description["llb.customname"] == name
    ]
    assert marked == ["[b 1/1] RUN two"]


# --- errors ---


def failure(dockerfile: str, opts: Mapping[str, str] | None = None) -> AnyarchError:
    with pytest.raises(AnyarchError) as caught:
        convert(dockerfile, opts)
    return caught.value


@pytest.mark.parametrize(
    ("dockerfile", "line"),
    [
        ("FROM busybox\nCOPY --chmod=999 a b\n", 2),
        ("FROM busybox\nRUN a\nCOPY --from=9 a b\n", 3),
        ("FROM busybox\nENV A=1 \\\n  B=${C?no}\n", 2),
        ("ARG A=${B?no}\nFROM busybox\n", 1),
        ("FROM busybox AS a\nCOPY --from=a /x /y\n", 2),
        ("FROM busybox\nRUN --device=x y\n", 2),
        ("FROM --platform=$X busybox\n", 1),
        ("FROM busybox\nADD https://x/y.git?mtime=now /z\n", 2),
        ("FROM busybox\nADD --keep-git-dir https://x/y.git?keep-git-dir=0 /z\n", 2),
        ("FROM busybox\nADD --checksum=12 https://x/y.git?commit=34 /z\n", 2),
        ("FROM busybox\nCOPY git@x:y /z\n", 2),
    ],
)
def test_errors_name_their_line(dockerfile: str, line: int) -> None:
    source = failure(dockerfile).source
    assert source is not None
    assert (source.filename, source.start, source.data) == ("Dockerfile", line, dockerfile.encode())


def test_errors_name_the_platform() -> None:
    error = failure("FROM busybox\nARG TARGETARCH\nENV A=${NO:?missing}\n", TWO)
    assert error.platform == "linux/amd64"


def test_unknown_base_image_suggests_a_stage() -> None:
    with pytest.raises(AnyarchError) as caught:
        convert("FROM busybox AS builder\nFROM bulider\n", images={"busybox": None})
    assert caught.value.hint == "did you mean builder?"
    assert caught.value.source is not None
    assert caught.value.source.start == 2


def test_mounting_from_a_later_stage_is_refused() -> None:
    error = failure("FROM busybox AS a\nRUN --mount=from=b,target=/x y\nFROM busybox AS b\nRUN z\nFROM a\n")
    assert "stage needs to be defined before current command" in error.message


def test_a_long_chain_of_stages_is_no_problem() -> None:
    stages = ["FROM busybox AS s0\n"]
    stages += [f"FROM s{number} AS s{number + 1}\nCOPY --from=s{number} /a /b\n" for number in range(400)]
    assert len(graph("".join(stages)).ops) == 402


LINES = st.sampled_from(
    [
        "FROM busybox",
        "FROM scratch AS a",
        "FROM a AS b",
        "FROM --platform=$BUILDPLATFORM busybox AS c",
        "FROM ${X:-b}",
        "ARG X",
        "ARG X=busybox",
        "ARG TARGETARCH Y=$X",
        "ENV A=$X B=${A:-q}",
        "ENV A ${Z:?x}",
        "RUN echo $A",
        "RUN --mount=type=cache,target=$A x",
        "RUN --mount=from=a,target=/a --mount=type=secret,id=s x",
        "RUN <<EOF\n#!x\nEOF",
        "COPY a b",
        "COPY --from=a --link . ./",
        "COPY --from=1 x /y/",
        "COPY --chown=$A --chmod=$Y <<E /x\n$A\nE",
        "ADD https://h/$A ./",
        "WORKDIR $A",
        "WORKDIR ../x",
        "USER $Y",
        "EXPOSE $A 80",
        "VOLUME $A /v",
        "ONBUILD COPY --from=b $A /y",
        "ONBUILD RUN x",
        "ENTRYPOINT x",
        'SHELL ["$A"]',
        "STOPSIGNAL ${A:-9}",
        "HEALTHCHECK NONE",
        "LABEL a=$A",
        "MAINTAINER m",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=12))
def test_any_file_is_converted_or_refused_with_an_error_of_ours(lines: list[str]) -> None:
    try:
        result = convert("\n".join(lines) + "\n", {**TWO, "no-cache": "c"})
    except DockerfileError as error:
        if error.source is None:
            raise
        return
    except AnyarchError:
        return
    for definition in result.refs.values():
        if definition is not None:
            assert definition.head() is not None
            known = set(definition.digests)
            assert all(item.digest in known for op in definition.decoded.values() for item in op.inputs)
