from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import types

import pytest

from anyarch import errors
from anyarch.cli.request import is_archive
from anyarch.engine.request import Annotation, BuildResult, Output, PlatformResult, Ulimit
from anyarch.solver.events import LogEvent, VertexEvent, WarningEvent
from anyarch.spec.platform import host_platform

DIGEST = "sha256:" + "a" * 64
CONFIG = "sha256:" + "c" * 64


@pytest.fixture
def stdin(monkeypatch):
    def give(data: bytes) -> None:
        monkeypatch.setattr(
            sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
        )

    return give


def tar_bytes(**files):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


# Inputs


def test_the_context_is_the_directory_that_is_named(cli, engine):
    assert cli("build", ".").status == 0
    assert (engine.request.context, engine.request.dockerfile, engine.request.context_tar) == (
        ".",
        None,
        None,
    )


def test_an_alias_builds_too(cli, engine):
    assert cli("b", ".").status == 0
    assert engine.requests


def test_a_dockerfile_on_standard_input(cli, engine, stdin):
    stdin(b"FROM scratch\n")
    assert cli("build", "-f", "-", ".").status == 0
    assert (engine.request.context, engine.request.dockerfile_data) == (".", b"FROM scratch\n")


@pytest.mark.parametrize("text", [b"FROM scratch\n", b"FROM scratch\n" + b"# long\n" * 1000])
def test_a_dockerfile_alone_on_standard_input(cli, engine, stdin, text):
    stdin(text)
    assert cli("build", "-").status == 0
    assert (engine.request.context, engine.request.context_tar) == ("-", None)
    assert engine.request.dockerfile_data == text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_on_standard_input_is_the_context(cli, engine, stdin, pack):
    data = pack(tar_bytes(Dockerfile=b"FROM scratch\n", big=os.urandom(100_000)))
    stdin(data)
    assert cli("build", "-").status == 0
    assert engine.request.dockerfile_data is None
    assert engine.request.context_tar.read() == data


def test_an_archive_with_a_dockerfile_beside_it(cli, engine, stdin):
    stdin(tar_bytes(file=b"x"))
    assert cli("build", "-f", "Dockerfile", "-").status == 0
    assert engine.request.dockerfile == "Dockerfile"


@pytest.mark.parametrize(
    ("argv", "data", "message"),
    [
        (("-f", "-", "-"), b"x", "invalid argument: can't use stdin for both build context and dockerfile"),
        (("-f", "Dockerfile", "-"), b"FROM x", "ambiguous Dockerfile source: both stdin and flag correspond"),
        (("-",), b"", "standard input is empty"),
        (("-f", "-", "."), b"", "standard input is empty"),
    ],
)
def test_standard_input_that_cannot_be_used(cli, engine, stdin, argv, data, message):
    stdin(data)
    answer = cli("build", *argv)
    assert (answer.status, engine.requests) == (1, [])
    assert message in answer.err


def test_archives_are_told_from_texts():
    assert is_archive(tar_bytes(a=b"1"))
    assert is_archive(b"\0" * 1024)
    assert is_archive(gzip.compress(b"x"))
    assert not is_archive(b"FROM x" + b" " * 1018)
    assert not is_archive(b"\0" * 100)


def test_build_arguments_without_a_value_come_from_the_environment(cli, engine, monkeypatch):
    monkeypatch.setenv("SET", "1")
    monkeypatch.delenv("UNSET", raising=False)
    cli("build", "--build-arg", "SET", "--build-arg", "UNSET", "--build-arg", "EMPTY=", ".")
    assert engine.request.build_args == {"SET": "1", "EMPTY": ""}


def test_source_date_epoch_is_handed_on_unless_it_is_given(cli, engine, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    cli("build", ".")
    cli("build", "--build-arg", "SOURCE_DATE_EPOCH=8", ".")
    assert [request.build_args["SOURCE_DATE_EPOCH"] for request in engine.requests] == ["7", "8"]


def test_proxies_of_dockers_configuration_become_build_arguments(cli, engine, monkeypatch, tmp_path):
    config = {"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "localhost"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    cli("build", "--build-arg", "NO_PROXY=mine", ".")
    assert engine.request.build_args == {"HTTP_PROXY": "http://p:1", "NO_PROXY": "mine"}
    config["proxies"]["tcp://here:1"] = {"httpsProxy": "http://p:2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_HOST", "tcp://here:1")
    cli("build", ".")
    assert engine.requests[-1].build_args == {"HTTPS_PROXY": "http://p:2"}


@pytest.mark.parametrize("text", ["", "[]", '{"proxies": 1}', "{"])
def test_a_broken_configuration_of_docker_does_not_stop_a_build(cli, engine, monkeypatch, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert cli("build", ".").status == 0


def test_platforms_add_up_and_local_is_this_machines(cli, engine):
    cli("build", "--platform", "linux/arm64", "--platform", "local,linux/arm64", ".")
    assert engine.request.platforms == ("linux/arm64", str(host_platform()))


def test_a_platform_given_twice_is_built_once_with_a_warning(cli, engine):
    answer = cli("build", "--platform", "linux/arm64,linux/aarch64", ".")
    assert engine.request.platforms == ("linux/arm64",)
    assert "WARNING: platform given twice: linux/arm64" in answer.err


def test_the_default_platform_of_docker_is_used_when_none_is_given(cli, engine, monkeypatch):
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/riscv64")
    cli("build", ".")
    cli("build", "--platform", "linux/s390x", ".")
    assert [request.platforms for request in engine.requests] == [("linux/riscv64",), ("linux/s390x",)]


def test_limits_and_annotations_are_values(cli, engine):
    cli("build", "--ulimit", "nofile=1:2", "--annotation", "index:a=b", ".")
    assert engine.request.ulimits == (Ulimit("nofile", 1, 2),)
    assert engine.request.annotations == (Annotation("a", "b", "index"),)


# Outputs

NAME = "docker.io/library/app:latest"


@pytest.mark.parametrize(
    ("argv", "outputs"),
    [
        ([], ()),
        (["-t", "app"], (Output("image", None, {"name": NAME}),)),
        (
            ["-t", "app", "--push"],
            (Output("image", None, {"name": NAME, "push": "true", "unpack": "false"}),),
        ),
        (["-t", "app", "--load"], (Output("docker", None, {"name": NAME}),)),
        (["--load", "-o", "type=docker"], (Output("docker"),)),
        (
            ["-t", "app", "--push", "-o", "type=image,compression=zstd"],
            (Output("image", None, {"compression": "zstd", "push": "true", "name": NAME}),),
        ),
        (
            ["-o", "type=registry,name=app"],
            (Output("image", None, {"name": NAME, "push": "true"}),),
        ),
        (["-o", "out"], (Output("local", "out"),)),
        (["-o", "type=oci,dest=a.tar", "-o", "out"], (Output("oci", "a.tar"), Output("local", "out"))),
        (["-o", "-"], (Output("tar", "-"),)),
        (["-o", 'type=local,"dest=a,b"'], (Output("local", "a,b"),)),
        (["-o", "type=cacheonly"], (Output("cacheonly"),)),
    ],
)
def test_outputs(cli, engine, argv, outputs):
    assert cli("build", *argv, ".").status == 0
    assert engine.request.outputs == outputs


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--push"], "failed to build: tag is needed when pushing to registry"),
        (["-o", "type=image,push=true"], "failed to build: tag is needed when pushing to registry"),
        (["-o", "dest=x,tar=true"], "type is required for output"),
        (["-o", "type=zip,dest=x"], 'exporter "zip" could not be found'),
        (["-o", "type=local"], "dest is required for local exporter"),
        (["-o", "type=local,dest=-"], "dest cannot be stdout for local exporter"),
        (["-o", "type=oci,tar=false"], "dest is required for oci exporter"),
        (["-o", "-", "-o", "type=oci"], "multiple outputs configured to write to stdout"),
        (["-o", "Dockerfile"], "destination directory Dockerfile is a file"),
        (["-o", "type=oci,dest=."], "destination file . is a directory"),
        (["-o", "out", "--iidfile", "id"], "local and tar exporters are incompatible with image ID file"),
        (["-t", "UPPER"], 'invalid tag "UPPER": invalid reference'),
        (["-t", f"app@{DIGEST}"], "a digest cannot be chosen"),
        (["--platform", "nonsense"], "unknown operating system or architecture"),
        (["--platform", "linux/arm64,"], "empty platform"),
        (["--network", "bridge"], 'network mode "bridge" not supported'),
        (["--no-cache", "--no-cache-filter", "a"], "cannot currently be used together"),
        (["--progress", "fancy"], "invalid progress mode fancy"),
        (["-q", "--progress", "plain"], "progress=plain and quiet cannot be used together"),
        (["--label", "=x"], 'invalid key-value pair "=x": empty key'),
        (["-f", "nowhere"], "failed to read dockerfile: open nowhere: no such file or directory"),
        (["-f", ".."], "failed to read dockerfile: .. is a directory"),
        (["--call", "outline,targets"], "invalid print value: outline,targets"),
        (["--call", "check,format=xml"], "invalid format 'xml' of --call"),
        (["--call", "check,ignorestatus=perhaps"], "invalid ignorestatus print value: perhaps"),
        (["--call", "check,nope=1"], "invalid print field: nope=1"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(cli, engine, argv, message):
    answer = cli("build", *argv, ".")
    assert (answer.status, engine.requests) == (1, [])
    assert message in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", 'failed to build: unable to prepare context: path "nowhere" not found'),
        ("Dockerfile", 'unable to prepare context: path "Dockerfile" is not a directory'),
        ("ftp://host/x", 'path "ftp://host/x" not found'),
        ("", "please specify build context"),
    ],
)
def test_a_context_that_is_none(cli, engine, path, message):
    answer = cli("build", path)
    assert (answer.status, engine.requests) == (1, [])
    assert message in answer.err
    assert "hint: " in answer.err or "please specify" in answer.err


def test_a_directory_without_a_dockerfile(cli, engine, context):
    (context / "Dockerfile").unlink()
    answer = cli("build", ".")
    assert (answer.status, engine.requests) == (1, [])
    assert "failed to read dockerfile: open Dockerfile: no such file or directory" in answer.err


def test_a_forgotten_context_is_told_how_it_is_written(cli):
    answer = cli("build")
    assert answer.status == 1
    assert "ERROR: 'anyarch build' requires 1 argument" in answer.err
    assert "anyarch build ." in answer.err


@pytest.mark.parametrize("argv", [["-o", "-"], ["-o", "type=oci"], ["-o", "type=docker,dest=-"]])
def test_a_tar_is_not_written_to_a_terminal(cli, engine, monkeypatch, argv):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    answer = cli("build", *argv, ".")
    assert (answer.status, engine.requests) == (1, [])
    assert "refusing to write to console" in answer.err


def test_a_build_without_an_output_warns_that_the_result_stays_in_the_cache(cli, monkeypatch):
    warning = "WARNING: No output specified. Build result will only remain in the build cache."
    assert warning in cli("build", ".").err
    assert warning not in cli("build", "-t", "app", ".").err
    monkeypatch.setenv("BUILDX_NO_DEFAULT_LOAD", "1")
    assert warning not in cli("build", ".").err


# What is left behind


def test_the_id_file_has_the_config_of_one_image_and_the_index_of_several(cli, engine, context):
    engine.result = BuildResult(digest=DIGEST, config_digest=CONFIG)
    cli("build", "--iidfile", "id", ".")
    assert (context / "id").read_text() == CONFIG
    engine.result = BuildResult(digest=DIGEST)
    cli("build", "--iidfile", "id", ".")
    assert (context / "id").read_text() == DIGEST


def test_an_old_id_file_is_gone_when_the_build_fails(cli, engine, context):
    (context / "id").write_text("old")
    engine.error = errors.BuildError("no")
    assert cli("build", "--iidfile", "id", ".").status == 1
    assert not (context / "id").exists()


def test_quiet_prints_the_id_and_nothing_else(cli, engine):
    engine.result = BuildResult(digest=DIGEST)
    engine.events = [VertexEvent("a", "A", started=1.0)]
    assert cli("build", "-q", "-t", "app", ".") == (0, f"{DIGEST}\n", "")
    assert cli("build", "--progress=quiet", "-t", "app", ".") == (0, f"{DIGEST}\n", "")
    assert cli("build", "--progress=none", "-t", "app", ".") == (0, "", "")


def test_the_environment_chooses_the_progress_unless_the_flag_does(cli, engine, monkeypatch):
    monkeypatch.setenv("BUILDKIT_PROGRESS", "rawjson")
    engine.events = [VertexEvent("a", "A", started=1.0)]
    assert cli("build", "-o", "out", ".").err.startswith('{"vertexes":[{"digest":"a"')
    assert cli("build", "-o", "out", "--progress", "plain", ".").err.startswith("#1 A\n")


def test_the_metadata_file_has_the_keys_of_buildx(cli, engine, context):
    descriptor = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": DIGEST, "size": 9}
    engine.result = BuildResult(
        digest=DIGEST,
        config_digest=CONFIG,
        descriptor=descriptor,
        image_names=("a", "b"),
        metadata={"cache.manifest": {"x": 1}},
    )
    cli("build", "--metadata-file", "m.json", ".")
    assert json.loads((context / "m.json").read_text()) == {
        "cache.manifest": {"x": 1},
        "containerimage.config.digest": CONFIG,
        "containerimage.descriptor": descriptor,
        "containerimage.digest": DIGEST,
        "image.name": "a,b",
    }


def test_warnings_go_into_the_metadata_file_when_they_are_wanted(cli, engine, context, monkeypatch):
    engine.events = [WarningEvent("v", "short")]
    monkeypatch.setenv("BUILDX_METADATA_WARNINGS", "1")
    cli("build", "--metadata-file", "m.json", ".")
    (warning,) = json.loads((context / "m.json").read_text())["buildx.build.warnings"]
    assert warning["short"] == "c2hvcnQ="


def test_files_are_replaced_whole_and_links_stay_links(cli, engine, context):
    engine.result = BuildResult(digest=DIGEST)
    (context / "real").write_text("old and longer than what comes" * 10)
    (context / "link").symlink_to("real")
    cli("build", "--iidfile", "new", "--metadata-file", "link", ".")
    assert (context / "link").is_symlink()
    assert json.loads((context / "real").read_text())["containerimage.digest"] == DIGEST
    assert sorted(os.listdir()) == ["Dockerfile", "link", "new", "real"]


def test_a_file_that_cannot_be_written_fails_the_command_and_says_that_the_image_is_there(cli, engine):
    answer = cli("build", "--metadata-file", "nowhere/m.json", ".")
    assert answer.status == 1
    assert "writing metadata file: No such file or directory" in answer.err
    assert "the image itself was built" in answer.err


def test_the_end_lists_warnings_and_what_was_made(cli, engine):
    engine.events = [WarningEvent("v", "JSONArgsRecommended: use JSON (line 3)", ("why",), "https://u", 1)]
    engine.result = BuildResult(
        digest=DIGEST,
        image_names=(NAME,),
        platforms=(
            PlatformResult(platform="linux/amd64", digest="sha256:1", size=2_100_000, route="native"),
            PlatformResult(platform="linux/arm64", digest="sha256:2", size=999),
        ),
    )
    assert cli("build", "-t", "app", ".").err == (
        "\n 1 warning found (use anyarch --debug to expand):\n"
        " - JSONArgsRecommended: use JSON (line 3)\n"
        "\n"
        " PLATFORM     DIGEST    SIZE\n"
        " linux/amd64  sha256:1  2.10MB  native\n"
        " linux/arm64  sha256:2  999B\n"
        f" index {DIGEST}\n"
        f" named {NAME}\n"
    )


def test_debug_expands_warnings(cli, engine):
    engine.events = [
        WarningEvent("v", "Rule: text", ("why",), "https://u", 1, "Dockerfile", b"FROM x\nCMD y", ((2, 2),)),
        WarningEvent("v", "Other"),
    ]
    assert cli("-D", "build", "-t", "app", ".").err == (
        "\n 2 warnings found:\n - Rule: text\nwhy\nMore info: https://u\n"
        "Dockerfile:2\n--------------------\n   1 |     FROM x\n   2 | >>> CMD y\n--------------------\n\n"
        " - Other\n\n"
    )


# Failures


def test_a_failing_step_is_shown_with_its_output_its_line_and_what_next(cli, engine):
    text = b"FROM busybox\n\nRUN echo hi\nRUN false\n"
    error = errors.ExecFailed(["/bin/sh", "-c", "false"], 1, tail=b"not shown twice\n", hint="look above")
    error.source = errors.SourceRange("Dockerfile", 4, 4, data=text)
    error.platform = "linux/arm64"
    engine.error = error
    name = "[linux/arm64 3/3] RUN false"
    engine.events = [
        VertexEvent("s", name, started=1.0),
        LogEvent("s", 2, b"oh no\n", 1.5),
        VertexEvent("s", name, started=1.0, completed=2.0, error=str(error)),
    ]
    answer = cli("build", "--progress=plain", "-t", "app", ".")
    assert answer.status == 1
    assert answer.err.endswith(
        "#1 [linux/arm64 3/3] RUN false\n"
        "#1 0.500 oh no\n"
        '#1 ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1\n'
        "------\n"
        " > [linux/arm64 3/3] RUN false:\n"
        "0.500 oh no\n"
        "------\n"
        "Dockerfile:4\n"
        "--------------------\n"
        "   2 |\n"
        "   3 |     RUN echo hi\n"
        "   4 | >>> RUN false\n"
        "--------------------\n"
        'ERROR: failed to build: failed to solve: process "/bin/sh -c false" did not complete successfully: '
        "exit code: 1\n"
        "  hint: look above\n"
    )
    quiet = cli("build", "-q", "-t", "app", ".").err
    assert quiet.startswith("------\n > [linux/arm64 3/3] RUN false:\n0.500 oh no\n------\nDockerfile:4\n")


def test_a_display_that_breaks_is_mentioned_and_the_build_goes_on(cli, engine, monkeypatch):
    from anyarch.progress.plain import PlainRenderer

    monkeypatch.setattr(PlainRenderer, "update", lambda *_: 1 / 0)
    engine.events = [VertexEvent("a", "A", started=1.0)]
    answer = cli("build", "-t", "app", ".")
    assert answer.status == 0
    assert "WARNING: the progress display failed (ZeroDivisionError: division by zero)" in answer.err


def test_a_build_that_was_canceled_ends_with_130(cli, engine):
    engine.error = errors.Canceled("context canceled")
    answer = cli("build", "-t", "app", ".")
    assert answer == (130, "", "ERROR: failed to build: failed to solve: Canceled: context canceled\n")


def test_an_error_of_ours_is_said_to_be_one(cli, engine):
    engine.error = KeyError("x")
    answer = cli("build", "-t", "app", ".")
    assert answer.status == 70
    assert answer.err.startswith("anyarch: internal error: KeyError: 'x'\n")
    assert "Traceback" not in answer.err
    assert "Traceback" in cli("-D", "build", "-t", "app", ".").err
