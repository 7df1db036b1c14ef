"""Chains of many steps cost what their steps cost: counted in layers looked at and rows of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import CacheOption, Output
from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import scratch
from anyarch.snapshot.stack import Stack
from anyarch.spec.snapshot import Snapshot
from anyarch.store.layers import LayerRecords
from anyarch.store.metadata import Metadata
from anyarch.testing.builder import Builder
from anyarch.testing.graph import GraphBuilder
from anyarch.testing.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anyarch.snapshot.stack import Leaf
    from anyarch.store.layers import LayerRow


def test_twice_the_steps_are_twice_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def count(what: str, number: int = 1) -> None:
        counts[what] = counts.get(what, 0) + number

    search, get, query = Stack.search, LayerRecords.get, Metadata.query

    def counted_search(self: Stack, path: str, above: Sequence[str]) -> Iterator[Leaf]:
        for leaf in search(self, path, above):
            count("layers looked into")
            yield leaf

    def counted_get(self: LayerRecords, layer: str) -> LayerRow:
        count("layers asked for")
        return get(self, layer)

    def counted_query(self: Metadata, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        rows = query(self, sql, parameters)
        count("rows read", 1 + len(rows))
        return rows

    monkeypatch.setattr(Stack, "search", counted_search)
    monkeypatch.setattr(LayerRecords, "get", counted_get)
    monkeypatch.setattr(Metadata, "query", counted_query)

    def cost(steps: int) -> tuple[dict[str, int], int]:
        counts.clear()
        directory = tmp_path / str(steps)
        directory.mkdir()
        state = scratch()
        for number in range(steps):
            state = state.file(ActionMkfile(f"/{number}", 0o644, b"%d" % number))
        tree = GraphBuilder(directory)(state)
        assert len(tree.executed) == len(tree.layers) == steps
        database = next(directory.rglob("anyarch.db"))
        return dict(counts), database.stat().st_size

    few, small = cost(150)
    many, large = cost(300)
    assert {name: number <= 2.4 * few[name] for name, number in many.items()} == dict.fromkeys(few, True)
    assert large <= 2.4 * small


@pytest.mark.parametrize("kind", ["local", "registry", "inline"])
def test_twice_the_steps_in_a_build_cache_are_twice_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    counts: dict[str, int] = {}

    def count(what: str, number: int = 1) -> None:
        counts[what] = counts.get(what, 0) + number

    put, equal, query, whole = Snapshot._put, Snapshot.__eq__, Metadata.query, Snapshot.layers

    def counted_put(self: Snapshot, below: Snapshot, layer: str) -> None:
        count("chains made")
        put(self, below, layer)

    def counted_equal(self: Snapshot, other: object) -> bool:
        count("chains compared", 1 if self is other else self.depth)
        return equal(self, other)

    def counted_query(self: Metadata, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        rows = query(self, sql, parameters)
        count("rows read", 1 + len(rows))
        return rows

    def counted_layers(self: Snapshot) -> tuple[str, ...]:
        count("layers listed", self.depth)
        layers = whole.fget(self)  # type: ignore[attr-defined]
        assert isinstance(layers, tuple)
        return layers

    monkeypatch.setattr(Snapshot, "_put", counted_put)
    monkeypatch.setattr(Snapshot, "__eq__", counted_equal)
    monkeypatch.setattr(Metadata, "query", counted_query)
    monkeypatch.setattr(Snapshot, "layers", property(counted_layers))

    def cost(remote: FakeRegistry, steps: int) -> tuple[dict[str, int], dict[str, int]]:
        text = "FROM scratch\n" + "".join(f"COPY f /{number}\n" for number in range(steps))
        name = f"{remote.address}/app:{steps}"
        directory = tmp_path / f"cache-{steps}"
        to, source = {
            "local": (
                CacheOption("local", {"dest": str(directory), "mode": "max"}),
                CacheOption("local", {"src": str(directory)}),
            ),
            "registry": (
                CacheOption("registry", {"ref": name, "mode": "max"}),
                CacheOption("registry", {"ref": name}),
            ),
            "inline": (CacheOption("inline"), CacheOption("registry", {"ref": name})),
        }[kind]
        outputs = (Output("image", None, {"name": name, "push": "true"}),) if kind == "inline" else ()
        made = Builder(tmp_path / f"made-{steps}")
        made(text, files={"f": "x"}, outputs=outputs)
        counts.clear()
        made(text, cache_to=(to,), outputs=outputs)
        written = dict(counts)
        counts.clear()
        other = Builder(tmp_path / f"other-{steps}")
        image = other(text, files={"f": "x"}, cache_from=(source,))
        assert image.executed == []
        return written, dict(counts)

    with FakeRegistry() as remote:
        few, many = cost(remote, 100), cost(remote, 200)
    for small, large in zip(few, many, strict=True):
        assert {name: number <= 2.4 * small.get(name, 0) + 100 for name, number in large.items()} == (
            dict.fromkeys(large, True)
        )
