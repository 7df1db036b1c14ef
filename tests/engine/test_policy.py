"""Platforms that fail: who goes on, what is published, what the next build has to do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import BuildRequest, CacheOption, Output
from anyarch.engine.solve import build_async
from anyarch.engine.validate import prepare
from anyarch.errors import AnyarchError, BuildError, PlatformsFailed, UsageError
from anyarch.solver.events import WarningEvent
from anyarch.spec.platform import Platform
from anyarch.store.store import Store
from anyarch.testing.builder import Builder
from anyarch.testing.registry import FakeRegistry
from anyarch.worker.limits import Limits
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THREE = ("linux/amd64", "linux/arm64", "linux/riscv64")
# The steps of riscv64 fail as long as the context has no such file.
DOCKERFILE = """
FROM scratch
ARG TARGETARCH
COPY common /common
COPY for-$TARGETARCH /file
"""
FILES = {"common": "all", "for-amd64": "1", "for-arm64": "2"}


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def push(remote: FakeRegistry) -> tuple[Output, ...]:
    return (Output("image", None, {"name": f"{remote.address}/app:1", "push": "true"}),)


def run(build: Builder, outputs: tuple[Output, ...] = (), **request: Any) -> Any:
    return build(DOCKERFILE, files=FILES, platform=THREE, outputs=outputs, **request)


def platforms(remote: FakeRegistry) -> list[str]:
    index = json.loads(remote.manifests["app", remote.tags["app", "1"]].raw)
    return [item["platform"]["architecture"] for item in index["manifests"]]


def test_build_that_names_no_platform_has_nothing_that_could_fail(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    request = BuildRequest(
        context=str(tmp_path), root=str(tmp_path / "store"), outputs=(Output("local", str(tmp_path / "out")),)
    )
    asyncio.run(build_async(prepare(request)))
    assert (tmp_path / "out" / "Dockerfile").exists()


def test_without_flags_the_first_failure_is_the_builds(scratch_build: Builder, remote: FakeRegistry) -> None:
    with pytest.raises(BuildError) as raised:
        run(scratch_build, push(remote))
    assert not isinstance(raised.value, PlatformsFailed)
    assert remote.tags == {}


def test_a_build_for_this_machine_alone_needs_no_policy(scratch_build: Builder, tmp_path: Path) -> None:
    dest = Output("local", str(tmp_path / "out"))
    for keep_going in (False, True):
        scratch_build(
            "FROM scratch\nCOPY common /\n",
            files=FILES,
            platforms=(),
            outputs=(dest,),
            keep_going=keep_going,
        )
        assert (tmp_path / "out" / "common").exists()


def test_an_optional_platform_is_left_out_of_what_is_published(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    image = run(scratch_build, push(remote), optional=("linux/riscv64",))
    assert platforms(remote) == ["amd64", "arm64"]
    assert [item.platform for item in image.result.platforms if not item.error] == [
        "linux/amd64",
        "linux/arm64",
    ]
    (failed,) = (item for item in image.result.platforms if item.error)
    assert failed.platform == "linux/riscv64"
    assert list(image.result.metadata["anyarch.platforms.failed"]) == ["linux/riscv64"]
    (warning,) = (event for event in image.events if isinstance(event, WarningEvent))
    assert warning.short.startswith("linux/riscv64 failed and is left out: ")
    assert warning.lines == ((5, 5),)


def test_requiring_some_makes_the_others_optional(scratch_build: Builder, remote: FakeRegistry) -> None:
    run(scratch_build, push(remote), require=("linux/amd64",))
    assert platforms(remote) == ["amd64", "arm64"]


def test_one_platform_that_is_left_is_still_an_index(scratch_build: Builder, remote: FakeRegistry) -> None:
    dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY only-$TARGETARCH /\n"
    scratch_build(
        dockerfile,
        files={"only-arm64": ""},
        platform=THREE[:2],
        outputs=push(remote),
        optional=("linux/amd64",),
    )
    assert platforms(remote) == ["arm64"]


def test_a_required_platform_that_fails_keeps_everything_back(
    scratch_build: Builder, remote: FakeRegistry, tmp_path: Path
) -> None:
    before = remote.add_image("app", "1").digest
    dest = tmp_path / "files"
    outputs = (*push(remote), Output("local", str(dest)))
    with pytest.raises(PlatformsFailed) as raised:
        run(scratch_build, outputs, keep_going=True)
    assert list(raised.value.errors) == ["linux/riscv64"]
    assert raised.value.built == THREE[:2]
    assert raised.value.message == "1 of 3 platforms failed: linux/riscv64"
    assert remote.tags["app", "1"] == before
    assert not dest.exists()


def test_keep_going_makes_all_that_can_be_made_and_the_next_build_only_the_rest(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    with pytest.raises(PlatformsFailed):
        run(scratch_build, push(remote), keep_going=True)
    image = scratch_build(
        DOCKERFILE, files={"for-riscv64": "3"}, platform=THREE, outputs=push(remote), keep_going=True
    )
    assert [name for name in image.executed if "for-" in name] == [
        name for name in image.executed if "for-riscv64" in name
    ]
    assert len(image.executed) == 1
    assert platforms(remote) == ["amd64", "arm64", "riscv64"]


def test_every_failure_is_told_when_several_fail(scratch_build: Builder) -> None:
    (scratch_build.context / "for-arm64").unlink(missing_ok=True)
    with pytest.raises(PlatformsFailed) as raised:
        scratch_build(DOCKERFILE, files={"common": "all", "for-amd64": "1"}, platform=THREE, keep_going=True)
    assert list(raised.value.errors) == list(THREE[1:])
    for name, error in raised.value.errors.items():
        assert error.source is not None
        assert error.source.start == 5
        assert f"for-{name.partition('/')[2]}" in error.message


def test_nothing_is_published_when_all_optional_platforms_fail(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    with pytest.raises(PlatformsFailed) as raised:
        scratch_build(
            DOCKERFILE, files={"common": "all"}, platform=THREE, outputs=push(remote), optional=THREE
        )
    assert len(raised.value.errors) == 3
    assert remote.tags == {}


def test_a_base_that_lacks_an_optional_platform_leaves_that_out(
    scratch_build: Builder, remote: FakeRegistry
) -> None:
    entries = []
    for name in ("amd64", "arm64"):
        blob = remote.add_image("base", architecture=name)
        entries.append(blob.descriptor(platform=_spec(name)))
    remote.add_index("base", "1", entries)
    dockerfile = f"FROM {remote.address}/base:1\nCOPY common /common\n"
    outputs = push(remote)
    with pytest.raises(AnyarchError, match="riscv64"):
        scratch_build(dockerfile, files=FILES, platform=THREE, outputs=outputs)
    scratch_build(dockerfile, platform=THREE, outputs=outputs, optional=("linux/riscv64",))
    assert platforms(remote) == ["amd64", "arm64"]
    with pytest.raises(PlatformsFailed) as raised:
        scratch_build(dockerfile, platform=THREE, outputs=outputs, keep_going=True)
    assert list(raised.value.errors) == ["linux/riscv64"]
    assert raised.value.built == THREE[:2]


def _spec(architecture: str) -> Any:
    return Platform.parse(f"linux/{architecture}").spec()


def test_what_was_made_goes_into_the_build_cache_although_the_build_fails(
    scratch_build: Builder, remote: FakeRegistry, tmp_path: Path
) -> None:
    ref = f"{remote.address}/app:cache"
    options = (CacheOption("registry", {"ref": ref, "mode": "max"}),)
    with pytest.raises(PlatformsFailed):
        run(scratch_build, keep_going=True, cache_to=options)
    other = Builder(tmp_path / "other")
    other.write(FILES)
    image = other(DOCKERFILE, platform=THREE[:2], cache_from=(CacheOption("registry", {"ref": ref}),))
    assert image.executed == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"require": ("linux/s390x",)}, "--require names linux/s390x, for which the build is not"),
        ({"optional": ("linux/s390x",)}, "--optional names linux/s390x, for which the build is not"),
        (
            {"require": ("linux/arm64",), "optional": ("linux/arm64/v8",)},
            "platform linux/arm64 is both required and optional",
        ),
        ({"parallel": ("exec=0",)}, "invalid value 'exec=0' of --parallel"),
        ({"parallel": ("disk=2",)}, "invalid value 'disk=2' of --parallel"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UsageError) as raised:
        prepare(BuildRequest(context=str(tmp_path), platforms=THREE, **fields))
    assert raised.value.message == text


def test_limits_come_from_the_file_and_the_flag_wins(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[parallelism]\nexec = 3\ncpu = 5\n")
    env = {"ANYARCH_CONFIG": str(config)}
    assert Limits.of((), env) == Limits(exec=3, network=8, cpu=5)
    assert Limits.of(("exec=1,network=2",), env) == Limits(exec=1, network=2, cpu=5)
    config.write_text('[parallelism]\nexec = "many"\n')
    with pytest.raises(UsageError, match="exec"):
        Limits.of((), env)


async def _counted(worker: Worker, kind: str) -> int:
    running = most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    on_thread = worker.in_network if kind == "network" else worker.in_cpu
    await asyncio.gather(*(on_thread(work) for _ in range(12)))
    return most


@pytest.mark.parametrize("kind", ["network", "cpu"])
def test_no_more_is_done_at_once_than_the_limit_says(tmp_path: Path, kind: str) -> None:
    async def body() -> int:
        with Store.open(tmp_path / "store") as store:
            limits = Limits(exec=1, network=3, cpu=2)
            async with Worker(store, lambda event: None, limits=limits) as worker:
                return await _counted(worker, kind)

    assert asyncio.run(body()) == {"network": 3, "cpu": 2}[kind]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyarch-")]
