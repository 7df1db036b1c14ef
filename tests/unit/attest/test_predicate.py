"""The words of provenance, in both versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anyarch.attest.capture import Capture, GitSource, HttpSource, ImageSource
from anyarch.attest.options import ProvenanceOptions
from anyarch.attest.predicate import RunFacts, as_version_02, for_metadata, predicate
from anyarch.attest.request import kept_args, request_facts
from anyarch.attest.steps import steps_of
from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import State
from anyarch.spec.platform import Platform, host_platform
from anyarch.spec.reference import Reference

ATTRS = {
    "filename": "Dockerfile",
    "build-arg:A": "1",
    "label:l": "2",
    "target": "t",
    "platform": "linux/amd64",
    "attest:provenance": "mode=max",
    "vcs:source": "https://u:p@example.com/r.git",
    "vcs:revision": "abc",
    "context:more": "https://u:p@example.com/f",
}


def told(options: ProvenanceOptions, capture: Capture | None = None, **attrs: str) -> dict[str, Any]:
    capture = capture or Capture()
    facts = request_facts("dockerfile.v0", kept_args({**ATTRS, **attrs}), capture)
    run = RunFacts("id", "2020-01-01T00:00:00Z", "2020-01-01T00:00:01Z", dockerfile_version="1.26.0")
    if options.is_max:
        run = RunFacts(**{name: getattr(run, name) for name in run.__struct_fields__})
        definition = State().file(ActionMkfile("/f", 0o644, b"x")).marshal()
        run = RunFacts("id", run.started, run.finished, steps=steps_of(definition))
    return predicate(capture, facts, options, run)


def test_the_least_leaves_out_what_the_user_gave() -> None:
    document = told(ProvenanceOptions(is_max=False))
    request = document["buildDefinition"]["externalParameters"]["request"]
    assert request["args"] == {"context:more": "https://xxxxx:xxxxx@example.com/f", "target": "t"}
    assert document["runDetails"]["metadata"]["buildkit_completeness"] == {
        "request": False,
        "resolvedDependencies": True,
    }
    assert "buildConfig" not in document["buildDefinition"]["internalParameters"]


def test_all_has_arguments_secrets_and_steps() -> None:
    capture = Capture()
    capture.add_secret("s", optional=True)
    capture.add_ssh("", optional=False)
    document = told(ProvenanceOptions(builder_id="https://builder", reproducible=True), capture)
    external = document["buildDefinition"]["externalParameters"]
    assert external["configSource"] == {"path": "Dockerfile"}
    assert external["request"]["args"]["build-arg:A"] == "1"
    assert external["request"]["secrets"] == [{"id": "s", "optional": True}]
    assert external["request"]["ssh"] == [{"id": "default"}]
    assert len(document["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]) == 2
    details = document["runDetails"]
    assert details["builder"] == {"id": "https://builder"}
    assert details["metadata"]["buildkit_reproducible"] is True
    assert details["metadata"]["buildkit_hermetic"] is True
    assert details["metadata"]["buildkit_metadata"]["vcs"] == {
        "revision": "abc",
        "source": "https://xxxxx:xxxxx@example.com/r.git",
    }


def test_local_files_make_materials_incomplete_and_the_network_the_build_open() -> None:
    capture = Capture()
    capture.locals.add("context")
    metadata = told(ProvenanceOptions(), capture)["runDetails"]["metadata"]
    assert metadata["buildkit_completeness"]["resolvedDependencies"] is False
    assert "buildkit_hermetic" not in metadata
    capture = Capture()
    capture.has_network = True
    metadata = told(ProvenanceOptions(), capture)["runDetails"]["metadata"]
    assert metadata["buildkit_completeness"]["resolvedDependencies"] is True
    assert "buildkit_hermetic" not in metadata


def test_materials_are_package_urls_and_addresses_with_digests() -> None:
    capture = Capture()
    digest = "sha256:" + "1" * 64
    arm = Platform("linux", "arm", "v7")
    capture.add_image(ImageSource(Reference.parse("example.com:5/a/b:1"), arm, digest))
    capture.add_image(ImageSource(Reference.parse(f"x/y@{digest}"), None, digest, is_local=True))
    capture.add_blob(ImageSource(Reference.parse(f"x/z@{digest}"), None, digest, is_blob=True))
    bundle = f"docker-image+blob://x/bundle:1@{digest}"
    capture.add_repository(GitSource("https://example.com/r.git#v1", "c" * 40, bundle))
    capture.add_repository(GitSource("https://example.com/s.git", "d" * 64))
    capture.add_download(HttpSource("https://example.com/f", digest))
    found = told(ProvenanceOptions(), capture)["buildDefinition"]["resolvedDependencies"]
    own = {"sha256": "1" * 64}
    assert found == [
        {"uri": "pkg:docker/example.com%3A5/a/b@1?platform=linux%2Farm%2Fv7", "digest": own},
        {"uri": f"pkg:oci/x/y?digest={digest}", "digest": own},
        {"uri": f"pkg:docker/x/z?digest={digest}&ref_type=blob", "digest": own},
        {"uri": "https://example.com/r.git#v1", "digest": {"sha1": "c" * 40}},
        {
            "uri": "pkg:docker/x/bundle@1?ref_type=bundle&vcs_url=https:%2F%2Fexample.com%2Fr.git%23v1",
            "digest": own,
        },
        {"uri": "https://example.com/s.git", "digest": {"sha256": "d" * 64}},
        {"uri": "https://example.com/f", "digest": own},
    ]


def test_a_context_that_is_a_material_is_the_config_source_with_its_digest() -> None:
    capture = Capture()
    capture.add_repository(GitSource("https://example.com/r.git#v1", "c" * 40))
    document = told(ProvenanceOptions(), capture, context="https://example.com/r.git#v1:sub")
    assert document["buildDefinition"]["externalParameters"]["configSource"] == {
        "uri": "https://example.com/r.git#v1:sub",
        "digest": {"sha1": "c" * 40},
        "path": "Dockerfile",
    }


def test_version_02_says_the_same_in_its_own_places() -> None:
    old = as_version_02(told(ProvenanceOptions()))
    assert old["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert old["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert old["invocation"]["environment"] == {"platform": str(host_platform())}
    assert old["metadata"]["buildInvocationID"] == "id"
    assert old["metadata"]["completeness"] == {"parameters": True, "environment": True, "materials": True}
    assert old["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] is True
    assert old["buildConfig"]["llbDefinition"]


def test_the_metadata_file_has_version_02_and_little_of_it_unless_asked() -> None:
    raw = json.dumps(told(ProvenanceOptions())).encode()
    kind = "https://slsa.dev/provenance/v1"
    assert for_metadata(raw, kind, is_max=True) == as_version_02(json.loads(raw))
    assert not {"buildConfig", "metadata"} & for_metadata(raw, kind, is_max=False).keys()
    with pytest.raises(ValueError):
        for_metadata(b"{}", kind, is_max=True)
