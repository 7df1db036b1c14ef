"""Builds without RUN: what lands in the image, what is shared, what is executed again."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Output
from anyarch.errors import BuildError, DockerfileError, PathNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.testing.builder import Builder

TWO = ("linux/amd64", "linux/arm64")
SEVEN = (*TWO, "linux/arm/v7", "linux/riscv64", "linux/s390x", "linux/ppc64le", "linux/386")


def test_copy_from_the_context_and_between_stages(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch AS one
        COPY a.txt sub/ /in/
        FROM scratch
        COPY --from=one /in/b.txt /out/
        COPY --from=one /in /all
        """,
        files={"a.txt": "A", "sub/b.txt": "B"},
    )
    assert image.listing() == ["all", "all/a.txt", "all/b.txt", "out", "out/b.txt"]
    assert image.read_text("/out/b.txt") == "B"


def test_one_index_in_the_order_asked_for_with_the_platforms_of_its_manifests(scratch_build: Builder) -> None:
    platforms = ("linux/riscv64", "linux/amd64", "linux/arm/v7")
    image = scratch_build("FROM scratch\nCOPY a /\n", platform=platforms, files={"a": "1"})
    assert image.index is not None
    assert [str(p.platform and p.platform.architecture) for p in image.index.manifests] == [
        "riscv64",
        "amd64",
        "arm",
    ]
    assert image.index.manifests[2].platform is not None
    assert image.index.manifests[2].platform.variant == "v7"
    configs = [image.config(p) for p in platforms]
    assert [(c.os, c.architecture, c.variant) for c in configs] == [
        ("linux", "riscv64", ""),
        ("linux", "amd64", ""),
        ("linux", "arm", "v7"),
    ]


def test_a_single_platform_gives_a_manifest_and_no_index(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nCOPY a /\n", files={"a": "1"})
    assert image.index is None
    assert image.result.digest == image.result.platforms[0].digest
    assert image.result.config_digest is not None


def test_neutral_steps_are_executed_once_for_all_platforms(scratch_build: Builder) -> None:
    image = scratch_build(
        "FROM scratch\nCOPY a /\nWORKDIR /w\nCOPY . /all/\n", platform=SEVEN, files={"a": "1", "b": "2"}
    )
    assert len(image.executed) == 3
    layers = {image.manifest(platform).layers for platform in SEVEN}
    assert len(layers) == 1


def test_the_same_copy_on_different_bases_is_one_layer(build: Builder) -> None:
    image = build("FROM busybox\nCOPY a /usr/local/bin/\nCOPY . /app/\n", platform=SEVEN, files={"a": "1"})
    added = {image.manifest(platform).layers[-2:] for platform in SEVEN}
    assert len(added) == 1


def test_a_second_build_executes_nothing(scratch_build: Builder) -> None:
    text = "FROM scratch\nCOPY a /\nWORKDIR /w\nCOPY . /all/\n"
    first = scratch_build(text, platform=TWO, files={"a": "1"})
    second = scratch_build(text, platform=TWO)
    assert second.executed == []
    assert second.result.digest == first.result.digest


def test_touching_one_file_executes_only_what_depends_on_it(scratch_build: Builder) -> None:
    text = """
        FROM scratch AS assets
        COPY assets /assets
        FROM scratch
        COPY a /
        COPY --from=assets /assets /assets
        COPY b /
    """
    scratch_build(text, files={"a": "1", "b": "1", "assets/x": "1"})
    changed = scratch_build(text, files={"b": "2"})
    assert [name.partition("] ")[2] for name in changed.executed] == ["COPY b /"]
    changed = scratch_build(text, files={"assets/x": "2"})
    assert [name.partition("] ")[2] for name in changed.executed] == [
        "COPY assets /assets",
        "COPY --from=assets /assets /assets",
        "COPY b /",
    ]


def test_a_changed_time_alone_changes_nothing(scratch_build: Builder) -> None:
    text = "FROM scratch\nCOPY . /\n"
    first = scratch_build(text, files={"a": "1"})
    os.utime(scratch_build.context / "a", (1, 1))
    second = scratch_build(text)
    assert second.executed == []
    assert second.result.digest == first.result.digest


def test_no_cache_executes_everything_again(scratch_build: Builder) -> None:
    text = "FROM scratch\nCOPY a /\nCOPY b /\n"
    scratch_build(text, files={"a": "1", "b": "2"})
    assert len(scratch_build(text, no_cache=True).executed) == 2
    assert scratch_build(text).executed == []


def test_the_ignore_file_hides_files_and_the_dockerfiles_own_one_wins(
    scratch_build: Builder, tmp_path: Path
) -> None:
    files = {
        "a": "1",
        "b": "2",
        "sub/a": "3",
        ".dockerignore": "**/a\n!sub/a\n",
        "x.Dockerfile": "FROM scratch\nCOPY . /\n",
    }
    image = scratch_build("FROM scratch\nCOPY . /\n", files=files)
    assert image.listing() == [".dockerignore", "b", "sub", "sub/a", "x.Dockerfile"]
    scratch_build.write({"x.Dockerfile.dockerignore": "b\n*Dockerfile*\n.dockerignore\n"})
    request = {"dockerfile": str(scratch_build.context / "x.Dockerfile"), "dockerfile_data": None}
    out = tmp_path / "files"
    image = scratch_build("", outputs=(Output("local", str(out)),), **request)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == ["a", "sub", "sub/a"]


def test_add_unpacks_archives_and_copies_the_rest(scratch_build: Builder) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (("bin/tool", b"T"), ("etc/conf", b"C")):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(data), 0o750, 33
            archive.addfile(info, io.BytesIO(data))
    image = scratch_build(
        "FROM scratch\nADD pack.tgz plain.txt /opt/\nCOPY pack.tgz /kept.tgz\n",
        files={"pack.tgz": buffer.getvalue(), "plain.txt": "P"},
    )
    assert image.listing() == [
        "kept.tgz",
        "opt",
        "opt/bin",
        "opt/bin/tool",
        "opt/etc",
        "opt/etc/conf",
        "opt/plain.txt",
    ]
    assert image.path("/opt/bin/tool").stat().st_mode & 0o777 == 0o750


def test_links_cannot_read_or_write_outside(scratch_build: Builder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    context = scratch_build.context
    (context / "abs").symlink_to(secret)
    (context / "up").symlink_to("../secret")
    with pytest.raises(PathNotFound):
        scratch_build("FROM scratch\nCOPY abs /x\n")
    with pytest.raises(PathNotFound):
        scratch_build("FROM scratch\nCOPY up /x\n")
    (context / "tree").mkdir()
    (context / "tree" / "evil").symlink_to(str(tmp_path))
    with pytest.raises(BuildError):
        scratch_build("FROM scratch\nCOPY tree /\nCOPY f /evil\nCOPY f /evil/x\n", files={"f": "F"})
    image = scratch_build("FROM scratch\nCOPY tree /\nCOPY f /evil/x\n")
    assert not (tmp_path / "x").exists()
    assert image.read_text(f"{tmp_path}/x") == "F"  # followed inside the image


def test_a_hostile_archive_cannot_escape(scratch_build: Builder, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        info = tarfile.TarInfo("l/escaped")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    image = scratch_build("FROM scratch\nADD evil.tar /t/\n", files={"evil.tar": buffer.getvalue()})
    assert not (tmp_path / "escaped").exists()
    # Followed inside the image, as the image's own programs would see it.
    assert image.path(str(tmp_path / "escaped")).read_text() == "x"


def test_labels_environment_and_all_metadata_reach_the_config(scratch_build: Builder) -> None:
    image = scratch_build(
        """
        FROM scratch
        ARG VERSION=1
        ENV A=1 B="two words"
        LABEL version=$VERSION
        EXPOSE 80 53/udp
        VOLUME /data
        USER 7:8
        WORKDIR /srv
        STOPSIGNAL SIGINT
        HEALTHCHECK --interval=5s CMD ["/ok"]
        SHELL ["/bin/ash", "-c"]
        ENTRYPOINT ["/entry"]
        CMD run it
        """,
        build_args={"VERSION": "2"},
        labels={"from": "cli"},
    )
    config = image.config()
    run = config.config
    assert run.env is not None
    assert {"A=1", "B=two words"} <= set(run.env)
    assert run.labels == {"version": "2", "from": "cli"}
    assert sorted(run.exposed_ports or {}) == ["53/udp", "80/tcp"]
    assert (run.user, run.working_dir, run.stop_signal) == ("7:8", "/srv", "SIGINT")
    assert (run.entrypoint, run.cmd) == (("/entry",), ("/bin/ash", "-c", "run it"))
    assert run.healthcheck is not None
    assert run.healthcheck.interval == 5_000_000_000
    assert config.history is not None
    layered = [item for item in config.history if not item.empty_layer]
    assert len(layered) == len(image.manifest().layers) == len(config.rootfs.diff_ids or ())


def test_an_epoch_makes_everything_reproducible_across_stores(tmp_path: Path) -> None:
    from anyarch.testing.builder import Builder

    digests = set()
    for name in ("one", "two"):
        builder = Builder(tmp_path / name)
        builder.write({"a": "1", "d/b": "2"})
        for path in builder.context.rglob("*"):
            os.utime(path, None if name == "two" else (2e9, 2e9))
        builder(
            "FROM scratch\nCOPY . /x/\nWORKDIR /y\n",
            platform=TWO,
            build_args={"SOURCE_DATE_EPOCH": "1700000000"},
            outputs=(Output("oci", str(tmp_path / name / "r.tar"), {"rewrite-timestamp": "true"}),),
        )
        digests.add((tmp_path / name / "r.tar").read_bytes())
    assert len(digests) == 1
    assert b'"created":"2023-11-14T22:13:20Z"' in digests.pop()


def test_named_directories_for_several_platforms_and_none_for_one(
    scratch_build: Builder, tmp_path: Path
) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"
    scratch_build(text, platform=TWO, files={"a": "1"}, outputs=(Output("tar", str(tmp_path / "t.tar")),))
    with tarfile.open(tmp_path / "t.tar") as archive:
        assert archive.getnames() == ["linux_amd64", "linux_amd64/amd64", "linux_arm64", "linux_arm64/arm64"]
    scratch_build(text, outputs=(Output("tar", str(tmp_path / "one.tar")),))
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.getnames() == ["amd64"]


def test_copies_of_different_files_are_told_apart_when_they_are_cached(scratch_build: Builder) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY file-$TARGETARCH /file\n"
    files = {"file-amd64": "1", "file-arm64": "2"}
    for _ in range(2):
        image = scratch_build(text, platform=TWO, files=files)
        assert [image.read_text("/file", platform) for platform in image.platforms] == ["1", "2"]
    assert image.executed == []


def test_a_context_from_an_archive_on_standard_input(scratch_build: Builder) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, data in (("Dockerfile", b"FROM scratch\nCOPY x /y\n"), ("x", b"X")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    image = scratch_build("", context="-", context_tar=io.BytesIO(buffer.getvalue()), dockerfile_data=None)
    assert image.read_text("/y") == "X"


@pytest.mark.parametrize(
    ("text", "error", "message", "line"),
    [
        ("FROM scratch\nCOPY missing /\n", PathNotFound, '"/missing": not found', 2),
        ("FROM scratch\nRUNN x\n", DockerfileError, "unknown instruction", 2),
        ("FROM scratch\nCOPY --from=nothere /a /b\n", Exception, "nothere", 2),
        ("FROM scratch\nRUN --security=insecure true\n", BuildError, "security.insecure", 2),
    ],
)
def test_errors_name_the_line(
    scratch_build: Builder, text: str, error: type, message: str, line: int
) -> None:
    with pytest.raises(error, match=message) as caught:
        scratch_build(text)
    assert caught.value.source.start == line
    assert caught.value.source.data == text.encode()
