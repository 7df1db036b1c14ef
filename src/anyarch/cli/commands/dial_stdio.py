"""`anyarch dial-stdio`: standard input and output become a connection to a node's API."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import BuilderError

if TYPE_CHECKING:
    from anyarch.builder.builder import Builder, Node
    from anyarch.builder.stream import ByteStream
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "proxy", "run"]

COMMAND = Command(
    "dial-stdio",
    summary="Proxy current stdio streams to builder instance",
    usage="dial-stdio [OPTIONS]",
    description=(
        "Connect standard input and output with the API of a node of the builder, for programs that speak "
        "BuildKit's protocol. With several nodes the one for --platform is taken."
    ),
    flags=(
        Flag("platform", "Target platform: this is used for node selection", metavar="OS/ARCH[/VARIANT]"),
        Flag(
            "progress",
            "Whether the builder is said: none, or a mode as of build (default: none)",
            metavar="MODE",
        ),
    ),
    examples=(("From another machine", "ssh host anyarch dial-stdio --builder mybuild"),),
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.cli.builders import chosen_builder

    builder = chosen_builder(parsed)
    _tell(builder, parsed.text("progress") or "none")
    platform = parsed.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM") or ""
    asyncio.run(_connect(builder, platform))
    return 0


def _tell(builder: Builder, progress: str) -> None:
    """As the progress of a build begins. Raises `UsageError` for an unknown mode."""
    from anyarch.cli.dispatch import stderr
    from anyarch.progress import choose_mode

    if choose_mode(progress, stderr(), os.environ) in ("plain", "tty"):
        stderr().write(f"#0 builder: {builder.name}\n\n")
        stderr().flush()


async def _connect(builder: Builder, platform: str) -> None:
    from anyarch.cli.boot import boot

    await boot(builder, 20.0)
    node = _choose(builder, platform)
    assert node.driver is not None
    stream = await node.driver.dial()
    try:
        await proxy(stream, 0, 1)
    finally:
        await stream.close()


def _choose(builder: Builder, platform: str) -> Node:
    from anyarch.builder.placement import Candidate, place
    from anyarch.spec.platform import Platform

    usable = [node for node in builder.nodes if node.is_running]
    if not usable:
        said = "; ".join(f"{node.name}: {node.error}" for node in builder.nodes if node.error is not None)
        raise BuilderError(f"no node of {builder.name} is running{': ' if said else ''}{said}")
    if not platform:
        return usable[0]
    candidates = [Candidate.of(node) for node in usable]
    (assigned,) = place([Platform.parse(platform)], candidates)
    return usable[assigned.node]


async def proxy(stream: ByteStream, source: int, sink: int) -> None:
    """Copy both ways until the node closes its side."""
    import asyncio
    from threading import Thread

    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(4)

    def read() -> None:
        # A thread of its own: standard input may be a file or a terminal, which no event loop can wait for.
        while True:
            data = os.read(source, 1 << 16)
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop has ended: the node closed first
            if not data:
                return

    async def upwards() -> None:
        while data := await chunks.get():
            await stream.write(data)
        await stream.end_writing()

    Thread(target=read, name="stdin", daemon=True).start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(upwards())
        while data := await stream.read(1 << 16):
            await asyncio.to_thread(_write_all, sink, data)
        task.cancel()


def _write_all(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]
