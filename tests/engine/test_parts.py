"""Parts that were built apart, merged, against one build of all platforms."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ..conftest import run_anyarch

pytestmark = pytest.mark.registry

DOCKERFILE = """\
FROM scratch
ARG TARGETARCH
COPY file /common
COPY file-$TARGETARCH /own
LABEL a=b
"""
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/riscv64")


@pytest.fixture
def context(tmp_path):
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "file").write_text("common")
    for name in PLATFORMS:
        architecture = name.partition("/")[2]
        (directory / f"file-{architecture}").write_text(architecture)
    return directory


@pytest.fixture
def runner(tmp_path, clean_environment):
    """Runs a command line on a machine of its own: a store for each name."""

    def run(machine, *words):
        environment = {**clean_environment, "ANYARCH_ROOT": str(tmp_path / f"store-{machine}")}
        return run_anyarch(*words, environment=environment)

    return run


FLAGS = (
    *("--build-arg", "SOURCE_DATE_EPOCH=0", "--provenance=false"),  # parts have none, what is pushed has
    *("--annotation", "index:org.example.what=all", "--annotation", "manifest-descriptor:note=x"),
)


def digest_of(runner, name):
    return runner("look", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", name).strip()


def test_the_merged_index_is_that_of_one_build(runner, registry, context, tmp_path):
    app = f"{registry.address}/parts/app"
    runner(
        "one", "build", *FLAGS, "--platform", ",".join(PLATFORMS), "-t", f"{app}:one", "--push", str(context)
    )
    for platform in PLATFORMS:
        runner(
            platform[-5:],
            *("build", *FLAGS, "--platform", platform, "--part", str(tmp_path / platform[-5:]), str(context)),
        )
    directories = [str(tmp_path / platform[-5:]) for platform in reversed(PLATFORMS)]
    told = runner("merge", "merge", *directories, "-t", f"{app}:merged", "--push")
    assert told == f"{app}:merged {digest_of(runner, f'{app}:one')}\n"
    # The same from directories that were copied into one, and from what registries have.
    for directory in directories:
        subprocess.run(["cp", "-a", f"{directory}/.", str(tmp_path / "all")], check=True)
    runner("merge", "merge", str(tmp_path / "all"), "-o", str(tmp_path / "layout"))
    (entry,) = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert entry["digest"] == digest_of(runner, f"{app}:one")


def test_a_part_that_is_built_again_replaces_its_record(runner, context, tmp_path):
    part = tmp_path / "part"
    for text in ("first", "second"):
        (context / "file").write_text(text)
        runner("one", "build", *FLAGS, "--platform", "linux/arm64", "--part", str(part), str(context))
    assert len(list((part / "parts").iterdir())) == 1
    runner("one", "merge", str(part), "-o", str(tmp_path / "layout"))


def test_runners_that_merge_at_the_same_time_make_one_index(
    runner, registry, context, tmp_path, clean_environment
):
    app = f"{registry.address}/parts/race"
    runner(
        "one", "build", *FLAGS, "--platform", ",".join(PLATFORMS), "-t", f"{app}:one", "--push", str(context)
    )
    for platform in PLATFORMS:
        runner(
            "parts",
            *("build", *FLAGS, "--platform", platform, "--part", str(tmp_path / platform[-5:]), str(context)),
        )
    for number in range(3):
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "anyarch",
                    "merge",
                    str(tmp_path / platform[-5:]),
                    "-t",
                    f"{app}:{number}",
                    "--push",
                ],
                env=dict(clean_environment),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for platform in PLATFORMS
        ]
        said = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], said
        assert digest_of(runner, f"{app}:{number}") == digest_of(runner, f"{app}:one")
    runner("merge", "merge", "-t", f"{app}:0", "--push", "--remove", "linux/arm64")
    raw = json.loads(runner("merge", "imagetools", "inspect", "--raw", f"{app}:0"))
    assert [e["platform"]["architecture"] for e in raw["manifests"]] == ["amd64", "riscv64"]
