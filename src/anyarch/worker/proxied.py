"""The proxy network of one build: which steps get a proxy, what it may reach, and who decides on what it
fetches."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from anyarch.llb.ops import SourceOp

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping

    from anyarch.http.intercept.authority import Authority
    from anyarch.http.intercept.egress import Reach
    from anyarch.http.intercept.server import StepProxy
    from anyarch.http.intercept.upstream import Verifier
    from anyarch.worker.trust import Trust
    from anyarch.worker.worker import Worker

    Decide = Callable[[SourceOp], Coroutine[Any, Any, SourceOp]]
    """What is to be taken instead of a source. Raises where it is denied."""

__all__ = ["BuildProxy", "proxy_env"]

_DECISION_S = 600.0
_NOT_PROXIED = "127.0.0.1,localhost,::1"


def proxy_env() -> tuple[str, ...]:
    """What tells a step of its proxy; BuildKit's names."""
    from anyarch.sandbox.plan import PROXY_PORT

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
        self._authority: Authority | None = None
        self._trust: Trust | None = None
        self._verifier: Verifier | None = None
        self.decide: Decide | None = None

    def step(
        self,
        reach: Reach,
        hosts: Mapping[str, str],
        make_socket: Callable[[int], socket.socket] | None = None,
    ) -> StepProxy:
        """A proxy for one step. `hosts` are the addresses of names that the step knows itself. Raises
        `NotSupported` where no certificates can be made."""
        from anyarch.http.intercept.egress import Egress
        from anyarch.http.intercept.relay import Outside
        from anyarch.http.intercept.server import StepProxy
        from anyarch.http.intercept.traffic import Recorder

        egress = Egress(reach, hosts=hosts, make_socket=make_socket)
        policy = self._policy if self.decide is not None else None
        return StepProxy(Outside(egress, self.authority, Recorder(), tls=self.verifier, policy=policy))

    @property
    def verifier(self) -> Verifier:
        with self._lock:
            if self._verifier is None:
                from anyarch.http.intercept.upstream import Verifier

                self._verifier = Verifier()
            return self._verifier

    @property
    def authority(self) -> Authority:
        with self._lock:
            if self._authority is None:
                from anyarch.http.intercept.authority import Authority

                self._authority = Authority()
            return self._authority

    @property
    def trust(self) -> Trust:
        pem = self.authority.pem
        with self._lock:
            if self._trust is None:
                from anyarch.http.intercept.authority import subject_hash
                from anyarch.worker.trust import Trust

                self._trust = Trust(self._worker, pem, subject_hash())
            return self._trust

    def _policy(self, url: str) -> str:
        """On a thread of a proxy."""
        from anyarch.http.intercept.relay import Denied

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
