"""Commands that are run in images of several platforms to see whether these work: `test`, and `build --test`.

Each runs in a sandbox of its own on the image's files, emulated where needed; what it writes is gone
afterwards. Its output is that of a step in the progress display.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import AnyarchError, BuildError, ExecFailed
from anyarch.solver.events import LogEvent, VertexEvent
from anyarch.spec.codec import json_decoder
from anyarch.spec.digest import Digest
from anyarch.spec.oci import ImageConfig, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.engine.request import RunRequest
    from anyarch.solver.events import EventSink
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import SnapshotResult
    from anyarch.worker.worker import Worker

__all__ = ["Trial", "command_of", "failure_of", "run_trial"]

_TAIL = 4000


class Trial(msgspec.Struct, frozen=True):
    """What came of a command on one platform. `status` is the exit status, None when it could not be started:
    then `error` says why. `route` is native or emulated."""

    platform: str
    status: int | None
    seconds: float
    route: str = ""
    error: str = ""
    hint: str | None = None
    tail: bytes = b""

    @property
    def is_passed(self) -> bool:
        return self.status == 0


def command_of(text: str, config: bytes) -> tuple[str, ...]:
    """The words of `--test TEXT`: a JSON array as they are, else a line for the image's shell."""
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            return tuple(json_decoder(list[str]).decode(stripped.encode()))
        except (msgspec.DecodeError, msgspec.ValidationError):
            pass  # a shell may begin a line with [ too
    shell = decode(ImageConfig, config).config.shell or ("/bin/sh", "-c")
    return (*shell, text)


async def run_trial(
    worker: Worker,
    request: RunRequest,
    config: bytes,
    platform: Platform,
    snapshot: SnapshotResult,
    emit: EventSink,
) -> Trial:
    """Run `request.command` to its end. Raises `Canceled`, and nothing that the image is to blame for."""
    from anyarch.engine.run import make_plan

    name = f"[{platform} test] {' '.join(request.command)}"
    vertex = Digest.of(f"test {name} {snapshot.layers}".encode())
    started = time.time()
    emit(VertexEvent(vertex, name, started=started))
    tail = bytearray()

    def on_output(stream: int, data: bytes) -> None:
        tail.extend(data)
        del tail[:-_TAIL]
        emit(LogEvent(vertex, stream, data, time.time()))

    status: int | None = None
    route = error = ""
    hint = None
    token = worker.new_cancel()
    try:
        async with worker.exec_slots:
            await worker.ensure_local(snapshot)
            with worker.step_directory() as directory:
                plan = await asyncio.to_thread(
                    make_plan, worker, request, config, platform, snapshot, directory
                )
                route = "emulated" if plan.emulators else "native"
                status = await asyncio.to_thread(
                    worker.machine.executor().run, plan, on_output=on_output, cancel=token
                )
        if status:
            error = f"exit code: {status}"
    except asyncio.CancelledError:
        token.cancel()
        raise
    except AnyarchError as failure:
        error, hint = failure.message, failure.hint
    finally:
        ended = time.time()
        emit(VertexEvent(vertex, name, started=started, completed=ended, error=error))
    return Trial(str(platform), status, ended - started, route, error, hint, bytes(tail))


def failure_of(trial: Trial, command: Sequence[str]) -> AnyarchError:
    """What a build fails with because of a trial."""
    error: AnyarchError
    if trial.status is not None:
        error = ExecFailed(command, trial.status, tail=trial.tail, hint="the test of this platform failed")
    else:
        error = BuildError(f"the test could not be run: {trial.error}", hint=trial.hint)
    error.platform = trial.platform
    return error
