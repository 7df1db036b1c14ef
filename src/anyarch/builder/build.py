"""One build on a builder: nodes are started, platforms placed, every node builds its own, the results merged.

A node that goes away during the build costs what it had not finished: its platforms are placed again on those
that are left.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from anyarch.builder.builder import load_node
from anyarch.builder.placement import Assignment, Candidate, group, place, place_fixed
from anyarch.builder.refs import save_state, state_of
from anyarch.builder.renamed import renamed
from anyarch.engine.running import canceled_by
from anyarch.errors import AnyarchError, BuilderError, NodeLost
from anyarch.session.identity import base36_id
from anyarch.solver.work import Work
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.builder.builder import Builder, Node
    from anyarch.builder.driver import NodeClient
    from anyarch.builder.merge import Part
    from anyarch.engine.request import BuildRequest, BuildResult, CancelToken, Repository
    from anyarch.solver.events import EventSink

__all__ = ["build_on"]

_LOAD_TIMEOUT_S = 20.0
_BUILD_REF = "buildx.build.ref"


async def build_on(
    builder: Builder, request: BuildRequest, on_event: EventSink, cancel: CancelToken | None = None
) -> BuildResult:
    """Build to the end. Raises `AnyarchError`; `Canceled` when `cancel` was set."""
    with ExitStack() as held, canceled_by(cancel):
        try:
            return await _Build(builder, request, on_event, cancel, held).run()
        finally:
            for node in builder.nodes:
                client = node.take_client()
                if client is not None:
                    await client.close()


class _Build:
    def __init__(
        self,
        builder: Builder,
        request: BuildRequest,
        emit: EventSink,
        cancel: CancelToken | None,
        held: ExitStack,
    ) -> None:
        self._builder = builder
        self._request = request
        self._emit = emit
        self._cancel = cancel
        self._held = held
        self._scratch = ""
        self._wanted = [Platform.parse(text) for text in request.platforms]
        self._lost: dict[str, AnyarchError] = {}
        self._counts: dict[str, int] = {}
        self._parts: list[Part] = []
        self._context_path = ""

    async def run(self) -> BuildResult:
        self._request = msgspec.structs.replace(
            self._request, repository=await asyncio.to_thread(self._repository)
        )
        await self._keep_standard_input()
        self._builder.open(context_path=self._request.context)
        while True:
            assigned, nodes = await self._place()
            groups = group(assigned) if self._wanted else {0: []}
            if len(groups) == 1:
                node = nodes[next(iter(groups))]
                try:
                    return await self._alone(node)
                except NodeLost as error:
                    self._give_up(node, error, [*self._wanted])
                    if any(output.dest == "-" for output in self._request.outputs):
                        raise
                    continue
            from anyarch.builder.merge import check

            check(self._request)
            self._warn_of_caches()
            self._tell(assigned, nodes)
            await self._together(groups, nodes)
            return await self._merged()

    def _directory(self) -> str:
        """For files of this build; made when there is the first."""
        if not self._scratch:
            import tempfile

            self._scratch = self._held.enter_context(tempfile.TemporaryDirectory(prefix="anyarch-build-"))
        return self._scratch

    def _repository(self) -> Repository | None:
        from anyarch.builder.vcs import told_repository

        return told_repository(self._request.context, self._builder.surroundings.env, self._warn)

    async def _keep_standard_input(self) -> None:
        """An archive on standard input can be read once, and several nodes may want it."""
        stream = self._request.context_tar
        if stream is None:
            return
        import shutil

        path = os.path.join(self._directory(), "context.tar")

        def keep() -> None:
            with open(path, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)

        await asyncio.to_thread(keep)
        self._context_path = path

    # nodes ----------------------------------------------------------------------------------------

    async def _place(self) -> tuple[list[Assignment], list[Node]]:
        """The nodes to be used, running, and which platform is whose. Raises `BuilderError`."""
        nodes = [node for node in self._builder.nodes if node.name not in self._lost]
        if not nodes:
            raise self._nobody()
        candidates = [Candidate.of(node) for node in nodes]
        fixed = place_fixed(self._wanted, candidates) if self._wanted else [Assignment(_ANY, 0, "")]
        if fixed is not None:
            chosen = [nodes[number] for number in sorted({item.node for item in fixed})]
            await self._ready(chosen)
            if all(node.error is None for node in chosen):
                return (fixed if self._wanted else []), nodes
        await self._ready([node for node in nodes if not node.is_running])
        usable = [node for node in nodes if node.error is None]
        for node in nodes:
            if node.error is not None:
                self._give_up(node, node.error, [item for item in self._wanted if item in node.fixed])
        if not usable:
            raise self._nobody()
        if not self._wanted:
            return [], usable
        return self._placed(self._wanted, usable), usable

    def _placed(self, wanted: Sequence[Platform], nodes: Sequence[Node]) -> list[Assignment]:
        """Of `wanted` on nodes that run. Raises `BuilderError`."""
        candidates = [Candidate.of(node) for node in nodes]
        load = [self._counts.get(node.name, 0) for node in nodes]
        try:
            return place(wanted, candidates, load=load)
        except BuilderError:
            from anyarch.engine.programs import runs_programs

            if runs_programs(self._request):
                raise
        return place(wanted, candidates, must_run=False, load=load)

    async def _ready(self, nodes: Sequence[Node]) -> None:
        """Ask the nodes, and start those that do not run."""
        await asyncio.gather(*(load_node(node, _LOAD_TIMEOUT_S, to_build=True) for node in nodes))
        wanting = [node for node in nodes if node.error is None and not node.is_running]
        if not wanting:
            return
        steps = {node.name: Work(self._emit, f"[internal] booting node {node.name}") for node in wanting}
        await self._builder.start(wanting, lambda node, text: steps[node.name].step(text))
        for node in wanting:
            steps[node.name].done(node.error.message if node.error is not None else "")

    def _give_up(self, node: Node, error: AnyarchError, platforms: Sequence[Platform]) -> None:
        self._lost[node.name] = error
        what = f"; {', '.join(map(str, platforms))} will be built elsewhere" if platforms else ""
        left = [other for other in self._builder.nodes if other.name not in self._lost]
        if left:
            self._note(f"[internal] node {node.name} is lost: {error.message}{what}")

    def _nobody(self) -> AnyarchError:
        """The error of a builder none of whose nodes works."""
        if len(self._lost) == 1:
            (error,) = self._lost.values()
            return error
        said = [f"{name}: {error.message}" for name, error in self._lost.items()]
        return BuilderError(
            f"no node of builder {self._builder.name} can be used", hint="\n".join(said) or "it has no node"
        )

    # building -------------------------------------------------------------------------------------

    async def _alone(self, node: Node) -> BuildResult:
        return await self._build(node, self._request, self._emit)

    async def _together(self, groups: dict[int, list[Platform]], nodes: list[Node]) -> None:
        """All nodes build at once; what a lost one leaves is placed on the others while they work."""
        import tempfile

        from anyarch.builder.merge import Part, part_request

        async with asyncio.TaskGroup() as tasks:

            async def work(node: Node, platforms: list[Platform]) -> None:
                directory = tempfile.mkdtemp(dir=self._directory())
                asked = part_request(self._request, platforms, directory)
                try:
                    result = await self._build(node, asked, renamed(self._emit, node.name))
                except NodeLost as error:
                    if node.name not in self._lost:
                        self._give_up(node, error, platforms)
                    move(platforms)
                except AnyarchError as error:
                    error.node = error.node or node.name
                    raise
                else:
                    self._parts.append(Part(tuple(platforms), directory, result))

            def move(platforms: list[Platform]) -> None:
                left = [node for node in nodes if node.name not in self._lost]
                if not left:
                    raise self._nobody()
                assigned = self._placed(platforms, left)
                self._tell(assigned, left)
                begin(group(assigned), left)

            def begin(groups: dict[int, list[Platform]], nodes: list[Node]) -> None:
                for number, platforms in groups.items():
                    node = nodes[number]
                    self._counts[node.name] = self._counts.get(node.name, 0) + len(platforms)
                    tasks.create_task(work(node, platforms))

            begin(groups, nodes)

    async def _build(self, node: Node, request: BuildRequest, emit: EventSink) -> BuildResult:
        assert node.driver is not None
        client = node.take_client() or await node.driver.client()
        stream: BinaryIO | None = None
        try:
            if request.context_tar is not None:
                stream = await asyncio.to_thread(open, self._context_path, "rb")
                request = msgspec.structs.replace(request, context_tar=stream)
            if not self._builder.is_embedded and request.call in ("", "build"):
                return await self._recorded(node, client, request, emit)
            return await client.build(request, emit, self._cancel)
        finally:
            if stream is not None:
                stream.close()
            await client.close()

    async def _recorded(
        self, node: Node, client: NodeClient, request: BuildRequest, emit: EventSink
    ) -> BuildResult:
        """Build, and keep where from under the name of the node's record."""
        name = (self._builder.name, node.name, base36_id())
        store = self._builder.surroundings.store
        save_state(store.directory, name, state_of(self._request), owner=store.owner)
        try:
            request = msgspec.structs.replace(request, ref=name[2])
            result = await client.build(request, emit, self._cancel)
        except AnyarchError as error:
            error.build_ref = "/".join(name)
            raise
        metadata = {**result.metadata, _BUILD_REF: "/".join(name)}
        return msgspec.structs.replace(result, metadata=metadata)

    async def _merged(self) -> BuildResult:
        from anyarch.builder.merge import merge

        self._parts.sort(key=lambda part: self._wanted.index(part.platforms[0]))
        outputs = [
            output.type for output in self._request.outputs if output.type not in ("local", "cacheonly")
        ]
        if not outputs:
            return merge(self._request, self._parts, self._wanted, on_step=lambda text: None)
        names = ", ".join(self._request.tags) or ", ".join(outputs)
        step = Work(self._emit, f"merging manifest list {names}")
        try:
            result = await asyncio.to_thread(
                merge, self._request, self._parts, self._wanted, on_step=step.step
            )
        except BaseException as error:
            step.done(str(error) or "context canceled")
            raise
        step.done()
        return result

    # telling --------------------------------------------------------------------------------------

    def _tell(self, assigned: Sequence[Assignment], nodes: Sequence[Node]) -> None:
        for number, platforms in group(assigned).items():
            how = {item.platform: item.how for item in assigned}
            shown = [f"{item} ({how[item]})" for item in platforms]
            self._note(f"[internal] node {nodes[number].name} builds {', '.join(shown)}")

    def _note(self, text: str) -> None:
        Work(self._emit, text).done()

    def _warn_of_caches(self) -> None:
        for option in self._request.cache_to:
            if option.type != "inline":
                place = option.attrs.get("ref") or option.attrs.get("dest") or option.type
                text = f"several nodes export their cache to {place}: the last one's is kept"
                self._warn(text)

    def _warn(self, text: str) -> None:
        from anyarch.solver.events import WarningEvent
        from anyarch.spec.digest import Digest

        self._emit(WarningEvent(Digest.of(text.encode()), text))


_ANY = Platform("", "")
