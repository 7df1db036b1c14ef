"""Processes that write one build cache at the same time: nothing that any of them wrote is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.cache import registry as module
from anyarch.cache.registry import PART_TAG
from anyarch.engine.request import CacheOption
from anyarch.testing.builder import Builder
from anyarch.testing.object_stores import FakeS3
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reliability.processes import Family

WRITERS = 5


def dockerfile(number: int) -> str:
    return f"FROM scratch\nCOPY common /common\nCOPY own{number} /own\nCOPY common /more\n"


def context_of(directory: Path) -> Builder:
    made = Builder(directory)
    made.write({"common": "c" * 5000, **{f"own{number}": str(number) for number in range(100)}})
    return made


def race(processes: Family, tmp_path: Path, option: str, *, first: int) -> None:
    context = context_of(tmp_path / "context").context
    running = []
    for number in range(first, first + WRITERS):
        file = tmp_path / f"Dockerfile.{number}"
        file.write_text(dockerfile(number))
        running.append(
            processes.start(
                *("build", "--platform", "linux/amd64", "-f", str(file), "--progress", "plain"),
                *("--cache-to", option, "-o", "type=cacheonly", str(context)),
                environment={"PATH": "/usr/bin:/bin", "ANYARCH_ROOT": str(tmp_path / f"store{number}")},
            )
        )
    for process in running:
        output = process.communicate()
        assert process.returncode == 0, output


def hits(tmp_path: Path, option: CacheOption, *, count: int, first: int = 0) -> None:
    """A new store builds everything that was written without running a step."""
    reader = context_of(tmp_path / "reader")
    for number in range(first, count):
        image = reader(dockerfile(number), cache_from=(option,))
        assert image.executed == [], number


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_registry_loses_nothing_of_writers_at_the_same_time(
    processes: Family, tmp_path: Path, rounds: int
) -> None:
    with FakeRegistry() as registry:
        ref = f"{registry.address}/app:cache"
        for turn in range(rounds):
            race(processes, tmp_path, f"type=registry,ref={ref},mode=max", first=turn * WRITERS)
        hits(tmp_path, CacheOption("registry", {"ref": ref}), count=WRITERS * rounds)


def test_a_directory_loses_nothing_of_writers_at_the_same_time(processes: Family, tmp_path: Path) -> None:
    dest = tmp_path / "cache"
    race(processes, tmp_path, f"type=local,dest={dest},mode=max", first=0)
    hits(tmp_path, CacheOption("local", {"src": str(dest)}), count=WRITERS)


def test_a_bucket_loses_nothing_of_writers_at_the_same_time(processes: Family, tmp_path: Path) -> None:
    with FakeS3() as server:
        attrs = {
            "bucket": server.bucket,
            "region": server.region,
            "endpoint_url": server.url,
            "use_path_style": "true",
            "access_key_id": server.KEY_ID,
            "secret_access_key": server.SECRET,
        }
        option = ",".join(["type=s3", "mode=max", *(f"{name}={value}" for name, value in attrs.items())])
        race(processes, tmp_path, option, first=0)
        hits(tmp_path, CacheOption("s3", attrs), count=WRITERS)


def test_a_part_whose_writer_died_is_taken_in_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeRegistry() as registry:
        ref = f"{registry.address}/app:cache"
        option = CacheOption("registry", {"ref": ref, "mode": "max"})
        writer = context_of(tmp_path / "one")

        class Died(Exception):
            """What kills the writer."""

        with monkeypatch.context() as patched:
            # After its part is there, and before the index is.
            push = module._Writer._push_part

            async def push_and_die(self: Any) -> None:
                await push(self)
                raise Died

            patched.setattr(module._Writer, "_push_part", push_and_die)
            with pytest.raises(Died):
                writer(dockerfile(0), cache_to=(option,))
        assert ("app", "cache") not in registry.tags
        writer(dockerfile(1), cache_to=(option,))
        hits(tmp_path, option, count=2)


def test_old_parts_are_removed_and_young_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeRegistry() as registry:
        option = CacheOption("registry", {"ref": f"{registry.address}/app:cache", "mode": "max"})
        writer = context_of(tmp_path / "one")
        writer(dockerfile(0), cache_to=(option,))

        def parts() -> list[str]:
            return [tag for _, tag in registry.tags if PART_TAG in tag]

        assert len(parts()) == 1
        now = time.time()
        monkeypatch.setattr("anyarch.cache.registry.time.time", lambda: now + 1000)
        writer(dockerfile(1), cache_to=(option,))
        assert len(parts()) == 2
        monkeypatch.setattr("anyarch.cache.registry.time.time", lambda: now + 4500)
        writer(dockerfile(2), cache_to=(option,))
        assert len(parts()) == 2
        # What the first wrote is of the same kind of build and more than an hour older than the last.
        hits(tmp_path, option, first=1, count=3)


def test_a_registry_that_lists_no_tags_keeps_what_it_has(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        option = CacheOption("registry", {"ref": f"{registry.address}/app:cache", "mode": "max"})
        writer = context_of(tmp_path / "one")
        for number in range(2):
            registry.fault("GET", "/tags/list", status=403, times=10)
            writer(dockerfile(number), cache_to=(option,))
        assert not [tag for _, tag in registry.tags if PART_TAG in tag]
        hits(tmp_path, option, count=2)
