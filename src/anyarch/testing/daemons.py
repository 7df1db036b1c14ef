"""Daemons of anyarch on this machine as if they were several machines: each in a network namespace of its
own, with an address of its own, a store of its own, and the platforms that it is told to have.

Needs root. The namespaces end with their daemons; nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["NodeDaemon"]

PORT = 1234
_START_S = 60.0


class NodeDaemon:
    """A running `anyarchd` at `endpoint`. `kill`, `cut` and `mend` do to it what happens to machines."""

    def __init__(
        self,
        directory: Path,
        number: int,
        *,
        platforms: str = "",
        flags: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        """`number` (0 to 63) makes the address one that no other node of this process has."""
        self._link = f"any{os.getpid() % 100_000}n{number}"
        base = number * 4
        subnet = 1 + os.getpid() % 250
        self._gateway, self.address = f"10.213.{subnet}.{base + 1}", f"10.213.{subnet}.{base + 2}"
        self.endpoint = f"tcp://{self.address}:{PORT}"
        self._log = directory / "daemon.log"
        self._is_unreachable = False
        program = "import sys; from anyarch.daemon.main import main; sys.exit(main())"
        argv = [sys.executable, "-c", program, "--root", str(directory / "root")]
        argv += ["--addr", f"tcp://0.0.0.0:{PORT}", "--allow-unauthenticated-tcp", *flags]
        argv += ["--oci-worker-platform", platforms] if platforms else []
        directory.mkdir(parents=True, exist_ok=True)
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """Lead a cable into the daemon's namespace, and wait for an answer."""
        pid = str(self.process.pid)
        deadline = time.monotonic() + _START_S
        own = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{pid}/ns/net").st_ino == own:
            self._wait(deadline)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _ip("addr", "add", f"{self._gateway}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        inside = ("nsenter", "--target", pid, "--net", "ip")
        _run(*inside, "addr", "add", f"{self.address}/30", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        while True:
            try:
                socket.create_connection((self.address, PORT), 1).close()
            except OSError:
                self._wait(deadline)
            else:
                self._wait(deadline)  # a gateway may answer for a namespace that is gone
                return

    def _wait(self, deadline: float) -> None:
        if self.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the daemon did not start: {self.log}")
        time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """The machine is gone: no process says goodbye."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if not self._is_unreachable:
            # Else this machine's gateway would be asked for the address, and may answer for it.
            _ip("route", "add", "unreachable", self.address)
            self._is_unreachable = True

    def cut(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._link, "down")

    def drop(self) -> None:
        """Let all that the machine sends get lost on the way; what is sent to it still arrives."""
        inside = ("nsenter", "--target", str(self.process.pid), "--net", "ip")
        _run(*inside, "route", "add", "blackhole", f"{self._gateway}/32")

    def freeze(self) -> None:
        """The daemon hangs; the machine's kernel still answers."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def mend(self) -> None:
        _ip("link", "set", self._link, "up")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._is_unreachable:
            _ip("route", "delete", "unreachable", self.address)
            self._is_unreachable = False
        # The cable ends with the namespace, but a little later.
        if os.path.exists(f"/sys/class/net/{self._link}"):
            subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)

    def __enter__(self) -> NodeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
