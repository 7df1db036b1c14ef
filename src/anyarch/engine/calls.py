"""What frontends were asked on the way to a result, and what they looked into: a tree of calls, from the
client's own at its root.

Who made a result decides what its provenance says was asked; what else that frontend read counts as used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.attest.capture import ImageSource, capture_of
from anyarch.attest.request import FrontendRequest, RequestFacts, kept_args, request_facts
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anyarch.attest.capture import Capture
    from anyarch.http.intercept.traffic import Traffic
    from anyarch.llb.definition import Definition
    from anyarch.solver.solver import Solver
    from anyarch.spec.platform import Platform

    Producers = Callable[[Definition], Iterable["FrontendCall"]]
    """The calls, of all builds that run, whose result is the same as that of a graph."""

__all__ = ["FrontendCall", "provenance_of", "result_calls"]


class FrontendCall:
    """`request` None: a client that leads the build by calls of its own. `root` is what the build was asked
    for."""

    def __init__(
        self,
        request: FrontendRequest | None,
        root: FrontendRequest,
        *,
        solver: Solver | None = None,
        parent: FrontendCall | None = None,
    ) -> None:
        """`solver` has the graphs; that of the parent when it is not given."""
        self._parent = parent
        self._solver = solver
        self.request = request
        self.root = root
        self.images: list[ImageSource] = []
        self.solved: list[Definition] = []
        self.nested: list[FrontendCall] = []

    @property
    def solver(self) -> Solver | None:
        if self._solver is not None or self._parent is None:
            return self._solver
        return self._parent.solver

    @solver.setter
    def solver(self, solver: Solver) -> None:
        self._solver = solver

    def call(self, request: FrontendRequest) -> FrontendCall:
        """One call that is made on the way of this one."""
        root = self.root or self.request or FrontendRequest()
        made = FrontendCall(request, root, parent=self)
        self.nested.append(made)
        return made

    def add_image(self, reference: str, platform: Platform | None, digest: str, *, is_local: bool) -> None:
        """An image whose config was looked into."""
        self.images.append(ImageSource(Reference.parse(reference), platform, digest, is_local=is_local))

    def maker(self, definition: Definition) -> FrontendCall | None:
        """Whose result this very graph is: of the innermost call."""
        for one in self.nested:
            found = one.maker(definition)
            if found is not None:
                return found
        return self if any(known is definition for known in self.solved) else None

    def graphs(self) -> Iterable[Definition]:
        """All that was solved here and further in."""
        yield from list(self.solved)
        for one in list(self.nested):
            yield from one.graphs()

    def all_images(self) -> list[ImageSource]:
        return [*self.images, *(image for one in list(self.nested) for image in one.all_images())]

    def all_calls(self) -> Iterable[FrontendCall]:
        yield self
        for one in list(self.nested):
            yield from one.all_calls()

    def capture(self, definition: Definition) -> Capture | None:
        """What one graph was made of; None for one that nobody wanted to have."""
        head = definition.head()
        solver = self.solver
        if solver is None or head is None or not solver.is_solved(head.digest):
            return None

        def pin(digest: str) -> str:
            ask = getattr(solver.vertex(digest).operation, "pin", None)
            return ask() if ask is not None else ""

        def traffic(digest: str) -> Traffic | None:
            operation = solver.vertex(digest).operation
            if not getattr(operation, "is_proxied", False):
                return None
            from anyarch.http.intercept.traffic import UNKNOWN

            found: Traffic | None = operation.traffic_of(solver.known_key(digest))  # type: ignore[attr-defined]
            return found if found is not None else UNKNOWN

        return capture_of(definition, pin, traffic)


def result_calls(calls: Iterable[FrontendCall], definition: Definition) -> list[FrontendCall]:
    """Those that answer a frontend's request with the same result as `definition`."""
    head = definition.head()
    return [
        call
        for call in calls
        if call.request is not None and any(known.head() == head for known in list(call.solved))
    ]


class _Asker:
    """Tells what was asked; `producers` finds who made the inputs."""

    def __init__(self, producers: Producers) -> None:
        self._producers = producers
        self._busy: set[int] = set()

    def facts(self, call: FrontendCall, sources: Capture | None) -> RequestFacts:
        """Of a call with a request."""
        assert call.request is not None
        found = self._own(call.request, sources)
        if call.root:
            root = self._own(call.root, sources)
            is_told = root.frontend or root.args or root.inputs
            if is_told and root != found:
                found.root = root
        return found

    def _own(self, request: FrontendRequest, sources: Capture | None) -> RequestFacts:
        found = request_facts(request.frontend, kept_args(request.attrs), sources)
        for name, definition in request.inputs.items():
            producer = self._producer(definition)
            if producer is not None:
                found.inputs[name] = producer
        return found

    def _producer(self, definition: Definition) -> RequestFacts | None:
        """The request that `definition` is the answer to, if there is just one such."""
        told: list[RequestFacts] = []
        for call in self._producers(definition):
            if id(call) in self._busy or call.request is None:
                continue
            self._busy.add(id(call))
            try:
                made = next(known for known in call.solved if known.head() == definition.head())
                told.append(self._own(call.request, call.capture(made)))
            finally:
                self._busy.discard(id(call))
        if not told or any(other != told[0] for other in told[1:]):
            return None
        return told[0]


def provenance_of(
    call: FrontendCall,
    definition: Definition,
    producers: Producers,
    *,
    results: Sequence[Definition],
    platform: Platform | None = None,
    platforms: Sequence[Platform] = (),
) -> tuple[Capture, RequestFacts] | None:
    """What the result `definition` of `call` was made of, and what was asked for it. `results` are all that
    the build has, which do not count for one another; `platform` is this one's and `platforms` those of all,
    where there are several. None for what was never solved."""
    maker = call.maker(definition) or call
    found = maker.capture(definition)
    if found is None:
        return None
    facts = RequestFacts(request_facts("", {}, None).source)
    asker = _Asker(producers)
    if maker.request is not None:
        facts = asker.facts(maker, found)
    own = {id(item) for item in results}
    for other in maker.graphs():
        if id(other) not in own:
            own.add(id(other))
            more = maker.capture(other)
            if more is not None:
                found.merge(more)
    images = maker.all_images()
    for image in _for_platform(images, platform, platforms) if platform is not None else images:
        found.add_image(image)
    found.settle()
    return found, facts


def _for_platform(
    images: Sequence[ImageSource], platform: Platform, platforms: Sequence[Platform]
) -> list[ImageSource]:
    """Without those for other platforms, where there is one for each."""
    by_name: dict[Reference, list[ImageSource]] = {}
    for image in images:
        by_name.setdefault(image.reference, []).append(image)
    complete = {
        name
        for name, some in by_name.items()
        if all(any(_serves(image.platform, one) for image in some) for one in platforms)
    }
    return [
        image
        for image in images
        if image.reference not in complete
        or image.platform is None
        or (image.platform.os, image.platform.architecture) == (platform.os, platform.architecture)
    ]


def _serves(have: Platform | None, wanted: Platform) -> bool:
    from anyarch.spec.platform import Platform

    if have is None:
        return False
    return Platform.make(have.os, have.architecture, have.variant) == Platform.make(
        wanted.os, wanted.architecture, wanted.variant
    )
