"""The daemon against BuildKit's: start-up, an empty call, receiving contexts, many clients, a cached build.

python bench/daemon.py [NAME...]        prints a JSON object

Contexts are sent by `buildctl` where it is on PATH, so that both daemons have the same client, else by
anyarch.
BuildKit's daemon is `buildkitd` on PATH, or what ANYARCH_BENCH_BUILDKITD names; without it there is no peer.
Memory is that of the daemon and all its children, resident sizes added up: shared pages count each time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.testing.debian_images import busybox_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CLIENTS = 50
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _PING, _WINDOW = 1, 4, 6, 8


class Daemon:
    """A daemon in a process of its own, with a store of its own, which stays (see `peers.Anyarch`)."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        self.address = directory / "d.sock"
        self.root = directory / "root"
        self.started_s = 0.0
        self._argv = [*argv, "--addr", f"unix://{self.address}", "--root", str(self.root)]
        self._log = directory / "log"

    def __enter__(self) -> Daemon:
        self.root.mkdir(parents=True)
        began = time.perf_counter()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log, env=environment)
        while True:
            with suppress(OSError):
                self.connect().close()
                break
            if self.process.poll() is not None or time.perf_counter() - began > 30:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.002)
        self.started_s = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.address))
        return connection

    def memory(self) -> int:
        """Bytes of resident memory of the daemon and of all below it, steps included."""
        children: dict[int, list[int]] = {}
        sizes: dict[int, int] = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with suppress(OSError, KeyError):  # ended meanwhile
                text = Path(entry.path, "status").read_text()
                facts = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
                number = int(entry.name)
                children.setdefault(int(facts["PPid"]), []).append(number)
                sizes[number] = int(facts["VmRSS"].split()[0]) << 10
        total, left = 0, [self.process.pid]
        while left:
            number = left.pop()
            total += sizes.get(number, 0)
            left += children.get(number, [])
        return total


def ours(directory: Path, *options: str) -> Daemon:
    return Daemon([str(BIN / "anyarchd"), *options], directory / "ours")


def theirs(directory: Path, *options: str) -> Daemon | None:
    program = os.environ.get("ANYARCH_BENCH_BUILDKITD") or shutil.which("buildkitd")
    # A link of that name to anyarchd is no peer.
    if not program or os.path.realpath(program) == os.path.realpath(BIN / "buildkitd"):
        return None
    flags = ["--oci-worker-snapshotter=overlayfs", "--oci-worker-net=host"]
    return Daemon([program, *flags, *options], directory / "theirs")


def daemons(directory: Path) -> list[Daemon]:
    peer = theirs(directory)
    return [ours(directory), *([peer] if peer is not None else [])]


# --- start-up and an empty call ---


def start_up(directory: Path) -> dict[str, list[float]]:
    """Seconds from the start of the process until its socket accepts."""
    times: list[list[float]] = []
    for turn in range(9):
        for position, daemon in enumerate(daemons(directory / f"start{turn}")):
            with daemon:
                if len(times) <= position:
                    times.append([])
                if turn:  # the first writes bytecode
                    times[position].append(daemon.started_s)
    return {"start_s": [statistics.median(side) for side in times]}


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


class Caller:
    """The least client there can be: what is measured is the daemon."""

    def __init__(self, connection: socket.socket) -> None:
        import hpack

        self._socket = connection
        self._encoder = hpack.Encoder()
        self._stream = -1
        self._in = b""
        window = _frame(_WINDOW, 0, 0, (1 << 30).to_bytes(4, "big"))
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + window)

    def call(self, method: str) -> None:
        """One call with an empty message, until its trailers."""
        self._stream += 2
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        block = self._encoder.encode(head)
        self._socket.sendall(
            _frame(_HEADERS, 4, self._stream, block) + _frame(0, 1, self._stream, b"\0\0\0\0\0")
        )
        while True:
            while len(self._in) < 9:
                self._read()
            size, kind, flags = int.from_bytes(self._in[:3], "big"), self._in[3], self._in[4]
            stream = int.from_bytes(self._in[5:9], "big")
            while len(self._in) < 9 + size:
                self._read()
            body, self._in = self._in[9 : 9 + size], self._in[9 + size :]
            if kind in (_SETTINGS, _PING) and not flags & 1:
                self._socket.sendall(_frame(kind, 1, 0, b"" if kind == _SETTINGS else body))
            if stream == self._stream and kind == _HEADERS and flags & 1:
                return

    def _read(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise RuntimeError("the daemon ended the connection")
        self._in += data


def empty_call(directory: Path) -> dict[str, list[float]]:
    """The median of `Control.Info`, daemon and client on one processor."""
    cpu = min(os.sched_getaffinity(0))
    medians = []
    for daemon in daemons(directory / "call"):
        with daemon, daemon.connect() as connection:
            for task in os.listdir(f"/proc/{daemon.process.pid}/task"):
                os.sched_setaffinity(int(task), {cpu})
            everywhere = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {cpu})
            try:
                caller, times = Caller(connection), []
                for _ in range(3000):
                    began = time.perf_counter()
                    caller.call("/moby.buildkit.v1.Control/Info")
                    times.append(time.perf_counter() - began)
            finally:
                os.sched_setaffinity(0, everywhere)
            medians.append(statistics.median(times[500:]))
    return {"call_s": medians}


# --- contexts ---


def _make_context(directory: Path, *, files: int, size: int) -> Path:
    directory.mkdir(parents=True)
    data = os.urandom(1 << 20)
    for number in range(files):
        folder = directory / f"d{number % 200}"
        folder.mkdir(exist_ok=True)
        with (folder / f"f{number}").open("wb") as file:
            left, start = size, number * 97 % (1 << 19)
            while left > 0:
                left -= file.write(data[start : start + min(left, 1 << 19)])
    dockerfile = directory.parent / f"{directory.name}.recipe"
    dockerfile.mkdir()
    (dockerfile / "Dockerfile").write_text(
        "FROM scratch AS c\nCOPY . /\nFROM scratch\nCOPY --from=c /none* /\n"
    )
    return directory


def _send(daemon: Daemon, context: Path, home: Path) -> tuple[float, float]:
    """Seconds that a build transferred its context for, and that it took as a whole, with its COPY; the
    latter twice where there is no `buildctl`."""
    recipe = context.parent / f"{context.name}.recipe"
    client = shutil.which("buildctl")
    if client:
        argv = [client, "--addr", f"unix://{daemon.address}", "build", "--frontend", "dockerfile.v0"]
        argv += ["--local", f"context={context}", "--local", f"dockerfile={recipe}", "--progress=rawjson"]
    else:
        argv = [str(BIN / "anyarch"), "build", "-q", "--builder", "bench"]
        argv += ["-o", "type=cacheonly", "-f", str(recipe / "Dockerfile"), str(context)]
    home.mkdir(exist_ok=True)
    with _builder(daemon, home) as environment:
        began = time.perf_counter()
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return _transfer_time(done.stderr) if client else taken, taken


def _transfer_time(progress: str) -> float:
    """The longest transfer in the events of a build."""
    longest = 0.0
    for line in progress.splitlines():
        for status in json.loads(line).get("statuses") or ():
            if status["id"] == "transferring context:" and status.get("completed"):
                ends = (datetime.fromisoformat(status[end]) for end in ("started", "completed"))
                started, completed = ends
                longest = max(longest, (completed - started).total_seconds())
    if not longest:
        raise RuntimeError(f"no context was transferred: {progress[-2000:]}")
    return longest


def _receive(directory: Path, name: str, *, files: int, size: int, rounds: int = 3) -> dict[str, list[float]]:
    context = _make_context(directory / name / "context", files=files, size=size)
    times: list[list[tuple[float, float]]] = []
    for turn in range(rounds):
        for position, daemon in enumerate(daemons(directory / name / str(turn))):
            with daemon:
                if len(times) <= position:
                    times.append([])
                times[position].append(_send(daemon, context, directory / "sender"))
            if files == 1:  # few inodes, many bytes
                shutil.rmtree(daemon.root)
            os.sync()
    return {
        f"{name}_s": [min(transfer for transfer, _ in side) for side in times],
        f"{name}_whole_s": [min(whole for _, whole in side) for side in times],
    }


def many_files(directory: Path) -> dict[str, list[float]]:
    return _receive(directory, "many_files", files=20_000, size=3200)


def one_file(directory: Path) -> dict[str, list[float]]:
    return _receive(directory, "one_file", files=1, size=1 << 30)


# --- clients ---


@contextmanager
def _builder(daemon: Daemon, home: Path) -> Iterator[dict[str, str]]:
    """The environment in which `anyarch` builds there."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BUILDX", "DOCKER", "ANYARCH"))
    }
    environment |= {"HOME": str(home), "ANYARCH_ROOT": str(home / "root")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    argv = [
        str(BIN / "anyarch"),
        "create",
        "--name",
        "bench",
        "--driver",
        "remote",
        f"unix://{daemon.address}",
    ]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    yield environment
    argv = [str(BIN / "anyarch"), "rm", "-f", "bench"]
    subprocess.run(argv, env=environment, check=True, capture_output=True)


def clients(directory: Path) -> dict[str, list[float]]:
    """50 clients at a time, each with a context and a step of its own; the most memory that was seen. And one
    client whose build is all cached."""
    home = directory / "clients"
    base = home / "base"
    home.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "ANYARCH_ROOT": str(home / "root")}
    argv = [str(BIN / "anyarch"), "build", "-q", "-o", f"type=oci,tar=false,dest={base}"]
    argv += ["--file", str(ROOT / "examples/bases/busybox/Dockerfile"), str(busybox_context(ROOT / ".cache"))]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    recipe = "FROM busybox\nCOPY . /c\nRUN sleep 2; cat /c/number > /out\n"
    for number in range(CLIENTS):
        (home / str(number)).mkdir()
        (home / str(number) / "Dockerfile").write_text(recipe)
        (home / str(number) / "number").write_text(str(number))

    def command(number: int) -> list[str]:
        words = ["build", "-q", "--builder", "bench", "-o", "type=cacheonly"]
        context = f"busybox=oci-layout://{base}"
        return [str(BIN / "anyarch"), *words, "--build-context", context, str(home / str(number))]

    with ours(home) as daemon, _builder(daemon, home) as environment:
        subprocess.run(command(0), env=environment, check=True, capture_output=True)
        began, most = time.perf_counter(), 0
        running = [
            subprocess.Popen(
                command(number), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for number in range(1, CLIENTS)
        ]
        while any(process.poll() is None for process in running):
            most = max(most, daemon.memory())
            time.sleep(0.1)
        taken = time.perf_counter() - began
        failed = [
            process.stderr.read().decode() for process in running if process.stderr and process.returncode
        ]
        if failed:
            raise RuntimeError(f"{len(failed)} of {CLIENTS} builds failed: {failed[0]}")
        for process in running:
            if process.stderr:
                process.stderr.close()
        cached = []
        for _ in range(9):
            began = time.perf_counter()
            subprocess.run(command(0), env=environment, check=True, capture_output=True)
            cached.append(time.perf_counter() - began)
    return {"clients_s": [taken], "clients_bytes": [float(most)], "cached_s": [statistics.median(cached)]}


WORKLOADS: dict[str, Callable[[Path], dict[str, list[float]]]] = {
    "start_up": start_up,
    "empty_call": empty_call,
    "many_files": many_files,
    "one_file": one_file,
    "clients": clients,
}


def measure(directory: Path, names: list[str] | None = None) -> dict[str, list[float]]:
    """Ours, and the peer's where there is one."""
    found: dict[str, list[float]] = {}
    for name in names or WORKLOADS:
        found |= WORKLOADS[name](directory)
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="anyarch-bench-") as directory:
        print(json.dumps(measure(Path(directory), sys.argv[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
