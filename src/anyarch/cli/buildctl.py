"""The program `buildctl` of the daemon's image: the two things that drivers of builders ask of it inside a
container, and no more. The command line for people is `anyarch`.
"""

from __future__ import annotations

import asyncio
import os
import sys

from anyarch.errors import AnyarchError, UsageError

__all__ = ["main"]

DEFAULT_ADDRESS = "unix:///run/buildkit/buildkitd.sock"
_USAGE = "usage: buildctl [--addr ADDRESS] dial-stdio | debug workers"


def main(argv: list[str] | None = None) -> int:
    """0; 1 with a line on standard error."""
    try:
        asyncio.run(_run(sys.argv[1:] if argv is None else argv))
    except AnyarchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    return 0


async def _run(words: list[str]) -> None:
    from anyarch.builder.stream import connect_node

    address = os.environ.get("BUILDKIT_HOST") or DEFAULT_ADDRESS
    words = list(words)
    while words and words[0].startswith("--"):
        name, equals, value = words.pop(0).partition("=")
        if name != "--addr":
            raise UsageError(f"unknown flag {name}; {_USAGE}")
        address = value if equals else (words.pop(0) if words else "")

    if words == ["dial-stdio"]:
        from anyarch.cli.commands.dial_stdio import proxy

        stream = await connect_node(address, None, os.environ)
        try:
            await proxy(stream, 0, 1)
        finally:
            await stream.close()
    elif words == ["debug", "workers"]:
        await _workers(address)
    else:
        raise UsageError(_USAGE)


async def _workers(address: str) -> None:
    """One line a worker: whether the daemon answers is what the caller wants to know."""
    from anyarch.builder.stream import connect_node
    from anyarch.builder.wire import open_client

    client = await open_client(lambda: connect_node(address, None, os.environ), address)
    try:
        rows = [("ID", "PLATFORMS")]
        rows += [(item.id, ",".join(map(str, item.platforms))) for item in await client.workers()]
    finally:
        await client.close()
    width = max(len(row[0]) for row in rows)
    print("\n".join(f"{name.ljust(width)}  {shown}" for name, shown in rows))


if __name__ == "__main__":
    sys.exit(main())
