"""What the attributes of a build say of attestations."""

from __future__ import annotations

import pytest

from anyarch.attest.options import Attests, ProvenanceOptions, SbomOptions, parse_attests
from anyarch.errors import AnyarchError


def test_nothing_is_attested_unless_something_is_said() -> None:
    assert parse_attests({"build-arg:X": "1", "platform": "linux/amd64"}) == Attests()


def test_a_type_alone_means_its_defaults() -> None:
    found = parse_attests({"attest:provenance": "", "attest:sbom": ""})
    assert found.provenance == ProvenanceOptions(is_max=True, version="v1", filename="provenance.json")
    assert found.sbom == SbomOptions("docker/buildkit-syft-scanner:stable-1")


def test_attributes_are_csv_and_build_arguments_say_the_same() -> None:
    text = 'mode=min,"builder-id=https://a/b,c",inline-only=true,reproducible=1,filename=p.json,version=v0.2'
    found = parse_attests({"build-arg:BUILDKIT_ATTEST_PROVENANCE": text}).provenance
    assert found == ProvenanceOptions(
        is_max=False,
        version="v0.2",
        filename="p.json",
        builder_id="https://a/b,c",
        reproducible=True,
        inline_only=True,
    )


def test_what_is_not_the_scanners_name_is_for_the_scanner() -> None:
    found = parse_attests({"attest:sbom": 'generator=example.com/scan,param=1,"more=a,b"'}).sbom
    assert found == SbomOptions("example.com/scan", {"param": "1", "more": "a,b"})
    assert str(found.reference) == "example.com/scan:latest"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("attest:custom", "", 'unknown attestation type "custom"'),
        ("attest:provenance", "mode=some", 'invalid mode "some"'),
        ("attest:provenance", "version=v2", "invalid provenance SLSA version: v2"),
        ("attest:provenance", "version=", "provenance SLSA version cannot be empty"),
        ("attest:provenance", "reproducible=perhaps", 'failed to parse reproducible flag "perhaps"'),
        ("attest:provenance", "capture-usage=true", "capture-usage is not supported"),
        ("attest:provenance", "filename=a/..", "names no file"),
        ("attest:sbom", "generator=", "sbom generator cannot be empty"),
        ("attest:sbom", "generator=UPPER CASE", "failed to parse sbom generator UPPER CASE"),
    ],
)
def test_what_there_is_not_is_refused_with_a_way_out(name: str, text: str, says: str) -> None:
    with pytest.raises(AnyarchError, match=says.replace("(", r"\(")) as caught:
        parse_attests({name: text})
    assert caught.value.hint
