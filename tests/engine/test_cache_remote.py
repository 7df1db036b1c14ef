"""Build caches outside the store: a second store builds from them without running anything."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from anyarch.cache.config import CACHE_CONFIG, INLINE_KEY
from anyarch.engine.request import BuildRequest, CacheOption, Output
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, CacheError, RegistryError
from anyarch.solver.events import VertexEvent, WarningEvent
from anyarch.testing.builder import Builder
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage

# The builder stage's result is no part of the image, so only mode=max has it.
DOCKERFILE = """
FROM scratch AS tools
COPY tool /bin/tool
FROM scratch
COPY a /a
COPY --from=tools /bin/tool /tool
COPY b /b
"""
FILES = {"a": "one\n", "b": "two\n" * 1000, "tool": "hammer\n"}
BOTH = ("linux/amd64", "linux/arm64")


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def builder(directory: Path, name: str) -> Builder:
    made = Builder(directory / name)
    made.write(FILES)
    for file in FILES:
        os.utime(made.context / file, (1_700_000_000, 1_700_000_000))
    return made


def warnings(image: BuiltImage) -> list[str]:
    return [event.short for event in image.events if isinstance(event, WarningEvent)]


def cached(image: BuiltImage) -> set[str]:
    return {event.name for event in image.events if isinstance(event, VertexEvent) and event.cached}


def cache(kind: str, **attrs: str) -> tuple[CacheOption, ...]:
    return (CacheOption(kind, {name.replace("_", "-"): value for name, value in attrs.items()}),)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "form", [{}, {"image_manifest": "false"}, {"image_manifest": "false", "oci_mediatypes": "false"}]
)
def test_a_second_store_runs_nothing_with_the_cache_of_a_registry(
    tmp_path: Path, remote: FakeRegistry, mode: str, form: dict[str, str]
) -> None:
    ref = f"{remote.address}/app:cache"
    first = builder(tmp_path, "one")(
        DOCKERFILE, platform=BOTH, cache_to=cache("registry", ref=ref, mode=mode, **form)
    )
    second = builder(tmp_path, "two")(DOCKERFILE, platform=BOTH, cache_from=cache("registry", ref=ref))
    assert first.executed
    if mode == "max":
        assert second.executed == []
    else:
        assert all("tools" in name for name in second.executed)
    assert second.read_text("/a", "linux/arm64") == "one\n"
    assert second.read_text("/tool") == "hammer\n"
    assert second.result.digest == first.result.digest
    assert warnings(second) == []


@pytest.mark.parametrize("kind", ["local", "inline"])
def test_the_copy_that_a_linked_one_consists_of_is_found(
    tmp_path: Path, remote: FakeRegistry, kind: str
) -> None:
    text = (
        "FROM scratch AS tools\nCOPY a /made\nCOPY b /made\n"
        "FROM scratch\nCOPY b /b\nCOPY --link --from=tools /made /m\nCOPY a /end\n"
    )
    files = {"a": "1", "b": "2"}
    name = f"{remote.address}/app:1"
    to, source = cache("inline"), cache("registry", ref=name)
    if kind == "local":
        place = str(tmp_path / "cache")
        to, source = cache("local", dest=place, mode="min"), cache("local", src=place)
    push = (Output("image", None, {"name": name, "push": "true"}),)
    builder(tmp_path, "one")(text, files=files, cache_to=to, outputs=push)
    second = builder(tmp_path, "two")(text, files=files, cache_from=source)
    assert second.executed == []
    # What is below it has changed: the copy is taken and put upon that, and its stage is not made.
    third = builder(tmp_path, "three")(text.replace("COPY b /b", "COPY b /c"), files=files, cache_from=source)
    assert not any(step.startswith("[tools") for step in third.executed)
    assert third.read_text("/m") == "2"


def test_only_what_is_needed_is_fetched(tmp_path: Path, remote: FakeRegistry) -> None:
    ref = f"{remote.address}/app:cache"
    builder(tmp_path, "one")(DOCKERFILE, cache_to=cache("registry", ref=ref, mode="max"))
    two = builder(tmp_path, "two")
    remote.clear_log()
    image = two(DOCKERFILE, cache_from=cache("registry", ref=ref), outputs=())
    manifest = image.manifest()
    blobs = [request.path.rpartition("/")[2] for request in remote.requests("GET", "/blobs/", status=200)]
    assert len(set(blobs)) == len(blobs)
    assert set(blobs) >= {layer.digest for layer in manifest.layers}


def test_the_document_is_one_that_buildkit_can_read(tmp_path: Path, remote: FakeRegistry) -> None:
    out = tmp_path / "cache"
    image = builder(tmp_path, "one")(DOCKERFILE, cache_to=cache("local", dest=str(out), mode="max"))
    index = json.loads((out / "index.json").read_bytes())
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    assert image.result.metadata["cache.manifest"] == {k: v for k, v in entry.items() if k != "annotations"}

    def blob(digest: str) -> bytes:
        return (out / "blobs" / digest.replace(":", "/")).read_bytes()

    manifest = json.loads(blob(entry["digest"]))
    assert manifest["config"]["mediaType"] == CACHE_CONFIG
    config = json.loads(blob(manifest["config"]["digest"]))
    known = {layer["digest"] for layer in manifest["layers"]}
    for layer in manifest["layers"]:
        assert set(layer["annotations"]) == {"buildkit/createdat", "containerd.io/uncompressed"}
        assert len(blob(layer["digest"])) == layer["size"]
    for position, layer in enumerate(config["layers"]):
        assert layer["blob"] in known
        assert layer.get("parent", 0) != position
    for record in config["records"]:
        assert record["digest"].startswith("sha256:")
        for group in record.get("inputs", []):
            assert group
            for link in group:
                assert 0 <= link.get("link", 0) < len(config["records"])
        for result in record.get("layers", []):
            assert 0 <= result.get("layer", 0) < len(config["layers"])


def test_a_second_store_runs_nothing_with_a_local_cache(tmp_path: Path) -> None:
    place = str(tmp_path / "cache")
    builder(tmp_path, "one")(DOCKERFILE, cache_to=cache("local", dest=place, mode="max", compression="zstd"))
    two = builder(tmp_path, "two")
    image = two(DOCKERFILE, cache_from=cache("local", src=place))
    assert image.executed == []
    assert image.read_text("/b") == FILES["b"]
    # The next build has it in the store.
    again = two(DOCKERFILE)
    assert again.executed == []


def test_two_tags_of_one_directory(tmp_path: Path) -> None:
    place = str(tmp_path / "cache")
    one = builder(tmp_path, "one")
    one(DOCKERFILE, cache_to=cache("local", dest=place, tag="all", mode="max"))
    one("FROM scratch\nCOPY a /other\n", cache_to=cache("local", dest=place, tag="other"))
    index = json.loads((tmp_path / "cache" / "index.json").read_bytes())
    assert len(index["manifests"]) == 2
    digest = index["manifests"][0]["digest"]
    for number, attrs in enumerate(({"tag": "all"}, {"digest": digest})):
        image = builder(tmp_path, f"two{number}")(DOCKERFILE, cache_from=cache("local", src=place, **attrs))
        assert image.executed == []


def test_the_cache_in_an_image_itself(tmp_path: Path, remote: FakeRegistry) -> None:
    name = f"{remote.address}/app:1"
    push = (Output("image", None, {"name": name, "push": "true"}),)
    dockerfile = "FROM scratch\nCOPY a /a\nCOPY b /b\n"
    first = builder(tmp_path, "one")(dockerfile, platform=BOTH, outputs=push, cache_to=cache("inline"))
    raw = json.loads(first.blob(first.manifest().config.digest))
    records = json.loads(base64.b64decode(raw[INLINE_KEY]))
    assert {result.get("layer", 0) for record in records for result in record.get("layers", [])} == {0, 1}
    second = builder(tmp_path, "two")(dockerfile, platform=BOTH, cache_from=cache("registry", ref=name))
    assert second.executed == []
    assert second.read_text("/b", "linux/arm64") == FILES["b"]
    again = builder(tmp_path, "three")(dockerfile, platform=BOTH, cache_to=cache("inline"))
    assert again.manifest().layers == first.manifest().layers


def test_a_cache_that_cannot_be_read_is_a_warning(tmp_path: Path, remote: FakeRegistry) -> None:
    wanted = (
        *cache("registry", ref=f"{remote.address}/app:none"),
        *cache("local", src=str(tmp_path / "nowhere")),
    )
    image = builder(tmp_path, "one")(DOCKERFILE, cache_from=wanted)
    assert len(warnings(image)) == 2
    assert all(text.startswith("failed to import the build cache from") for text in warnings(image))
    assert image.result.warnings == 2
    assert image.read_text("/a") == "one\n"


def test_a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored(
    tmp_path: Path, remote: FakeRegistry
) -> None:
    ref = f"{remote.address}/app:cache"
    remote.fault("PUT", "/manifests/", status=403, times=100)
    one = builder(tmp_path, "one")
    with pytest.raises(RegistryError):
        one(DOCKERFILE, cache_to=cache("registry", ref=ref))
    image = one(DOCKERFILE, cache_to=cache("registry", ref=ref, ignore_error="true"))
    assert len(warnings(image)) == 1
    assert image.result.warnings == 1


def test_a_changed_file_is_made_anew_on_top_of_what_is_cached(tmp_path: Path, remote: FakeRegistry) -> None:
    ref = f"{remote.address}/app:cache"
    builder(tmp_path, "one")(DOCKERFILE, cache_to=cache("registry", ref=ref, mode="max"))
    two = builder(tmp_path, "two")
    image = two(DOCKERFILE, files={"b": "changed\n"}, cache_from=cache("registry", ref=ref))
    assert len(image.executed) == 1
    assert image.read_text("/b") == "changed\n"
    assert image.read_text("/a") == "one\n"


@pytest.mark.root
def test_steps_with_a_base_come_from_the_cache_without_it(
    build: Builder, tmp_path: Path, remote: FakeRegistry
) -> None:
    ref = f"{remote.address}/app:cache"
    dockerfile = "FROM busybox\nRUN echo 1 > /one\nRUN true\nRUN cat /one > /two\n"
    first = build(dockerfile, cache_to=cache("registry", ref=ref))
    two = Builder(tmp_path / "two")
    second = two(dockerfile, cache_from=cache("registry", ref=ref))
    assert second.executed == []
    assert second.result.digest == first.result.digest
    third = two(
        dockerfile,
        cache_from=cache("registry", ref=ref),
        outputs=(Output("oci", str(tmp_path / "a"), {"rewrite-timestamp": "true", "tar": "false"}),),
        build_args={"SOURCE_DATE_EPOCH": "1000"},
    )
    assert third.executed == []


@pytest.mark.root
def test_an_image_with_a_step_that_changed_nothing_serves_as_cache(
    build: Builder, tmp_path: Path, remote: FakeRegistry
) -> None:
    name = f"{remote.address}/app:1"
    push = (Output("image", None, {"name": name, "push": "true"}),)
    dockerfile = "FROM busybox\nRUN echo 1 > /one\nRUN true\nRUN cat /one > /two\n"
    build(dockerfile, outputs=push, cache_to=cache("inline"))
    second = Builder(tmp_path / "two")(dockerfile, cache_from=cache("registry", ref=name))
    assert second.executed == []
    assert second.read_text("/two") == "1\n"


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("cache_to", CacheOption("registry", {})),
        ("cache_from", CacheOption("local", {"dest": "x"})),
        ("cache_to", CacheOption("local", {"src": "x"})),
        ("cache_to", CacheOption("local", {"dest": "x", "mode": "most"})),
        ("cache_to", CacheOption("tape", {})),
        ("cache_from", CacheOption("inline", {})),
        ("cache_to", CacheOption("local", {"dest": "x", "ignore-error": "perhaps"})),
        ("cache_to", CacheOption("local", {"dest": "x", "reset": "maybe"})),
        ("cache_from", CacheOption("registry", {"ref": "a/b", "registry.insecure": "?"})),
        ("cache_to", CacheOption("s3", {"bucket": "b"})),
        (
            "cache_to",
            CacheOption("registry", {"ref": "a/b", "oci-mediatypes": "false", "image-manifest": "true"}),
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(field: str, option: CacheOption) -> None:
    with pytest.raises(AnyarchError):
        prepare(msgspec.structs.replace(BuildRequest(context="/"), **{field: (option,)}))


@pytest.mark.parametrize("dest", ["file", "file/below", "/proc/cache"])
def test_a_directory_that_cannot_be_written_is_an_error_about_the_cache(tmp_path: Path, dest: str) -> None:
    (tmp_path / "file").write_text("a file")
    place = str(tmp_path / dest)
    with pytest.raises(CacheError) as told:
        builder(tmp_path, "one")(DOCKERFILE, cache_to=cache("local", dest=place))
    assert f"cannot write the build cache to {place}" in told.value.message
    assert "store" not in told.value.message
    assert told.value.hint
    assert (tmp_path / "file").read_text() == "a file"


def test_one_step_more_on_a_long_chain_costs_what_is_new(tmp_path: Path, remote: FakeRegistry) -> None:
    steps = 120
    build = builder(tmp_path, "one")
    options = cache("registry", ref=f"{remote.address}/app:cache", mode="max")
    lines = [f"COPY a /d/{number}\n" for number in range(steps + 1)]
    build("FROM scratch\n" + "".join(lines[:-1]), cache_to=options, outputs=())
    remote.clear_log()
    build("FROM scratch\n" + "".join(lines), cache_to=options, outputs=())
    # The layer, the part's config and the merged one; that the registry has the others, its own index says.
    assert remote.count("PUT", "/blobs/uploads/") <= 3
    assert len(remote.requests()) < 30


@pytest.mark.parametrize("kind", ["local", "registry"])
def test_results_whose_layers_are_nowhere_any_more_are_left_out_of_the_next_cache(
    tmp_path: Path, remote: FakeRegistry, kind: str
) -> None:
    def place(name: str, **attrs: str) -> tuple[CacheOption, ...]:
        if kind == "registry":
            return cache("registry", ref=f"{remote.address}/{name}:cache", **attrs)
        return cache("local", **{"dest" if attrs else "src": str(tmp_path / name)}, **attrs)

    builder(tmp_path, "one")(DOCKERFILE, cache_to=place("first", mode="max"))
    tool = builder(tmp_path, "tool")(
        "FROM scratch\nCOPY tool /bin/tool\n", cache_to=place("tool", mode="max")
    )
    assert len(tool.executed) == 1

    def manifest(name: str) -> Any:
        if kind == "registry":
            return json.loads(remote.manifests[name, remote.tags[name, "cache"]].raw)
        blobs = tmp_path / name / "blobs"
        (entry,) = json.loads((tmp_path / name / "index.json").read_bytes())["manifests"]
        return json.loads((blobs / entry["digest"].replace(":", "/")).read_bytes())

    (lost,) = (layer["digest"] for layer in manifest("tool")["layers"])
    if kind == "registry":
        del remote.blobs["first", lost]
        del remote.blobs["tool", lost]
    else:
        (tmp_path / "first" / "blobs" / lost.replace(":", "/")).unlink()
    second = builder(tmp_path, "two")(
        DOCKERFILE, cache_from=place("first"), cache_to=place("second", mode="max")
    )
    assert second.executed == []
    kept = [layer["digest"] for layer in manifest("first")["layers"] if layer["digest"] != lost]
    assert [layer["digest"] for layer in manifest("second")["layers"]] == kept
    third = builder(tmp_path, "three")(DOCKERFILE, cache_from=place("second"))
    assert third.executed == []
    assert third.read_text("/tool") == "hammer\n"
