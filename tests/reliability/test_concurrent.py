"""Several processes build in one store at the same time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from anyarch.store.store import Store
from tests.reliability.processes import leftovers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Bases
    from tests.reliability.processes import Family

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.registry]

PLATFORMS = "linux/amd64,linux/arm64"
COMMON = "FROM busybox AS base\nCOPY files /files/\nRUN seq 1 3000 > /numbers && sha256sum /files/* > /sums\n"
DOCKERFILES = {
    "plain": COMMON,
    "longer": COMMON + "RUN tac /numbers > /srebmun\nCOPY other /other/\n",
    "beside": COMMON + "RUN wc -l /numbers > /count\n",
    "around": COMMON + "FROM busybox\nCOPY --from=base /numbers /sums /\nCOPY other /other/\nRUN rm /sums\n",
}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    for directory in ("files", "other"):
        (context / directory).mkdir(parents=True)
        for number in range(20):
            (context / directory / str(number)).write_bytes(bytes([97 + number]) * 50_000)
    for name, text in DOCKERFILES.items():
        (context / f"{name}.Dockerfile").write_text(text)
    (context / ".dockerignore").write_text("*.Dockerfile\n")
    return context


def build_all(
    processes: Family, bases: Bases, context: Path, store: Path, out: Path, names: tuple[str, ...]
) -> list[str]:
    """Build the Dockerfiles of these names all at once; the digests of the images, in the same order."""
    out.mkdir()
    running = [
        processes.start(
            *("build", "--platform", PLATFORMS, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"),
            *("--output", f"type=oci,rewrite-timestamp=true,dest={out / str(number)}.tar"),
            *("--metadata-file", f"{out / str(number)}.json", "--progress", "plain"),
            *("--file", str(context / f"{name}.Dockerfile"), str(context)),
            environment={**bases.environment, "ANYARCH_ROOT": str(store)},
        )
        for number, name in enumerate(names)
    ]
    outputs = [process.communicate() for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    return [
        json.loads((out / f"{number}.json").read_text())["containerimage.digest"]
        for number in range(len(names))
    ]


@pytest.mark.parametrize("count", [2, 4])
def test_the_same_build_at_once_gives_the_same_image(
    bases: Bases, processes: Family, context: Path, tmp_path: Path, count: int
) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    digests = build_all(processes, bases, context, store, out, ("longer",) * count)
    assert len(set(digests)) == 1
    archives = {(out / f"{number}.tar").read_bytes() for number in range(count)}
    assert len(archives) == 1
    assert leftovers(store) == []
    with Store.open(store) as opened:
        assert opened.verify() == []


def test_overlapping_builds_at_once_give_what_each_gives_alone(
    bases: Bases, processes: Family, context: Path, tmp_path: Path
) -> None:
    names = tuple(DOCKERFILES)
    together = build_all(processes, bases, context, tmp_path / "store", tmp_path / "out", names)
    assert leftovers(tmp_path / "store") == []
    with Store.open(tmp_path / "store") as opened:
        assert opened.verify() == []
    alone = [
        build_all(processes, bases, context, tmp_path / "other-store", tmp_path / f"alone-{name}", (name,))[0]
        for name in names
    ]
    assert together == alone
    again = build_all(processes, bases, context, tmp_path / "store", tmp_path / "again", names)
    assert again == together
