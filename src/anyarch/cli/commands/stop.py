"""`anyarch stop`: stop the nodes of a builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.cli.flags import Command

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "stop",
    summary="Stop builder instance",
    usage="stop [NAME]",
    description="Stop the nodes of a builder. They keep their state, and the next build starts them again.",
    arguments=(("NAME", "a builder instance (default: the one in use)"),),
    most=1,
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.cli.builders import chosen_builder

    builder = chosen_builder(parsed, parsed.args[0] if parsed.args else "")
    asyncio.run(_stop(builder))
    return 0


async def _stop(builder: Builder) -> None:
    """Stop every node that can be stopped, then raise what one of them said."""
    import asyncio

    async def one(index: int) -> None:
        node = nodes[index]
        if node.driver is None:
            assert node.error is not None
            raise node.error
        await node.driver.stop()

    nodes = builder.open()
    answers = await asyncio.gather(*(one(index) for index in range(len(nodes))), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
