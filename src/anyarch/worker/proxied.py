"""The proxy network of one build: which steps get a proxy, what it may reach, and who decides on what it
fetches."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from anyarch.http.intercept.authority import Authority, subject_hash
from anyarch.http.intercept.egress import Egress
from anyarch.http.intercept.relay import Denied, Outside
from anyarch.http.intercept.server import StepProxy
from anyarch.http.intercept.traffic import Recorder
from anyarch.http.intercept.upstream import Verifier
from anyarch.llb.ops import SourceOp
from anyarch.sandbox.plan import PROXY_PORT
from anyarch.worker.trust import Trust

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping

    from anyarch.http.intercept.egress import Reach
    from anyarch.worker.worker import Worker

    Decide = Callable[[SourceOp], Coroutine[Any, Any, SourceOp]]
    """What is to be taken instead of a source. Raises where it is denied."""

__all__ = ["BuildProxy", "proxy_env"]

_DECISION_S = 600.0
_NOT_PROXIED = "127.0.0.1,localhost,::1"


def proxy_env() -> tuple[str, ...]:
    """What tells a step of its proxy; BuildKit's names."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    return (
        *(f"{name}={proxy}" for name in names),
        f"NO_PROXY={_NOT_PROXIED}",
        f"no_proxy={_NOT_PROXIED}",
    )


class BuildProxy:
    """Thread-safe. `loop` is the build's; `decide` is asked there about every request of a step."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._lock = threading.Lock()
        self._certified: tuple[Authority, Trust] | None = None
        self._verifier = Verifier()
        self.decide: Decide | None = None

    def step(
        self,
        reach: Reach,
        hosts: Mapping[str, str],
        make_socket: Callable[[int], socket.socket] | None = None,
    ) -> StepProxy:
        """A proxy for one step. `hosts` are the addresses of names that the step knows itself. Raises
        `NotSupported` where no certificates can be made."""
        egress = Egress(reach, hosts=hosts, make_socket=make_socket)
        policy = self._policy if self.decide is not None else None
        authority, _ = self._made()
        return StepProxy(Outside(egress, authority, Recorder(), tls=self._verifier, policy=policy))

    @property
    def trust(self) -> Trust:
        """Raises `NotSupported` as `step` does."""
        return self._made()[1]

    def _made(self) -> tuple[Authority, Trust]:
        """With the first step: a build without steps needs no certificate."""
        with self._lock:
            if self._certified is None:
                authority = Authority()
                self._certified = authority, Trust(self._worker, authority.pem, subject_hash())
            return self._certified

    def _policy(self, url: str) -> str:
        """On a thread of a proxy."""
        decide = self.decide
        assert decide is not None
        try:
            future = asyncio.run_coroutine_threadsafe(decide(SourceOp(url, {})), self._loop)
            made = future.result(_DECISION_S)
        except Exception as error:  # whatever it is, nobody has allowed it
            raise Denied(str(error)) from None
        if made.attrs:
            raise Denied("a policy can change the address of a request, and nothing else of it")
        return made.identifier
