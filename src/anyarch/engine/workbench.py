"""A build in pieces, for a caller that leads it from outside: the daemon, whose clients solve, look into
results and export by calls of their own.

Everything of one `Workbench` happens on one event loop. What the client lends comes as the protocols of the
layers below.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from anyarch.attest.options import parse_attests
from anyarch.attest.request import FrontendRequest
from anyarch.engine.attestations import AttestationRef, read_attestations
from anyarch.engine.cache import StoredCache
from anyarch.engine.calls import FrontendCall
from anyarch.engine.export import Exporter
from anyarch.engine.failure import os_errors
from anyarch.engine.gateway import EngineGateway, EngineRef
from anyarch.engine.options import wants_frontend_images
from anyarch.engine.request import BuildRequest
from anyarch.engine.solveresult import (
    CONFIG,
    SolveResult,
    config_for,
    epoch_in,
    is_image,
    named_graphs,
    of_frontend,
    result_graphs,
)
from anyarch.exporter.assemble import PlatformResult
from anyarch.frontend.dockerfile.build import ForeignSyntax
from anyarch.frontend.gateway import BuildOpts
from anyarch.solver.inflight import InFlight
from anyarch.solver.solver import Solver
from anyarch.spec.platform import host_platform
from anyarch.store.store import Store
from anyarch.worker.graph import load
from anyarch.worker.limits import Limits
from anyarch.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from anyarch.attest.options import Attests, ProvenanceOptions
    from anyarch.cache.client import ClientCaches
    from anyarch.engine.calls import Producers
    from anyarch.engine.export import Receiver
    from anyarch.engine.provenance import Provenance, Run
    from anyarch.engine.request import BuildResult, CacheOption, Output
    from anyarch.engine.sourcepolicy import SourcePolicy
    from anyarch.engine.stock import StockKeys
    from anyarch.llb.definition import Definition
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.hosts import Hosts
    from anyarch.sandbox.net.dns import Dns
    from anyarch.sandbox.net.networks import StepNetworks
    from anyarch.solver.events import EventSink
    from anyarch.source.layout import LayoutBlobs
    from anyarch.source.local import LocalProvider
    from anyarch.spec.platform import Platform
    from anyarch.worker.cdi import Settings as CdiSettings
    from anyarch.worker.limits import SharedSlots
    from anyarch.worker.session import Lent

__all__ = ["AttestationRef", "Borrowed", "ForeignSyntax", "InFlight", "SolveResult", "Workbench"]


class Borrowed:
    """What a client that is not here lends a build."""

    def __init__(
        self,
        *,
        files: LocalProvider,
        lent: Lent,
        uploads: MutableMapping[str, BinaryIO],
        credentials: CredentialSource,
        receiver: Receiver,
        caches: ClientCaches,
        layout_blobs: LayoutBlobs | None = None,
    ) -> None:
        self.files = files
        self.lent = lent
        self.uploads = uploads
        self.credentials = credentials
        self.receiver = receiver
        self.caches = caches
        self.layout_blobs = layout_blobs


class Workbench:
    def __init__(
        self, store: Store, cache: StoredCache, worker: Worker, solver: Solver, borrowed: Borrowed
    ) -> None:
        self.store = store
        self.worker = worker
        self.solver = solver
        self._cache = cache
        self._cache_options: list[CacheOption] = []
        self._borrowed = borrowed
        self._plain = EngineGateway(solver, worker, BuildOpts({}, build_platforms=(host_platform(),)))
        self.warnings = 0
        self._policy: SourcePolicy | None = None
        self.provenance: Provenance | None = None
        """Of what was exported, once it was."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        emit: EventSink,
        borrowed: Borrowed,
        *,
        hosts: Hosts | None = None,
        limits: Limits | None = None,
        cdi: CdiSettings | None = None,
        in_flight: InFlight | None = None,
        exec_slots: SharedSlots | None = None,
        networks: StepNetworks | None = None,
        dns: Dns | None = None,
        is_proxied: bool = False,
    ) -> AsyncIterator[Workbench]:
        """Leaving ends what still runs. Builds of one store with the same `in_flight` run equal steps once,
        those with the same `exec_slots` so many at a time. With `is_proxied` steps have the network through a
        proxy only, which asks the policy.
        Raises `StoreError`."""
        with Store.open(root) as store:
            async with (
                Worker(
                    store,
                    emit,
                    lent=borrowed.lent,
                    files=borrowed.files,
                    uploads=borrowed.uploads,
                    credentials=borrowed.credentials,
                    layout_blobs=borrowed.layout_blobs,
                    hosts=hosts,
                    cdi=cdi,
                    limits=limits or Limits.default(),
                    exec_slots=exec_slots,
                    networks=networks,
                    dns=dns,
                    is_proxied=is_proxied,
                ) as worker,
                Solver(cache := StoredCache(store.cache), emit, in_flight=in_flight) as solver,
            ):
                yield cls(store, cache, worker, solver, borrowed)

    @property
    def policy(self) -> SourcePolicy | None:
        """What decides on the sources of graphs, and on what proxied steps fetch."""
        return self._policy

    @policy.setter
    def policy(self, policy: SourcePolicy | None) -> None:
        self._policy = policy
        proxy = self.worker.network.proxy
        if proxy is not None:
            proxy.decide = (lambda op: policy.evaluate(op, None)) if policy is not None else None

    @property
    def gateway(self) -> EngineGateway:
        """For questions that belong to no frontend."""
        return self._plain

    async def import_caches(self, options: Sequence[CacheOption]) -> None:
        """Ask these caches too, from now on; those that were named before are asked already. One that cannot
        be read is a warning."""
        new = [option for option in options if option not in self._cache_options]
        self._cache_options += new
        if new:
            from anyarch.engine.remote_cache import import_caches

            request = BuildRequest(context=".", cache_from=tuple(new))
            self._cache.imported = [
                *self._cache.imported,
                *await import_caches(request, self.worker, self._plain.warn, self._borrowed.caches),
            ]

    async def policed(self, definition: Definition, policy: SourcePolicy | None = None) -> Definition:
        """What `policy`, or that of the build, makes of a graph's sources. Raises what it raises."""
        chosen = policy or self.policy
        if chosen is None:
            return definition
        from anyarch.engine.sourcepolicy import policed

        return await policed(definition, chosen)

    def load(self, definition: Definition) -> EngineRef:
        """A result, evaluated when it is needed. Raises `BuildError` for a graph that is not whole."""
        return EngineRef(self.solver, self.worker, load(self.solver, self.worker, definition))

    async def dockerfile(
        self,
        attrs: dict[str, str],
        *,
        session: str,
        platforms: Sequence[Platform],
        inputs: dict[str, Definition] | None = None,
        call: FrontendCall | None = None,
    ) -> SolveResult:
        """Run the built-in frontend; `call` gets what it looks into. Raises what it raises."""
        from anyarch.frontend.dockerfile.build import build

        sbom = parse_attests(attrs).sbom
        opts = BuildOpts(
            dict(attrs),
            session_id=session,
            build_platforms=tuple(platforms),
            inputs=inputs or {},
            frontend_images=wants_frontend_images(),
            wants_scans=sbom is not None,
        )
        gateway = EngineGateway(self.solver, self.worker, opts)
        gateway.policy = self.policy
        gateway.call = call
        try:
            with os_errors():
                found = await build(gateway)
                if self.policy is not None:
                    refs = {
                        name: await self.policed(ref) if ref is not None else None
                        for name, ref in found.refs.items()
                    }
                    found = msgspec.structs.replace(found, refs=refs)
                result = of_frontend(found)
                if call is not None:
                    call.solved += [ref for ref in found.refs.values() if ref is not None]
                if sbom is not None and found.platforms:
                    from anyarch.engine import sbom as scans

                    mode = attrs.get("image-resolve-mode", "")
                    made = await scans.of_frontend(gateway, found, sbom, mode=mode)
                    result = msgspec.structs.replace(result, attestations=made)
                return result
        finally:
            self.warnings += gateway.warnings

    async def export(
        self,
        result: SolveResult,
        outputs: Sequence[Output],
        *,
        cache_to: Sequence[CacheOption] = (),
        epoch: int | None = None,
        platforms: Sequence[str] | None = None,
        on_digests: Callable[[dict[int, dict[str, object]]], None] | None = None,
        call: FrontendCall | None = None,
        attests: Attests | None = None,
        run: Run | None = None,
        producers: Producers | None = None,
        resolve_mode: str = "",
        ignore_cache: bool = False,
    ) -> BuildResult:
        """Evaluate every ref and make the outputs. `platforms` is what the frontend was asked for, None for a
        question that gives no image. With `run` its provenance is known afterwards: `call` is how the build
        began, `producers` finds who made its inputs; `attests` is what is to be attested, `resolve_mode` and
        `ignore_cache` are for the scanner of an SBOM. Raises `BuildError` and its kin."""
        request = BuildRequest(
            context=".",
            outputs=tuple(outputs),
            cache_to=tuple(cache_to),
            platforms=tuple(sorted(result.refs or ())),
        )
        with os_errors():
            stock = await self._stock_keys(result) if cache_to or self._cache.imported else None
            named = named_graphs(result, is_exported=bool(outputs))
            if platforms is not None and is_image(result):
                self._verify_platforms(platforms, [platform for _, platform, _ in named], result)
            if attests is not None and attests.sbom is not None:
                result = await self._scanned(result, named, attests, resolve_mode, ignore_cache)
            results = await self._solve(result, named)
            if run is not None:
                run.epoch = epoch if epoch is not None else epoch_in(result)
                results = self._attested(
                    result,
                    named,
                    results,
                    call or FrontendCall(None, FrontendRequest(), solver=self.solver),
                    attests,
                    run,
                    producers,
                )
            exporter = Exporter(
                request,
                self.store,
                self.worker,
                self.worker.emit,
                epoch=epoch if epoch is not None else epoch_in(result),
                receiver=self._borrowed.receiver,
                metadata=result.metadata,
            )
            if stock is not None and cache_to:
                from anyarch.engine.remote_cache import inline_cache

                solved = await stock.complete()
                exporter.inline = inline_cache(request, solved, stock)
            outcome = await exporter.export(
                results, multi_platform=result.refs is not None, warnings=self.warnings
            )
            # Several outputs answer by the same keys, of which the last stays.
            outcome = msgspec.structs.replace(outcome, image_names=tuple(exporter.names))
            if stock is not None and cache_to:
                from anyarch.engine.remote_cache import export_caches

                chains = [item.layers for item in results]
                metadata = await export_caches(
                    request,
                    self.worker,
                    solved,
                    chains,
                    self._plain.warn,
                    stock,
                    self._borrowed.caches,
                )
                outcome = msgspec.structs.replace(outcome, metadata={**outcome.metadata, **metadata})
        if on_digests is not None:
            on_digests({number: msgspec.to_builtins(item) for number, item in exporter.digests.items()})
        return outcome

    async def _stock_keys(self, result: SolveResult) -> StockKeys:
        """BuildKit's keys of the vertices; what imported caches have under them is known from now on."""
        from anyarch.engine.stock import StockKeys

        graphs = [graph for _, _, graph in named_graphs(result, is_exported=False) if graph is not None]
        for graph in graphs:
            load(self.solver, self.worker, graph)
        stock = StockKeys(self.solver, self.worker, graphs)
        await stock.find()
        await stock.adopt(self._cache.imported)
        return stock

    async def _scanned(
        self,
        result: SolveResult,
        named: Sequence[tuple[str, Platform, Definition | None]],
        attests: Attests,
        mode: str,
        ignore_cache: bool,
    ) -> SolveResult:
        """The result with SBOMs, unless its frontend gave some."""
        from anyarch.engine.sbom import has_sbom, of_graphs

        assert attests.sbom is not None
        if has_sbom(result.attestations):
            return result
        found = await of_graphs(
            self._plain,
            result_graphs(named),
            attests.sbom,
            host_platform(),
            mode=mode,
            ignore_cache=ignore_cache,
        )
        both = {
            name: (*result.attestations.get(name, ()), *found.get(name, ()))
            for name in dict.fromkeys((*result.attestations, *found))
        }
        return msgspec.structs.replace(result, attestations=both)

    def _attested(
        self,
        result: SolveResult,
        named: Sequence[tuple[str, Platform, Definition | None]],
        results: list[PlatformResult],
        call: FrontendCall,
        attests: Attests | None,
        run: Run,
        producers: Producers | None,
    ) -> list[PlatformResult]:
        """The results with provenance where it is wanted."""
        from anyarch.engine.provenance import Provenance

        self.provenance = Provenance(
            self.worker,
            self.solver,
            call,
            producers or (lambda definition: ()),
            run,
            result_graphs(named),
            is_single=result.refs is None,
        )
        options = attests.provenance if attests is not None else None
        if options is None:
            return results
        found = []
        for one, (name, _, _) in zip(results, named, strict=True):
            told = self.provenance.attestation(name, options)
            more = (told,) if told is not None else ()
            found.append(msgspec.structs.replace(one, attestations=(*one.attestations, *more)))
        return found

    def history_provenance(self, options: ProvenanceOptions) -> dict[str, bytes]:
        """All that is known of how the results came about, by name (empty for the only one)."""
        if self.provenance is None:
            return {}
        found = {}
        for name, is_only in self.provenance.names():
            document = self.provenance.document(name, options)
            if document is not None:
                found["" if is_only else name] = msgspec.json.format(msgspec.json.encode(document), indent=2)
        return found

    def _verify_platforms(self, asked: Sequence[str], made: Sequence[Platform], result: SolveResult) -> None:
        from anyarch.engine.verify import platform_warnings
        from anyarch.solver.events import WarningEvent
        from anyarch.solver.work import Work

        texts = platform_warnings(asked or [str(host_platform())], made, is_multi=bool(result.refs))
        if texts:
            # Warnings are shown with a vertex, and this is about none.
            work = Work(self.worker.emit, "verifying platforms of the result")
            work.done()
            for text in texts:
                self._plain.warn(WarningEvent(work.digest, text))

    async def _solve(
        self, result: SolveResult, named: Sequence[tuple[str, Platform, Definition | None]]
    ) -> list[PlatformResult]:
        edges = {
            name: load(self.solver, self.worker, definition) if definition is not None else None
            for name, _, definition in named
        }
        wanted = {name: edge for name, edge in edges.items() if edge is not None}
        solved = dict(zip(wanted, await self.solver.solve(list(wanted.values())), strict=True))
        found = []
        for name, platform, _ in named:
            value = solved.get(name)
            if value is not None and not hasattr(value, "layers"):
                value = await asyncio.to_thread(self.worker.materialize, value)
            config = result.metadata.get(f"{CONFIG}/{name}") or (
                result.metadata.get(CONFIG, b"") if result.refs is None else b""
            )
            layers = value.layers if value is not None else ()
            attestations = await read_attestations(result.attestations.get(name, ()), self.load)
            found.append(
                PlatformResult(platform, layers, config_for(config, platform), attestations=attestations)
            )
        return found
