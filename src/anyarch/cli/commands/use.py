"""`anyarch use`: which builder is meant when none is named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import NoSuchBuilder, UsageError

if TYPE_CHECKING:
    from anyarch.builder.builder import Surroundings
    from anyarch.builder.store import Transaction
    from anyarch.cli.flags import Parsed

__all__ = ["COMMAND", "run"]

COMMAND = Command(
    "use",
    summary="Set the current builder instance",
    usage="use [OPTIONS] NAME",
    description=(
        "Choose the builder for commands that name none. It counts for the docker context in use, with "
        "--global for all. BUILDX_BUILDER and --builder go before it."
    ),
    arguments=(("NAME", "a builder instance, or default for the engine in this process"),),
    most=1,
    flags=(
        Flag("default", "Set builder as default for current context"),
        Flag("global", "Builder persists context changes"),
    ),
    examples=(("Back to the engine in this process", "anyarch use default"),),
)


def run(parsed: Parsed) -> int:
    from anyarch.builder.builder import Surroundings

    name = parsed.args[0] if parsed.args else parsed.builder
    if not name:
        raise UsageError("the name of a builder is missing", hint="anyarch ls lists builders")
    surroundings = Surroundings(os.environ)
    key = surroundings.docker.current_endpoint()
    with surroundings.store.transaction() as transaction:
        if not _is_instance(transaction, name):
            _use_context(surroundings, name)
            transaction.set_current(key, "")
            return 0
        transaction.set_current(
            key, name.lower(), is_global=parsed.switch("global"), is_default=parsed.switch("default")
        )
    return 0


def _is_instance(transaction: Transaction, name: str) -> bool:
    try:
        return transaction.find(name) is not None
    except UsageError:
        return False


def _use_context(surroundings: Surroundings, name: str) -> None:
    """A context is used by going back to it. Raises `NoSuchBuilder`, and `UsageError` for another context
    than the current one."""
    current = surroundings.docker.current_context
    if name == current:
        return
    if name == "default":
        raise UsageError("run `docker context use default` to switch to default context")
    if name in surroundings.context_names():
        raise UsageError(f"run `docker context use {name}` to switch to context {name}")
    raise NoSuchBuilder(f'failed to find instance "{name}"', hint="anyarch ls lists builders")
