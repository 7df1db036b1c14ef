"""One build of a client: its thread, its workbench, its refs and its log.

A job's engine lives on an event loop of its own, on a thread of its own; `Job.run` carries a piece of work
there from the wire. The job begins with `Control.Solve` and ends with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyarch.api.rpc.status import Code, RpcError
from anyarch.attest.request import FrontendRequest
from anyarch.daemon.events import EventLog
from anyarch.daemon.failure import translate
from anyarch.daemon.policy import JobPolicy, rules_of
from anyarch.engine.calls import FrontendCall, result_calls
from anyarch.engine.workbench import Borrowed, InFlight, Workbench
from anyarch.errors import AnyarchError
from anyarch.llb.definition import Definition
from anyarch.sandbox.net.networks import StepNetworks
from anyarch.session.blobs import SessionBlobs, SessionCaches
from anyarch.session.borrowed import Logins, SessionLent, Uploads
from anyarch.session.fetch import SessionFiles, SharedFiles
from anyarch.session.identity import base36_id
from anyarch.session.lender import WireCalls
from anyarch.session.outputs import SessionOutputs
from anyarch.worker.limits import SharedSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from anyarch.api.proto import control_pb2
    from anyarch.daemon.settings import Settings
    from anyarch.engine.container import Container
    from anyarch.engine.gateway import EngineRef
    from anyarch.engine.workbench import SolveResult
    from anyarch.session.lender import Sessions
    from anyarch.worker.result import Result

__all__ = ["Job", "Jobs", "KnownRef"]

T = TypeVar("T")

_WAIT_S = 6.0
"""How long Status waits for a build that has not begun; gateway calls wait `_GATEWAY_WAIT_S`."""
_GATEWAY_WAIT_S = 3.0
_KEPT = 20


class KnownRef:
    """A result that the client knows by an id: looked into by `ref`, told again by `definition`. An empty one
    is scratch."""

    def __init__(self, ref: EngineRef | None, definition: Definition | None) -> None:
        self.ref = ref
        self.definition = definition


class Job:
    """Belongs to the wire's loop; what runs on the job's own goes through `run`."""

    def __init__(
        self,
        request: control_pb2.SolveRequest,
        sessions: Sessions,
        settings: Settings,
        root: Path,
        *,
        in_flight: InFlight | None = None,
        shared_files: SharedFiles | None = None,
        exec_slots: SharedSlots | None = None,
        networks: StepNetworks | None = None,
        trace_parent: str = "",
    ) -> None:
        """`trace_parent`: the client's header of that name."""
        self.request = request
        self.trace_parent = trace_parent
        self._exec_slots = exec_slots
        self._networks = networks
        self._in_flight = in_flight
        self._shared_files = shared_files or SharedFiles()
        self.ref = request.Ref
        self.loop = asyncio.get_running_loop()
        self.log = EventLog(self.loop)
        self.refs: dict[str, KnownRef] = {}
        self.containers: dict[str, Container] = {}
        self.states: dict[str, Result] = {}
        """What failed steps left, by the ids that the client was told."""
        self.returned: asyncio.Future[SolveResult] = self.loop.create_future()
        """What a client's own frontend returned."""
        self.warnings = 0
        self.warned_bytes = 0
        self.grew = False
        """Whether it added to the store; known when it has ended."""
        inputs = {
            name: Definition.unmarshal(item.SerializeToString())
            for name, item in request.FrontendInputs.items()
        }
        self.asked = FrontendRequest(request.Frontend, dict(request.FrontendAttrs), inputs)
        self.call = FrontendCall(None, self.asked)
        """What is asked on the way to the result, from the client's own requests on."""
        self.started = time.time()
        self.provenance: dict[str, bytes] = {}
        """What the record tells of the results, by name."""
        self.results: dict[int, dict[str, object]] = {}
        """The descriptors of the images that were made, by the exporter's position."""
        self.manifests: dict[str, bytes] = {}
        """What those descriptors are of, by digest."""
        self._sessions = sessions
        self._settings = settings
        self._root = root
        self._calls = WireCalls(self.loop)
        self._bench: asyncio.Future[Workbench] = self.loop.create_future()
        self.bench_loop: asyncio.AbstractEventLoop | None = None
        self._bench_stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._rules = rules_of(request.SourcePolicy)
        self.policy: JobPolicy | None = None
        """There with the workbench."""
        self._lent: SessionLent | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # of the bench's loop

    # the thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises `BuildError` for entitlements that the daemon does not grant."""
        names = [self.request.Session] if self.request.Session else []
        self._lent = SessionLent(
            self._sessions,
            self._calls,
            names,
            entitlements=list(self.request.Entitlements),
            allowed=self._settings.entitlements,
        )
        files = SessionFiles(
            self._sessions,
            self._calls,
            names,
            self._root / "transfers",
            self.log.add,
            shared=self._shared_files,
        )
        borrowed = Borrowed(
            files=files,
            lent=self._lent,
            uploads=Uploads(self._sessions, self._calls, names, self._root / "transfers"),
            credentials=Logins(self._sessions, self._calls, names),
            receiver=SessionOutputs(self._sessions, self._calls, self.request.Session),
            caches=SessionCaches(self._sessions, self._calls, self.request.Session),
            layout_blobs=SessionBlobs(self._sessions, self._calls, names),
        )
        self._thread = threading.Thread(target=self._main, args=(borrowed, files), name=f"build {self.ref}")
        self._thread.start()

    def _main(self, borrowed: Borrowed, files: SessionFiles) -> None:
        try:
            asyncio.run(self._hold(borrowed, files))
        except BaseException as error:
            failure: BaseException = error
            if not isinstance(error, AnyarchError):
                failure = (
                    translate(error) if isinstance(error, Exception) else RpcError(Code.INTERNAL, repr(error))
                )
            self._tell(lambda: self._fail(failure))
        finally:
            files.close()
            self._tell(self._ended.set)

    def _fail(self, error: BaseException) -> None:
        if not self._bench.done():
            self._bench.set_exception(error)

    def _ready(self, bench: Workbench) -> None:
        if not self._bench.done():
            self._bench.set_result(bench)

    def _tell(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the daemon's loop may have ended before us
            self.loop.call_soon_threadsafe(what)

    async def _hold(self, borrowed: Borrowed, files: SessionFiles) -> None:
        """The workbench, until it is no longer needed."""
        self.bench_loop = asyncio.get_running_loop()
        self._bench_stop = asyncio.Event()
        async with Workbench.open(
            self._root,
            self.log.add,
            borrowed,
            hosts=self._settings.hosts,
            cdi=self._settings.cdi,
            limits=self._settings.limits,
            in_flight=self._in_flight,
            exec_slots=self._exec_slots,
            networks=self._networks,
            dns=self._settings.dns,
            is_proxied=self._settings.is_proxied or self.request.ProxyNetwork,
        ) as bench:
            files.on_received = bench.store.grew
            bench.worker.keeps_failures = True
            self.call.solver = bench.solver
            self.policy = JobPolicy(
                bench,
                [self._rules],
                self._sessions,
                self.loop,
                self.request.SourcePolicySession,
            )
            bench.policy = None if self.policy.is_empty else self.policy
            self._tell(lambda: self._ready(bench))
            await self._bench_stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for container in self.containers.values():
                await container.release()
            self.grew = bench.store.grown > 0

    async def run(self, work: Callable[[Workbench], Coroutine[Any, Any, T]]) -> T:
        """Do `work` on the job's loop. Cancelled with the caller. Raises what it raises."""
        bench = await asyncio.shield(self._bench)
        assert self.bench_loop is not None

        async def tracked() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                return await work(bench)
            finally:
                self._tasks.discard(task)

        if self._ended.is_set():
            raise RpcError(Code.CANCELLED, "context canceled")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(tracked(), self.bench_loop))

    async def close(self) -> None:
        """End what runs, and wait until nothing of the job is left."""
        self._calls.close()
        if self._thread is not None:
            if not self._bench.done() and self.bench_loop is None:
                await asyncio.wait([self._bench])
            loop, stop = self.bench_loop, self._bench_stop
            if loop is not None and stop is not None and not self._ended.is_set():
                with suppress(RuntimeError):  # it may have just ended
                    loop.call_soon_threadsafe(stop.set)
            await self._ended.wait()
            self._thread.join()
        if self._bench.done() and not self._bench.cancelled():
            self._bench.exception()
        self.returned.cancel()
        if self._lent is not None:
            await self._lent.close()
        self.log.close()

    def keep_state(self, result: object) -> str:
        """An id by which the client can mount what a failed step left; "" for an empty tree."""
        if result is None:
            return ""
        identity = base36_id()
        self.states[identity] = cast("Result", result)
        return identity

    # refs ------------------------------------------------------------------------------------------

    def know(self, ref: EngineRef | None, definition: Definition | None) -> str:
        """An id for a result."""
        identity = base36_id()
        self.refs[identity] = KnownRef(ref, definition)
        return identity

    def known(self, identity: str) -> KnownRef:
        """Raises `RpcError`."""
        found = self.refs.get(identity)
        if found is None:
            raise RpcError(Code.UNKNOWN, f"no such ref: {identity}")
        return found


class Jobs:
    """All builds by ref: those that run, and the logs of the last that ended."""

    def __init__(self, *, exec_limit: int | None = None, networks: StepNetworks | None = None) -> None:
        """`exec_limit`: how many steps of all builds run at the same time; each build has a limit of its own
        without it. `networks` are those of their steps, the machine's without it."""
        self.networks = networks or StepNetworks("host", "host")
        self.in_flight = InFlight()
        """What they run: equal steps once."""
        self.shared_files = SharedFiles()
        self.exec_slots = SharedSlots(exec_limit) if exec_limit is not None else None
        self._running: dict[str, Job] = {}
        self._ended: dict[str, EventLog] = {}
        self._begun = asyncio.Condition()

    async def add(self, job: Job) -> None:
        """Raises `RpcError` where the ref is taken."""
        if job.ref in self._running:
            raise RpcError(Code.ALREADY_EXISTS, f"job ID {job.ref} exists")
        self._running[job.ref] = job
        async with self._begun:
            self._begun.notify_all()

    def remove(self, job: Job) -> None:
        del self._running[job.ref]
        self._ended[job.ref] = job.log
        while len(self._ended) > _KEPT:
            del self._ended[next(iter(self._ended))]

    def producers(self, definition: Definition) -> list[FrontendCall]:
        """The calls of all builds that run whose result is the same as that of a graph."""
        calls = [call for job in self.running for call in job.call.all_calls()]
        return result_calls(calls, definition)

    @property
    def running(self) -> list[Job]:
        return list(self._running.values())

    def knows(self, ref: str) -> bool:
        """Whether the build runs, or has ended a short while ago."""
        return ref in self._running or ref in self._ended

    async def get(self, ref: str) -> Job:
        """A build that runs. Raises `RpcError` when it does not come."""
        try:
            async with asyncio.timeout(_GATEWAY_WAIT_S), self._begun:
                await self._begun.wait_for(lambda: ref in self._running)
                return self._running[ref]
        except TimeoutError:
            raise RpcError(Code.NOT_FOUND, f"no such job {ref}") from None

    async def log(self, ref: str) -> EventLog:
        """The log of a build that runs or has ended. Raises `RpcError`."""
        if ref in self._ended and ref not in self._running:
            return self._ended[ref]
        try:
            async with asyncio.timeout(_WAIT_S), self._begun:
                await self._begun.wait_for(lambda: ref in self._running or ref in self._ended)
        except TimeoutError:
            raise RpcError(Code.NOT_FOUND, f"no such job {ref}") from None
        job = self._running.get(ref)
        return job.log if job is not None else self._ended[ref]
