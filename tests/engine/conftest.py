"""Whole builds through the embedded engine, each test in a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anyarch.testing.builder import Builder
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.cache.config import CacheConfig
    from tests.conftest import Bases


@pytest.fixture
def scratch_build(tmp_path: Path) -> Builder:
    """Builds that need no base image and no registry."""
    return Builder(tmp_path)


@pytest.fixture
def build(tmp_path: Path, bases: Bases, monkeypatch: pytest.MonkeyPatch) -> Builder:
    """Builds whose docker.io is a registry on loopback with `busybox` and `alpine`."""
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", bases.environment["ANYARCH_REGISTRY_MIRRORS"])
    return Builder(tmp_path)


@pytest.fixture
def remote() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def only_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are written with BuildKit's records alone, as its own daemon writes them."""
    from anyarch.cache import exporter

    write = exporter.write

    def foreign_only(results: Any, **given: Any) -> CacheConfig:
        return write((), **given)

    monkeypatch.setattr(exporter, "write", foreign_only)
    monkeypatch.setattr("anyarch.cache.config.write", foreign_only)
