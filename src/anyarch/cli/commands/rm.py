"""`anyarch rm`: remove builders, their daemons and what these keep."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyarch.cli.dispatch import stderr
from anyarch.cli.flags import Command, Flag
from anyarch.errors import AnyarchError, BuilderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.builder.builder import Builder, Node, Surroundings
    from anyarch.builder.store import Transaction
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "rm",
    summary="Remove one or more builder instances",
    usage="rm [OPTIONS] [NAME...]",
    description=(
        "Remove builder instances: their entries, and for the drivers docker-container and kubernetes the "
        "daemons and their caches. Daemons of the remote driver are left alone."
    ),
    arguments=(("NAME", "a builder instance (default: the one in use)"),),
    most=None,
    flags=(
        Flag("all-inactive", "Remove all inactive builders"),
        Flag("force", "Do not prompt for confirmation", short="f"),
        Flag("keep-daemon", "Keep the BuildKit daemon running"),
        Flag("keep-state", "Keep BuildKit state"),
        Flag("timeout", "How long nodes may take to tell their status (default: 20s)", metavar="DURATION"),
    ),
    examples=(("All that do not run", "anyarch rm --all-inactive --force"),),
)

_QUESTION = (
    "WARNING! This will remove all builders that are not in running state. Are you sure you want to continue?"
)


def run(parsed: Parsed) -> int:
    import asyncio

    from anyarch.builder.builder import Surroundings
    from anyarch.cli.builders import timeout_of

    timeout_s = timeout_of(parsed)
    surroundings = Surroundings(os.environ)
    if parsed.switch("all-inactive"):
        if parsed.args:
            raise UsageError("cannot specify builder name when --all-inactive is set")
        if not parsed.switch("force") and not _agreed():
            return 0
        with surroundings.store.transaction() as transaction:
            asyncio.run(_remove_inactive(transaction, surroundings, parsed, timeout_s))
        return 0
    names = parsed.args or [parsed.builder]
    with surroundings.store.transaction() as transaction:
        removed = [asyncio.run(_one(transaction, surroundings, name, parsed, timeout_s)) for name in names]
    if not all(removed):
        raise BuilderError("failed to remove one or more builders")
    return 0


def _agreed() -> bool:
    print(f"{_QUESTION} [y/N] ", end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    return answer.strip().lower() in ("y", "yes")


async def _one(
    transaction: Transaction, surroundings: Surroundings, name: str, parsed: Parsed, timeout_s: float
) -> bool:
    """Whether it was removed; what went wrong is told."""
    shown = name
    try:
        builder = surroundings.chosen(transaction, name)
        shown = builder.name
        if builder.is_context:
            raise UsageError(
                f"context builder cannot be removed, run `docker context rm {builder.name}` to remove this "
                "context"
            )
        await _remove(transaction, builder, parsed, timeout_s)
    except AnyarchError as error:
        print(f"failed to remove {shown}: {error.message}", file=stderr())
        return False
    print(f"{shown} removed", file=stderr())
    return True


async def _remove(transaction: Transaction, builder: Builder, parsed: Parsed, timeout_s: float) -> None:
    """Remove the daemons, then the entry, which goes even if a daemon could not be reached."""
    if parsed.switch("keep-daemon"):
        transaction.remove(builder.name)
        return
    failures = await _remove_nodes(builder.open(), parsed, timeout_s)
    transaction.remove(builder.name)
    if failures:
        raise BuilderError("\n".join(failures))


async def _remove_nodes(nodes: Sequence[Node], parsed: Parsed, timeout_s: float) -> list[str]:
    import asyncio

    async def one(node: Node) -> str:
        if node.driver is None:
            return f"failed to load node {node.name}: {node.error}"
        keep_daemon = parsed.switch("keep-daemon")
        try:
            async with asyncio.timeout(timeout_s or None):
                if not keep_daemon:
                    await node.driver.stop()
                await node.driver.remove(keep_state=parsed.switch("keep-state"), keep_daemon=keep_daemon)
        except TimeoutError:
            return f"failed to remove node {node.name}: no answer within {timeout_s:g} seconds"
        except AnyarchError as error:
            return f"failed to remove node {node.name}: {error.message}"
        return ""

    return [text for text in await asyncio.gather(*(one(node) for node in nodes)) if text]


async def _remove_inactive(
    transaction: Transaction, surroundings: Surroundings, parsed: Parsed, timeout_s: float
) -> None:
    """A builder of which a node has an error counts as one that does not run, as for buildx; those whose
    nodes come and go by themselves stay."""
    from anyarch.builder.builder import Builder, load_all

    builders = [Builder(group, surroundings) for group in transaction.all()]
    await load_all(builders, timeout_s)
    failures: list[str] = []
    for builder in builders:
        if builder.is_dynamic or not builder.is_inactive:
            continue
        failures += await _remove_nodes(builder.open(), parsed, timeout_s)
        transaction.remove(builder.name)
        print(f"{builder.name} removed", file=stderr())
    if failures:
        raise BuilderError("\n".join(failures))
