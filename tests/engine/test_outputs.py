"""Attributes of outputs, each by what it changes in what is written. What BuildKit answers for the same
attributes (media types, annotations, errors) was compared by hand with its daemon of August 2026."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.archive.entry import Entry, Kind
from anyarch.archive.tar import TarWriter
from anyarch.engine.export import stored_image
from anyarch.engine.request import Annotation, BuildRequest, Output
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, BuildError, OutputError, UsageError
from anyarch.spec import media
from anyarch.spec.oci import Blob, Descriptor, Manifest, encode
from anyarch.spec.reference import Reference
from anyarch.store.store import Store
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.testing.builder import Builder

DOCKERFILE = "FROM scratch\nCOPY a /a\nCOPY b /d/b\n"
FILES = {"a": "one\n", "b": "two\n" * 1000}
BOTH = ("linux/amd64", "linux/arm64")


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


class Layout:
    """An OCI layout that a build wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = json.loads((path / "index.json").read_bytes())["manifests"]

    def raw(self, digest: str) -> bytes:
        return (self.path / "blobs" / digest.replace(":", "/")).read_bytes()

    def document(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw(descriptor["digest"]))
        return found

    @property
    def root(self) -> dict[str, Any]:
        return self.document(self.entries[0])


def lay_out(build: Builder, platform: tuple[str, ...] = BOTH, **attrs: str) -> Layout:
    out = build.directory / f"layout{len(os.listdir(build.directory))}"
    wanted = {name.replace("_", "-"): value for name, value in attrs.items()}
    build(
        DOCKERFILE,
        files=FILES,
        platform=platform,
        outputs=(Output("oci", str(out), {"tar": "false", **wanted}),),
    )
    return Layout(out)


def output(build: Builder, output: Output, platform: tuple[str, ...] = BOTH, **request: Any) -> Any:
    return build(DOCKERFILE, files=FILES, platform=platform, outputs=(output,), **request)


# layers -------------------------------------------------------------------------------------------


def test_estargz_layers_hold_the_files_and_what_lazy_runtimes_look_for(scratch_build: Builder) -> None:
    layout = lay_out(scratch_build, ("linux/amd64",), compression="estargz")
    manifest = layout.root
    config = layout.document(manifest["config"])
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == media.OCI_LAYER_GZIP
        blob = layout.raw(layer["digest"])
        plain = gzip.decompress(blob)
        assert diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert blob[-51:].count(b"STARGZ") == 1
        notes = layer["annotations"]
        assert notes["io.containers.estargz.uncompressed-size"] == str(len(plain))
        assert notes["containerd.io/snapshot/stargz/toc.digest"].startswith("sha256:")


def test_an_estargz_image_can_be_built_upon_and_its_layers_are_not_made_again(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    name = f"{remote.address}/lazy:1"
    attrs = {"name": name, "push": "true", "compression": "estargz"}
    output(scratch_build, Output("image", None, attrs), ("linux/amd64",))
    image = scratch_build(
        f"FROM {name}\nCOPY a /again\n",
        outputs=(Output("image", None, {**attrs, "name": f"{name}-next", "force-compression": "true"}),),
    )
    assert image.read_text("/d/b") == FILES["b"]
    assert image.read_text("/again") == FILES["a"]
    assert not image.path("/stargz.index.json").exists()
    first, second = (
        [
            layer["digest"]
            for layer in json.loads(remote.manifests["lazy", remote.tags["lazy", tag]].raw)["layers"]
        ]
        for tag in ("1", "1-next")
    )
    assert second[:-1] == first


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [
        ("uncompressed", media.OCI_LAYER_TAR),
        ("gzip", media.OCI_LAYER_GZIP),
        ("zstd", media.OCI_LAYER_ZSTD),
    ],
)
def test_base_layers_are_recompressed_when_forced_and_else_kept(
    scratch_build: Builder, remote: FakeRegistry, compression: str, media_type: str
) -> None:
    name = f"{remote.address}/base:1"
    output(scratch_build, Output("image", None, {"name": name, "push": "true"}), ("linux/amd64",))
    text = f"FROM {name}\nCOPY a /again\n"
    for force in ("false", "true"):
        out = scratch_build.directory / f"forced-{force}"
        attrs = {"tar": "false", "compression": compression, "force-compression": force}
        scratch_build(text, outputs=(Output("oci", str(out), attrs),), root=str(out) + "-store")
        types = [layer["mediaType"] for layer in Layout(out).root["layers"]]
        assert types[-1] == media_type
        assert set(types[:-1]) == ({media_type} if force == "true" else {media.OCI_LAYER_GZIP})


def test_rewritten_times_are_marked_on_the_layers_that_were(scratch_build: Builder) -> None:
    layout = lay_out(scratch_build, source_date_epoch="100", rewrite_timestamp="true")
    for entry in layout.root["manifests"]:
        for layer in layout.document(entry)["layers"]:
            assert layer["annotations"] == {"buildkit/rewritten-timestamp": "100"}


@pytest.mark.parametrize("keep", ["true", "false"])
def test_layers_not_for_distribution_stay_so_only_when_preferred(
    scratch_build: Builder, remote: FakeRegistry, keep: str
) -> None:
    packed: list[bytes] = []
    tar = TarWriter(packed.append)
    tar.add(Entry("Files/a", Kind.FILE, 0o644, size=1), b"x")
    tar.close()
    image = remote.add_image("win", layers=[b"".join(packed)], os="windows")
    raw = json.loads(image.raw)
    layer = raw["layers"][0]
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    manifest = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        config=Descriptor(**{"media_type": media.OCI_CONFIG, **_pointer(raw["config"])}),
        layers=(Descriptor(foreign, layer["digest"], layer["size"], urls=("https://layers.example/1",)),),
    )
    remote.add_manifest("win", Blob.of(media.OCI_MANIFEST, encode(manifest)), tag="1")
    name = f"{remote.address}/out:{keep}"
    attrs = {"name": name, "push": "true", "prefer-nondist-layers": keep}
    result = scratch_build(
        f"FROM {remote.address}/win:1\nCOPY a /a\n",
        files=FILES,
        platform="windows/amd64",
        outputs=(Output("image", None, attrs),),
    ).result
    pushed = json.loads(remote.manifests["out", result.digest].raw)["layers"][0]
    if keep == "true":
        assert (pushed["mediaType"], pushed["urls"]) == (foreign, ["https://layers.example/1"])
    else:
        assert (pushed["mediaType"], pushed.get("urls")) == (media.OCI_LAYER_TAR, None)


def _pointer(descriptor: dict[str, Any]) -> dict[str, Any]:
    return {"digest": descriptor["digest"], "size": descriptor["size"]}


# annotations --------------------------------------------------------------------------------------


def test_annotations_of_an_output_go_to_their_four_levels(scratch_build: Builder) -> None:
    layout = lay_out(
        scratch_build,
        **{
            "annotation.a": "1",
            "annotation-index.b": "2",
            "annotation-manifest-descriptor.c": "3",
            "annotation-index-descriptor.d": "4",
            "annotation-manifest[linux/arm64].e": "5",
        },
    )
    assert layout.entries[0]["annotations"]["d"] == "4"
    assert layout.root["annotations"] == {"b": "2"}
    amd64, arm64 = layout.root["manifests"]
    assert amd64["annotations"] == arm64["annotations"] == {"c": "3"}
    assert layout.document(amd64)["annotations"] == {"a": "1"}
    assert layout.document(arm64)["annotations"] == {"a": "1", "e": "5"}


def test_the_annotation_of_the_command_line_wins_over_that_of_an_output(scratch_build: Builder) -> None:
    out = scratch_build.directory / "o"
    output(
        scratch_build,
        Output("oci", str(out), {"tar": "false", "annotation.a": "output"}),
        ("linux/amd64",),
        annotations=(Annotation("a", "request"),),
    )
    assert Layout(out).root["annotations"] == {"a": "request"}


@pytest.mark.parametrize(
    ("attrs", "platform", "text"),
    [
        ({"annotation-index.a": "1"}, BOTH[:1], "index annotations not supported for single platform export"),
        (
            {"annotation-index-descriptor.a": "1"},
            BOTH[:1],
            "index annotations not supported for single platform export",
        ),
        ({"annotation-foo.a": "1"}, BOTH, "unrecognized annotation type foo"),
        (
            {"annotation-manifest[linux/s390x].a": "1"},
            BOTH,
            "invalid annotation: no platform linux/s390x found in source",
        ),
        (
            {"annotation-index.a": "1", "oci-mediatypes": "false"},
            BOTH,
            'cannot export annotations with "oci-mediatypes=false"',
        ),
        ({"compression": "lz4"}, BOTH, "unsupported compression type lz4"),
        (
            {"compression": "estargz", "oci-mediatypes": "false"},
            BOTH,
            'exporter option "compression=estargz" conflicts with "oci-mediatypes=false"',
        ),
        (
            {"oci-artifact": "true", "oci-mediatypes": "false"},
            BOTH,
            'exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"',
        ),
        (
            {"unpack": "true", "rewrite-timestamp": "true"},
            BOTH,
            'exporter option "rewrite-timestamp" conflicts with "unpack"',
        ),
        ({"no-such": "1"}, BOTH, "unknown attribute 'no-such' of output type=oci"),
    ],
)
def test_what_does_not_go_together_is_refused_in_buildkits_words(
    scratch_build: Builder, attrs: dict[str, str], platform: tuple[str, ...], text: str
) -> None:
    with pytest.raises((BuildError, UsageError)) as raised:
        output(scratch_build, Output("oci", str(scratch_build.directory / "no"), attrs), platform)
    assert raised.value.message == text
    assert not (scratch_build.directory / "no").exists()


# names --------------------------------------------------------------------------------------------


def stored(build: Builder, name: str) -> bool:
    with Store.open(build.store) as store:
        return stored_image(store, Reference.parse(name)) is not None


CANDIDATES = {"x.example/a:1", "x.example/a:1@D", "x.example/lost@D"}


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"name": "x.example/a:1"}, {"x.example/a:1"}),
        ({"name": "x.example/a:1", "name-canonical": "true"}, {"x.example/a:1", "x.example/a:1@D"}),
        ({"dangling-name-prefix": "x.example/lost"}, {"x.example/lost@D"}),
        ({"dangling-name-prefix": "x.example/lost", "name-canonical": "true"}, {"x.example/lost@D"}),
        (
            {"dangling-name-prefix": "x.example/lost", "name": "x.example/a:1"},
            {"x.example/a:1", "x.example/lost@D"},
        ),
        (
            {
                "dangling-name-prefix": "x.example/lost",
                "danging-name-empty-only": "true",
                "name": "x.example/a:1",
            },
            {"x.example/a:1"},
        ),
        ({"name": "x.example/a:1", "store": "false"}, set()),
    ],
)
def test_an_image_gets_the_names_that_its_attributes_say(
    scratch_build: Builder, attrs: dict[str, str], expected: set[str]
) -> None:
    image = output(scratch_build, Output("image", None, attrs))
    found = {
        name for name in CANDIDATES if stored(scratch_build, name.replace("@D", f"@{image.result.digest}"))
    }
    assert found == expected


def test_push_by_digest_writes_no_tag(scratch_build: Builder, remote: FakeRegistry) -> None:
    attrs = {"name": f"{remote.address}/app", "push": "true", "push-by-digest": "true"}
    result = output(scratch_build, Output("image", None, attrs)).result
    assert remote.tags == {}
    assert ("app", result.digest) in remote.manifests
    assert result.image_names == (f"{remote.address}/app",)


def test_push_by_digest_refuses_a_tag(tmp_path: Path) -> None:
    attrs = {"name": "x.example/app:1", "push": "true", "push-by-digest": "true"}
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UsageError, match=r"^can't push tagged ref x\.example/app:1 by digest$"):
        prepare(BuildRequest(context=str(tmp_path), outputs=(Output("image", None, attrs),)))


def test_unpack_makes_the_directories_that_a_run_would_mount(scratch_build: Builder) -> None:
    output(scratch_build, Output("image", None, {"name": "x.example/a:1"}), ("linux/amd64",))

    def unpacked() -> list[Path]:
        return [path for path in (scratch_build.store / "layers").glob("*/*/dir*") if path.is_dir()] + [
            path for path in (scratch_build.store / "layers").glob("*/dir*") if path.is_dir()
        ]

    assert unpacked() == []
    attrs = {"name": "x.example/a:1", "unpack": "true"}
    output(scratch_build, Output("image", None, attrs), ("linux/amd64",))
    assert len(unpacked()) == 2


# files --------------------------------------------------------------------------------------------


def test_mode_delete_leaves_nothing_but_the_result(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    outside = scratch_build.directory / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    for name in ("stale/deep/file", "linux_amd64/d/old", "linux_s390x/a"):
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_text("old")
    (dest / "linux_arm64").mkdir()
    (dest / "linux_arm64" / "link").symlink_to(outside)
    output(scratch_build, Output("local", str(dest), {"mode": "delete"}))
    found = sorted(str(path.relative_to(dest)) for path in dest.rglob("*"))
    per_platform = ["", "/a", "/d", "/d/b"]
    assert found == [f"{p}{tail}" for p in ("linux_amd64", "linux_arm64") for tail in per_platform]
    assert (outside / "kept").exists()


def test_directories_of_platforms_have_no_time_of_their_own(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    output(scratch_build, Output("local", str(dest)))
    assert {path.stat().st_mtime for path in dest.iterdir()} == {0}


def test_mode_copy_keeps_what_is_there(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    dest.mkdir()
    (dest / "old").write_text("old")
    output(scratch_build, Output("local", str(dest), {"mode": "copy"}), ("linux/amd64",))
    assert sorted(os.listdir(dest)) == ["a", "d", "old"]


@pytest.mark.parametrize("dest", [".", "..", "../beside", "link"])
def test_mode_delete_outside_the_working_directory_has_to_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "Dockerfile").write_text("FROM scratch\n")
    (here / "link").symlink_to(tmp_path)
    monkeypatch.chdir(here)
    outputs = (Output("local", dest, {"mode": "delete"}),)
    with pytest.raises(UsageError) as raised:
        prepare(BuildRequest(outputs=outputs))
    assert raised.value.message == (
        f'local output mode=delete for destination "{dest}" requires --allow=buildx.local.delete'
    )
    allowed = prepare(BuildRequest(outputs=outputs, allow=("buildx.local.delete",)))
    assert allowed.outputs == outputs
    inside = (Output("local", "out", {"mode": "delete"}),)
    assert prepare(BuildRequest(outputs=inside)).outputs == inside
    with pytest.raises(UsageError, match="does not accept a value"):
        prepare(BuildRequest(outputs=inside, allow=("buildx.local.delete=true",)))


def test_allowing_deletion_is_no_entitlement_of_a_step(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    output(scratch_build, Output("local", str(dest)), ("linux/amd64",), allow=("buildx.local.delete",))
    assert (dest / "a").exists()


def test_without_platform_split_two_platforms_may_not_have_the_same_file(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    attrs = {"platform-split": "false"}
    with pytest.raises(OutputError) as raised:
        output(scratch_build, Output("local", str(dest), attrs))
    assert raised.value.message == (
        "cannot overwrite a from linux/amd64 with linux/arm64 when split option is disabled"
    )
    text = "FROM scratch\nARG TARGETARCH\nCOPY a /bin/tool-$TARGETARCH\n"
    scratch_build(text, platform=BOTH, outputs=(Output("local", str(dest), attrs),))
    assert sorted(os.listdir(dest / "bin")) == ["tool-amd64", "tool-arm64"]


def test_an_epoch_is_the_time_of_every_file_of_a_local_output(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    output(scratch_build, Output("local", str(dest), {"source-date-epoch": "1000000000"}), ("linux/amd64",))
    for path in dest.rglob("*"):
        assert path.stat().st_mtime == 1_000_000_000
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


def test_an_unknown_mode_is_refused(scratch_build: Builder) -> None:
    with pytest.raises(AnyarchError, match='invalid local exporter mode "move"'):
        output(scratch_build, Output("local", str(scratch_build.directory / "x"), {"mode": "move"}))


def test_the_prefix_of_attestations_is_taken_by_outputs_of_files(scratch_build: Builder) -> None:
    dest = scratch_build.directory / "dest"
    output(scratch_build, Output("local", str(dest), {"attestation-prefix": "x-"}), ("linux/amd64",))
    assert sorted(os.listdir(dest)) == ["a", "d"]
