"""Exec operations: run a process above an overlay of the input's layers; what it changed is the new layer.

The key holds what the process can see: its arguments, environment, user, mounts, network and security mode,
and the platform it runs as; an emulated one also the emulator. What it cannot see stays out (proxy settings,
hosts' addresses, limits, the content of cache mounts). A step that has the network through a proxy is another
one than the same step without: what it fetched is known of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, ExecFailed, FailedState, SandboxError, StoreError
from anyarch.llb.ops import ContentCache, MountType, NetMode, SecurityMode
from anyarch.solver.events import LogEvent, WarningEvent
from anyarch.solver.vertex import CacheMap
from anyarch.worker.draft import clean
from anyarch.worker.ops.mountplan import ROOT, MountPlan
from anyarch.worker.passwd import UserDatabase
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anyarch.emulation import Route
    from anyarch.http.intercept.server import StepProxy
    from anyarch.http.intercept.traffic import Traffic
    from anyarch.llb.ops import ExecOp, LinuxResources, Meta, Mount
    from anyarch.sandbox.net.pool import Lease
    from anyarch.sandbox.plan import CancelToken, ExecRequest, Resources
    from anyarch.sandbox.plan import Mount as SandboxMount
    from anyarch.snapshot.tree import TreeView
    from anyarch.solver.vertex import ContentKey
    from anyarch.spec.platform import Platform
    from anyarch.worker.accelerated_step import Step
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["ExecOperation"]

_VERSION = "exec/2"
_TAIL_BYTES = 16 << 10
TRAFFIC = "traffic"
"""Under this the store keeps what went through the proxies of steps, by their canonical keys."""
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES = (
    ("http_proxy", "HTTP_PROXY"),
    ("https_proxy", "HTTPS_PROXY"),
    ("ftp_proxy", "FTP_PROXY"),
    ("no_proxy", "NO_PROXY"),
    ("all_proxy", "ALL_PROXY"),
)


_TREES = frozenset({MountType.BIND, MountType.CACHE})


def _is_safe_by_content(mount: Mount) -> bool:
    """Whether an output can hold nothing of the input but what the mount shows of it."""
    return mount.output < 0 or mount.readonly or not clean(mount.selector)


def _check_options(mount: Mount) -> None:
    match mount.mount_type:
        case MountType.CACHE if mount.cache_opt is None:
            raise BuildError(f"missing cache mount options of {mount.dest}")
        case MountType.SECRET if mount.secret_opt is None:
            raise BuildError(f"invalid secret mount options of {mount.dest}")
        case MountType.SECRET if mount.secret_opt is not None and not mount.secret_opt.id:
            raise BuildError("secret ID missing from mount options")
        case MountType.SSH if mount.ssh_opt is None:
            raise BuildError(f"invalid ssh mount options of {mount.dest}")


def _counts_by_content(mount: Mount) -> bool:
    match mount.content_cache:
        case ContentCache.OFF:
            return False
        case ContentCache.ON:
            return True
    # Of the root it would cost much and gain little.
    return mount.dest != "/" and _is_safe_by_content(mount)


def _mount_key(mount: Mount) -> list[object]:
    """What a process sees of a mount, without its content."""
    size = mount.tmpfs_opt.size if mount.tmpfs_opt is not None else 0
    lent = mount.secret_opt or mount.ssh_opt
    grant = [lent.id, lent.uid, lent.gid, lent.mode, lent.optional] if lent is not None else []
    return [mount.dest, mount.readonly, int(mount.mount_type), mount.output, mount.input, size, grant]


class ExecOperation:
    def __init__(
        self,
        worker: Worker,
        op: ExecOp,
        platform: Platform | None,
        inputs: int,
        digest: str,
        *,
        limits: LinuxResources | None = None,
    ) -> None:
        self._worker = worker
        self._op = op
        self.platform = platform or worker.platform
        self._inputs = inputs
        self._vertex = digest
        self._limits = limits
        self._devices: tuple[str, ...] = ()
        self.lease: Lease | None = None
        """The network that `prepare` took."""
        self.proxy: StepProxy | None = None
        """The proxy of a step that was prepared."""
        self.traffic: Traffic | None = None
        """What went through it, once the step has run."""
        self._check()

    @property
    def meta(self) -> Meta:
        """What is run, with its environment."""
        return self._op.meta

    @property
    def root_input(self) -> int:
        """Which input the step's root file system is; -1 for an empty one."""
        return next(mount.input for mount in self._op.mounts if mount.dest == "/")

    @property
    def is_proxied(self) -> bool:
        """Whether it has the network through a proxy only."""
        return self._worker.network.is_proxied(self._op.network)

    def traffic_of(self, canonical: str) -> Traffic | None:
        """What went through the proxy, also when the result of that key was made by another build; None where
        that is not known."""
        if self.traffic is not None:
            return self.traffic
        raw = self._worker.store.cache.get_value(TRAFFIC, canonical)
        if raw is None:
            return None
        from anyarch.http.intercept.traffic import Traffic

        return Traffic.decode(raw)

    def _check(self) -> None:
        if self._op.cdi_devices:
            self._devices = self._worker.granted_devices(self._op.cdi_devices)
        if self._op.security is SecurityMode.INSECURE:
            self._worker.lent.require("security.insecure")
        if self._op.network is NetMode.HOST:
            self._worker.lent.require("network.host")
        op = self._op
        if not op.meta.args:
            raise BuildError("invalid exec op with no args")
        roots = [mount for mount in op.mounts if mount.dest == "/"]
        if not roots:
            raise BuildError("invalid exec op with no rootfs")
        if roots[0].mount_type is not MountType.BIND:
            raise BuildError(f"invalid mount type {roots[0].mount_type.name} for /")
        for mount in op.mounts:
            if mount.mount_type in _TREES and not -1 <= mount.input < self._inputs:
                raise BuildError(f"missing input {mount.input}")
            _check_options(mount)
            if mount.content_cache is ContentCache.ON and not _is_safe_by_content(mount):
                raise BuildError(
                    f"invalid mount cache content of {mount.dest}",
                    hint="only a mount without output, a read-only one or one of a whole tree can be known "
                    "by its content",
                )
        for item in op.secret_env:
            if not item.id:
                raise BuildError(f'secret ID missing for "{item.name}" environment variable')

    # keys -----------------------------------------------------------------------------------------

    async def cache_map(self) -> CacheMap:
        op, meta, platform = self._op, self._op.meta, self.platform
        content = tuple(self._content_key(n) for n in range(self._inputs))
        mounts: list[object] = []
        selectors: list[str] = []
        if len(op.mounts) > 1 or op.mounts[0].readonly or clean(op.mounts[0].selector):
            mounts = [_mount_key(mount) for mount in op.mounts]
            # What is selected of an input stands for itself where its content does not.
            selectors = [
                clean(m.selector) if m.mount_type in _TREES and m.input >= 0 else "" for m in op.mounts
            ]
        plain = [
            "" if mount.input >= 0 and content[mount.input] is not None else selector
            for mount, selector in zip(op.mounts, selectors, strict=False)
        ]
        identity = await asyncio.to_thread(self._worker.emulator_identity, platform)
        key = [
            _VERSION,
            [
                platform.os,
                platform.architecture,
                platform.variant,
                platform.os_version,
                list(platform.os_features),
            ],
            identity,
            list(meta.args),
            list(meta.env),
            meta.cwd,
            meta.user,
            meta.hostname,
            [host.host for host in meta.extra_hosts],
            [[u.name, u.soft, u.hard] for u in meta.ulimits],
            list(meta.valid_exit_codes),
            meta.cgroup_parent,
            int(op.network),
            int(op.security),
            [[s.name, s.optional] for s in op.secret_env],
            mounts,
            *([list(self._devices)] if self._devices else []),
            *(["proxy"] if self.is_proxied else []),
            plain,
            *await self._worker.acceleration.identity(self._vertex, platform),
        ]
        raw = msgspec.json.encode(_printable(key))
        digest = hashlib.sha256(raw).hexdigest()
        definition = ""
        if selectors != plain:
            texts = "\0".join(selectors).encode("utf-8", "surrogateescape")
            definition = hashlib.sha256(raw + b"\0" + texts).hexdigest()
        return CacheMap(digest, content, definition=definition)

    def _content_key(self, position: int) -> ContentKey | None:
        """By content where nothing else of the input can come out again; see `ContentCache`."""
        users = [m for m in self._op.mounts if m.input == position and m.mount_type in _TREES]
        if not users or not all(_counts_by_content(mount) for mount in users):
            return None

        async def content(result: Result) -> str:
            if isinstance(result, SnapshotResult):
                await self._worker.ensure_local(result)

            def compute() -> str:
                tree = self._worker.view(result)
                whole = hashlib.sha256()
                for mount in users:
                    whole.update(tree.content_digest(clean(mount.selector), follow=True).encode())
                return whole.hexdigest()

            return await asyncio.to_thread(compute)

        return content

    # running --------------------------------------------------------------------------------------

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        for result in inputs:
            if isinstance(result, SnapshotResult):
                await self._worker.ensure_local(result)
        accelerated = None
        if self._op.security is not SecurityMode.INSECURE:
            root_mount = next(m for m in self._op.mounts if m.dest == "/")
            root = await asyncio.to_thread(self._input_of, root_mount, inputs)
            accelerated = await self._worker.acceleration.step(self._vertex, self.platform, root)
        cancel = self._worker.new_cancel()
        async with self._worker.exec_slots:
            task = asyncio.get_running_loop().run_in_executor(
                self._worker.exec_threads, self._work, inputs, cancel, accelerated
            )
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                cancel.cancel()
                # The step's process tree ends before anything it stands on is taken away.
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()
                raise

    def prepare(self, inputs: Sequence[Result], mounts: MountPlan) -> ExecRequest:
        """The step as the sandbox takes it, for who runs it otherwise. Blocks."""
        root_mount = next(mount for mount in self._op.mounts if mount.dest == "/")
        root = self._input_of(root_mount, inputs)
        tree = self._worker.view_or_none(root)
        route = self._worker.ready_route(self.platform)
        return self._request(root_mount, root, tree, mounts, inputs, route)

    def _work(
        self, inputs: Sequence[Result], cancel: CancelToken, accelerated: Step | None
    ) -> Sequence[Result]:
        if accelerated is None or self._worker.acceleration.mode != "verify":
            return self._run(inputs, cancel, accelerated)
        result = self._run(inputs, cancel, None)
        if any(mount.mount_type is MountType.CACHE for mount in self._op.mounts):
            accelerated.say("not verified: the step's cache mounts are no longer what they were")
            return result
        accelerated.say("once more, with native twins")
        try:
            again = self._run(inputs, cancel, accelerated)
        except ExecFailed as error:
            accelerated.say(f"DIFFERENT: with native twins the step fails: {error.message}")
            return result
        accelerated.compare(result, again)
        return result

    def _run(
        self, inputs: Sequence[Result], cancel: CancelToken, accelerated: Step | None
    ) -> Sequence[Result]:
        with ExitStack() as stack:
            mounts = MountPlan(self._worker, stack)
            try:
                return self._run_on(mounts, inputs, cancel, accelerated)
            except (BuildError, SandboxError) as error:
                if self._worker.keeps_failures and not cancel.cancelled:
                    error.failed_state = self._failed_state(mounts, inputs)
                raise

    def _run_on(
        self, mounts: MountPlan, inputs: Sequence[Result], cancel: CancelToken, accelerated: Step | None
    ) -> Sequence[Result]:
        worker, op = self._worker, self._op
        route = worker.ready_route(self.platform)
        root_mount = next(m for m in op.mounts if m.dest == "/")
        root = self._input_of(root_mount, inputs)
        tree = worker.view_or_none(root)
        request = self._request(root_mount, root, tree, mounts, inputs, route)
        if accelerated is not None:
            request = accelerated.request(request, mounts.directory)
        tail = _Tail(_TAIL_BYTES)

        def on_output(stream: int, data: bytes) -> None:
            tail.add(data)
            worker.emit(LogEvent(self._vertex, stream, data, time.time()))

        notes: list[tuple[str, str]] = []
        try:
            status = worker.machine.executor().run(
                request,
                on_output=on_output,
                cancel=cancel,
                on_note=lambda kind, text: notes.append((kind, text)),
                on_listener=self.proxy.start if self.proxy is not None else None,
            )
        except SandboxError as error:
            command = " ".join(op.meta.args)
            error.message = f'process "{command}" did not complete successfully: {error.message}'
            raise
        finally:
            self._end_proxy()
        if accelerated is not None:
            accelerated.finish()
        accepted = op.meta.valid_exit_codes or (0,)
        self._warn_of_limits(notes, failed=status not in accepted)
        if status not in accepted:
            raise self._failure(status, tail.data, route, notes)
        outputs = self._outputs(mounts, inputs)
        if accelerated is not None:
            accelerated.check(outputs)
        return outputs

    def _end_proxy(self) -> None:
        if self.proxy is None:
            return
        traffic = self.proxy.close()
        if self.traffic is None:
            self.traffic = traffic
            text = traffic.log()
            if text:
                self._worker.emit(LogEvent(self._vertex, 2, text.encode(), time.time()))

    def _failure(
        self, status: int, tail: bytes, route: Route, notes: Sequence[tuple[str, str]]
    ) -> ExecFailed:
        from anyarch.worker.stephints import hint_for, memory_hint

        argv = self._op.meta.args
        if any(kind == "out of memory" for kind, _ in notes):
            hint = memory_hint(self._limits.memory if self._limits is not None else 0)
            # BuildKit's words
            return ExecFailed(argv, status, tail=tail, hint=hint, reason="cannot allocate memory")
        from anyarch.sandbox.executor import owns_the_machine

        is_root = self._worker.machine.is_root and owns_the_machine()
        return ExecFailed(argv, status, tail=tail, hint=hint_for(status, tail, route, is_root=is_root))

    def _input_of(self, mount: Mount, inputs: Sequence[Result]) -> SnapshotResult | None:
        result = inputs[mount.input] if mount.input >= 0 else None
        if isinstance(result, LocalResult):
            return self._worker.materialize(result)
        return result

    def _request(
        self,
        root_mount: Mount,
        root: SnapshotResult | None,
        tree: TreeView | None,
        mounts: MountPlan,
        inputs: Sequence[Result],
        route: Route,
    ) -> ExecRequest:
        from anyarch.sandbox.plan import ExecRequest, Ulimit

        meta, op = self._op.meta, self._op
        try:
            identity = UserDatabase(tree).identity(meta.user)
        except BuildError as error:
            process = f'process "{" ".join(meta.args)}" did not complete successfully'
            raise BuildError(f"{process}: {error.message}", hint=error.hint) from None
        env = list(meta.env)
        names = {item.partition("=")[0] for item in env}
        if "PATH" not in names:
            env.append(DEFAULT_PATH)
        if "HOME" not in names:
            env.append(f"HOME={identity.home or '/'}")
        if meta.proxy_env is not None:
            for field, name in _PROXIES:
                value = getattr(meta.proxy_env, field)
                if value:
                    env += [f"{n}={value}" for n in (name, name.lower()) if n not in names]
        worker = self._worker
        insecure = op.security is SecurityMode.INSECURE
        network = worker.network.enter(
            op.network, meta.extra_hosts, meta.hostname, self._vertex, mounts.stack, is_insecure=insecure
        )
        self.lease, self.proxy = network.lease, network.proxy
        if worker.network.proxy is not None and network.proxy is not None:
            root = worker.network.proxy.trust.over(root)
        rootfs = mounts.rootfs(ROOT, root, readonly=root_mount.readonly, root_entry=_root_entry(tree))
        extra = []
        for number, mount in enumerate(op.mounts):
            if mount.dest == "/":
                continue
            one = self._extra(number, mount, mounts, inputs)
            if one is not None:
                extra.append(one)
        env += self._secret_env()
        if network.proxy is not None:
            from anyarch.worker.proxied import proxy_env

            env += proxy_env()
        made = ExecRequest(
            argv=meta.args,
            env=tuple(env),
            cwd=meta.cwd or "/",
            uid=identity.uid,
            gid=identity.gid,
            groups=identity.groups,
            root=rootfs,
            mounts=(
                *worker.network.files(network.kind, meta.extra_hosts, meta.hostname),
                *extra,
            ),
            hostname=meta.hostname or "buildkitsandbox",
            network=network.kind,
            namespace=network.namespace,
            insecure=insecure,
            ulimits=tuple(Ulimit(u.name, u.soft, u.hard) for u in meta.ulimits),
            emulators=route.emulators,
            pids=worker.pids,
            resources=_resources(self._limits),
            cgroup_parent=meta.cgroup_parent,
        )
        if self._devices:
            from anyarch.worker.devices import with_devices

            return with_devices(made, self._devices, worker.cdi)
        return made

    def _extra(
        self, number: int, mount: Mount, mounts: MountPlan, inputs: Sequence[Result]
    ) -> SandboxMount | None:
        from anyarch.sandbox.plan import Bind, OverlayMount, Tmpfs

        if not mount.dest.startswith("/"):
            mount = msgspec.structs.replace(mount, dest=posixpath.join("/", self._op.meta.cwd, mount.dest))
        match mount.mount_type:
            case MountType.TMPFS:
                return Tmpfs(mount.dest, size=mount.tmpfs_opt.size if mount.tmpfs_opt else 0, mode=0o1777)
            case MountType.SECRET:
                return self._secret(mount)
            case MountType.SSH:
                return self._agent(mount, mounts)
            case MountType.CACHE:
                options = mount.cache_opt
                assert options is not None
                selector = clean(mount.selector)
                path = mounts.cache(options, self._input_of(mount, inputs), selector)
                mounts.cache_places[number] = path
                return Bind(path, mount.dest, readonly=mount.readonly, selector=selector)
            case _:
                rootfs = mounts.rootfs(number, self._input_of(mount, inputs), readonly=mount.readonly)
                return OverlayMount(rootfs, mount.dest, selector=clean(mount.selector))

    def _secret_env(self) -> list[str]:
        env = []
        for item in self._op.secret_env:
            value = self._worker.lent.secret(item.id)
            if value is not None:
                env.append(f"{item.name}={os.fsdecode(value)}")
            elif item.optional:
                env.append(f"{item.name}=")
            else:
                raise _missing_secret(item.id)
        return env

    def _secret(self, mount: Mount) -> SandboxMount | None:
        from anyarch.sandbox.plan import FileMount

        options = mount.secret_opt
        assert options is not None
        value = self._worker.lent.secret(options.id)
        if value is None:
            if options.optional:
                return None
            raise _missing_secret(options.id)
        return FileMount(mount.dest, value, options.mode, options.uid, options.gid)

    def _agent(self, mount: Mount, mounts: MountPlan) -> SandboxMount | None:
        from anyarch.sandbox.plan import Bind

        options = mount.ssh_opt
        assert options is not None
        name = options.id or "default"
        paths = self._worker.lent.ssh_paths(name)
        if paths is None:
            if options.optional:
                return None
            raise BuildError(
                self._worker.lent.ssh_refusal(name),
                hint=f"lend the build an agent: --ssh {name}, or --ssh {name}=KEYFILE",
            )
        return Bind(mounts.agent(paths, options), mount.dest)

    def _outputs(self, mounts: MountPlan, inputs: Sequence[Result]) -> Sequence[Result]:
        outputs: dict[int, Result] = {}
        for number, mount in enumerate(self._op.mounts):
            # Only trees have outputs; of secrets and the like the field means nothing.
            if mount.output < 0 or mount.mount_type not in _TREES:
                continue
            base = self._input_of(mount, inputs)
            if mount.mount_type is MountType.CACHE and base is None:
                continue
            upper = mounts.upper(ROOT if mount.dest == "/" else number)
            if upper is None or mount.readonly:
                outputs[mount.output] = base
                continue
            if mount.dest == "/":
                self._distrust(upper, base)
            layer = self._worker.adopt(upper, base, since_ns=mounts.since_ns())
            outputs[mount.output] = (base or SnapshotResult()).on(layer)
        return [outputs.get(index) for index in range(max(outputs, default=-1) + 1)]

    def _distrust(self, upper: Path, base: SnapshotResult | None) -> None:
        """Nothing of the proxy's certificate is left in what the step made of its root."""
        proxy = self._worker.network.proxy
        if proxy is not None and self.proxy is not None:
            proxy.trust.remove_from(upper, base)

    def _failed_state(self, mounts: MountPlan, inputs: Sequence[Result]) -> FailedState | None:
        """What was given to each mount, and what the step had made of it when it failed; None where there is
        no room for that."""
        given: list[Result] = []
        left: list[Result] = []
        try:
            for number, mount in enumerate(self._op.mounts):
                base = self._input_of(mount, inputs) if mount.mount_type in _TREES else None
                given.append(base)
                upper = mounts.upper(ROOT if mount.dest == "/" else number)
                if upper is not None and not mount.readonly and os.path.isdir(upper):
                    if mount.dest == "/":
                        self._distrust(upper, base)
                    layer = self._worker.adopt(upper, base, since_ns=mounts.since_ns())
                    self._worker.passing_layers.append(layer)
                    base = (base or SnapshotResult()).on(layer)
                left.append(base)
        except (StoreError, SandboxError):
            return None
        return FailedState(given, left)

    def _warn_of_limits(self, notes: Iterable[tuple[str, str]], *, failed: bool) -> None:
        missed = [text for kind, text in notes if kind == "limit"]
        if missed:
            text = "; ".join(dict.fromkeys(missed))
            self._worker.emit(WarningEvent(self._vertex, f"a step ran without its limits: {text}"))
        if not failed and any(kind == "out of memory" for kind, _ in notes):
            self._worker.emit(
                WarningEvent(self._vertex, "the kernel killed a process of a step for its limit of memory")
            )


class _Tail:
    """The last bytes of an output."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = b""

    def add(self, data: bytes) -> None:
        self.data = (self.data + data)[-self._limit :]


def _resources(limits: LinuxResources | None) -> Resources:
    from anyarch.sandbox.plan import NO_RESOURCES, Resources

    return Resources(**msgspec.structs.asdict(limits)) if limits is not None else NO_RESOURCES


def _missing_secret(name: str) -> BuildError:
    return BuildError(
        f"secret {name}: not found", hint=f"lend it to the build: --secret id={name},src=FILE or env=VARIABLE"
    )


def _root_entry(tree: TreeView | None) -> Entry:
    node = tree.lookup("") if tree is not None else None
    return node.entry if node is not None else Entry("", Kind.DIRECTORY, 0o755)


def _printable(value: object) -> object:
    """Texts that are not UTF-8 (surrogate escapes) in a form that JSON has."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "surrogateescape").hex()
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
