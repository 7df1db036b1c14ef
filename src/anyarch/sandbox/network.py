"""The network of an ordinary user's steps: one of their own where a program is there that connects it.

Without privileges nobody can join a network namespace to the machine's; `pasta` (Debian: passt) and
`slirp4netns` do it by opening the connections of the namespace as sockets of the user. They run as children
of the sandbox supervisor, in its user namespace, and end with it.

From the steps the machine's loopback is out of reach; services that listen on its other addresses are not, as
with the bridge of a container engine. The addresses are those that slirp4netns gives (10.0.2.0/24).
"""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from anyarch.sandbox.executor import Executor

__all__ = ["OwnNetwork"]

_ADDRESS, _GATEWAY, _BITS = "10.0.2.100", "10.0.2.2", "24"
_START_S = 10.0
_TUN = "/dev/net/tun"
_INSTALL = "apt-get install passt (or slirp4netns) gives steps a network of their own"


class OwnNetwork:
    """Of one executor; started when the first step asks for it. Thread-safe."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._refusal: str | None = None
        self._thread: threading.Thread | None = None

    def refusal(self) -> str:
        """Start it if need be; why there is none, empty when there is one."""
        with self._lock:
            if self._refusal is None:
                self._refusal = self._start()
            return self._refusal

    def close(self) -> None:
        """After the executor has ended the supervisor, and what ran below it."""
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> str:
        pasta, slirp = shutil.which("pasta"), shutil.which("slirp4netns")
        if pasta is None and slirp is None:
            return f"neither pasta nor slirp4netns is installed; {_INSTALL}"
        if not os.access(_TUN, os.R_OK | os.W_OK):
            return f"this user cannot open {_TUN}"
        try:
            path = self._executor.make_network()
        except SandboxError as error:
            return error.message
        why = []
        if pasta is not None:
            failure = self._connect_by_pasta(pasta, path)
            if not failure:
                return ""
            why.append(f"pasta: {failure}")
        if slirp is not None:
            failure = self._connect_by_slirp(slirp, path)
            if not failure:
                return ""
            why.append(f"slirp4netns: {failure}")
        return "; ".join(why)

    def _connect_by_pasta(self, program: str, path: str) -> str:
        """It goes to the background once it is ready."""
        argv = [program, "--quiet", "--config-net", "--netns-only", "--netns", path, "--no-netns-quit"]
        argv += ["--address", _ADDRESS, "--netmask", _BITS, "--gateway", _GATEWAY, "--no-map-gw"]
        for ports in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):  # nothing is forwarded
            argv += [ports, "none"]
        try:
            code, errors = self._executor.run_command(argv, b"", lambda data: None)
        except SandboxError as error:
            return error.message
        return "" if code == 0 else _last_line(errors) or f"it ended with {code}"

    def _connect_by_slirp(self, program: str, path: str) -> str:
        """It stays in the foreground, and says on a descriptor when it is ready."""
        argv = [program, "--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=1"]
        argv += ["--netns-type=path", path, "tap0"]
        ready = threading.Event()
        failure: list[str] = []

        def run() -> None:
            try:
                code, errors = self._executor.run_command(argv, b"", lambda data: ready.set())
                failure.append(_last_line(errors) or f"it ended with {code}")
            except SandboxError as error:  # as a rule the supervisor has ended, and the build with it
                failure.append(error.message)
            ready.set()

        self._thread = threading.Thread(target=run, name="anyarch-network", daemon=True)
        self._thread.start()
        if not ready.wait(_START_S):
            return f"it was not ready after {_START_S:.0f} seconds"
        self._thread.join(0.05)  # one that fails has written something too
        return failure[0] if failure else ""


def _last_line(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and "syslog" not in line]
    return lines[-1] if lines else ""
