"""The public names, compared with a committed list: a change to them is a visible line of a diff."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import anyarch

LIST = Path(__file__).with_name("public_names.txt")


def public_names() -> list[str]:
    """Every name in an `__all__` of the modules that embedders may import."""
    names = []
    for module in ("anyarch", "anyarch.errors", *modules_of("anyarch.spec"), *modules_of("anyarch.testing")):
        names += [f"{module}.{name}" for name in getattr(importlib.import_module(module), "__all__", ())]
    return sorted(names)


def modules_of(package: str) -> list[str]:
    found = pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}.")
    return sorted(module.name for module in found if not module.name.rpartition(".")[2].startswith("_"))


def test_public_names_are_those_of_the_committed_list() -> None:
    # After a wanted change: python tests/packaging/test_public_surface.py
    assert public_names() == LIST.read_text().splitlines()


def test_every_public_name_can_be_had() -> None:
    for name in anyarch.__all__:
        assert getattr(anyarch, name) is not None


if __name__ == "__main__":
    LIST.write_text("".join(f"{name}\n" for name in public_names()))
