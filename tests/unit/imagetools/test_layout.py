from __future__ import annotations

import tarfile

import pytest

from anyarch import imagetools
from anyarch.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidDigest,
    ManifestNotFound,
    UsageError,
)
from anyarch.imagetools.layout import LayoutReference, read_oci_layout
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Index, decode

from .conftest import add_multi, write_layout

DIGEST = Digest.of(b"x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci-layout://out", LayoutReference("out", "latest")),
        ("oci-layout:///tmp/out:v1", LayoutReference("/tmp/out", "v1")),
        (f"oci-layout://out@{DIGEST}", LayoutReference("out", "", DIGEST)),
        (f"oci-layout://out:v1@{DIGEST}", LayoutReference("out", "v1", DIGEST)),
        ("oci-layout://a@b/out", LayoutReference("a@b/out", "latest")),
        ("oci-layout://a:b/out", LayoutReference("a:b/out", "latest")),
        ("busybox", None),
        ("/tmp/out", None),
    ],
)
def test_references_of_layouts(text, expected):
    assert LayoutReference.parse(text) == expected


def test_a_short_digest_is_an_error():
    with pytest.raises(InvalidDigest):
        LayoutReference.parse("oci-layout://out@sha256:" + "0" * 40)


@pytest.fixture
def index(fake):
    return add_multi(fake)


@pytest.fixture(params=["directory", "tar"])
def layout(request, fake, index, tmp_path):
    """The path of a layout with the index under two names and one platform under a third."""
    directory = tmp_path / "layout"
    notes = {"io.containerd.image.name": "docker.io/lib/app:1", "org.opencontainers.image.ref.name": "1"}
    write_layout(
        directory,
        fake,
        "lib/app",
        index.descriptor(annotations=notes),
        index.descriptor(annotations={"org.opencontainers.image.ref.name": "two"}),
        decode(Index, index.raw).manifests[1],
    )
    if request.param == "directory":
        return str(directory)
    with tarfile.open(tmp_path / "layout.tar", "w") as archive:
        for path in sorted(directory.rglob("*")):
            archive.add(path, "./" + str(path.relative_to(directory)), recursive=False)
    return str(tmp_path / "layout.tar")


@pytest.mark.parametrize("tag", ["1", "docker.io/lib/app:1", "two"])
def test_an_entry_is_chosen_by_any_of_its_names(layout, index, tag):
    with read_oci_layout(layout) as opened:
        assert opened.select(tag).digest == index.digest


def test_an_entry_is_chosen_by_digest(layout, index):
    arm = decode(Index, index.raw).manifests[1]
    amd64 = decode(Index, index.raw).manifests[0]
    with read_oci_layout(layout) as opened:
        assert opened.select(digest=arm.digest).platform == arm.platform
        assert opened.select(digest=amd64.digest).digest == amd64.digest  # no entry, but a blob


def test_an_unknown_tag_lists_what_there_is(layout, index):
    with read_oci_layout(layout) as opened:
        for tag in ("nope", "latest"):
            with pytest.raises(ManifestNotFound) as caught:
                opened.select(tag)
            assert "docker.io/lib/app:1, two, sha256:" in caught.value.hint
        with pytest.raises(ManifestNotFound, match="which of its 3 images"):
            opened.select()
        with pytest.raises(ManifestNotFound):
            opened.select(digest=DIGEST)


def test_blobs_are_read_and_verified(layout, fake):
    digest = Digest.of(b"layer")
    with read_oci_layout(layout) as opened:
        assert opened.read(digest) == b"layer"
        with opened.open(digest) as stream:
            assert stream.read(2) == b"la"
            stream.seek(1)
            assert stream.read() == b"ayer"
        with pytest.raises(BlobNotFound):
            opened.read(DIGEST)


def test_a_damaged_blob_is_refused(fake, index, tmp_path):
    write_layout(tmp_path / "out", fake, "lib/app", index.descriptor())
    (tmp_path / "out" / "blobs" / "sha256" / Digest.of(b"layer").hex).write_bytes(b"LAYER")
    with read_oci_layout(tmp_path / "out") as opened, pytest.raises(DigestMismatch):
        opened.read(Digest.of(b"layer"))


def test_the_only_entry_needs_no_name(fake, index, tmp_path):
    write_layout(tmp_path / "out", fake, "lib/app", index.descriptor())
    with read_oci_layout(tmp_path / "out") as opened:
        assert opened.select().digest == index.digest
        assert opened.select("latest").digest == index.digest
        assert opened.names() == [index.digest]


def test_a_layout_is_inspected_like_a_registry(layout, index):
    text = imagetools.describe(f"oci-layout://{layout}:1")
    assert text.startswith(f"Name:      oci-layout://{layout}:1\n")
    amd64 = decode(Index, index.raw).manifests[0]
    assert f"  Name:      oci-layout://{layout}@{amd64.digest}\n" in text
    assert imagetools.raw(f"oci-layout://{layout}:1") == index.raw
    assert imagetools.describe(f"oci-layout://{layout}:1", "{{json .Image}}").count('"architecture"') == 2


@pytest.mark.parametrize("content", [None, {}, {"index.json": "{"}, {"oci-layout": "{}"}])
def test_what_is_no_layout_says_so(tmp_path, content):
    path = tmp_path / "out"
    if content is not None:
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        read_oci_layout(path)
    assert str(path) in caught.value.message
    assert "index.json" in caught.value.hint


@pytest.mark.parametrize("raw", [b"", b"\x1f\x8b\x08\x00", b"x" * 2000])
def test_a_file_that_is_no_layout_says_so(tmp_path, raw):
    (tmp_path / "out.tar").write_bytes(raw)
    with pytest.raises(UsageError, match="not an OCI layout"):
        read_oci_layout(tmp_path / "out.tar")


def test_a_path_is_no_reference():
    with pytest.raises(UsageError, match="no such file"):
        imagetools.describe("/tmp/no-such-directory")
