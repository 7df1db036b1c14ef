from __future__ import annotations

import io
import subprocess
import sys

import pytest

import anyarch
import anyarch.engine
from anyarch.engine.request import BuildResult

PUBLIC = """
    AnyarchError BuildRequest BuildResult CancelToken Event LogEvent Output Platform PlatformResult
    StatusEvent VertexEvent WarningEvent __version__ build
"""


def test_the_public_names_are_those_we_promised():
    assert anyarch.__all__ == sorted(PUBLIC.split())
    for name in anyarch.__all__:
        assert getattr(anyarch, name) is not None
    assert set(anyarch.__all__) <= set(dir(anyarch))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = anyarch.biuld


def test_importing_the_package_loads_nothing_else():
    code = "import sys; bare = set(sys.modules); import anyarch; print(sorted(set(sys.modules) - bare))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['__future__', 'anyarch']\n"


@pytest.fixture
def requests(monkeypatch, tmp_path):
    seen = []

    def build(request, on_event=None, cancel=None):
        seen.append((request, on_event, cancel))
        return BuildResult(digest="sha256:x")

    monkeypatch.setattr(anyarch.engine, "build", build)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return seen


def test_build_takes_the_words_of_the_command_line(requests, tmp_path):
    sink, token = print, anyarch.CancelToken()
    result = anyarch.build(
        tmp_path,
        platforms=["linux/arm64"],
        tags=["app"],
        outputs=["type=oci,dest=app.tar", anyarch.Output("local", "out")],
        push=True,
        build_args={"A": "1"},
        root=tmp_path / "store",
        on_event=sink,
        cancel=token,
    )
    assert result.digest == "sha256:x"
    ((request, on_event, cancel),) = requests
    assert (on_event, cancel) == (sink, token)
    assert (request.context, request.platforms, request.build_args) == (
        str(tmp_path),
        ("linux/arm64",),
        {"A": "1"},
    )
    assert [output.type for output in request.outputs] == ["oci", "local", "image"]
    assert request.root == str(tmp_path / "store")


def test_build_takes_an_archive_and_a_dockerfile_as_bytes(requests):
    archive = io.BytesIO(b"tar")
    anyarch.build(archive, dockerfile=b"FROM scratch")
    request = requests[0][0]
    assert (request.context, request.context_tar, request.dockerfile_data) == ("-", archive, b"FROM scratch")


def test_build_refuses_before_any_work(requests):
    with pytest.raises(anyarch.AnyarchError, match="tag is needed when pushing"):
        anyarch.build(push=True)
    assert requests == []


def test_build_reads_no_environment(requests, monkeypatch):
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    anyarch.build()
    request = requests[0][0]
    assert (request.platforms, request.build_args) == ((), {})
