"""What BuildKit (frontend 1.26) made of a corpus of Dockerfiles, and what is made here: config, history,
every entry of every new layer, warnings with their places, and errors.

`built.json` holds what it made: facts, recorded with SOURCE_DATE_EPOCH=1700000000 on the base images that
these tests use too. Layers are compared by name, kind, mode, owner, link, size and content; times of files
and compressed bytes are each builder's own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import Output
from anyarch.errors import AnyarchError
from anyarch.solver.events import WarningEvent
from anyarch.testing.builder import Builder

if TYPE_CHECKING:
    from tests.conftest import Bases

    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.registry]

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "built.json").read_text())
EPOCH = "1700000000"
RICH = """FROM busybox
ENV FOO=bar BASE=1
LABEL one=1 two=2
USER 1000:1000
WORKDIR /base
EXPOSE 80 443/udp
VOLUME /data
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo base"]
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-ec"]
MAINTAINER someone
ONBUILD RUN echo trigger > /tmp/trigger
ONBUILD LABEL fired=yes
"""
FILES = {
    "a": "A\n", "b": "B\n", "sub/x": "X\n", "sub/y.txt": "Y\n", "sub/deep/z.txt": "Z\n",
    "exec.sh": "#!/bin/sh\necho hi\n", "name with blank": "blank\n", "[odd]": "odd\n", ".hidden": "h\n",
    "ignored/i": "i\n", "ignored/keep": "k\n", ".dockerignore": "ignored\n!ignored/keep\n*.log\n",
}  # fmt: skip


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("in/tar")
        member.size, member.uid, member.mode = 3, 9, 0o640
        file.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, bases: Bases) -> Builder:
    """One store and context for the whole corpus; `rich` has something of everything in its config."""
    directory = tmp_path_factory.mktemp("corpus")
    patch = pytest.MonkeyPatch()
    patch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])
    patch.setenv("ANYARCH_ROOT", str(directory / "unused"))
    try:
        base = Builder(directory / "rich", arch_check="off")
        push = Output("image", attrs={"name": f"{bases.registry}/library/rich", "push": "true"})
        later = {"SOURCE_DATE_EPOCH": "1900000000"}  # what is inherited keeps its times
        base(RICH, platform=("linux/amd64", "linux/arm64"), outputs=(push,), build_args=later)
    finally:
        patch.undo()
    found = Builder(directory, arch_check="off")
    found.write(FILES)
    found.write({"t.tar": archive(), "t.tar.gz": gzip.compress(archive(), mtime=0)})
    (found.context / "exec.sh").chmod(0o755)
    for path in found.context.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return found


def entries(image: BuiltImage, digest: str) -> dict[str, list[object]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(image.blob(digest))) as file:
        for member in file:
            content = file.extractfile(member) if member.isreg() else None
            data = content.read() if content is not None else None
            found[member.name.rstrip("/")] = [
                member.type.decode(),
                oct(member.mode),
                member.uid,
                member.gid,
                member.linkname,
                0 if data is None else len(data),
                "" if data is None else hashlib.sha256(data).hexdigest()[:10],
            ]
    return found


def warnings(image: BuiltImage) -> list[list[object]]:
    found = {
        (event.short, event.detail, event.url, event.lines)
        for event in image.events
        if isinstance(event, WarningEvent)
    }
    return json.loads(json.dumps(sorted(found)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_images_are_those_that_buildkit_makes(
    builder: Builder, bases: Bases, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])

    def build() -> BuiltImage:
        return builder(
            case["dockerfile"].encode(),
            platform=case.get("platform", ()),
            target=case.get("target"),
            build_args={"SOURCE_DATE_EPOCH": EPOCH, **case.get("args", {})},
            labels=case.get("labels", {}),
        )

    if "error" in case:
        with pytest.raises(AnyarchError) as failure:
            build()
        assert failure.value.message == case["error"]
        assert failure.value.source is not None
        return
    image = build()
    manifest = image.manifest()
    config = json.loads(image.blob(manifest.config.digest))
    assert len(config.pop("rootfs")["diff_ids"]) == len(manifest.layers)
    history = config["history"]
    if case.get("inherited"):
        history = history[-len(case["config"]["history"]) :] if case["config"]["history"] else []
    expected = {**case["config"]}
    expected.pop("rootfs")
    assert {**config, "history": history} == expected
    new = manifest.layers[len(manifest.layers) - len(case["layers"]) :]
    assert [entries(image, layer.digest) for layer in new] == case["layers"]
    assert warnings(image) == case["warnings"]
