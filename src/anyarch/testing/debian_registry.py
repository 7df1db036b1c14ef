"""Debian's docker-registry (distribution 2.8) as a real counterpart on a loopback port.

with DebianRegistry(tmp_path) as registry:
    ...  f"{registry.address}/library/tiny:latest"
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DebianRegistry"]

_PROGRAM = "docker-registry"
_READY_S = 20.0
_STOP_S = 10.0

_CONFIG = """\
version: 0.1
log:
  level: {level}
  accesslog:
    disabled: {no_access_log}
storage:
  filesystem:
    rootdirectory: {directory}/data
    maxthreads: 100
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:{port}
"""
_TLS = """\
  tls:
    certificate: {certificate}
    key: {key}
"""
_AUTH = """\
auth:
  htpasswd:
    realm: test
    path: {path}
"""
_PROXY = """\
proxy:
  remoteurl: {upstream}
"""


class DebianRegistry:
    """A context manager: started and ready inside, stopped at its end. What was pushed stays in `directory`.

    `port` 0 takes a free one. `tls` is a (certificate, key) pair of files, `htpasswd` a file of users with
    bcrypt passwords, as `htpasswd -B` writes it. `upstream` (a URL) makes it a pull-through mirror
    of that registry. With `access_log` the requests are in `directory/registry.log`. Raises `AnyarchError`
    when the program is missing or does not start.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        upstream: str | None = None,
        access_log: bool = False,
        tls: tuple[str, str] | None = None,
        htpasswd: str | None = None,
    ) -> None:
        self.directory = directory
        self._port = port
        self._upstream = upstream
        self._access_log = access_log
        self._tls = tls
        self._htpasswd = htpasswd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.directory / "registry.log").read_text(errors="replace")

    def __enter__(self) -> DebianRegistry:
        program = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path="/usr/bin:/usr/local/bin")
        if program is None:
            raise AnyarchError(
                f"{_PROGRAM} is not installed",
                hint="apt-get install docker-registry (Debian's package of it)",
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        is_fixed = self._port != 0
        for attempt in range(5):
            if not is_fixed:
                self._port = _free_port()
            self._start(program)
            if self._wait_until_ready():
                return self
            self.stop()
            if is_fixed or "address already in use" not in self.log or attempt == 4:
                break
        raise AnyarchError(
            f"{_PROGRAM} did not start on {self.address}", hint=f"its last words: {self.log.strip()[-400:]}"
        )

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, program: str) -> None:
        config = _CONFIG.format(
            level="info" if self._access_log else "error",
            no_access_log=str(not self._access_log).lower(),
            directory=self.directory,
            port=self._port,
        )
        if self._tls:
            config += _TLS.format(certificate=self._tls[0], key=self._tls[1])
        if self._htpasswd:
            config += _AUTH.format(path=self._htpasswd)
        if self._upstream:
            config += _PROXY.format(upstream=self._upstream)
        path = self.directory / "config.yml"
        path.write_text(config)
        # REGISTRY_* variables override the configuration file, OTEL_* make it look for a collector.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_", "OTEL_"))}
        with (self.directory / "registry.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C in a terminal is for the test run, which stops it in order
            )

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1) as plain:
                    plain.settimeout(0.5)
                    with self._wrapped(plain) as connection:
                        connection.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
                        answer = connection.recv(64)
            except OSError:
                answer = b""
            if (
                (b" 200 " in answer or b" 401 " in answer)
                and b"HTTP/1." in answer
                and self._process.poll() is None
            ):
                return True
            time.sleep(0.02)
        return False

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        import ssl

        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # whether it is up is all that is asked
        return context.wrap_socket(connection)

    def stop(self) -> None:
        """Stop it; nothing happens when it is stopped already."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
