"""Pushes from a build: what is sent, what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.engine import build as run_build
from anyarch.engine.request import BuildRequest, Output
from anyarch.registry.client import Registry
from anyarch.registry.credentials import Credentials
from anyarch.registry.hosts import Hosts
from anyarch.solver.events import StatusEvent
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from anyarch.solver.events import Event
    from anyarch.testing.builder import Builder
    from tests.conftest import Bases


def test_a_base_in_the_same_registry_is_mounted_and_never_fetched(build: Builder, bases: Bases) -> None:
    build.write({"a": "1"})
    told: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StatusEvent) and event.id.startswith("pushing") and event.completed:
            told.append(event.id)

    result = run_build(
        BuildRequest(
            context=str(build.context),
            dockerfile_data=f"FROM {bases.registry}/library/busybox\nCOPY --link a /\n".encode(),
            platforms=("linux/amd64", "linux/arm64"),
            outputs=(Output("image", attrs={"name": f"{bases.registry}/test/push:1", "push": "true"}),),
            root=str(build.store),
        ),
        on_event,
    )
    # What watches a build by BuildKit's words waits for these, in this order.
    name = f"{bases.registry}/test/push:1@{result.digest}"
    assert told == ["pushing layers", f"pushing manifest for {name}"]
    registry = Registry(Hosts.load(), Credentials())
    pushed = registry.manifest(Reference.parse(f"{bases.registry}/test/push:1"))
    registry.close()
    assert pushed.digest == result.digest
    blobs = (build.store / "blobs" / "sha256").iterdir()
    assert [path for path in blobs if path.stat().st_size > 500_000] == []
