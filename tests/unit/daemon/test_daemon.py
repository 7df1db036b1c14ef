"""The daemon as a process: listening, answering, stopping."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import pytest

from anyarch.api.proto import control_pb2, health_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "import sys; from anyarch.daemon.main import main; sys.exit(main())"]


@contextmanager
def daemon(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The daemon, from when it accepts connections."""
    address = path / "d.sock"
    command = [*PROGRAM, "--root", str(path / "root"), "--addr", f"unix://{address}", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(200):
                if process.poll() is not None:
                    break
                with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(address))
                    break
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


def ask(channel: grpc.Channel, method: str, request: object, reply: type) -> object:
    call = channel.unary_unary(
        method,
        request_serializer=type(request).SerializeToString,  # type: ignore[attr-defined]
        response_deserializer=reply.FromString,  # type: ignore[attr-defined]
    )
    return call(request, timeout=20)


def test_it_tells_its_version_its_worker_and_its_health(tmp_path: Path) -> None:
    with daemon(tmp_path), grpc.insecure_channel(f"unix:{tmp_path / 'd.sock'}") as channel:
        info = ask(
            channel,
            "/moby.buildkit.v1.Control/Info",
            control_pb2.InfoRequest(),
            control_pb2.InfoResponse,
        )
        assert isinstance(info, control_pb2.InfoResponse)
        assert info.buildkitVersion.package == "anyarch"
        assert info.buildkitVersion.version.startswith("v0.32.")
        method = "/moby.buildkit.v1.Control/ListWorkers"
        workers = ask(channel, method, control_pb2.ListWorkersRequest(), control_pb2.ListWorkersResponse)
        again = ask(channel, method, control_pb2.ListWorkersRequest(), control_pb2.ListWorkersResponse)
        assert workers == again
        assert isinstance(workers, control_pb2.ListWorkersResponse)
        (worker,) = workers.record
        assert len(worker.ID) == 25
        assert worker.platforms[0].OS == "linux"
        health = ask(
            channel,
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(),
            health_pb2.HealthCheckResponse,
        )
        assert health == health_pb2.HealthCheckResponse(status=1)


def test_a_connection_closed_before_any_byte_is_harmless(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(tmp_path / "d.sock"))
        with grpc.insecure_channel(f"unix:{tmp_path / 'd.sock'}") as channel:
            ask(
                channel,
                "/moby.buildkit.v1.Control/Info",
                control_pb2.InfoRequest(),
                control_pb2.InfoResponse,
            )
        assert process.poll() is None


def test_a_signal_ends_it_and_removes_the_socket(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        assert stat.S_IMODE((tmp_path / "d.sock").stat().st_mode) == 0o660
        process.terminate()
        assert process.wait(20) == 0
    assert not (tmp_path / "d.sock").exists()


def test_a_socket_that_was_left_over_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(tmp_path / "d.sock"))
    with daemon(tmp_path):
        with grpc.insecure_channel(f"unix:{tmp_path / 'd.sock'}") as channel:
            grpc.channel_ready_future(channel).result(20)
        second = subprocess.run(
            [*PROGRAM, "--root", str(tmp_path / "other"), "--addr", f"unix://{tmp_path / 'd.sock'}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert second.returncode == 1
        assert "is served by another process" in second.stderr


@pytest.mark.parametrize("flag", ["--nonsense", "--tlscert=/nowhere"])
def test_what_it_cannot_do_is_one_line_and_status_1(flag: str) -> None:
    done = subprocess.run([*PROGRAM, flag], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("anyarchd: ")
    assert "Traceback" not in done.stderr


def test_the_version_is_four_words_as_drivers_read_it() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, timeout=20, check=True)
    words = done.stdout.split()
    assert len(words) == 4
    assert words[2].startswith("v0.32.")


def test_the_devices_of_the_machine_are_listed(tmp_path: Path) -> None:
    specs = tmp_path / "cdi"
    specs.mkdir()
    (specs / "one.json").write_text(
        '{"cdiVersion": "0.6.0", "kind": "vendor.example/thing", "devices":'
        ' [{"name": "a", "containerEdits": {"env": ["X=1"]}}]}'
    )
    with (
        daemon(tmp_path, "--cdi-spec-dir", str(specs)),
        grpc.insecure_channel(f"unix:{tmp_path / 'd.sock'}") as channel,
    ):
        workers = ask(
            channel,
            "/moby.buildkit.v1.Control/ListWorkers",
            control_pb2.ListWorkersRequest(),
            control_pb2.ListWorkersResponse,
        )
        assert isinstance(workers, control_pb2.ListWorkersResponse)
        assert [device.Name for device in workers.record[0].CDIDevices] == ["vendor.example/thing=a"]
