"""One build from request to result: frontend, solver, exporters, in one process."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import msgspec

from anyarch.engine.cache import StoredCache
from anyarch.engine.export import Exporter
from anyarch.engine.gateway import EngineGateway
from anyarch.engine.options import (
    answer_of,
    attests_by_default,
    build_epoch,
    check_output,
    frontend_attrs,
    lent_things,
    local_inputs,
    named_contexts,
    vcs_attrs,
    wants_frontend_images,
)
from anyarch.engine.placement import check_routes, emulated_seconds, refuse_emulation, with_routes
from anyarch.engine.policy import Failures
from anyarch.engine.request import PlatformResult as PlatformSummary
from anyarch.engine.running import run_async
from anyarch.errors import AnyarchError
from anyarch.exporter.assemble import PlatformResult
from anyarch.frontend.gateway import BuildOpts
from anyarch.solver.solver import Solver
from anyarch.spec.platform import host_platform
from anyarch.store.store import Store, default_root
from anyarch.worker.graph import load
from anyarch.worker.limits import Limits
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyarch.attest.options import Attests
    from anyarch.engine.calls import FrontendCall
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken
    from anyarch.engine.stock import StockKeys
    from anyarch.engine.truthcheck import Located, TruthCheck
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.solver.events import EventSink
    from anyarch.solver.inflight import InFlight
    from anyarch.solver.vertex import Edge, Vertex
    from anyarch.spec.platform import Platform

__all__ = ["BuildStats", "Prepared", "build_async", "prepared"]

T = TypeVar("T")

UPLOAD_HOST = "http://buildkit-session/"


class BuildStats:
    """What a build did, for tests and benchmarks: the vertices it executed (sources left out)."""

    def __init__(self) -> None:
        self.executed: list[Vertex] = []


async def build_async(
    request: BuildRequest,
    on_event: EventSink | None = None,
    cancel: CancelToken | None = None,
    *,
    stats: BuildStats | None = None,
    in_flight: InFlight | None = None,
) -> BuildResult:
    """Build on the running event loop. Raises `AnyarchError`; `Canceled` when `cancel` was set.

    Builds of one store that are given the same `in_flight` run equal steps once.
    """
    return await run_async(lambda emit: _build(request, emit, stats, in_flight), on_event, cancel)


class Prepared:
    """A build whose Dockerfile is converted and of which no step has run yet."""

    def __init__(
        self,
        store: Store,
        cache: StoredCache,
        worker: Worker,
        solver: Solver,
        gateway: EngineGateway,
        frontend: FrontendResult,
        failures: Failures,
    ) -> None:
        self.failures = failures
        self.started = time.time()
        self.attests: Attests | None = None
        """What is to be attested of the result, where anything is."""
        self.call: FrontendCall | None = None
        """Where is noted what provenance tells."""
        self.stock: StockKeys | None = None
        """BuildKit's keys of vertices, where build caches are read or written."""
        self.store = store
        self.cache = cache
        self.worker = worker
        self.solver = solver
        self.gateway = gateway
        self.frontend = frontend


@asynccontextmanager
async def prepared(
    request: BuildRequest,
    emit: EventSink,
    in_flight: InFlight | None = None,
    *,
    build_platform: Platform | None = None,
) -> AsyncIterator[Prepared]:
    """Open the store and convert the Dockerfile; leaving ends what still runs and closes the store.
    `build_platform` is that of another machine that the conversion is for."""
    lent = lent_things(request)
    lent.check()
    inputs = local_inputs(request)
    root = Path(request.root) if request.root else default_root()
    with Store.open(root) as store:
        uploads: dict[str, BinaryIO] = {}
        attrs = frontend_attrs(request)
        _prepare_inputs(request, store, attrs, inputs, uploads)
        named_contexts(request, store, attrs, inputs)
        async with (
            Worker(
                store,
                emit,
                locals=inputs,
                uploads=uploads,
                lent=lent,
                emulators=request.emulators,
                limits=Limits.of(request.parallel),
                accelerate=request.accelerate,
                is_proxied=request.proxy_network,
            ) as worker,
            Solver(cache := StoredCache(store.cache), emit, in_flight=in_flight) as solver,
        ):
            if request.lock or request.offline:
                _lock_images(request, worker)
            attests, call = _attesting(request, attrs, inputs, solver)
            opts = BuildOpts(
                attrs,
                build_platforms=(build_platform or host_platform(),),
                frontend_images=wants_frontend_images(),
                wants_scans=attests is not None and attests.sbom is not None,
            )
            gateway = EngineGateway(solver, worker, opts)
            gateway.call = call
            if request.cache_from:
                from anyarch.engine.remote_cache import import_caches

                cache.imported = await import_caches(request, worker, gateway.warn)
            from anyarch.frontend.dockerfile.build import build as build_dockerfile

            failures = Failures(request)
            try:
                frontend = await failures.convert(attrs, lambda: build_dockerfile(gateway))
            except AnyarchError:
                # A damaged archive is copied as a plain file, as ADD does; then there is no Dockerfile in it.
                if worker.uploaded is not None:
                    from anyarch.worker.unpack import check_archive

                    with store.content.open(worker.uploaded) as packed:
                        await asyncio.to_thread(check_archive, packed)
                raise
            made = Prepared(store, cache, worker, solver, gateway, frontend, failures)
            made.attests, made.call = attests, call
            yield made


def _attesting(
    request: BuildRequest, attrs: dict[str, str], inputs: dict[str, str], solver: Solver
) -> tuple[Attests | None, FrontendCall | None]:
    """What is to be attested, and where is noted what that takes; None where nothing is. `attrs` get what is
    told of the repository."""
    if not request.metadata_provenance and not any(
        name.startswith(("attest:", "build-arg:BUILDKIT_ATTEST_")) for name in attrs
    ):
        return None, None
    from anyarch.attest.options import parse_attests
    from anyarch.attest.request import FrontendRequest
    from anyarch.engine.calls import FrontendCall

    if request.repository is not None and not attests_by_default(request):
        attrs |= vcs_attrs(request.repository, inputs)
    asked = FrontendRequest("dockerfile.v0", attrs)
    return parse_attests(attrs), FrontendCall(asked, asked, solver=solver)


def _lock_images(request: BuildRequest, worker: Worker) -> None:
    from anyarch.registry.credentials import Credentials
    from anyarch.registry.hosts import Hosts
    from anyarch.source.lock import LockedRegistry, OfflineHttp, read_lock

    registry = LockedRegistry(
        Hosts.load(),
        Credentials(),
        path=request.lock,
        lock=read_lock(request.lock) if request.lock else None,
        offline=request.offline,
    )
    worker.lock_images(registry, OfflineHttp() if request.offline else None)


async def _build(
    request: BuildRequest, emit: EventSink, stats: BuildStats | None, in_flight: InFlight | None
) -> BuildResult:
    for output in request.outputs:
        check_output(output)
    from anyarch.engine.truthcheck import TruthCheck

    async with prepared(request, emit, in_flight) as build:
        store, worker, solver = build.store, build.worker, build.solver
        if not build.frontend.platforms:
            return answer_of(build.frontend, build.gateway.warnings)
        check = TruthCheck(worker, solver, mode=request.arch_check, allow=request.arch_check_allow)
        edges = _load(request, build)
        if request.cache_from or request.cache_to:
            from anyarch.engine.stock import StockKeys

            graphs = [graph for graph in build.frontend.refs.values() if graph is not None]
            build.stock = StockKeys(solver, worker, graphs)
            await build.stock.find()
            await build.stock.adopt(build.cache.imported)
        results = await _solve(build, edges)
        if request.tests:
            results = await _test(request, build, edges, results, emit)
        failure = build.failures.decide()
        if failure is not None:
            if request.cache_to and results:
                await _keep_caches(request, build, results)
            raise failure
        build.failures.warn(build.gateway.warn)
        await _check_truth(check, build, results, edges)
        provenance = None
        if build.call is not None:
            from anyarch.engine.attesting import attested

            results, provenance = await attested(request, build, results)
        exporter = Exporter(request, store, worker, emit, epoch=build_epoch(build.frontend))
        if build.stock is not None and request.cache_to:
            from anyarch.engine.remote_cache import inline_cache

            solved = await build.stock.complete()
            exporter.inline = inline_cache(request, solved, build.stock)
        outcome = await exporter.export(
            results, multi_platform=build.frontend.multi_platform, warnings=build.gateway.warnings
        )
        outcome = await _told(outcome, build, edges)
        if provenance is not None and request.metadata_provenance:
            told = provenance.for_metadata(is_max=request.metadata_provenance == "max")
            outcome = msgspec.structs.replace(outcome, metadata={**outcome.metadata, **told})
        if build.stock is not None and request.cache_to:
            from anyarch.engine.remote_cache import export_caches

            chains = [result.layers for result in results]
            metadata = await export_caches(request, worker, solved, chains, build.gateway.warn, build.stock)
            outcome = msgspec.structs.replace(
                outcome, metadata={**outcome.metadata, **metadata}, warnings=build.gateway.warnings
            )
        if stats is not None:
            stats.executed = list(solver.executed)
        if store.grown:
            from anyarch.store.collect import collect_after_build

            await asyncio.to_thread(collect_after_build, store)
        return outcome


async def _test(
    request: BuildRequest,
    build: Prepared,
    edges: dict[str, Edge | None],
    results: list[PlatformResult],
    emit: EventSink,
) -> list[PlatformResult]:
    """The results that pass all tests. A platform that does not has failed as if a step had."""
    from anyarch.engine.request import RunRequest
    from anyarch.engine.trial import command_of, failure_of, run_trial
    from anyarch.worker.result import SnapshotResult

    async def one(result: PlatformResult) -> bool:
        for text in request.tests:
            command = command_of(text, result.config)
            run = RunRequest(image="", command=command, entrypoint="", emulators=request.emulators)
            snapshot = SnapshotResult(result.layers)
            trial = await run_trial(build.worker, run, result.config, result.platform, snapshot, emit)
            if not trial.is_passed:
                error = failure_of(trial, command)
                if not build.failures.note(result.platform.format_all(), error):
                    raise error
                return False
        return True

    try:
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(one(result)) for result in results]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    _leave_out(build, edges)
    return [result for result, job in zip(results, jobs, strict=True) if job.result()]


async def _check_truth(
    check: TruthCheck, build: Prepared, results: list[PlatformResult], edges: dict[str, Edge | None]
) -> None:
    """Warn of files that are not for their platform, or fail before anything leaves."""
    if check.mode == "off":
        return

    def work() -> list[Located]:
        configs = build.frontend.base_configs
        pairs = zip(results, build.frontend.platforms, strict=True)
        return [
            item
            for result, (name, _) in pairs
            for item in check.check(result, edges[name], configs.get(name, b""))
        ]

    located = await asyncio.to_thread(work)
    if not located:
        return
    from anyarch.engine.truthcheck import failure, warning_of
    from anyarch.solver.events import WarningEvent

    if check.mode == "error":
        raise failure(located)
    told = {line for rule, line in build.frontend.warned if rule == "InvalidBaseImagePlatform"}
    for text, item in warning_of([item for item in located if not _is_told(item, told, results[0])]):
        source = item.source
        build.gateway.warn(
            WarningEvent(
                item.vertex.digest if item.vertex is not None else "",
                text,
                filename=source.filename if source is not None else "",
                source=source.data if source is not None else b"",
                lines=((source.start, source.end),) if source is not None else (),
            )
        )


def _is_told(item: Located, lines: set[int], first: PlatformResult) -> bool:
    """Whether a build check has told of this base already; they look at the first platform only."""
    source = item.source
    return (
        item.finding.kind == "base"
        and item.platform == first.platform
        and source is not None
        and source.start in lines
    )


async def _told(outcome: BuildResult, build: Prepared, edges: dict[str, Edge | None]) -> BuildResult:
    """`outcome` with how the steps ran, and what could be done about it."""
    solver, worker = build.solver, build.worker
    platforms = with_routes(outcome.platforms, build.frontend, solver.vertices, worker)
    seconds = emulated_seconds(solver.executed, worker)
    movable: tuple[str, ...] = ()
    if seconds:
        from anyarch.engine.advice import movable_stages

        results = [edge.vertex for edge in edges.values() if edge is not None]
        movable = await movable_stages(solver, worker, results)
    failed = {name: error.message for name, error in build.failures.errors.items()}
    platforms += tuple(PlatformSummary(platform=name, error=text) for name, text in failed.items())
    metadata = {**outcome.metadata, "anyarch.platforms.failed": failed} if failed else outcome.metadata
    if worker.acceleration.reports:
        metadata = {**metadata, "anyarch.acceleration": worker.acceleration.record()}
    return msgspec.structs.replace(
        outcome, platforms=platforms, emulated_s=seconds, movable_stages=movable, metadata=metadata
    )


def _prepare_inputs(
    request: BuildRequest,
    store: Store,
    attrs: dict[str, str],
    inputs: dict[str, str],
    uploads: dict[str, BinaryIO],
) -> None:
    if request.context_tar is not None:
        name = "context"  # within this build; what is attested of it is the same each time
        uploads[name] = request.context_tar
        attrs["context"] = UPLOAD_HOST + name
    elif request.context == "-":
        empty = store.work_dir() / "context"
        empty.mkdir()
        inputs["context"] = str(empty)
        inputs.setdefault("dockerfile", str(empty))
    if request.dockerfile_data is not None:
        directory = store.work_dir() / "dockerfile"
        directory.mkdir()
        name = attrs.setdefault("filename", "Dockerfile")
        (directory / name).write_bytes(request.dockerfile_data)
        inputs["dockerfile"] = str(directory)
        attrs["dockerfilekey"] = "dockerfile"


def _load(request: BuildRequest, build: Prepared) -> dict[str, Edge | None]:
    """Make the graphs of all platforms known; what cannot be run is an error here, before any work."""
    edges: dict[str, Edge | None] = {}
    for name, _ in build.frontend.platforms:
        definition = build.frontend.refs.get(name)
        edges[name] = load(build.solver, build.worker, definition) if definition is not None else None
    known = {vertex.digest: vertex for vertex in build.solver.vertices}

    def check(digests: Sequence[str]) -> None:
        vertices = [known[digest] for digest in digests if digest in known]
        if request.no_emulation:
            refuse_emulation(vertices, build.worker)
        check_routes(vertices, build.worker)

    build.failures.check(build.frontend, check)
    _leave_out(build, edges)
    return edges


async def _solve(build: Prepared, edges: dict[str, Edge | None]) -> list[PlatformResult]:
    """The results of the platforms that did not fail, in the order of the request."""
    worker = build.worker
    wanted = {name: edge for name, edge in edges.items() if edge is not None}
    solved = await build.failures.solve(build.solver, wanted)
    results = []
    _leave_out(build, edges)
    for name, platform in build.frontend.platforms:
        result = solved.get(name)
        if result is not None and not hasattr(result, "layers"):
            result = await asyncio.to_thread(worker.materialize, result)
        results.append(
            PlatformResult(
                platform,
                result.layers if result is not None else (),
                build.frontend.configs[name],
                build.frontend.base_configs.get(name, b""),
            )
        )
    return results


def _leave_out(build: Prepared, edges: dict[str, Edge | None]) -> None:
    """Forget the platforms that failed."""
    failed = build.failures.errors
    left = tuple(item for item in build.frontend.platforms if item[0] not in failed)
    build.frontend = msgspec.structs.replace(build.frontend, platforms=left)
    for name in failed:
        edges.pop(name, None)


async def _keep_caches(request: BuildRequest, build: Prepared, results: list[PlatformResult]) -> None:
    """What was made goes into the build caches although the build fails, so that elsewhere too the next one
    need not make it again. A cache that cannot be written is a warning then."""
    from anyarch.engine.remote_cache import export_caches

    assert build.stock is not None
    solved = await build.stock.complete()
    chains = [result.layers for result in results]
    options = tuple(
        msgspec.structs.replace(option, attrs={**option.attrs, "ignore-error": "true"})
        for option in request.cache_to
    )
    kept = msgspec.structs.replace(request, cache_to=options)
    await export_caches(kept, build.worker, solved, chains, build.gateway.warn, build.stock)
