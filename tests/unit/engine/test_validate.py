from __future__ import annotations

import io
import os

import pytest

from anyarch.engine.request import Annotation, BuildRequest, Output
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, ContextError, OutputError, UsageError


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return lambda **fields: BuildRequest(**fields)


def test_what_is_prepared_is_prepared_once_and_for_all(request_of):
    request = prepare(request_of(tags=("app",), platforms=("arm64",), outputs=(Output("registry"),)))
    assert request.tags == ("docker.io/library/app:latest",)
    assert request.platforms == ("linux/arm64",)
    assert request.outputs == (
        Output("image", None, {"push": "true", "unpack": "false", "name": "docker.io/library/app:latest"}),
    )
    assert prepare(request) == request


def test_tags_alone_keep_the_image_in_the_store(request_of):
    assert prepare(request_of(tags=("app",))).outputs[0].type == "image"
    assert prepare(request_of()).outputs == ()


def test_names_of_an_output_are_completed(request_of):
    (output,) = prepare(request_of(outputs=(Output("oci", "x", {"name": "a, b:1"}),))).outputs
    assert output.attrs["name"] == "docker.io/library/a:latest,docker.io/library/b:1"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"outputs": (Output("image", None, {"push": "perhaps"}),)}, UsageError),
        ({"outputs": (Output("oci", "x", {"tar": "perhaps"}),)}, UsageError),
        ({"outputs": (Output("local", "x", {"mode": "move"}),)}, UsageError),
        ({"outputs": (Output("oci", "x", {"name": "UPPER"}),)}, AnyarchError),
        ({"outputs": (Output("tar", "."),)}, OutputError),
        ({"network": "bridge"}, UsageError),
        ({"dockerfile": "-", "context": "-", "context_tar": io.BytesIO()}, UsageError),
    ],
)
def test_what_makes_no_sense_is_refused(request_of, fields, kind):
    with pytest.raises(kind):
        prepare(request_of(**fields))


def test_annotations_limits_and_hosts_are_handed_on(request_of):
    request = request_of(
        annotations=(Annotation("a", "b"),), shm_size=1, add_hosts=(("a", "::1"),), network="host"
    )
    assert prepare(request) == request


def test_the_lower_case_name_of_the_dockerfile_will_do(request_of, tmp_path):
    (tmp_path / "Dockerfile").rename(tmp_path / "dockerfile")
    prepare(request_of())


def test_an_archive_brings_its_own_dockerfile(request_of, tmp_path):
    (tmp_path / "Dockerfile").unlink()
    prepare(request_of(context="-", context_tar=io.BytesIO(b"")))
    with pytest.raises(ContextError):
        prepare(request_of())


def test_a_context_that_cannot_be_entered_is_told(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ContextError, match="permission denied"):
        prepare(request_of())


def test_a_tar_goes_to_standard_output_unless_that_is_a_terminal(request_of):
    request = request_of(outputs=(Output("oci"),))
    prepare(request)
    with pytest.raises(UsageError, match="refusing to write to console"):
        prepare(request, stdout_is_terminal=lambda: True)


@pytest.mark.parametrize(
    "context",
    ["https://h/x.git", "https://h/x.tar.gz", "git@h:x/y", "ssh://h/x", "git://h/x#v1", "github.com/x/y"],
)
def test_remote_contexts_need_nothing_here(request_of, context):
    request = request_of(context=context, dockerfile="docker/Dockerfile")
    assert prepare(request) == request


def test_a_directory_that_is_called_like_a_repository_is_a_directory(request_of, tmp_path):
    (tmp_path / "github.com/x").mkdir(parents=True)
    with pytest.raises(ContextError, match="failed to read dockerfile"):
        prepare(request_of(context="github.com/x"))


def test_a_question_has_no_outputs(request_of):
    request = prepare(request_of(call="lint", tags=("app",), outputs=(Output("oci", "."),)))
    assert (request.tags, request.outputs) == ((), ())
