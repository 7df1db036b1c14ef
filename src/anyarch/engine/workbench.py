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
from anyarch.errors import BuildError, UsageError
from anyarch.exporter.assemble import PlatformResult
from anyarch.frontend.dockerfile.build import ForeignSyntax
from anyarch.frontend.gateway import BuildOpts
from anyarch.llb.definition import Definition
from anyarch.solver.inflight import InFlight
from anyarch.solver.solver import Solver
from anyarch.spec.codec import json_decoder
from anyarch.spec.number import natural
from anyarch.spec.platform import Platform, host_platform
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
    from anyarch.cache.stock import StockKey
    from anyarch.engine.calls import Producers
    from anyarch.engine.export import Receiver
    from anyarch.engine.provenance import Provenance, ResultGraph, Run
    from anyarch.engine.request import BuildResult, CacheOption, Output
    from anyarch.engine.sourcepolicy import SourcePolicy
    from anyarch.frontend.gateway import FrontendResult
    from anyarch.registry.credentials import CredentialSource
    from anyarch.registry.hosts import Hosts
    from anyarch.sandbox.net.dns import Dns
    from anyarch.sandbox.net.networks import StepNetworks
    from anyarch.solver.events import EventSink
    from anyarch.source.layout import LayoutBlobs
    from anyarch.source.local import LocalProvider
    from anyarch.worker.cdi import Settings as CdiSettings
    from anyarch.worker.limits import SharedSlots
    from anyarch.worker.session import Lent

__all__ = ["AttestationRef", "Borrowed", "ForeignSyntax", "InFlight", "SolveResult", "Workbench"]

_CONFIG = "containerimage.config"
_PLATFORMS = "refs.platforms"
_NULL = b"null"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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


class SolveResult(msgspec.Struct, frozen=True):
    """What a frontend gives: one definition (`ref`), or one a platform id (`refs`); None is the empty result.
    Keys of `metadata` are BuildKit's: `containerimage.config[/ID]`, `refs.platforms`."""

    ref: Definition | None = None
    refs: dict[str, Definition | None] | None = None
    metadata: dict[str, bytes] = {}
    attestations: dict[str, tuple[AttestationRef, ...]] = {}
    """By platform id."""


class _PlatformItem(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    platform: dict[str, str | list[str]] = msgspec.field(name="Platform", default_factory=dict)


class _Platforms(msgspec.Struct):
    platforms: list[_PlatformItem] | None = msgspec.field(name="Platforms", default=None)


class Workbench:
    def __init__(
        self, store: Store, cache: StoredCache, worker: Worker, solver: Solver, borrowed: Borrowed
    ) -> None:
        self.store = store
        self.worker = worker
        self.solver = solver
        self._cache = cache
        self._borrowed = borrowed
        self._plain = EngineGateway(solver, worker, BuildOpts({}, build_platforms=(host_platform(),)))
        self.warnings = 0
        self.policy: SourcePolicy | None = None
        """What decides on the sources of graphs."""
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
    ) -> AsyncIterator[Workbench]:
        """Leaving ends what still runs. Builds of one store with the same `in_flight` run equal steps once,
        those with the same `exec_slots` so many at a time.
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
                ) as worker,
                Solver(cache := StoredCache(store.cache), emit, in_flight=in_flight) as solver,
            ):
                yield cls(store, cache, worker, solver, borrowed)

    @property
    def gateway(self) -> EngineGateway:
        """For questions that belong to no frontend."""
        return self._plain

    async def import_caches(self, options: Sequence[CacheOption]) -> None:
        """Ask these caches too, from now on. One that cannot be read is a warning."""
        if options:
            from anyarch.engine.remote_cache import import_caches

            request = BuildRequest(context=".", cache_from=tuple(options))
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
                result = _of_frontend(found)
                if call is not None:
                    call.solved += [ref for ref in found.refs.values() if ref is not None]
                if sbom is not None and found.platforms:
                    from anyarch.engine.sbom import of_frontend

                    mode = attrs.get("image-resolve-mode", "")
                    made = await of_frontend(gateway, found, sbom, mode=mode)
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
            stock = await self._stock_keys(result) if cache_to or self._cache.imported else {}
            result = _with_config(result, outputs)
            named = _named(result, is_exported=bool(outputs))
            if platforms is not None and _is_image(result):
                self._verify_platforms(platforms, [platform for _, platform, _ in named], result)
            if attests is not None and attests.sbom is not None:
                result = await self._scanned(result, named, attests, resolve_mode, ignore_cache)
            results = await self._solve(result, named)
            if run is not None:
                run.epoch = epoch if epoch is not None else _epoch(result)
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
                epoch=epoch if epoch is not None else _epoch(result),
                receiver=self._borrowed.receiver,
                metadata=result.metadata,
            )
            if cache_to:
                from anyarch.engine.remote_cache import inline_cache

                exporter.inline = inline_cache(request, self.solver, stock)
            outcome = await exporter.export(
                results, multi_platform=result.refs is not None, warnings=self.warnings
            )
            # Several outputs answer by the same keys, of which the last stays.
            outcome = msgspec.structs.replace(outcome, image_names=tuple(exporter.names))
            if cache_to:
                from anyarch.engine.remote_cache import export_caches

                chains = [item.layers for item in results]
                metadata = await export_caches(
                    request,
                    self.worker,
                    self.solver,
                    chains,
                    self._plain.warn,
                    stock,
                    self._borrowed.caches,
                )
                outcome = msgspec.structs.replace(outcome, metadata={**outcome.metadata, **metadata})
        if on_digests is not None:
            on_digests({number: msgspec.to_builtins(item) for number, item in exporter.digests.items()})
        return outcome

    async def _stock_keys(self, result: SolveResult) -> dict[str, StockKey]:
        """BuildKit's keys of the vertices; what imported caches have under them is known from now on."""
        from anyarch.engine.remote_cache import adopt_stock, stock_keys_of

        graphs = [graph for _, _, graph in _named(result, is_exported=False) if graph is not None]
        for graph in graphs:
            load(self.solver, self.worker, graph)
        stock = await stock_keys_of(self.solver, self.worker, graphs)
        await adopt_stock(self._cache.imported, self.solver, stock)
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
            _graphs(named),
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
            _graphs(named),
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
            config = result.metadata.get(f"{_CONFIG}/{name}") or (
                result.metadata.get(_CONFIG, b"") if result.refs is None else b""
            )
            layers = value.layers if value is not None else ()
            attestations = await read_attestations(result.attestations.get(name, ()), self.load)
            found.append(
                PlatformResult(platform, layers, _config(config, platform), attestations=attestations)
            )
        return found


def _of_frontend(found: FrontendResult) -> SolveResult:
    metadata = dict(found.metadata)
    if not found.platforms:
        return SolveResult(metadata=metadata)
    items = [
        {"ID": name, "Platform": msgspec.to_builtins(platform.spec())} for name, platform in found.platforms
    ]
    metadata[_PLATFORMS] = msgspec.json.encode({"Platforms": items})
    if len(found.platforms) == 1 and not found.multi_platform:
        name = found.platforms[0][0]
        metadata[_CONFIG] = found.configs[name]
        if name in found.base_configs:
            metadata["containerimage.base.config"] = found.base_configs[name]
        return SolveResult(ref=found.refs.get(name), metadata=metadata)
    for name, _ in found.platforms:
        metadata[f"{_CONFIG}/{name}"] = found.configs[name]
        if name in found.base_configs:
            metadata[f"containerimage.base.config/{name}"] = found.base_configs[name]
    refs = {name: found.refs.get(name) for name, _ in found.platforms}
    return SolveResult(refs=refs, metadata=metadata)


def _named(result: SolveResult, *, is_exported: bool) -> list[tuple[str, Platform, Definition | None]]:
    """The refs of a result with their platforms, in the order of `refs.platforms`. One that is listed twice
    is an error of what is exported only. Raises `BuildError`."""
    raw = result.metadata.get(_PLATFORMS)
    listed: list[_PlatformItem] = []
    if raw:
        try:
            listed = json_decoder(_Platforms).decode(raw if raw != _NULL else b"{}").platforms or []
        except msgspec.DecodeError as error:
            raise BuildError(f"failed to parse platforms passed to provenance processor: {error}") from None
        _check_platforms(listed)
    if result.refs is None:
        platform = _platform(listed[0].platform) if listed else _of_config(result.metadata.get(_CONFIG, b""))
        return [(listed[0].id if listed else str(platform), platform, result.ref)]
    if not listed:
        if len(result.refs) > 1:
            raise BuildError("number of platforms does not match references 0 " + str(len(result.refs)))
        return [(name, host_platform(), definition) for name, definition in result.refs.items()]
    if not is_exported:
        listed = list({item.id: item for item in listed}.values())
    if len(listed) != len(result.refs):
        raise BuildError(f"number of platforms does not match references {len(listed)} {len(result.refs)}")
    found = []
    for item in listed:
        if item.id not in result.refs:
            raise BuildError(f"failed to find ref for ID {item.id}")
        found.append((item.id, _platform(item.platform), result.refs[item.id]))
    return found


def _with_config(result: SolveResult, outputs: Sequence[Output]) -> SolveResult:
    """The result with the image config that its outputs give. Raises `UsageError` where they do not agree."""
    given = {output.attrs.get(_CONFIG) for output in outputs if output.type not in ("local", "tar")}
    if not given or given == {None}:
        return result
    if len(given) > 1:
        raise UsageError(f"outputs of one build have different values of {_CONFIG}")
    raw = str(given.pop()).encode()
    return msgspec.structs.replace(result, metadata={**result.metadata, _CONFIG: raw})


def _graphs(named: Sequence[tuple[str, Platform, Definition | None]]) -> list[ResultGraph]:
    from anyarch.engine.provenance import ResultGraph

    return [ResultGraph(*item) for item in named]


def _check_platforms(listed: Sequence[_PlatformItem]) -> None:
    """Raises `BuildError` for a list that a frontend must not give."""
    if not listed:
        raise BuildError("invalid empty platforms index for exporter")
    for item in listed:
        if not item.id:
            raise BuildError("invalid empty platform key for exporter")
        if not item.platform.get("os") or not item.platform.get("architecture"):
            raise BuildError(f"invalid platform value {item.platform} for exporter")


def _is_image(result: SolveResult) -> bool:
    """Whether there is anything that has a platform."""
    return _PLATFORMS in result.metadata or result.ref is not None or bool(result.refs)


def _platform(value: dict[str, str | list[str]]) -> Platform:
    def text(key: str) -> str:
        found = value.get(key, "")
        return found if isinstance(found, str) else ""

    features = value.get("os.features") or []
    made = Platform.make(text("os"), text("architecture"), text("variant"))
    return msgspec.structs.replace(
        made, os_version=text("os.version"), os_features=tuple(features) if isinstance(features, list) else ()
    )


class _Target(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def _of_config(raw: bytes) -> Platform:
    if not raw:
        return host_platform()
    try:
        target = json_decoder(_Target).decode(raw if raw != _NULL else b"{}")
    except msgspec.DecodeError as error:
        raise BuildError(f"failed to parse image config: {error}") from None
    if bool(target.os) != bool(target.architecture):
        raise BuildError("invalid image config: os and architecture must be specified together")
    if not target.os or not target.architecture:
        return host_platform()
    return Platform.make(target.os, target.architecture, target.variant)


def _config(raw: bytes, platform: Platform) -> bytes:
    """The image config for `platform`, whatever the frontend wrote into it; one of our own without any."""
    try:
        document = msgspec.json.decode(raw) if raw else {"config": {"Env": [_PATH], "WorkingDir": "/"}}
    except msgspec.DecodeError as error:
        raise BuildError(f"failed to parse image config: {error}") from None
    if document is None:
        raise BuildError("invalid null image config for export")
    if not isinstance(document, dict):
        raise BuildError("failed to parse image config: it is no object")
    document.update(os=platform.os, architecture=platform.architecture)
    document.pop("variant", None)
    if platform.variant:
        document["variant"] = platform.variant
    document.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    if not document["rootfs"] or not document["rootfs"].get("type"):
        document["rootfs"] = {"type": "layers", "diff_ids": []}
    return msgspec.json.encode(document)


def _epoch(result: SolveResult) -> int | None:
    prefix = "source.date.epoch/"
    found = (
        natural(value.decode("latin-1"))
        for key, value in result.metadata.items()
        if key.startswith(prefix) or key == "source.date.epoch"
    )
    return max((epoch for epoch in found if epoch is not None), default=None)
