"""The records that the nodes of a builder keep of builds, with what is known here of where these were started
from."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.api.failure import build_error
from anyarch.api.proto import control_pb2 as control
from anyarch.api.proto import rpcstatus_pb2 as rpcstatus
from anyarch.api.rpc.status import RpcError
from anyarch.builder.refs import LocalState, read_state
from anyarch.builder.usage import wire_client
from anyarch.errors import AnyarchError, BuilderError, NotSupported
from anyarch.history.filters import for_daemon, matcher
from anyarch.history.name import build_name
from anyarch.history.record import Attachment, BuildRecord, RecordError
from anyarch.solver.events import LogEvent, VertexEvent
from anyarch.spec.intoto import MANIFEST_KIND, REFERENCE_TYPE, SLSA_PROVENANCE
from anyarch.spec.timestamp import LATEST_S, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyarch.builder.builder import Builder, Node
    from anyarch.builder.wire import WireClient
    from anyarch.solver.events import Event, EventSink

__all__ = [
    "Entry",
    "Failure",
    "Inspected",
    "find_record",
    "follow_record",
    "inspect_record",
    "list_records",
    "read_attachment",
    "remove_records",
]

_MOST = 50
_LOG_LINES = 16
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DEEPEST = 4


class Entry:
    """A record and the node that keeps it. `state` is empty for builds that were started elsewhere."""

    def __init__(self, record: BuildRecord, node: Node, state: LocalState) -> None:
        self.record = record
        self.node = node
        self.state = state

    @property
    def name(self) -> str:
        return build_name(self.record.attrs, self.state.local_path, self.state.dockerfile_path)

    @property
    def full_ref(self) -> str:
        return f"{self.node.builder}/{self.node.name}/{self.record.ref}"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How a build failed: the error with its lines of the Dockerfile, the step, the end of its log."""

    error: AnyarchError
    step: str = ""
    log: tuple[str, ...] = ()


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has to be asked for beside the record."""

    attachments: tuple[Attachment, ...] = ()
    materials: tuple[dict[str, Any], ...] = ()
    failure: Failure | None = None


async def list_records(
    builder: Builder, filters: Sequence[str] = (), *, ref: str = "", node: str = ""
) -> list[Entry]:
    """The records that filters choose, of all nodes or of one, those that run first, then the newest first.
    Raises `AnyarchError`."""
    chosen = matcher(filters)
    request = control.BuildHistoryRequest(EarlyExit=True, Ref=ref, Limit=_MOST, Filter=for_daemon(filters))
    directory = builder.surroundings.store.directory

    async def one(node: Node) -> list[Entry]:
        async with _client(node) as client:
            events, clock = await client.history(request)
        now = int((parse_time(clock) or 0) * 1e9)
        records = [
            _record(event.record, now)
            for event in events
            if event.HasField("record") and event.type != control.DELETED
        ]
        return [
            Entry(record, node, read_state(directory, node.builder, node.name, record.ref) or LocalState())
            for record in records
            if chosen(record)
        ]

    nodes = [item for item in builder.nodes if item.name == node] if node else await _nodes(builder)
    found = await asyncio.gather(*(one(item) for item in nodes))
    entries = [entry for entries in found for entry in entries]
    return sorted(entries, key=lambda entry: (entry.record.completed is not None, -entry.record.started))


async def find_record(builder: Builder, ref: str) -> Entry:
    """The record `ref`: a ref, also with builder and node before it, `^N` for the build before the N newest,
    or empty for the newest. Raises `BuilderError`."""
    is_offset = ref.startswith("^")
    if is_offset and not ref[1:].isdigit():
        raise BuilderError(f'invalid offset "{ref}"', hint="^1 is the build before the newest")
    entries = await list_records(builder, ref="" if is_offset else ref.rpartition("/")[2])
    entries.sort(key=lambda entry: -entry.record.started)
    offset = int(ref[1:]) if is_offset else 0
    if is_offset and offset >= len(entries):
        raise BuilderError(f"no completed build found with offset {offset - len(entries)}")
    if "/" in ref:
        entries = [entry for entry in entries if entry.full_ref.endswith(ref)]
    if not entries:
        raise BuilderError(
            f'no record found for ref "{ref}"' if ref else "no records found",
            hint="anyarch history ls lists them",
        )
    return entries[offset]


async def remove_records(builder: Builder, refs: Sequence[str], *, all: bool) -> None:
    """Remove records from the nodes that have them. Raises `BuilderError` for those that no node has."""
    wanted = [ref.rpartition("/")[2] for ref in refs]

    async def one(node: Node) -> list[AnyarchError | None]:
        async with _client(node) as client:
            if all:
                events, _ = await client.history(control.BuildHistoryRequest(EarlyExit=True))
                for event in events:
                    if event.type == control.COMPLETE:
                        await client.delete_record(event.record.Ref)
                return []
            return [await _delete(client, ref) for ref in wanted]

    answers = await asyncio.gather(*(one(node) for node in await _nodes(builder)))
    missing = [] if all else [errors for errors in zip(*answers, strict=True) if None not in errors]
    if missing:
        said = dict.fromkeys(error.message for errors in missing for error in errors if error is not None)
        raise BuilderError("\n".join(said), hint="anyarch history ls lists what there is")


async def _delete(client: WireClient, ref: str) -> AnyarchError | None:
    try:
        await client.delete_record(ref)
    except AnyarchError as error:
        return error
    return None


async def follow_record(entry: Entry, emit: EventSink) -> None:
    """Tell the progress of a record's build, to its end."""
    async with _client(entry.node) as client:
        await client.follow(entry.record.ref, emit)


async def inspect_record(entry: Entry) -> Inspected:
    """Raises `AnyarchError`."""
    async with _client(entry.node) as client:
        attachments = await _attachments(client, entry.record)
        materials = await _materials(client, attachments)
        failure = await _failure(client, entry.record)
    return Inspected(attachments=attachments, materials=materials, failure=failure)


async def read_attachment(entry: Entry, digest: str) -> bytes:
    async with _client(entry.node) as client:
        return await client.read_blob(digest)


# asking ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _client(node: Node) -> AsyncIterator[WireClient]:
    client = await wire_client(node)
    try:
        yield client
    finally:
        await client.close()


async def _nodes(builder: Builder) -> list[Node]:
    """The nodes, started where they do not run. Raises what one that does not answer has said."""
    if builder.is_embedded:
        raise NotSupported(
            f"the builder {builder.name} is the engine in this process, which keeps no records of builds",
            hint="a daemon does: choose a builder with --builder",
        )
    await builder.load(20.0)
    await builder.start(builder.nodes, lambda node, text: None)
    for node in builder.nodes:
        if node.error is not None:
            raise node.error
    return [node for node in builder.nodes if node.driver is not None]


async def _attachments(client: WireClient, record: BuildRecord) -> tuple[Attachment, ...]:
    """What the build left, and what indexes among that lead to, as far as the daemon still has it."""
    found = list(record.attestations)
    for result in record.results:
        found += await _reached(client, result, _DEEPEST)
    return tuple(sorted(found, key=lambda item: (item.platform, item.type)))


async def _reached(client: WireClient, item: Attachment, depth: int) -> list[Attachment]:
    try:
        raw = await client.read_blob(item.digest)
    except AnyarchError:
        return []  # removed since
    is_attestation = item.annotations.get(REFERENCE_TYPE) == MANIFEST_KIND
    found = [] if is_attestation else [item]
    if item.media_type not in _INDEXES or not depth:
        return found
    for child in _manifests(raw):
        child = msgspec.structs.replace(child, platform=child.platform or item.platform)
        found += await _reached(client, child, depth - 1)
    return found


def _manifests(raw: bytes) -> list[Attachment]:
    from anyarch.spec.oci import Index, decode
    from anyarch.spec.platform import Platform

    try:
        manifests = decode(Index, raw).manifests
    except AnyarchError:
        return []
    return [
        Attachment(
            digest=item.digest,
            media_type=item.media_type,
            size=item.size,
            platform=str(Platform.of_spec(item.platform)) if item.platform is not None else "",
            annotations=item.annotations or {},
        )
        for item in manifests
    ]


async def _materials(client: WireClient, attachments: Sequence[Attachment]) -> tuple[dict[str, Any], ...]:
    """What the provenance says that the build was made of."""
    for item in attachments:
        if item.type.startswith(SLSA_PROVENANCE):
            try:
                value = json.loads(await client.read_blob(item.digest))
            except ValueError:
                raise BuilderError(f"failed to unmarshal provenance {item.digest}") from None
            return tuple(_material(one) for one in _dependencies(value) if isinstance(one, dict))
    return ()


def _dependencies(predicate: Any) -> list[Any]:
    if not isinstance(predicate, dict):
        return []
    definition = predicate.get("buildDefinition")
    found = definition.get("resolvedDependencies") if isinstance(definition, dict) else None
    found = predicate.get("materials") if found is None else found
    return found if isinstance(found, list) else []


def _material(value: dict[str, Any]) -> dict[str, Any]:
    digests = value.get("digest")
    listed = [f"{name}:{text}" for name, text in digests.items()] if isinstance(digests, dict) else []
    made = {"URI": value.get("uri"), "Digests": listed}
    return {key: item for key, item in made.items() if item}


async def _failure(client: WireClient, record: BuildRecord) -> Failure | None:
    if record.details is None:
        return None
    status = rpcstatus.Status.FromString(await client.read_blob(record.details.digest))
    error = build_error(RpcError(status.code, status.message, details=status.SerializeToString()))
    if error.vertex is None:
        return Failure(error=error)
    step, log = "", bytearray()

    def listen(event: Event) -> None:
        nonlocal step
        if isinstance(event, VertexEvent) and event.digest == error.vertex:
            step = event.name
        elif isinstance(event, LogEvent) and event.vertex == error.vertex:
            log.extend(event.data)

    await client.follow(record.ref, listen)
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line]
    return Failure(error=error, step=step, log=tuple(lines[-_LOG_LINES:]))


# records --------------------------------------------------------------------------------------------------


def _record(item: Any, now: int) -> BuildRecord:
    attestations: list[Attachment] = []
    results: list[Attachment] = []
    infos = [("", item.Result)] if item.HasField("Result") else []
    for platform, info in [*infos, *sorted(item.Results.items())]:
        attestations += [_attachment(one, platform) for one in info.Attestations]
        results += [_attachment(one, platform) for _, one in sorted(info.Results.items())]
    is_failed = item.HasField("error")
    return BuildRecord(
        ref=item.Ref,
        attrs=dict(item.FrontendAttrs),
        started=_nanoseconds(item.CreatedAt),
        completed=_nanoseconds(item.CompletedAt) if item.HasField("CompletedAt") else None,
        now=now,
        error=RecordError(item.error.code, item.error.message) if is_failed else None,
        details=_attachment(item.externalError, "") if item.HasField("externalError") else None,
        steps=item.numTotalSteps,
        completed_steps=item.numCompletedSteps,
        cached_steps=item.numCachedSteps,
        attestations=tuple(attestations),
        results=tuple(results),
    )


def _attachment(item: Any, platform: str) -> Attachment:
    return Attachment(
        digest=item.digest,
        media_type=item.media_type,
        size=item.size,
        platform=platform,
        annotations=dict(item.annotations),
    )


def _nanoseconds(stamp: Any) -> int:
    """Within the years that have names."""
    return min(max(int(stamp.seconds), 0), LATEST_S) * 1_000_000_000 + min(
        max(int(stamp.nanos), 0), 999_999_999
    )
