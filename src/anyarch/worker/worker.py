"""The worker: what the operations of one build run on. It owns nothing of the store's; it ends with the
build."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from anyarch.archive.entry import Kind
from anyarch.errors import SandboxError
from anyarch.snapshot.view import View
from anyarch.solver.events import StatusEvent
from anyarch.source.image import ImageResolver
from anyarch.spec.digest import Digest
from anyarch.spec.platform import host_platform
from anyarch.spec.reference import Reference
from anyarch.worker.accelerate import Acceleration
from anyarch.worker.limits import Limits
from anyarch.worker.network import Network
from anyarch.worker.result import LocalResult, SnapshotResult, view_of
from anyarch.worker.session import Lent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.emulation import Emulator, Host, Route
    from anyarch.http.client import HttpClient
    from anyarch.llb.ops import ActionCopy, CDIDevice
    from anyarch.registry.client import Registry
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.hosts import Hosts
    from anyarch.sandbox.executor import Executor
    from anyarch.sandbox.net.dns import Dns
    from anyarch.sandbox.net.networks import StepNetworks
    from anyarch.sandbox.plan import CancelToken, Registration
    from anyarch.snapshot.layers import Layer, LayerStore
    from anyarch.snapshot.tree import TreeView
    from anyarch.solver.events import EventSink
    from anyarch.source.git import GitRepositories
    from anyarch.source.layout import LayoutBlobs
    from anyarch.source.local import LocalProvider
    from anyarch.spec.oci import Descriptor
    from anyarch.spec.pattern import PatternMatcher
    from anyarch.spec.platform import Platform
    from anyarch.store.content import BlobWriter
    from anyarch.store.store import Store
    from anyarch.worker.cdi import Devices
    from anyarch.worker.cdi import Settings as CdiSettings
    from anyarch.worker.copytree import Owner
    from anyarch.worker.draft import Draft
    from anyarch.worker.limits import SharedSlots
    from anyarch.worker.result import Result
    from anyarch.worker.url import Download

__all__ = ["Worker"]

T = TypeVar("T")

_PROGRESS_STEP_S = 0.2
_PIDS = 16384  # of one step: `sandbox.plan.DEFAULT_PIDS`, which a cached build does not load


class Machine:
    """The sandbox of a build, started when something first needs it, and the layers as this user can make
    them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self.is_root = os.geteuid() == 0

    def executor(self) -> Executor:
        with self._lock:
            if self._executor is None:
                from anyarch.sandbox.executor import Executor

                self._executor = Executor(self._store.work_dir())
            return self._executor

    def open_layers(self) -> LayerStore:
        """As an ordinary user, directories of layers belong to the ids of a user namespace and are made
        there."""
        from anyarch.snapshot.layers import open_layers

        if self.is_root:
            return open_layers(self._store)
        from anyarch.snapshot.dirops import NamespacedDirOps

        def run(argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object]) -> tuple[int, bytes]:
            return self.executor().run_command(argv, stdin, on_output)

        return open_layers(self._store, dirops=NamespacedDirOps(run))

    def close(self) -> None:
        """End all processes of the sandbox."""
        if self._executor is not None:
            self._executor.close()


class Worker:
    """Everything an operation may ask for. Use as an async context manager; leaving ends the sandbox's
    processes.

    `locals` maps names of local sources to directories, `uploads` ids of uploaded contexts to streams;
    `files` and `layout_blobs` are asked for what is not there: directories that a client transfers, and
    blobs of OCI layouts that it has. `credentials`, `hosts` and `cdi` stand in for the logins and settings of
    whoever runs this. `exec_slots` limit the steps of several workers together. `emulators` is the
    directory of the QEMU programs to use, empty for those of the machine. `accelerate` is off or how
    emulated steps get native twins (`worker.accelerate`). `networks` and `dns` are what a daemon gives its
    steps; with `is_proxied` they reach it through a proxy alone.
    """

    def __init__(
        self,
        store: Store,
        emit: EventSink,
        *,
        locals: dict[str, str] | None = None,
        uploads: MutableMapping[str, BinaryIO] | None = None,
        lent: Lent | None = None,
        emulators: str = "",
        limits: Limits | None = None,
        exec_slots: SharedSlots | None = None,
        files: LocalProvider | None = None,
        layout_blobs: LayoutBlobs | None = None,
        credentials: CredentialSource | None = None,
        hosts: Hosts | None = None,
        cdi: CdiSettings | None = None,
        accelerate: str = "off",
        networks: StepNetworks | None = None,
        dns: Dns | None = None,
        is_proxied: bool = False,
    ) -> None:
        self.store = store
        self._credentials = credentials
        self._hosts = hosts
        self._cdi_settings = cdi
        self._emulators = emulators
        self.limits = limits or Limits.default()
        self.machine = Machine(store)
        self.layers = self.machine.open_layers()
        self.emit = emit
        self.locals = locals or {}
        self.uploads: MutableMapping[str, BinaryIO] = {} if uploads is None else uploads
        self.files = files
        self.layout_blobs = layout_blobs
        self.uploaded: Digest | None = None
        """The archive that came as the build context, when it has been read."""
        self.downloads: dict[str, Download] = {}
        self.fetched: dict[str, str] = {}
        """The digests of what was downloaded, by vertex."""
        """What URLs gave in this build."""
        self.lent = lent or Lent()
        self.pids = _PIDS
        self.platform = host_platform()
        self.images = ImageResolver(store.content, lambda: self.registry, origins=store.origins)
        self._layouts: dict[tuple[str, str], ImageResolver] = {}
        self.layer_vertices: dict[str, str] = {}
        self.exec_slots = exec_slots or asyncio.Semaphore(self.limits.exec)
        self.nested_waits: dict[str, frozenset[str]] = {}
        """For each nested build, the vertices of its definition."""
        self.acceleration = Acceleration(self, accelerate)
        self.is_offline = False
        self.is_locked = False
        self.keeps_failures = False
        """Whether failed steps leave their file systems (`FailedState`) until the worker ends."""
        self.passing_layers: list[str] = []
        """Layers that go with the worker."""
        self.network = Network(self.machine, emit, networks, dns)
        self._is_proxied = is_proxied
        self._lock = threading.Lock()
        self._registry: Registry | None = None
        self._insecure: set[str] = set()
        self._http: HttpClient | None = None
        self._repositories: GitRepositories | None = None
        self._cdi: Devices | None = None
        self._exec_threads: ThreadPoolExecutor | None = None
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.blob_places: dict[str, Callable[[Descriptor, BlobWriter], object]] = {}
        """Places besides registries and layouts that have blobs for this build (`blobs:…`), and what fetches
        them."""
        self._host: Host | None = None
        self._routes: dict[Platform, Route] = {}
        self._fetching: dict[str, asyncio.Future[None]] = {}
        self._patterns: dict[tuple[str, ...], PatternMatcher] = {}
        self._materialized: dict[str, SnapshotResult] = {}
        self._cancels: set[CancelToken] = set()
        self._network_cancel = threading.Event()
        self._layers: dict[str, Layer] = {}
        self._local: set[SnapshotResult] = set()
        self._directories: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._views: dict[SnapshotResult, View] = {}

    async def __aenter__(self) -> Worker:
        if self._is_proxied:
            from anyarch.worker.proxied import BuildProxy

            self.network.proxy = BuildProxy(self, asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._network_cancel.set()
        for cancel in list(self._cancels):
            cancel.cancel()
        if self._exec_threads is not None:
            self._exec_threads.shutdown(wait=True)
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        if self.passing_layers:
            await asyncio.to_thread(self._drop_passing_layers)
        self.machine.close()
        if self._registry is not None:
            self._registry.close()
        if self._http is not None:
            self._http.close()

    def _drop_passing_layers(self) -> None:
        """Nothing leads to them any more. One that others came to hold stays for a later collection."""
        from anyarch.store.collect import collect
        from anyarch.store.policy import Filter, Policy

        left = dict.fromkeys(layer for layer in self.passing_layers if layer != EMPTY_LAYER)
        chosen = tuple((Filter("id", "==", layer),) for layer in left if not self.store.cache.names(layer))
        if chosen:
            collect(self.store, [Policy(all=True, filters=chosen)], wait=False)

    # threads --------------------------------------------------------------------------------------

    async def in_network(self, work: Callable[..., T], /, *args: Any, **keywords: Any) -> T:
        """Do `work`, which moves bytes between machines, on a thread, as soon as one of those for it is
        free."""
        return await self._on_thread("network", self.limits.network, partial(work, *args, **keywords))

    async def in_cpu(self, work: Callable[..., T], /, *args: Any, **keywords: Any) -> T:
        """The same for work that keeps processors busy."""
        return await self._on_thread("cpu", self.limits.cpu, partial(work, *args, **keywords))

    async def _on_thread(self, name: str, limit: int, work: Callable[[], T]) -> T:
        pool = self._pools.get(name)
        if pool is None:
            from concurrent.futures import ThreadPoolExecutor

            pool = self._pools[name] = ThreadPoolExecutor(limit, f"anyarch-{name}")
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def layout_images(self, session: str = "", store: str = "") -> ImageResolver:
        """Images of an OCI layout: of the client's `store`, or one that was imported before."""
        known = self._layouts.get((session, store))
        if known is None:
            from anyarch.source.layout import AskedOrigins, LayoutRegistry

            registry = LayoutRegistry(self.layout_blobs, session, store)
            origins = AskedOrigins() if self.layout_blobs is not None else None
            known = ImageResolver(self.store.content, lambda: registry, origins=origins)
            self._layouts[session, store] = known
        return known

    # network --------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        with self._lock:
            if self._registry is None:
                from anyarch.registry.client import Registry
                from anyarch.registry.credentials import Credentials
                from anyarch.registry.hosts import Hosts

                hosts = self._hosts or Hosts.load()
                for domain in sorted(self._insecure):
                    hosts = hosts.with_insecure(domain)
                self._registry = Registry(
                    hosts, self._credentials or Credentials(), uploads=f"{self.store.root}/uploads"
                )
            return self._registry

    def trust_store(self) -> None:
        """Take what the store has as what it is called: it is whose store it is that names its images."""
        self.images = ImageResolver(self.store.content, lambda: self.registry)

    def lock_images(self, registry: Registry, http: HttpClient | None) -> None:
        """Take images from `registry` only; with `http` (one that asks nobody) nothing else is fetched
        either. Whoever locks them has said which digests belong to which names."""
        self._registry = registry
        self.is_locked = True
        self.images = ImageResolver(self.store.content, lambda: self.registry)
        if http is not None:
            self._http = http
            self.is_offline = True

    def allow_insecure(self, domains: set[str]) -> None:
        """Reach these registries without a valid certificate, or by plain HTTP, from now on."""
        self._insecure |= domains
        with self._lock:
            self._registry = None

    @property
    def http(self) -> HttpClient:
        with self._lock:
            if self._http is None:
                from anyarch.http.client import HttpClient

                self._http = HttpClient()
            return self._http

    @property
    def cdi(self) -> Devices:
        """The devices of this machine; looked for once a build."""
        with self._lock:
            if self._cdi is None:
                from anyarch.worker.cdi import Devices, Settings

                self._cdi = Devices(self._cdi_settings or Settings.load())
            return self._cdi

    def granted_devices(self, wanted: Sequence[CDIDevice]) -> tuple[str, ...]:
        """The devices that a step gets of those it asks for. Raises `BuildError`."""
        from anyarch.worker.devices import granted

        return granted(wanted, self.lent.devices, self.cdi)

    @property
    def network_cancel(self) -> threading.Event:
        """Set when whatever talks to others has to stop."""
        return self._network_cancel

    @property
    def repositories(self) -> GitRepositories:
        """The git repositories of the store; every ref is asked for once a build."""
        if self.is_offline:
            from anyarch.errors import NetworkError

            raise NetworkError(
                "--offline: no git repository is fetched",
                kind="offline",
                hint="check it out before, and give its directory with --build-context",
            )
        with self._lock:
            if self._repositories is None:
                from anyarch.source.git import GitRepositories

                self._repositories = GitRepositories(
                    self.store.root / "git", work_dir=self.store.work_dir, cancel=self._network_cancel
                )
            return self._repositories

    async def ensure_local(self, result: SnapshotResult) -> None:
        """Fetch what the layers of `result` lack; each blob once, however many ask for it."""
        # Of a chain that was asked for before all is here: a step looks at the layers above it alone.
        unsure = []
        at = result
        while at.below is not None and at not in self._local:
            unsure.append(self.layer(at.top))
            at = at.below
        if not unsure:
            return
        missing = await asyncio.to_thread(self.layers.missing, unsure)
        await asyncio.gather(*(self._fetch(layer) for layer in missing))
        self._local.add(result)

    def layer(self, layer_id: str) -> Layer:
        """A layer of the store; nothing that a build knows of goes away while it runs."""
        layer = self._layers.get(layer_id)
        if layer is None:
            layer = self._layers[layer_id] = self.layers.get(layer_id)
        return layer

    async def _fetch(self, layer: Layer) -> None:
        future = self._fetching.get(layer.id)
        if future is None:
            future = self._fetching[layer.id] = asyncio.ensure_future(
                self.in_network(self._fetch_layer, layer)
            )
        await asyncio.shield(future)

    def _fetch_layer(self, layer: Layer) -> None:
        places = self.layers.remote(layer)
        error: Exception | None = None
        for descriptor, name in places:
            try:
                self.fetch_from(name, descriptor, self.layer_vertices.get(layer.id, ""))
            except Exception as failure:
                error = error or failure
            else:
                return
        if error is not None:
            raise error
        from anyarch.errors import BlobNotFound

        raise BlobNotFound(
            f"layer {layer.id} is not in the store and its origin is not known",
            hint="build again with --no-cache",
        )

    def has_content(self, descriptor: Descriptor, layer_id: str) -> bool:
        """Whether a blob, or the layer that it is said to give, is here."""
        if self.store.content.has(Digest.parse(descriptor.digest)):
            return True
        return self.has_layer(layer_id) and not self.layers.missing([self.layers.get(layer_id)])

    def fetch_from(self, origin: str, descriptor: Descriptor, vertex: str) -> None:
        """One blob from where `LayerStore.remote` says it is."""
        from anyarch.snapshot.layers import BLOBS, LAYOUT

        if origin.startswith(LAYOUT):
            from anyarch.source.layout import import_blob

            import_blob(self.store.content, origin.removeprefix(LAYOUT), descriptor)
        elif origin.startswith(BLOBS):
            self._fetch_from_place(origin, descriptor)
        else:
            self.fetch_blob(Reference.parse(origin), descriptor, vertex)

    def _fetch_from_place(self, origin: str, descriptor: Descriptor) -> None:
        from anyarch.errors import BlobNotFound
        from anyarch.snapshot.layers import BLOBS

        fetch = self.blob_places.get(origin)
        if fetch is None:
            raise BlobNotFound(
                f"blob {descriptor.digest} is in the build cache {origin.removeprefix(BLOBS)} only",
                hint="name that cache with --cache-from, or build with --no-cache",
            )
        content = self.store.content
        if not content.has(descriptor.digest):
            expected = Digest.parse(descriptor.digest)
            with content.writer(expected=expected, size=descriptor.size) as writer:
                fetch(descriptor, writer)
                writer.commit()

    def fetch_blob(self, reference: Reference, descriptor: Descriptor, vertex: str) -> None:
        """One blob from a registry into the content store, with progress on `vertex`."""
        digest = Digest.parse(descriptor.digest)
        content = self.store.content
        if content.has(digest):
            return
        started, last = time.time(), time.monotonic()
        current = 0

        def report(done: bool) -> None:
            if vertex:
                now = time.time()
                self.emit(
                    StatusEvent(
                        vertex,
                        digest,
                        "downloading",
                        current,
                        descriptor.size,
                        now,
                        started,
                        now if done else None,
                    )
                )

        def on_progress(count: int) -> None:
            nonlocal current, last
            current += count
            if time.monotonic() - last > _PROGRESS_STEP_S:
                last = time.monotonic()
                report(False)

        from anyarch.worker.transfer import fetch_blob

        fetch_blob(
            self.registry,
            content,
            reference,
            descriptor,
            on_progress=on_progress,
            cancel=self._network_cancel,
        )
        self.store.origins.add(reference.name, (digest,))
        report(True)

    # trees ----------------------------------------------------------------------------------------

    def view(self, result: Result) -> TreeView:
        """The tree of a result whose bytes are local; an empty one for None."""
        if isinstance(result, LocalResult):
            return result.tree
        chain = at = result if result is not None else SnapshotResult()
        view = self._views.get(chain)
        if view is None:
            new = []
            while at.below is not None and at not in self._views:
                new.append(self.layer(at.top))
                at = at.below
            view = self._views[chain] = View(self.layers, new[::-1], below=self._views.get(at))
        return view

    def view_or_none(self, result: Result) -> TreeView | None:
        return view_of(result, self.layers) if result is None else self.view(result)

    def has_layer(self, layer_id: str) -> bool:
        from anyarch.errors import StoreError

        try:
            self.layers.get(layer_id)
        except StoreError:
            return False
        return True

    def patterns(self, patterns: tuple[str, ...]) -> PatternMatcher:
        """A matcher for .dockerignore-style patterns; compiled once."""
        matcher = self._patterns.get(patterns)
        if matcher is None:
            from anyarch.spec.pattern import PatternMatcher

            matcher = self._patterns[patterns] = PatternMatcher(patterns)
        return matcher

    def unpack(
        self, draft: Draft, tree: TreeView, path: str, action: ActionCopy, owner: Owner | None
    ) -> bool:
        from anyarch.worker.unpack import unpack_archive

        spool = self.store.work_dir() / "archive"
        return unpack_archive(draft, tree, path, action, owner, spool=spool)

    def materialize(self, result: LocalResult) -> SnapshotResult:
        """A local directory as a layer, for a step that mounts it."""
        known = self._materialized.get(result.digest)
        if known is None:
            tree = result.tree
            with self.layers.new_tar(description="local directory") as layer:
                for node in tree.walk(""):
                    entry = node.entry
                    if entry.kind is Kind.FILE:
                        with tree.open(node) as stream:
                            layer.add(entry, stream)
                    elif entry.path:
                        layer.add(entry, None)
                known = SnapshotResult((layer.commit().id,))
            self._materialized[result.digest] = known
        return known

    # steps ----------------------------------------------------------------------------------------

    @property
    def exec_threads(self) -> ThreadPoolExecutor:
        if self._exec_threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._exec_threads = ThreadPoolExecutor(self.limits.exec, "anyarch-exec")
        return self._exec_threads

    def drop_cache_mounts(self, ids: Collection[str]) -> None:
        """Let the cache mounts of `ids` begin anew; those that running steps have stay."""
        from anyarch.worker.cache_mounts import drop_cache_mounts

        for directory in drop_cache_mounts(self.store, ids):
            self.exec_threads.submit(self.layers.dispose, directory)

    def new_cancel(self) -> CancelToken:
        from anyarch.sandbox.plan import CancelToken

        cancel = CancelToken()
        self._cancels.add(cancel)
        return cancel

    @contextmanager
    def step_directory(self) -> Iterator[Path]:
        """A directory on the store's file system for one step; what is left in it goes away after the step,
        at the latest with the worker."""
        directory = self.store.work_dir()
        try:
            yield directory
        finally:
            self.exec_threads.submit(self.layers.dispose, directory)

    def directories(self, base: SnapshotResult | None) -> tuple[str, ...]:
        """Overlay lower directories of a chain, lowest first; layers without entries are left out."""
        if base is None:
            return ()
        # The kernel takes a directory once only; of a layer that comes twice the upper place counts.
        above = dict.fromkeys(layer_id for layer_id in reversed(base.layers) if layer_id != EMPTY_LAYER)
        chain = tuple(reversed(above))
        # What lies below was asked for by the step before, as a rule; only the uppermost layer is new.
        depth = len(chain)
        while depth and chain[:depth] not in self._directories:
            depth -= 1
        known = list(self._directories[chain[:depth]]) if depth else []
        layers = [self.layer(layer_id) for layer_id in chain]
        self.layers.unpack(layers[depth:])
        for position in range(depth, len(chain)):
            known.append(str(self.layers.directory(layers[position], below=layers[:position])))
        self._directories[chain] = tuple(known)
        return tuple(known)

    def set_root_metadata(self, directory: Path, entry: Entry) -> None:
        """The root of a step's tree looks like that of its base, not like a directory just made."""
        directory.chmod(entry.mode)
        if self.machine.is_root and (entry.uid or entry.gid):
            os.chown(directory, entry.uid, entry.gid)

    def adopt(self, upper: Path, base: SnapshotResult | None, *, since_ns: int) -> str:
        """What a step that began at `since_ns` left in `upper` as a layer; the empty layer when it changed
        nothing."""
        overlay = self.machine.executor().overlay
        layer = self.layers.adopt_upper(upper, overlay=overlay, below=self.view(base), since_ns=since_ns)
        return layer.id if layer is not None else self.empty_layer()

    def empty_layer(self) -> str:
        """The layer of no entries."""
        with self.layers.new_tar(description="no change") as layer:
            return layer.commit().id

    # emulation ------------------------------------------------------------------------------------

    def route(self, platform: Platform) -> Route:
        """How a step of `platform` runs here. Raises `EmulatorMissing`."""
        route = self._routes.get(platform)
        if route is None:
            from anyarch.emulation import plan

            if platform.os != self.platform.os:
                raise SandboxError(
                    f"cannot run a step for {platform} on {self.platform}",
                    hint="only COPY and other steps without RUN work for another operating system",
                )
            route = self._routes[platform] = plan(platform, self.host, is_root=self.machine.is_root)
        return route

    @property
    def host(self) -> Host:
        """What this machine can run."""
        with self._lock:
            if self._host is None:
                from anyarch.emulation import Host

                self._host = Host(
                    memo=_Memo(self.store), executor=_Trial(self.machine), directory=self._emulators
                )
            return self._host

    def private_emulator(self, platform: Platform) -> Emulator:
        """The emulator for a binfmt_misc of the build's own. Raises `SandboxError` where none can be."""
        from anyarch.emulation.emulator import QEMU_ARCHITECTURES

        emulator = self.host.emulator(QEMU_ARCHITECTURES[platform.architecture])
        if emulator is None:
            raise SandboxError(f"there is no static emulator for {platform} beside the one registered")
        refusal = self.host.private_refusal(emulator)
        if refusal:
            raise SandboxError(refusal)
        return emulator

    def ready_route(self, platform: Platform) -> Route:
        """The route by which a step is about to run: registered with the machine where that is the way."""
        route = self.route(platform)
        if route.kind != "register":
            return route
        from anyarch.emulation.route import registered

        with self._lock:
            route = self._routes[platform]
            if route.kind == "register":
                assert self._host is not None
                route = self._routes[platform] = registered(route, platform, self._host)
        return route

    def emulator_identity(self, platform: Platform) -> str:
        if platform == self.platform:
            return ""
        return self.route(platform).cache_identity


EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The diff ID of a tar without entries: two blocks of zeros."""


class _Trial:
    """Tries private binfmt_misc in this build's own sandbox, when nobody knows yet whether it works."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def check_emulators(self, emulators: Sequence[Registration]) -> None:
        self._machine.executor().check_emulators(emulators)


class _Memo:
    """Facts about this machine, kept in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: str) -> bytes | None:
        return self._store.cache.get_value("host", key)

    def set(self, key: str, value: bytes) -> None:
        self._store.cache.set_value("host", key, value)
