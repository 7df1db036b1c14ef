"""Starting the nodes of a builder, with a word about each on the error stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import BuilderError

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder, Node

__all__ = ["boot"]


async def boot(builder: Builder, timeout_s: float) -> bool:
    """Load the builder's nodes and start those that do not run; whether there was one. Raises `BuilderError`
    for the first that does not come up."""
    from anyarch.cli.dispatch import stderr

    await builder.load(timeout_s)
    many = len(builder.nodes) > 1

    def log(node: Node, text: str) -> None:
        print(f"[{node.name}] {text}" if many else text, file=stderr())

    failed = [node for node in builder.nodes if node.error is not None]
    started = await builder.start(builder.nodes, log)
    for node in builder.nodes:
        if node.error is not None and node not in failed:
            raise BuilderError(f"{node.name}: {node.error.message}", hint=node.error.hint)
    return started
