"""Debian's OpenSSH server on a port of its own, with keys of its own: reached by an `ssh` that knows both.

OpenSSH takes its configuration from the home that the password file has, whatever `$HOME` says; so the
directory `programs` holds an `ssh` that names a configuration, for the beginning of `$PATH`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

from anyarch.errors import AnyarchError

__all__ = ["SshServer"]

_READY_S = 30.0
_SEPARATION = Path("/run/sshd")


class SshServer:
    """A context manager: the server answers at `endpoint` (`ssh://USER@127.0.0.1:PORT`). `path` is where the
    commands of its users are looked for. Needs root."""

    def __init__(self, directory: Path, *, path: str) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.endpoint = f"ssh://{self.user}@127.0.0.1:{self.port}"
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._made_separation = False

    def __enter__(self) -> SshServer:
        server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/bin")
        client = shutil.which("ssh")
        if server is None or client is None:
            raise AnyarchError(
                "OpenSSH is not installed", hint="apt-get install openssh-server openssh-client"
            )
        place = self.directory
        self.programs.mkdir(parents=True)
        for name in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(place / "user.pub", place / "authorized_keys")
        host = (place / "host.pub").read_text()
        (place / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host}")
        (place / "server.conf").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {place}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nSetEnv PATH={self._path}\n"
        )
        (place / "client.conf").write_text(
            f"IdentityFile {place}/user\nIdentitiesOnly yes\nUserKnownHostsFile {place}/known_hosts\n"
            "StrictHostKeyChecking yes\nBatchMode yes\n"
        )
        program = self.programs / "ssh"
        program.write_text(f'#!/bin/sh\nexec {client} -F {place}/client.conf "$@"\n')
        program.chmod(0o755)
        if not _SEPARATION.exists():
            _SEPARATION.mkdir(mode=0o755)
            self._made_separation = True
        words = [server, "-D", "-e", "-f", str(place / "server.conf")]
        with (place / "log").open("wb") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AnyarchError(f"sshd did not start: {(place / 'log').read_text()[-400:]}")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()
        if self._made_separation:
            _SEPARATION.rmdir()
            self._made_separation = False
