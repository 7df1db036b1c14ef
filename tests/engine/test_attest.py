"""Attestations of builds in this process: what is written where, and that asking for none gives none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine import build as run_build
from anyarch.engine.request import BuildRequest, Output, Repository
from anyarch.errors import BuildError, IncompleteMaterials, ManifestNotFound, OutputError
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.spec.digest import Digest
from anyarch.spec.reference import Reference
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.testing.builder import Builder, BuiltImage

DOCKERFILE = "FROM scratch\nCOPY one /\n"
FILES = {"one": "1"}
SLSA = "https://slsa.dev/provenance/v1"


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def statements(image: BuiltImage, number: int = 0) -> list[Any]:
    """Those of the attestation manifest at `number` of the image's index."""
    assert image.result.digest is not None
    entries = json.loads(image.blob(image.result.digest))["manifests"]
    attested = [e for e in entries if "vnd.docker.reference.type" in e.get("annotations", {})]
    layers = json.loads(image.blob(attested[number]["digest"]))["layers"]
    return [json.loads(image.blob(layer["digest"])) for layer in layers]


def test_provenance_makes_an_index_and_tells_what_was_asked(scratch_build: Builder) -> None:
    image = scratch_build(
        DOCKERFILE, files=FILES, attests={"provenance": {}}, build_args={"A": "1"}, tags=("x/y",)
    )
    (statement,) = statements(image)
    assert statement["predicateType"] == SLSA
    manifest = image.result.platforms[0].digest
    assert statement["subject"][0]["digest"] == {"sha256": manifest.removeprefix("sha256:")}
    request = statement["predicate"]["buildDefinition"]["externalParameters"]["request"]
    assert request["frontend"] == "dockerfile.v0"
    assert request["args"]["build-arg:A"] == "1"
    assert [item["name"] for item in request["locals"]] == ["context", "dockerfile"]
    metadata = statement["predicate"]["runDetails"]["metadata"]
    assert metadata["invocationId"]
    assert metadata["startedOn"] < metadata["finishedOn"]
    (layers,) = metadata["buildkit_metadata"]["layers"].values()
    assert [[item["digest"] for item in chain] for chain in layers] == [
        [item.digest for item in image.manifest().layers]
    ]
    assert json.loads(image.path("provenance.json").read_text())["predicateType"] == SLSA


def test_each_platform_is_attested_after_all_images(scratch_build: Builder) -> None:
    image = scratch_build(
        DOCKERFILE,
        files=FILES,
        platform=("linux/amd64", "linux/arm64"),
        attests={"provenance": {"mode": "min", "inline-only": "true"}},
    )
    assert image.index is not None
    platforms = [str(entry.platform.architecture) for entry in image.index.manifests if entry.platform]
    assert platforms == ["amd64", "arm64", "unknown", "unknown"]
    assert not image.path("provenance.json").exists()  # only for images


def test_what_is_only_for_images_makes_no_index_of_an_archive(scratch_build: Builder) -> None:
    attests = {"provenance": {"mode": "min", "inline-only": "true"}}
    image = scratch_build(DOCKERFILE, files=FILES, attests=attests)
    assert json.loads(image.blob(image.result.digest or ""))["mediaType"].endswith("manifest.v1+json")


def push(build: Builder, remote: FakeRegistry, **request: Any) -> Any:
    build.write(FILES)
    name = f"{remote.address}/a/b:1"
    result = run_build(
        BuildRequest(
            **{
                "context": str(build.context),
                "dockerfile_data": DOCKERFILE.encode(),
                "platforms": ("linux/amd64",),
                "outputs": (Output("image", attrs={"name": name, "push": "true"}),),
                "root": str(build.store),
                "default_provenance": True,
                **request,
            }
        )
    )
    registry = Registry(Hosts.load(), Credentials())
    try:
        pushed = registry.manifest(Reference.parse(name))
        entries = json.loads(pushed.raw).get("manifests", [])
        documents = [
            json.loads(registry.manifest(Reference.parse(name), Digest(entry["digest"])).raw)
            for entry in entries
        ]
    finally:
        registry.close()
    return result, entries, documents


def test_a_push_is_attested_by_default_and_the_same_each_time(
    scratch_build: Builder, remote: FakeRegistry, tmp_path: Any
) -> None:
    result, entries, documents = push(scratch_build, remote)
    assert len(entries) == 2
    assert documents[1]["layers"][0]["annotations"] == {"in-toto.io/predicate-type": SLSA}
    repository = Repository(root=str(tmp_path), source="https://example.com/a.git", revision="abc")
    again, _, _ = push(scratch_build, remote, repository=repository)
    assert again.digest == result.digest


def test_nothing_is_attested_where_nobody_wants_it(scratch_build: Builder, remote: FakeRegistry) -> None:
    _, entries, _ = push(scratch_build, remote, default_provenance=False)
    assert entries == []


def test_docker_types_are_pushed_without_the_default(scratch_build: Builder, remote: FakeRegistry) -> None:
    attrs = {"name": f"{remote.address}/a/b:1", "push": "true", "oci-mediatypes": "false"}
    _, entries, _ = push(scratch_build, remote, outputs=(Output("image", attrs=attrs),))
    assert entries == []
    with pytest.raises(BuildError, match="cannot export attestations with"):
        push(scratch_build, remote, outputs=(Output("image", attrs=attrs),), attests={"provenance": {}})


def test_with_an_epoch_provenance_is_the_same_each_time(scratch_build: Builder) -> None:
    digests = {
        scratch_build(
            DOCKERFILE,
            files=FILES,
            attests={"provenance": {"mode": "max"}},
            build_args={"SOURCE_DATE_EPOCH": "100"},
        ).result.digest
        for _ in range(2)
    }
    assert len(digests) == 1


def test_the_metadata_tells_of_it_only_when_asked(scratch_build: Builder) -> None:
    platforms = ("linux/amd64", "linux/arm64")
    image = scratch_build(DOCKERFILE, files=FILES, platform=platforms, metadata_provenance="max")
    told = {name: value for name, value in image.result.metadata.items() if "provenance" in name}
    assert sorted(told) == [f"buildx.build.provenance/{name}" for name in platforms]
    assert all(value["buildConfig"] for value in told.values())
    assert image.index is not None
    assert len(image.index.manifests) == 2
    image = scratch_build(DOCKERFILE, files=FILES, metadata_provenance="min")
    assert "buildConfig" not in image.result.metadata["buildx.build.provenance"]
    assert "buildx.build.provenance" not in scratch_build(DOCKERFILE, files=FILES).result.metadata


def test_an_empty_image_has_nothing_to_tell(scratch_build: Builder) -> None:
    image = scratch_build("FROM scratch\nENV A=1\n", attests={"provenance": {"mode": "max"}})
    assert image.result.config_digest is not None  # a plain manifest


def test_complete_materials_are_demanded_in_vain_of_a_directory(scratch_build: Builder) -> None:
    attests = {"provenance": {"complete-materials": "true"}}
    with pytest.raises(IncompleteMaterials, match=r"- context\n    reason: local_source"):
        scratch_build(DOCKERFILE, files=FILES, attests=attests)


def test_an_archive_for_docker_takes_no_attestations(scratch_build: Builder) -> None:
    output = Output("docker", str(scratch_build.directory / "x.tar"))
    with pytest.raises(OutputError, match="exporting manifest lists"):
        scratch_build(DOCKERFILE, files=FILES, outputs=(output,), attests={"provenance": {}})


SCANNER = """
FROM busybox
COPY scan.sh /
CMD ["sh", "/scan.sh"]
"""
SCAN = r"""
set -e
statement() {
  echo '{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document",'
  echo '"subject":[{"name":"x","digest":{"sha256":"ab"}}],"predicate":{"spdxVersion":"SPDX-2.3",'
  echo "\"name\":\"$1\",\"files\":["
  comma=
  for file in $(find $2 -type f); do echo "$comma{\"fileName\":\"${file#$2}\"}"; comma=,; done
  echo ']}}'
}
statement core $BUILDKIT_SCAN_SOURCE > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
for extra in ${BUILDKIT_SCAN_SOURCE_EXTRAS:+$BUILDKIT_SCAN_SOURCE_EXTRAS/*}; do
  name=$(basename $extra)
  statement $name-$BUILDKIT_SCAN_param $extra > $BUILDKIT_SCAN_DESTINATION/$name.spdx.json
done
"""


def test_an_sbom_is_what_the_scanner_says_with_the_layers_of_files(
    build: Builder, remote: FakeRegistry
) -> None:
    scanner = f"{remote.address}/scan/ner:1"
    pushed = Output("image", attrs={"name": scanner, "push": "true"})
    build(SCANNER, files={"scan.sh": SCAN}, outputs=(pushed,))
    image = build(
        """
        ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
        FROM busybox AS helper
        ARG BUILDKIT_SBOM_SCAN_STAGE=true
        RUN echo made > /made
        FROM busybox AS other
        RUN echo other > /unseen
        FROM scratch
        COPY --from=helper /made /made
        COPY --from=other /unseen /seen
        COPY one /one
        """,
        files=FILES,
        attests={"sbom": {"generator": scanner, "param": "7"}, "provenance": {"mode": "min"}},
    )
    core, *extras, provenance = statements(image)
    layers = [item.digest for item in image.manifest().layers]
    comments = {item["fileName"]: item["comment"] for item in core["predicate"]["files"]}
    assert comments == {
        name: f"layerID: {layer}" for name, layer in zip(("/made", "/seen", "/one"), layers, strict=True)
    }
    assert sorted(item["predicate"]["name"] for item in extras) == ["sbom-context-7", "sbom-helper-7"]
    assert provenance["predicateType"] == SLSA
    assert sorted(path.name for path in image.path("/").glob("*.json")) == [
        "provenance.json",
        "sbom-context.spdx.json",
        "sbom-helper.spdx.json",
        "sbom.spdx.json",
    ]


def test_a_scanner_that_cannot_be_had_is_an_error_with_a_way_out(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    attests = {"sbom": {"generator": f"{remote.address}/no/scanner"}}
    with pytest.raises(ManifestNotFound) as caught:
        scratch_build(DOCKERFILE, files=FILES, attests=attests)
    assert "--sbom generator=IMAGE" in (caught.value.hint or "")


def test_a_base_image_is_a_material_by_its_name_and_digest(build: Builder) -> None:
    image = build("FROM busybox\nRUN --network=none true\n", attests={"provenance": {"mode": "max"}})
    (statement,) = statements(image)
    predicate = statement["predicate"]
    (material,) = predicate["buildDefinition"]["resolvedDependencies"]
    assert material["uri"] == "pkg:docker/busybox@latest?platform=linux%2Famd64"
    assert len(material["digest"]["sha256"]) == 64
    # Once more from the cache, when the base was only looked up: the same is told.
    (cached,) = statements(build("FROM busybox\nRUN --network=none true\n", attests={"provenance": {}}))
    assert cached["predicate"]["buildDefinition"] == predicate["buildDefinition"]
    layers = [s["predicate"]["runDetails"]["metadata"]["buildkit_metadata"] for s in (statement, cached)]
    assert layers[0] == layers[1]
