"""One accelerated step: what it is run with, what is told of it, and that nothing native comes out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import BuildError
from anyarch.solver.events import WarningEvent
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anyarch.sandbox.plan import ExecRequest
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["DISPATCHER", "LOG", "Reporter", "Step", "StepReport", "TwinSet"]

_MOST_LOG = 64 << 20
DISPATCHER, LOG = "dispatcher", "log"
"""What a set of twins has beside them."""


class TwinSet(msgspec.Struct, frozen=True):
    """A set of twins in the store: its layer, the twins in the dispatcher's order (path and digest of the
    native program), and by package or path why some have none. `awaited` as `Chosen.awaited`."""

    layer: str
    twins: tuple[tuple[str, str], ...] = ()
    emulated: tuple[tuple[str, str], ...] = ()
    awaited: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Reporter(Protocol):
    """What a step tells of itself to."""

    worker: Worker
    reports: dict[str, StepReport]

    def say(self, vertex: str, text: str) -> None:
        """A line in the step's log."""


class StepReport(msgspec.Struct, frozen=True):
    """What became of one step: the layer with its twins, how many programs ran natively, and how many of
    those that have a twin did not, by path and reason."""

    twins: str
    native: int
    emulated: dict[str, dict[str, int]]


_GONE, _FAILED = 5, 8
_WORTH = 10
"""From so many runs on of the programs beside it a twin that takes long to make is worth it."""
_REASONS = {
    2: "the file is not the package's any more, or another version",
    3: "a variable such as LD_PRELOAD, LD_LIBRARY_PATH or a locale was set",
    4: "an argument asks for what only the emulated one knows",
    5: "it ran in another root directory",
    6: "its standard input was closed",
    7: "it was a copy in another place",
    8: "the native one failed: it needs a library of the image's architecture, or its input has an error",
    9: "plug-ins that only the emulated one can load are in /usr/lib/bfd-plugins",
    10: "of a pipe, or of optimized code with debug information, machines of 64 bits make other bytes",
}


class Step:
    """The twins of one step. First `request`, after the step `finish`."""

    def __init__(
        self, acceleration: Reporter, vertex: str, directory: str, found: TwinSet, registration: object
    ) -> None:
        self._acceleration = acceleration
        self._vertex = vertex
        self._directory = directory
        self._set = found
        self._registration = registration
        self._log: Path | None = None

    def request(self, request: ExecRequest, work: Path) -> ExecRequest:
        """The same step, with its twins. `work` is a directory that lives as long as the step."""
        from anyarch.sandbox.plan import Hidden, Registration

        assert isinstance(self._registration, Registration)
        self._log = work / "accelerate.log"
        self._log.touch()
        self._log.chmod(0o666)  # for every user that the step has
        entry = msgspec.structs.replace(self._registration, interpreter=f"{self._directory}/{DISPATCHER}")
        return msgspec.structs.replace(
            request, emulators=(entry,), hidden=Hidden(self._directory, str(self._log))
        )

    def finish(self) -> None:
        """Tell what ran natively, and what did not and why."""
        from anyarch.emulation.accelerate.dispatcher import RAN, read_log

        assert self._log is not None
        with open(self._log, "rb") as file:
            counts = read_log(file.read(_MOST_LOG), len(self._set.twins))
        native = sum(verdicts.get(RAN, 0) for verdicts in counts.values())
        self._want(counts)
        emulated: dict[str, dict[str, int]] = {}
        for number, verdicts in sorted(counts.items()):
            # these were counted before it was known
            native -= verdicts.get(_GONE, 0) + verdicts.get(_FAILED, 0)
            for verdict, times in verdicts.items():
                if verdict != RAN:  # a program can have several twins
                    reasons = emulated.setdefault(self._set.twins[number][0], {})
                    reasons[_REASONS[verdict]] = reasons.get(_REASONS[verdict], 0) + times
        self._acceleration.reports[self._vertex] = StepReport(self._set.layer, native, emulated)
        programs = len({path for path, _ in self._set.twins})
        self._acceleration.say(
            self._vertex, f"runs of native programs: {native}; programs with a native twin: {programs}"
        )
        for path, reasons in emulated.items():
            why = ", ".join(f"{times} times because {reason}" for reason, times in sorted(reasons.items()))
            self._acceleration.say(self._vertex, f"{path} was emulated {why}")

    def _want(self, counts: Mapping[int, Mapping[int, int]]) -> None:
        """Remember which further twins would have been of use."""
        from anyarch.emulation.accelerate.dispatcher import RAN
        from anyarch.worker.workshop import want

        for name, paths in self._set.awaited:
            runs = sum(
                verdicts.get(RAN, 0)
                for number, verdicts in counts.items()
                if self._set.twins[number][0] in paths
            )
            if runs >= _WORTH:
                want(self._acceleration.worker, name)

    def say(self, text: str) -> None:
        """A line in the step's log."""
        self._acceleration.say(self._vertex, text)

    def compare(self, plain: Sequence[Result], fast: Sequence[Result]) -> None:
        """Tell every difference between the step's outputs without and with twins."""
        from anyarch.worker.verify import differences

        worker = self._acceleration.worker
        found = differences(worker, plain, fast)
        for one in found:
            self.say(f"DIFFERENT: /{one.path}: {one.what} ({one.cause})")
        if found:
            text = f"{len(found)} paths differ between the emulated and the accelerated step: see its log"
            worker.emit(WarningEvent(self._vertex, text))
        else:
            self.say("verified: the files are the same with and without native twins")

    def check(self, outputs: Iterable[Result]) -> None:
        """Nothing native may have come into the step's results. Raises `BuildError` when a twin has."""
        for output in outputs:
            if isinstance(output, SnapshotResult) and output.layers:
                self._check(output.layers[-1])

    def _check(self, layer: str) -> None:
        paths = _host_files(self._acceleration.worker, layer)
        if not paths:
            return
        worker = self._acceleration.worker
        own = {digest for _, digest in self._set.twins}
        index = worker.layers.index(worker.layer(layer))
        entries = [entry for path in paths if (entry := index.get(path)) is not None]
        digests = worker.layers.file_digests(worker.layer(layer), entries)
        leaked = sorted(path for path, digest in digests.items() if digest.hex() in own)
        if leaked:
            raise BuildError(
                f"/{leaked[0]} in the result of an accelerated step is a native twin",
                hint="a step copied files from /../dev/mqueue; build it with --accelerate=off",
            )
        shown = ", ".join(f"/{path}" for path in paths[:5])
        self._acceleration.say(
            self._vertex, f"{len(paths)} files of the result are for {worker.platform}: {shown}"
        )


def _host_files(worker: Worker, layer: str) -> list[str]:
    """Programs and libraries of this machine's architecture among the files of a layer."""
    from anyarch.elf.header import machine_name

    host = worker.platform.architecture
    index = worker.layers.index(worker.layer(layer))
    found = []
    for entry in index.below(""):
        if entry.kind is Kind.FILE and entry.size > 64:
            with worker.layers.open_file(worker.layer(layer), entry) as file:
                if machine_name(file.read(64)) == host:
                    found.append(entry.path)
    return found
