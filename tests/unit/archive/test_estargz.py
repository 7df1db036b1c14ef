"""eStargz blobs: what comes out of them is the tar, and the table of contents finds every file in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
import zlib
from typing import Any

import pytest

from anyarch.archive.estargz import (
    CHUNK_SIZE,
    TOC_DIGEST,
    TOC_NAME,
    UNCOMPRESSED_SIZE,
    EstargzPipe,
)
from anyarch.errors import MalformedArchive, NotSupported

CONTENTS = {
    "d/one": b"one\n" * 700,
    "d/two": b"",
    "big": bytes(range(256)) * (9 << 12),
    "exact": b"\x5a" * (2 * CHUNK_SIZE),
    ".wh.gone": b"",
}


def make_tar(contents: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        directory = tarfile.TarInfo("d")
        directory.type = tarfile.DIRTYPE
        directory.mode = 0o755
        archive.addfile(directory)
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type = tarfile.SYMTYPE
        link.linkname = "d/one"
        archive.addfile(link)
    return raw.getvalue()


def pack(
    tar: bytes, *, threads: int = 2, level: int | None = None, chunk: int = 99_991
) -> tuple[bytes, EstargzPipe]:
    parts: list[bytes] = []
    with EstargzPipe(level, parts.append, threads=threads) as pipe:
        for start in range(0, len(tar), chunk):
            pipe.write(tar[start : start + chunk])
        pipe.close()
    return b"".join(parts), pipe


def test_bytes_do_not_depend_on_how_the_tar_arrives() -> None:
    many = make_tar({f"directory/{number}": b"" for number in range(14_000)})
    assert len({pack(many, chunk=chunk)[0] for chunk in (10_007, 65_536, 1 << 20)}) == 1


def table(blob: bytes) -> dict[str, Any]:
    """The table of contents, found as a reader does: by the last 51 bytes."""
    end = blob[-51:]
    assert gzip.decompress(end) == b""
    offset = int(end[16:32], 16)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[offset:]))) as archive:
        stream = archive.extractfile(TOC_NAME)
        assert stream is not None
        found: dict[str, Any] = json.loads(stream.read())
    return found


@pytest.mark.parametrize("level", [None, 1, 9])
def test_the_tar_comes_out_whole_and_its_digest_is_told(level: int | None) -> None:
    tar = make_tar(CONTENTS)
    blob, pipe = pack(tar, level=level)
    plain = gzip.decompress(blob)
    summary = pipe.close()
    assert plain.startswith(tar)
    assert summary.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert summary.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert (summary.tar_size, summary.size) == (len(plain), len(blob))
    assert pipe.annotations[UNCOMPRESSED_SIZE] == str(len(plain))


def test_every_file_is_read_alone_by_the_table() -> None:
    blob, pipe = pack(make_tar(CONTENTS))
    toc = table(blob)
    raw = json.dumps(toc, separators=(",", ":"), ensure_ascii=False).encode()
    assert pipe.annotations[TOC_DIGEST] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    read: dict[str, bytes] = {}
    sizes = {entry["name"]: entry.get("size", 0) for entry in toc["entries"] if entry["type"] == "reg"}
    for entry in toc["entries"]:
        if "offset" not in entry:
            continue
        name = entry["name"]
        size = entry.get("chunkSize") or sizes[name] - entry.get("chunkOffset", 0)
        data = zlib.decompressobj(31).decompress(blob[entry["offset"] :])[:size]
        assert entry["chunkDigest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        read[name] = read.get(name, b"") + data
    assert read == {name: data for name, data in CONTENTS.items() if data}
    digests = {entry["name"]: entry["digest"] for entry in toc["entries"] if entry["type"] == "reg"}
    assert digests == {k: f"sha256:{hashlib.sha256(v).hexdigest()}" for k, v in CONTENTS.items()}
    assert {entry["name"]: entry["type"] for entry in toc["entries"]}.items() >= {
        "d/": "dir",
        "link": "symlink",
        ".wh.gone": "reg",
    }.items()


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    tar = make_tar(CONTENTS)
    assert pack(tar, threads=1)[0] == pack(tar, threads=5)[0]


def test_a_long_run_of_entries_without_content_is_cut() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(3 * CHUNK_SIZE // 512):
            archive.addfile(tarfile.TarInfo(f"e{number}"))
    blob, _ = pack(raw.getvalue())
    assert gzip.decompress(blob).startswith(raw.getvalue())
    members, rest = 0, blob
    while rest:
        decoder = zlib.decompressobj(31)
        assert len(decoder.decompress(rest)) < 3 * CHUNK_SIZE
        rest = decoder.unused_data
        members += 1
    assert members > 3


def test_what_the_form_cannot_hold_is_refused_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(NotSupported, match=r"stargz\.index\.json"):
        pack(make_tar({TOC_NAME: b"mine"}))
    with pytest.raises(MalformedArchive):
        pack(make_tar(CONTENTS)[:-20_000_000] + b"x" * 5_000_000)
    assert threading.active_count() == before


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), EstargzPipe(None, lambda data: None, threads=2) as pipe:
        pipe.write(make_tar(CONTENTS)[:100_000])
        raise KeyError
    assert threading.active_count() == before
