"""Namespaces ready for steps: made ahead, and used again by later ones.

A step cannot change its network (it has no capability for it), and all its processes have ended when the next
one gets the namespace. What an insecure step had is thrown away instead.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Lease", "NetworkPool", "NetworkProvider", "StepNetwork"]

_GRACE_S = 10.0
_KEPT_S = 300.0
"""How long more namespaces than were asked for wait for another step (BuildKit's number)."""


class StepNetwork(Protocol):
    """One namespace with what connects it."""

    @property
    def namespace(self) -> int:
        """Its descriptor."""


class NetworkProvider(Protocol):
    """Makes namespaces, from several threads at once."""

    def make(self, hostname: str) -> StepNetwork:
        """Connected, for a step of that name. Raises `SandboxError`."""

    def remove(self, network: StepNetwork) -> None:
        """With all that was made for it. Raises `SandboxError`."""

    def close(self) -> None:
        """When all have been removed."""


class Lease:
    """A namespace for one step, or one container's processes. Close it, or use it as a context manager."""

    def __init__(self, namespace: int, give_back: Callable[[bool], None]) -> None:
        self.namespace = namespace
        self._give_back = give_back

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    is_altered = False
    """Whether the step could change it, so that no other may have it."""

    def close(self) -> None:
        self._give_back(self.is_altered)


class NetworkPool:
    """Thread-safe. Close it when no step runs any more."""

    def __init__(
        self,
        provider: NetworkProvider,
        size: int = 0,
        *,
        uses_names: bool = False,
        on_error: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`size` namespaces are there before anyone asks. With `uses_names` the provider tells others the
        name of a step that has one: such a namespace is nobody else's. `on_error` is told what cannot be
        removed or made ahead."""
        self._provider = provider
        self._size = size
        self._uses_names = uses_names
        self._on_error = on_error
        self._lock = threading.Lock()
        self._idle: list[tuple[float, StepNetwork]] = []
        self._leased = 0
        self._closed = False
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    def try_one(self) -> None:
        """Make the first namespace, begin with the others. Raises `SandboxError` where there can be none."""
        self._put(self._provider.make(""))
        self._thread = threading.Thread(target=self._attend, name="anyarch-networks", daemon=True)
        self._thread.start()

    def lease(self, hostname: str = "") -> Lease:
        """Raises `SandboxError`."""
        named = hostname if self._uses_names else ""
        network = None
        with self._lock:
            if self._closed:
                raise SandboxError("the daemon is stopping: it gives no networks any more")
            self._leased += 1
            if self._idle and not named:
                network = self._idle.pop()[1]
        if network is None:
            try:
                network = self._provider.make(named)
            except BaseException:
                self._returned()
                raise
        taken = network

        def give_back(is_altered: bool) -> None:
            try:
                if named or is_altered:
                    self._remove(taken)
                else:
                    self._put(taken)
            finally:  # only then may what it stands on be closed
                self._returned()

        return Lease(network.namespace, give_back)

    def close(self) -> None:
        """Remove all of them. Those of steps that are about to end are waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            self._wake.notify_all()
            is_whole = self._wake.wait_for(lambda: self._leased == 0, _GRACE_S)
        if self._thread is not None:
            self._thread.join()
        for _, network in idle:
            self._remove(network)
        if is_whole:
            self._provider.close()
        else:  # what it stands on goes with this process
            self._on_error("networks of steps that do not end are left behind")

    def _returned(self) -> None:
        with self._lock:
            self._leased -= 1
            self._wake.notify_all()

    def _put(self, network: StepNetwork) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append((time.monotonic(), network))
                self._wake.notify_all()
                return
        self._remove(network)

    def _attend(self) -> None:
        """Fill it, then remove what nobody has used for a while."""
        self._fill()
        while True:
            with self._lock:
                if self._closed:
                    return
                surplus = len(self._idle) + self._leased > self._size and bool(self._idle)
                left = self._idle[0][0] + _KEPT_S - time.monotonic() if surplus else None
                if left is None or left > 0:
                    self._wake.wait(left)
                    continue
                _, network = self._idle.pop(0)
            self._remove(network)

    def _fill(self) -> None:
        while True:
            with self._lock:
                if self._closed or len(self._idle) + self._leased >= self._size:
                    return
            try:
                self._put(self._provider.make(""))
            except (SandboxError, OSError) as error:
                self._on_error(f"no network could be made ahead: {error}")
                return

    def _remove(self, network: StepNetwork) -> None:
        try:
            self._provider.remove(network)
        except (SandboxError, OSError) as error:
            self._on_error(f"a network could not be removed: {error}")
