"""Debian's Docker engine (20.10, classic image store) on a socket of its own, for tests of loading.

It has no network and touches none of the machine's: no bridge, no iptables.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError
from anyarch.testing.bounded_runtime import write_runtime

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DebianDocker"]

_READY_S = 60.0
_STOP_S = 30.0


class DebianDocker:
    """A context manager: an engine that answers inside. `environment` makes docker's client find it. Needs
    root. Raises `AnyarchError` when it is missing or does not start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Paths of sockets are short (108 bytes), those of tests' directories are not.
        self.socket = f"/tmp/anyarch-docker-{os.getpid()}.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """DOCKER_HOST, and a configuration directory of its own."""
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.directory / "config")}

    def run(self, *words: str) -> str:
        """`docker WORDS`: its standard output. Raises `CalledProcessError`."""
        env = {**os.environ, **self.environment}
        return subprocess.run(["docker", *words], env=env, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> DebianDocker:
        program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/bin")
        if program is None:
            raise AnyarchError("dockerd is not installed", hint="apt-get install docker.io")
        self.directory.mkdir(parents=True, exist_ok=True)
        runtime = write_runtime(self.directory / "runtime")
        config = {"runtimes": {"bounded": {"path": str(runtime)}}, "default-runtime": "bounded"}
        (self.directory / "daemon.json").write_text(json.dumps(config))
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    *("--config-file", str(self.directory / "daemon.json")),
                    *("--data-root", str(self.directory / "data")),
                    *("--exec-root", f"{self.socket}.d"),
                    *("--pidfile", str(self.directory / "pid")),
                    *("--host", f"unix://{self.socket}"),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return self
            time.sleep(0.05)
        self.stop()
        said = (self.directory / "log").read_text(errors="replace").strip()[-400:]
        raise AnyarchError("dockerd did not start", hint=f"its last words: {said}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(self.socket)
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it, and the containerd that it started; nothing happens when it is stopped already."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(f"{self.socket}.d", ignore_errors=True)
        if os.path.exists(self.socket):
            os.unlink(self.socket)
