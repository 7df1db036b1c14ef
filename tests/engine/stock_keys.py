"""The keys that a build's steps have in caches of stock BuildKit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyarch.engine.request import BuildRequest
from anyarch.engine.solve import prepared
from anyarch.engine.stock import StockKeys
from anyarch.worker.graph import load

if TYPE_CHECKING:
    from anyarch.cache.stock import StockKey
    from anyarch.testing.builder import Builder

__all__ = ["keys_of"]


def keys_of(build: Builder, dockerfile: str) -> list[StockKey]:
    """Those that are known before anything has run, in topological order."""

    async def body() -> list[StockKey]:
        request = BuildRequest(
            context=str(build.context),
            dockerfile_data=dockerfile.encode(),
            platforms=("linux/amd64",),
            root=str(build.store),
        )
        async with prepared(request, lambda event: None) as one:
            graphs = [graph for graph in one.frontend.refs.values() if graph is not None]
            for graph in graphs:
                load(one.solver, one.worker, graph)
            stock = StockKeys(one.solver, one.worker, graphs)
            await stock.find()
            return list(stock.keys.values())

    return asyncio.run(body())
