"""Whole builds through the embedded engine, each test in a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anyarch.testing.builder import Builder

if TYPE_CHECKING:
    from pathlib import Path

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
