"""A container that a client drives: a root file system of results, and processes started in it one by one.

The first process makes it; those that come while that one runs join its namespaces and end with it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from anyarch.errors import BuildError, Canceled, NotSupported
from anyarch.llb.ops import ExecOp, MountType, NetMode, SecurityMode
from anyarch.snapshot.live import LiveTree
from anyarch.worker.ops.exec import DEFAULT_PATH, ExecOperation
from anyarch.worker.ops.mountplan import ROOT, MountPlan
from anyarch.worker.passwd import UserDatabase
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.llb.ops import Meta, Mount, SecretEnv
    from anyarch.sandbox.executor import StepHandle
    from anyarch.sandbox.net.pool import Lease
    from anyarch.sandbox.plan import CancelToken, ExecRequest
    from anyarch.spec.platform import Platform
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["Container"]

T = TypeVar("T")

_PATHS = {"windows": "PATH=c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0"}


class Container:
    """On the loop of its build. `inputs` are what the mounts' `input` numbers mean."""

    def __init__(
        self,
        worker: Worker,
        mounts: Sequence[Mount],
        inputs: Sequence[Result],
        *,
        platform: Platform | None = None,
        network: NetMode = NetMode.UNSET,
        hostname: str = "",
        extra_hosts: Sequence[tuple[str, str]] = (),
    ) -> None:
        if not any(mount.dest == "/" for mount in mounts):
            raise BuildError("invalid container with no rootfs")
        self._worker = worker
        self._mounts = tuple(mounts)
        self._inputs = list(inputs)
        self._platform = platform
        self._network = network
        self._hostname = hostname
        self._extra_hosts = tuple(extra_hosts)
        self._stack = ExitStack()
        self._plan: MountPlan | None = None
        self._first: StepHandle | None = None
        self._request: ExecRequest | None = None
        self._lease: Lease | None = None
        self._cancels: set[CancelToken] = set()
        self._running: set[asyncio.Future[int]] = set()
        self._lock = asyncio.Lock()
        self._released = False
        self.failure: Exception | None = None
        """How the first of its processes failed."""

    @property
    def has_first(self) -> bool:
        """Whether it was made: what is run from now on joins the first process."""
        return self._first is not None

    async def run(
        self,
        meta: Meta,
        *,
        stdio: tuple[int, int, int],
        handle: StepHandle,
        security: SecurityMode = SecurityMode.SANDBOX,
        secret_env: Sequence[SecretEnv] = (),
        tty: bool = False,
        on_start: Callable[[], None] = lambda: None,
    ) -> int:
        """Run a process to its end and return its status. Cancelled: it is killed. `on_start` is called when
        it has been set up. Raises `SandboxError`, `BuildError`."""
        from anyarch.llb.ops import HostIP

        async with self._lock:
            if self._released:
                raise BuildError("the container was released")
            join = self._first
            if meta.hostname == "" and self._hostname:
                meta = msgspec.structs.replace(meta, hostname=self._hostname)
            if self._extra_hosts:
                hosts = tuple(HostIP(host=name, ip=address) for name, address in self._extra_hosts)
                meta = msgspec.structs.replace(meta, extra_hosts=(*meta.extra_hosts, *hosts))
            platform = self._platform
            if platform is not None and platform.os != self._worker.platform.os:
                # No step runs for another system; a container does, here, with the paths usual there.
                if not any(item.startswith("PATH=") for item in meta.env):
                    meta = msgspec.structs.replace(
                        meta, env=(*meta.env, _PATHS.get(platform.os, DEFAULT_PATH))
                    )
                platform = None
            op = ExecOp(meta, self._mounts, self._network, security, tuple(secret_env))
            operation = ExecOperation(self._worker, op, platform, len(self._inputs), "")
            if join is None:
                for result in self._inputs:
                    if isinstance(result, SnapshotResult):
                        await self._worker.ensure_local(result)
                plan = MountPlan(self._worker, self._stack)
                self._request = await asyncio.to_thread(operation.prepare, self._inputs, plan)
                request, self._lease = self._request, operation.lease
                self._plan = plan
                self._first = handle
            else:
                assert self._request is not None
                request = self._joined(self._request, meta)
            if self._lease is not None and security is SecurityMode.INSECURE:
                self._lease.is_altered = True
            on_listener = operation.proxy.start if operation.proxy is not None else None
            request = msgspec.structs.replace(request, tty=tty, insecure=security is SecurityMode.INSECURE)
        cancel = self._worker.new_cancel()
        self._cancels.add(cancel)
        executor = self._worker.machine.executor()
        future = _in_own_thread(
            lambda: executor.run(
                request,
                on_output=lambda stream, data: None,
                cancel=cancel,
                stdio=stdio,
                handle=handle,
                join=join,
                on_listener=on_listener,
            ),
        )
        future.add_done_callback(self._ended)  # seen, whoever is left
        self._running.add(future)
        started = _in_own_thread(handle.started.wait)
        try:
            waited: set[asyncio.Future[Any]] = {started, future}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            on_start()
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancel.cancel()
            await asyncio.wait([future])
            raise
        finally:
            handle.started.set()
            await asyncio.wait([started])
            self._running.discard(future)
            self._cancels.discard(cancel)

    def _ended(self, process: asyncio.Future[int]) -> None:
        failure: BaseException | None = Canceled("context canceled")
        if not process.cancelled():
            failure = process.exception()
            if failure is None and process.result():
                failure = BuildError(f"exit code: {process.result()}")
        if self.failure is None and isinstance(failure, Exception):
            self.failure = failure

    def _joined(self, request: ExecRequest, meta: Meta) -> ExecRequest:
        root = next(mount for mount in self._mounts if mount.dest == "/")
        base = self._inputs[root.input] if root.input >= 0 else None
        if isinstance(base, LocalResult):
            base = self._worker.materialize(base)
        identity = UserDatabase(self._worker.view_or_none(base)).identity(meta.user)
        env = list(meta.env)
        names = {item.partition("=")[0] for item in env}
        kept = [item for item in request.env if item.partition("=")[0] in ("PATH", "HOME")]
        env += [item for item in kept if item.partition("=")[0] not in names]
        if request.network == "proxy":
            from anyarch.worker.proxied import proxy_env

            env += proxy_env()
        return msgspec.structs.replace(
            request,
            argv=meta.args,
            env=tuple(env),
            cwd=meta.cwd or "/",
            uid=identity.uid,
            gid=identity.gid,
            groups=identity.groups,
        )

    async def files(self, position: int) -> LiveTree:
        """What a mount shows now, by its position in what the container was made of; before the first process
        what it begins with. A cache is its directory. Raises `BuildError`, `NotSupported`."""
        async with self._lock:
            if self._released:
                raise BuildError("the container was released")
            if not 0 <= position < len(self._mounts):
                raise BuildError(f"mount index {position} is out of bounds ({len(self._mounts)} available)")
            mount = self._mounts[position]
            if mount.mount_type is MountType.BIND:
                base = self._inputs[mount.input] if mount.input >= 0 else None
                if isinstance(base, LocalResult):
                    base = await asyncio.to_thread(self._worker.materialize, base)
                if base is not None:
                    await self._worker.ensure_local(base)
                upper = None
                if self._plan is not None:
                    upper = self._plan.upper(ROOT if mount.dest == "/" else position)
                if upper is not None and not self._worker.machine.is_root:
                    raise NotSupported(
                        "files of a running container are not shown by the daemon of an ordinary user",
                        hint="run a process in it that prints them",
                    )
                opaque = f"{self._worker.machine.executor().overlay}.overlay.opaque"
                return LiveTree(upper, self._worker.view(base), opaque=opaque)
            place = self._plan.cache_places.get(position) if self._plan is not None else None
            if place is None:
                raise BuildError(f"mountable {position} not found")
            return LiveTree(Path(place), self._worker.view(None))

    async def release(self) -> None:
        """End its processes and drop its files. May be called again."""
        self._released = True
        for cancel in list(self._cancels):
            cancel.cancel()
        if self._running:
            await asyncio.wait(list(self._running))
        await asyncio.to_thread(self._stack.close)


def _in_own_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Not in a pool: processes last as long as they like, and those that wait for one another must all
    run."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as failure:
            error = failure
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=run, name="container process").start()
    return future


def bind(dest: str, position: int, *, readonly: bool = False) -> Mount:
    """A mount of the input at `position`, without output."""
    from anyarch.llb.ops import Mount

    return Mount(input=position, dest=dest, output=-1, readonly=readonly, mount_type=MountType.BIND)
