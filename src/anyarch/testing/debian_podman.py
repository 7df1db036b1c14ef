"""Debian's podman with storage of its own, and its API, which is docker's, on a socket of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from anyarch.errors import AnyarchError
from anyarch.testing.bounded_runtime import write_runtime

__all__ = ["DebianPodman"]

_READY_S = 60.0


class DebianPodman:
    """A context manager: the API answers inside. `environment` makes podman's program find the storage. Needs
    root. Raises `AnyarchError` where it is missing or does not start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Paths of sockets are short (108 bytes), those of tests' directories are not.
        self.socket = f"/tmp/anyarch-podman-{os.getpid()}.sock"
        self.endpoint = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
        }

    def run(self, *words: str) -> str:
        """`podman WORDS`: its standard output. Raises `CalledProcessError`."""
        env = {**os.environ, **self.environment}
        return subprocess.run(["podman", *words], env=env, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> DebianPodman:
        self.directory.mkdir(parents=True, exist_ok=True)
        place = self.directory
        (place / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
        )
        (place / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "bounded"\nevents_logger = "file"\n'
            f'volume_path = "{place}/volumes"\nstatic_dir = "{place}/static"\ntmp_dir = "{place}/tmp"\n'
            f'[engine.runtimes]\nbounded = ["{write_runtime(place / "runtime")}"]\n'
        )
        try:
            with (place / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    ["podman", "system", "service", "--time=0", self.endpoint],
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except FileNotFoundError:
            raise AnyarchError("podman is not installed", hint="apt-get install podman") from None
        deadline = time.monotonic() + _READY_S
        while not Path(self.socket).exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AnyarchError(f"podman did not start: {(place / 'log').read_text()[-400:]}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the API and what still runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.wait()
        Path(self.socket).unlink(missing_ok=True)
        words = ["podman", "rm", "--all", "--force", "--time", "0"]
        subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, check=False)
