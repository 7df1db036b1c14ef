"""What the tool chains of languages in a step's root get their twins from."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyarch.emulation.accelerate.chains import Chain, Scene
    from anyarch.emulation.accelerate.packages import Packages
    from anyarch.emulation.accelerate.twins import Chosen
    from anyarch.worker.compilers import Compilers
    from anyarch.worker.worker import Worker

__all__ = ["Languages", "ToolChains"]


class ToolChains(NamedTuple):
    """Those of one root: each with what its twins are chosen from, and the layers that were fetched."""

    scenes: tuple[tuple[Chain, Scene], ...] = ()
    layers: tuple[str, ...] = ()

    def state(self) -> bytes:
        """A digest of all that decides on the twins."""
        whole = hashlib.sha256(repr(self.layers).encode())
        for chain, scene in self.scenes:
            whole.update(repr((chain.group, scene.missing, chain.state(scene))).encode())
        return whole.digest()

    def choose(self) -> list[Chosen]:
        """The twins."""
        return [chain.choose(scene) for chain, scene in self.scenes]


class Languages:
    """Of one build; safe for threads."""

    def __init__(
        self, worker: Worker, compilers: Compilers, packages_of: Callable[[tuple[str, ...]], Packages]
    ) -> None:
        """`packages_of` knows the packages of layers."""
        self._worker = worker
        self._compilers = compilers
        self._packages_of = packages_of

    async def of(
        self,
        root: tuple[str, ...],
        based: int,
        sibling: tuple[str, ...],
        target: str,
        say: Callable[[str], None],
    ) -> ToolChains:
        """What the tool chains in a root get their twins from: from packages of their own where the sibling
        of the base image does not have them all. `based` of the root's layers are the base image's; `say`
        writes into the step's log."""
        from anyarch.emulation.accelerate.chains import Scene, chains
        from anyarch.worker.workshop import SandboxWorkshop

        host = self._worker.platform.architecture
        scenes, layers = [], []
        for chain in chains():
            natives: list[tuple[str, ...]] = [sibling]
            missing = ""
            try:
                wanted = await asyncio.to_thread(self._wanted, chain, root, sibling, target)
                if wanted:
                    layer = await self._compilers.equal(sibling, wanted, chain.kept)
                    natives.append((layer,))
                    layers.append(layer)
            except NotSupported as error:
                missing = error.message
            own, trees = self._packages_of(root), tuple(self._packages_of(each) for each in natives)
            is_eager = self._worker.acceleration.mode == "verify"  # it is not to be fast
            workshop = SandboxWorkshop(self._worker, root, tuple(natives), say, is_eager=is_eager)
            scenes.append((chain, Scene(own, based, trees, host, target, missing, workshop)))
        return ToolChains(tuple(scenes), tuple(layers))

    def _wanted(
        self, chain: Chain, root: tuple[str, ...], sibling: tuple[str, ...], target: str
    ) -> Mapping[str, str]:
        """The packages of a tool chain, if not all of them are in the sibling."""
        from anyarch.emulation.accelerate.packages import is_same_source

        native = self._packages_of(sibling)
        wanted = chain.packages(self._packages_of(root), target)
        missing = any(
            not native.version(name) or (version and not is_same_source(native.version(name), version))
            for name, version in wanted.items()
        )
        return wanted if missing else {}
