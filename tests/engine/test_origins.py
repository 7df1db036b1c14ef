"""Content of the store is had by the name of a repository that has it, and by no other."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from anyarch.errors import AnyarchError, BlobNotFound, ManifestNotFound, Unauthorized
from anyarch.llb.source import image, oci_layout
from anyarch.registry.credentials import Credential
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Manifest, decode, encode
from anyarch.store.collect import collect
from anyarch.store.formats import record_known_origins
from anyarch.store.metadata import Metadata
from anyarch.store.origins import Origins
from anyarch.store.policy import Policy
from anyarch.store.store import Store
from anyarch.testing.graph import GraphBuilder
from anyarch.testing.registry import FakeRegistry
from tests.engine.test_graph_sources import Layouts, layer, layout_image, source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Lent:
    """Implements `CredentialSource` by one login for one registry, or none."""

    def __init__(self, domain: str = "") -> None:
        self._domain = domain
        self.complaints: list[str] = []

    def get(self, domain: str, repository: str = "") -> Credential | None:
        return Credential("me", "secret") if domain == self._domain else None

    def token(self, domain: str, realm: str, service: str, scopes: Sequence[str]) -> None:
        return None


@pytest.fixture
def private() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth="basic", users={"me": "secret"}) as registry:
        yield registry


@pytest.fixture
def public() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def solve(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path)


def test_image_of_a_private_repository_is_not_had_by_its_digest_under_another_name(
    solve: GraphBuilder, private: FakeRegistry, public: FakeRegistry
) -> None:
    digest = private.add_image("team/secret", "v1", [layer("a")]).digest
    wanted = image(f"{private.address}/team/secret@{digest}")
    with pytest.raises(Unauthorized):
        solve(wanted, credentials=Lent())
    assert solve(wanted, credentials=Lent(private.address)).paths == ["a"]
    for name in (f"{public.address}/mine/any", f"{public.address}/team/secret"):
        with pytest.raises(ManifestNotFound):
            solve(image(f"{name}@{digest}"), credentials=Lent())
    with pytest.raises(Unauthorized):
        solve(image(f"{private.address}/team/other@{digest}"), credentials=Lent())


def test_repository_that_has_the_image_too_is_asked_once(
    solve: GraphBuilder, private: FakeRegistry, public: FakeRegistry
) -> None:
    layers = [layer("a"), layer("b")]
    digest = private.add_image("team/app", "v1", layers).digest
    assert public.add_image("mirror/app", "v1", layers).digest == digest
    solve(image(f"{private.address}/team/app@{digest}"), credentials=Lent(private.address))
    wanted = image(f"{public.address}/mirror/app@{digest}")
    assert solve(wanted).paths == ["a", "b"]
    # The documents are read, so what they say is his; the layers are asked for, and not fetched again.
    assert (public.count("GET", "/manifests/"), public.count("HEAD", "/blobs/")) == (1, 2)
    assert public.count("GET", "/blobs/") == 1
    public.clear_log()
    assert solve(wanted).paths == ["a", "b"]
    assert public.count() == 0


def test_manifest_that_lists_the_layer_of_another_repository_gets_nothing(
    solve: GraphBuilder, private: FakeRegistry, public: FakeRegistry
) -> None:
    secret = private.add_image("team/secret", "v1", [layer("a")])
    solve(image(f"{private.address}/team/secret@{secret.digest}"), credentials=Lent(private.address))
    manifest = decode(Manifest, secret.raw)
    public.add_blob("mine/any", private.blobs["team/secret", Digest(manifest.config.digest)])
    forged = public.add_manifest("mine/any", secret)
    with pytest.raises(ManifestNotFound):
        solve(image(f"{public.address}/mine/any@{forged}"))
    # Addresses outside of the registry are no way around it: they have to give the bytes.
    elsewhere = tuple(
        msgspec.structs.replace(item, urls=(f"{public.url}/v2/mine/any/blobs/{item.digest}",))
        for item in manifest.layers
    )
    foreign = Blob.of(secret.media_type, encode(msgspec.structs.replace(manifest, layers=elsewhere)))
    with pytest.raises(AnyarchError, match="not found"):
        solve(image(f"{public.address}/mine/any@{public.add_manifest('mine/any', foreign)}"))


def test_blob_of_another_repository_is_not_had_by_its_digest(
    solve: GraphBuilder, private: FakeRegistry, public: FakeRegistry
) -> None:
    digest = private.add_blob("team/secret", b"content")
    wanted = source(f"docker-image+blob://{private.address}/team/secret@{digest}", http__filename="f")
    assert solve(wanted, credentials=Lent(private.address)).read("f") == b"content"
    with pytest.raises(ManifestNotFound):
        solve(source(f"docker-image+blob://{public.address}/mine/any@{digest}", http__filename="f"))
    with pytest.raises(BlobNotFound):
        layouts = Layouts()
        wanted = source(f"oci-layout+blob://any@{digest}", oci__store="st", http__filename="f")
        solve(wanted, layout_blobs=layouts)


def test_layout_of_a_client_has_only_what_the_client_has(solve: GraphBuilder) -> None:
    full, digest = layout_image(layer("a"))
    state = oci_layout(f"app@{digest}", store_id="st")
    assert solve(state, layout_blobs=full).paths == ["a"]
    with pytest.raises(BlobNotFound):
        solve(state, layout_blobs=Layouts())
    without_layer, _ = layout_image(layer("a"))
    del without_layer.blobs[str(Digest.of(layer("a")))]
    with pytest.raises(BlobNotFound):
        solve(state, layout_blobs=without_layer)


def test_records_go_with_the_content(solve: GraphBuilder, public: FakeRegistry) -> None:
    digest = public.add_image("a/b", "v1", [layer("a")]).digest
    solve(image(f"{public.address}/a/b@{digest}"))
    with Store.open(solve.store) as store:
        assert len(store.meta.query("SELECT * FROM origins")) == 3
        collect(store, [Policy(all=True)])
        assert store.meta.query("SELECT * FROM origins") == []


def test_store_of_an_older_release_remembers_where_its_layers_come_from(
    tmp_path: Path, solve: GraphBuilder, public: FakeRegistry
) -> None:
    digest = public.add_image("a/b", "v1", [layer("a")]).digest
    solve(image(f"{public.address}/a/b:v1"))
    with closing(sqlite3.connect(solve.store / "anyarch.db")) as database:
        database.execute("DELETE FROM origins")
        record_known_origins(database)
        database.commit()
    records = Origins(Metadata(solve.store / "anyarch.db"))
    name = f"{public.address}/a/b"
    assert records.unknown(name, [digest, Digest.of(layer("a"))]) == []
    assert records.unknown(f"{public.address}/a/c", [digest]) == [digest]
    public.clear_log()
    # What older releases did not note is read once more; the layer is not fetched.
    assert solve(image(f"{name}@{digest}")).paths == ["a"]
    assert (public.count("GET", "/blobs/"), public.count()) == (1, 1)


def test_words_of_build_caches_and_layouts_are_no_records_of_a_repository(tmp_path: Path) -> None:
    meta = Metadata(tmp_path / "anyarch.db")
    digest, known = str(Digest.of(b"")), "r.io:5/b:t@sha256:1"
    with meta.transaction() as database:
        database.executemany(
            "INSERT INTO layer_sources VALUES ('l', ?, ?, 1.0)",
            [(digest, name) for name in ("cache:r.io/a@sha256:0", "layout:/d", "blobs:x", known)],
        )
        record_known_origins(database)
    found = meta.query("SELECT digest, repository FROM origins ORDER BY digest")
    assert found == [("sha256:1", "r.io:5/b"), (digest, "r.io:5/b")]
    meta.close()
