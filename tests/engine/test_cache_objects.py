"""Build caches in object stores: what one store wrote another builds from, whatever the store is like."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import BuildRequest, CacheOption, Output
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, CacheError, UsageError
from anyarch.solver.events import WarningEvent
from anyarch.testing.builder import Builder
from anyarch.testing.object_stores import FakeAzure, FakeGha, FakeS3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.testing.builder import BuiltImage
    from anyarch.testing.object_stores import ObjectServer

DOCKERFILE = """
FROM scratch AS tools
COPY tool /bin/tool
FROM scratch
COPY a /a
COPY --from=tools /bin/tool /tool
"""
FILES = {"a": "one\n", "tool": "hammer\n" * 5000}
BOTH = ("linux/amd64", "linux/arm64")
KINDS = ("s3", "azblob", "gha-1", "gha-2")


class Place:
    """One kind of store and the attributes that lead to it."""

    def __init__(self, kind: str, server: Any, attrs: dict[str, str]) -> None:
        self.type = kind.partition("-")[0]
        self.server: ObjectServer = server
        self.attrs = attrs

    def option(self, **attrs: str) -> tuple[CacheOption, ...]:
        return (CacheOption(self.type, {**self.attrs, **attrs}),)


def make_place(kind: str, server: Any) -> Place:
    match kind:
        case "s3":
            attrs = {
                "bucket": server.bucket,
                "region": server.region,
                "endpoint_url": server.url,
                "use_path_style": "true",
                "access_key_id": server.KEY_ID,
                "secret_access_key": server.SECRET,
                "prefix": "ci/",
            }
        case "azblob":
            attrs = {
                "account_url": server.account_url,
                "account_name": server.ACCOUNT,
                "secret_access_key": server.SECRET,
                "prefix": "ci",
            }
        case _:
            attrs = {"token": server.token(), "url": server.url, "url_v2": server.url, "version": kind[-1]}
    return Place(kind, server, attrs)


SERVERS: dict[str, Any] = {"s3": FakeS3, "azblob": FakeAzure, "gha-1": FakeGha, "gha-2": FakeGha}


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with SERVERS[request.param]() as server:
        yield make_place(request.param, server)


@pytest.fixture
def s3() -> Iterator[Place]:
    with FakeS3() as server:
        yield make_place("s3", server)


def builder(directory: Path, name: str) -> Builder:
    made = Builder(directory / name)
    made.write(FILES)
    for file in FILES:
        os.utime(made.context / file, (1_700_000_000, 1_700_000_000))
    return made


def warnings(image: BuiltImage) -> list[str]:
    return [event.short for event in image.events if isinstance(event, WarningEvent)]


def test_a_second_store_runs_nothing(tmp_path: Path, place: Place) -> None:
    first = builder(tmp_path, "one")(DOCKERFILE, platform=BOTH, cache_to=place.option(mode="max"))
    assert first.executed
    second = builder(tmp_path, "two")(DOCKERFILE, platform=BOTH, cache_from=place.option())
    assert second.executed == []
    assert warnings(second) == []
    assert second.read_text("/tool", "linux/arm64") == FILES["tool"]
    assert second.result.digest == first.result.digest


def test_objects_have_the_names_and_documents_of_buildkit(tmp_path: Path, place: Place) -> None:
    builder(tmp_path, "one")(DOCKERFILE, cache_to=place.option(mode="max"))
    server = place.server
    if isinstance(server, FakeGha):
        names = {key: server.objects[blob] for key, blob in server.entries.items()}
        index = next(key for key in names if key.startswith("index-buildkit-1-"))
        assert index.endswith("#1")
        blob_name = "buildkit-blob-1-{}"
    else:
        names = {key.removeprefix("buildkit-cache/"): data for key, data in server.objects.items()}
        index = "ci/manifests/buildkit"
        blob_name = "ci/blobs/{}"
    config = json.loads(names.pop(index))
    assert set(names) == {blob_name.format(layer["blob"]) for layer in config["layers"]}
    for layer in config["layers"]:
        notes = layer["annotations"]
        assert notes["size"] == len(names[blob_name.format(layer["blob"])])
        assert notes["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
        assert notes["diffID"].startswith("sha256:")
        assert notes["createdAt"].endswith("Z")


def test_where_there_is_nothing_a_cache_is_empty_and_no_warning(tmp_path: Path, place: Place) -> None:
    image = builder(tmp_path, "one")(DOCKERFILE, cache_from=place.option())
    assert image.executed
    assert warnings(image) == []


def test_what_is_there_is_not_sent_again(tmp_path: Path, place: Place) -> None:
    one = builder(tmp_path, "one")
    one(DOCKERFILE, cache_to=place.option(mode="max"))
    place.server.log.clear()
    one(DOCKERFILE + "COPY a /more\n", cache_to=place.option(mode="max"))
    written = [path for method, path in place.server.log if method in ("PUT", "PATCH") and "sha256" in path]
    assert len(written) <= 1
    assert place.server.count("HEAD", "sha256") <= 1


def test_a_download_that_breaks_off_goes_on(tmp_path: Path, place: Place) -> None:
    first = builder(tmp_path, "one")(
        DOCKERFILE, cache_to=place.option(mode="max", compression="uncompressed")
    )
    two = builder(tmp_path, "two")
    place.server.cut_after = 20_000
    # The index is shorter than that, so it is a layer that breaks off.
    image = two(DOCKERFILE, cache_from=place.option())
    assert place.server.cut_after is None
    assert image.executed == []
    assert image.read_text("/tool") == first.read_text("/tool")


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, place: Place) -> None:
    place.server.failures = [503, 503]
    builder(tmp_path, "one")(DOCKERFILE, cache_to=place.option(mode="max"))
    assert place.server.failures == []
    place.server.failures = [503]
    image = builder(tmp_path, "two")(DOCKERFILE, cache_from=place.option())
    assert image.executed == []


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path, place: Place) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            one = builder(tmp_path, f"w{number}")
            one(
                f"FROM scratch\nCOPY a /{number}\n",
                cache_to=place.option(mode="max"),
                outputs=(),
            )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    reader = builder(tmp_path, "reader")
    for number in range(5):
        image = reader(f"FROM scratch\nCOPY a /{number}\n", cache_from=place.option())
        assert image.executed == []


def test_the_blobs_of_such_a_cache_are_fetched_only_with_it(tmp_path: Path, place: Place) -> None:
    builder(tmp_path, "one")(DOCKERFILE, cache_to=place.option(mode="max"))
    two = builder(tmp_path, "two")
    two(DOCKERFILE, cache_from=place.option())
    again = two(DOCKERFILE)
    # What came from there is not taken for granted by a build that does not name the cache; and it works.
    assert again.read_text("/a") == FILES["a"]


def test_a_cache_that_cannot_be_written_is_an_error_unless_ignored(tmp_path: Path, s3: Place) -> None:
    wrong = s3.option(secret_access_key="wrong")
    with pytest.raises(CacheError) as raised:
        builder(tmp_path, "one")(DOCKERFILE, cache_to=wrong)
    assert "SignatureDoesNotMatch" in raised.value.message
    assert raised.value.hint
    ignored = s3.option(secret_access_key="wrong", **{"ignore-error": "true"})
    image = builder(tmp_path, "two")(DOCKERFILE, cache_to=ignored)
    assert any("SignatureDoesNotMatch" in text for text in warnings(image))
    image = builder(tmp_path, "three")(DOCKERFILE, cache_from=wrong)
    assert any("SignatureDoesNotMatch" in text for text in warnings(image))


def test_old_objects_are_touched_so_that_they_are_kept(tmp_path: Path, s3: Place) -> None:
    one = builder(tmp_path, "one")
    one(DOCKERFILE, cache_to=s3.option(mode="max"))
    for key in s3.server.modified:
        s3.server.modified[key] = time.time() - 3 * 86400
    index = next(key for key in s3.server.objects if "manifests" in key)
    del s3.server.objects[index]  # else the objects it names are known to be there
    one(DOCKERFILE, cache_to=s3.option(mode="max"))
    assert all(time.time() - at < 600 for at in s3.server.modified.values())
    for key in s3.server.modified:
        s3.server.modified[key] = time.time() - 3 * 86400
    del s3.server.objects[index]
    one(DOCKERFILE, cache_to=s3.option(mode="max", touch_refresh="100h"))
    assert all(time.time() - at > 600 for key, at in s3.server.modified.items() if key != index)


def test_several_names_are_written_and_the_first_is_read(tmp_path: Path, s3: Place) -> None:
    builder(tmp_path, "one")(DOCKERFILE, cache_to=s3.option(mode="max", name="branch;main"))
    assert {key for key in s3.server.objects if "manifests" in key} == {
        "ci/manifests/branch",
        "ci/manifests/main",
    }
    image = builder(tmp_path, "two")(DOCKERFILE, cache_from=s3.option(name="main"))
    assert image.executed == []


def test_large_objects_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr("anyarch.cache.s3._MOST_AT_ONCE", 10_000)
    monkeypatch.setattr("anyarch.cache.s3._PART_SIZE", 4_000)
    monkeypatch.setattr("anyarch.cache.azblob._MOST_AT_ONCE", 10_000)
    monkeypatch.setattr("anyarch.cache.azblob._BLOCK_SIZE", 4_000)
    monkeypatch.setattr("anyarch.cache.gha._CHUNK", 4_000)
    builder(tmp_path, "one")(DOCKERFILE, cache_to=place.option(mode="max", compression="uncompressed"))
    image = builder(tmp_path, "two")(DOCKERFILE, cache_from=place.option())
    assert image.executed == []
    assert image.read_text("/tool") == FILES["tool"]


def test_a_branch_reads_the_cache_of_main_and_writes_its_own(tmp_path: Path) -> None:
    with FakeGha() as server:
        main = {"url": server.url, "token": server.token(("refs/heads/main", 3))}
        branch = {"url": server.url, "token": server.token(("refs/heads/main", 1), ("refs/heads/x", 3))}
        builder(tmp_path, "one")(DOCKERFILE, cache_to=(CacheOption("gha", {**main, "mode": "max"}),))
        two = builder(tmp_path, "two")
        image = two(
            DOCKERFILE,
            cache_from=(CacheOption("gha", branch),),
            cache_to=(CacheOption("gha", {**branch, "mode": "max"}),),
        )
        assert image.executed == []
        assert len({key.partition("#")[0] for key in server.entries if key.startswith("index-")}) == 2
        only_reads = {"url": server.url, "token": server.token(("refs/heads/main", 1))}
        with pytest.raises(CacheError, match="the token allows no writing"):
            two(DOCKERFILE, cache_to=(CacheOption("gha", only_reads),))


def test_a_number_that_a_dead_writer_reserved_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyarch.cache.gha._BLOCKED_S", 0.5)
    with FakeGha() as server:
        place = make_place("gha-2", server)
        builder(tmp_path, "one")(DOCKERFILE, cache_to=place.option(mode="max"))
        index = next(key for key in server.entries if key.startswith("index-"))
        server.reserved[f"{index.partition('#')[0]}#2"] = "/blob/99"
        builder(tmp_path, "two")(DOCKERFILE + "COPY a /x\n", cache_to=place.option(mode="max"))
        assert f"{index.partition('#')[0]}#3" in server.entries


def test_gha_takes_what_a_workflow_offers_and_is_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "ACTIONS_CACHE_URL",
        "ACTIONS_RESULTS_URL",
        "ACTIONS_RUNTIME_TOKEN",
        "ACTIONS_CACHE_SERVICE_V2",
    ):
        monkeypatch.delenv(name, raising=False)
    options = (CacheOption("gha", {"mode": "max"}),)
    image = builder(tmp_path, "none")(DOCKERFILE, cache_from=options, cache_to=options)
    assert image.executed
    with FakeGha() as server:
        monkeypatch.setenv("ACTIONS_RESULTS_URL", server.url + "/")
        monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", server.token())
        monkeypatch.setenv("ACTIONS_CACHE_SERVICE_V2", "true")
        builder(tmp_path, "one")(DOCKERFILE, cache_from=options, cache_to=options)
        assert server.count("POST", "twirp")
        image = builder(tmp_path, "two")(DOCKERFILE, cache_from=options)
        assert image.executed == []


@pytest.mark.parametrize(
    ("kind", "attrs", "text"),
    [
        ("s3", {}, "bucket ($AWS_BUCKET) not set for s3 cache"),
        ("s3", {"bucket": "b"}, "region ($AWS_REGION) not set for s3 cache"),
        (
            "s3",
            {"bucket": "b", "region": "r", "upload_parallelism": "0"},
            "upload_parallelism must be a positive integer",
        ),
        (
            "s3",
            {"bucket": "b", "region": "r", "retry_mode": "x"},
            'retry_mode must be "standard" or "adaptive"',
        ),
        (
            "s3",
            {"bucket": "b", "region": "r", "retry_max_attempts": "x"},
            "retry_max_attempts must be a positive integer",
        ),
        (
            "azblob",
            {},
            "either ${BUILDKIT_AZURE_STORAGE_ACCOUNT_URL} or account_url attribute is required for azblob"
            " cache",
        ),
        ("azblob", {"account_url": "x"}, "azure storage account url provided is not a valid url"),
        (
            "gha",
            {"url": "http://x", "token": "a.b.c"},
            "invalid token without access controls for github actions cache",
        ),
        ("registry", {"ref": "x", "bucket": "b"}, "unknown attribute 'bucket' of --cache-to type=registry"),
        ("ftp", {}, "--cache-to: unknown cache type 'ftp'"),
    ],
)
def test_wrong_attributes_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, attrs: dict[str, str], text: str
) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "BUILDKIT_AZURE", "ACTIONS_")):
            monkeypatch.delenv(name)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UsageError) as raised:
        prepare(BuildRequest(context=str(tmp_path), cache_to=(CacheOption(kind, attrs),)))
    assert raised.value.message == text


def test_a_token_that_has_expired_is_told(tmp_path: Path) -> None:
    with FakeGha() as server:
        option = CacheOption("gha", {"url": server.url, "token": server.token(expires_in_s=-10)})
        (tmp_path / "Dockerfile").write_text("FROM scratch\n")
        with pytest.raises(AnyarchError, match="cache token expired at 20"):
            prepare(BuildRequest(context=str(tmp_path), cache_to=(option,), outputs=(Output("cacheonly"),)))
