"""Network namespaces, held by descriptors: what is in one goes when the last of them is closed, however its
holder ends.

A thread may be in another namespace than the rest of its process; those that are end at once.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from anyarch.sandbox.supervisor import syscalls as kernel
from anyarch.sandbox.supervisor.network import loopback_up

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["inside", "make_namespace", "make_socket"]

T = TypeVar("T")


def make_namespace() -> int:
    """A descriptor of a new namespace with nothing but a loopback, that is up. Raises OSError, `Refused`."""

    def make() -> int:
        kernel.unshare(kernel.CLONE_NEWNET)
        loopback_up()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _on_thread(make)


def inside(namespace: int, work: Callable[[], T]) -> T:
    """Do `work` on a thread in the namespace of that descriptor. What it opens stays there. Raises what it
    raises."""

    def enter() -> T:
        kernel.setns(namespace, kernel.CLONE_NEWNET)
        return work()

    return _on_thread(enter)


def make_socket(namespace: int, family: int) -> socket.socket:
    """A TCP socket that belongs to the namespace, whoever uses it."""
    return inside(namespace, lambda: socket.socket(family, socket.SOCK_STREAM))


def _on_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="anyarch-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
