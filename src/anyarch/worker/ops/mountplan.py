"""What one step stands on: directories for what it changes, caches, agents. It all goes with the step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from anyarch.archive.entry import Entry
    from anyarch.llb.ops import CacheOpt, SSHOpt
    from anyarch.sandbox.plan import RootFS
    from anyarch.worker.result import SnapshotResult
    from anyarch.worker.worker import Worker

__all__ = ["ROOT", "MountPlan"]

_TICK_NS = 20_000_000  # the clock of file systems is this much behind at the most

ROOT = -1
"""Where the root's upper directory is kept among those of the mounts, by position."""


class MountPlan:
    """Upper and work directories of one step, and what it holds while it runs."""

    def __init__(self, worker: Worker, stack: ExitStack) -> None:
        self._worker = worker
        self.stack = stack
        self._since_ns = time.time_ns() - _TICK_NS
        self._began_ns = time.monotonic_ns()
        self.directory = stack.enter_context(worker.step_directory())
        self._uppers: dict[int, Path] = {}
        self._caches: dict[tuple[CacheOpt, str], str] = {}
        self.cache_places: dict[int, str] = {}
        """The directories of cache mounts, by the mount's position."""
        self._agents = 0

    def since_ns(self) -> int:
        """Whatever the step has changed has a later time, unless it set another. 0 where the clock was set
        back meanwhile: then times tell nothing."""
        passed = time.time_ns() - self._since_ns
        return self._since_ns if passed >= time.monotonic_ns() - self._began_ns else 0

    def rootfs(
        self, number: int, base: SnapshotResult | None, *, readonly: bool, root_entry: Entry | None = None
    ) -> RootFS:
        from anyarch.sandbox.plan import RootFS

        lowers = self._worker.directories(base)
        if readonly and lowers:
            return RootFS(lowers=lowers, upper="", work="", readonly=True)
        upper = self.directory / f"upper{number}"
        work = self.directory / f"work{number}"
        upper.mkdir()
        work.mkdir()
        if root_entry is not None:
            self._worker.set_root_metadata(upper, root_entry)
        self._uppers[number] = upper
        return RootFS(lowers=lowers, upper=str(upper), work=str(work), readonly=readonly)

    def cache(self, options: CacheOpt, base: SnapshotResult | None, path: str) -> str:
        """The directory of a cache that begins with what `base` has at `path`."""
        from anyarch.worker.cache_mounts import TreeSeed, cache_mount

        seed = TreeSeed(self._worker, base, path) if base is not None else None
        # One step that mounts a cache twice must not wait for itself.
        key = (options, seed.key if seed is not None else "")
        if key not in self._caches:
            held = cache_mount(self._worker.store.root, options, seed)
            self._caches[key] = self.stack.enter_context(held)
        return self._caches[key]

    def agent(self, paths: Sequence[str], options: SSHOpt) -> str:
        from anyarch.worker.ssh import agent_socket

        self._agents += 1
        return self.stack.enter_context(
            agent_socket(
                paths,
                self.directory,
                name=f"ssh{self._agents}",
                uid=options.uid,
                gid=options.gid,
                mode=options.mode or 0o600,
            )
        )

    def upper(self, number: int) -> Path | None:
        return self._uppers.get(number)
