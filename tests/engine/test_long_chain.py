"""Chains of many steps cost what their steps cost: counted in layers looked at and rows of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyarch.llb.ops import ActionMkfile
from anyarch.llb.state import scratch
from anyarch.snapshot.stack import Stack
from anyarch.store.layers import LayerRecords
from anyarch.store.metadata import Metadata
from anyarch.testing.graph import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pytest

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
