"""The engine's part in `anyarch emulators`: this machine's platforms, tried and told, and the registration of
emulators for the whole machine."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anyarch.archive.entry import Kind
from anyarch.errors import BuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyarch.emulation.emulator import Emulator
    from anyarch.emulation.register import Change
    from anyarch.emulation.survey import Status
    from anyarch.snapshot.tree import TreeView
    from anyarch.spec.platform import Platform

__all__ = [
    "install_emulators",
    "list_emulators",
    "owns_the_machine",
    "uninstall_emulators",
    "usable_platforms",
]

_IMAGE_DIRECTORIES = ("usr/bin", "usr/local/bin", "bin", "")


def list_emulators(platforms: Sequence[str] = (), *, probe: bool = True, emulators: str = "") -> list[Status]:
    """How each of `platforms` (all that are of interest when empty) would run here; with `probe` after
    running a tiny program of it; `emulators` is the directory to take QEMU from, empty for the machine's.
    Raises `InvalidPlatform`, and `SandboxError` where nothing can be run."""
    from tempfile import TemporaryDirectory

    from anyarch.emulation import Host
    from anyarch.emulation.survey import platforms_of_interest, survey
    from anyarch.sandbox.executor import Executor
    from anyarch.spec.platform import parse_list

    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="anyarch-"))
        executor = stack.enter_context(Executor(directory))
        host = Host(executor=executor, directory=emulators)
        wanted = parse_list(list(platforms)) if platforms else platforms_of_interest(host)
        return survey(dict.fromkeys(wanted), host, executor if probe else None, is_root=os.geteuid() == 0)


def usable_platforms(*, is_root: bool) -> list[Platform]:
    """The platforms whose programs this machine runs, the native ones first. Nothing is run to find out."""
    from anyarch.emulation import Host
    from anyarch.emulation.survey import platforms_of_interest, survey

    host = Host()
    wanted = platforms_of_interest(host)
    found = survey(wanted, host, None, is_root=is_root)
    return [platform for platform, status in zip(wanted, found, strict=True) if status.route]


def owns_the_machine() -> bool:
    """Whether what is registered here reaches the machine; see `sandbox.executor.owns_the_machine`."""
    from anyarch.sandbox.executor import owns_the_machine

    return owns_the_machine()


def install_emulators(
    text: str, *, directory: str | None = None, image: str | None = None
) -> tuple[bool, list[Change]]:
    """Register the emulators that `text` names (`all`, or a comma list) with the machine's binfmt_misc.

    They are the system's static QEMU programs, those of `directory`, or those of an `image` of a registry,
    which are kept in the store. Returns whether binfmt_misc had to be mounted, and what was done for each:
    one that was named and is not there is `missing`, one that does not run a program is `broken`. Raises
    `SandboxError`, `UsageError`, and what pulling raises.
    """
    from anyarch.emulation import find_emulators, register
    from anyarch.emulation.emulator import emulators_in
    from anyarch.emulation.host import Host

    if directory is not None and not os.path.isdir(directory):
        raise UsageError(f"{directory} is not a directory")
    native = {platform.architecture for platform in Host().native_platforms()}
    wanted = register.architectures(text, native=native)
    mounted = register.ensure_mounted()
    if image is not None:
        emulators = _of_image(image, wanted)
    elif directory is not None:
        emulators = emulators_in(directory)
    else:
        emulators = find_emulators()
    if text == "all" and emulators:
        wanted = [arch for arch in wanted if arch in emulators]
    changes = register.install(wanted, emulators)
    return mounted, [_tried(change) for change in changes]


def _tried(change: Change) -> Change:
    from anyarch.emulation.emulator import PLATFORM_ARCHITECTURES
    from anyarch.emulation.register import Change, works

    if change.action == "missing" or works(PLATFORM_ARCHITECTURES[change.arch]):
        return change
    return Change(change.arch, "broken", f"{change.detail}, but it does not run a program")


def uninstall_emulators(text: str) -> list[Change]:
    """Remove what `install_emulators` has registered (`all`, or a comma list), and nothing else. Emulators
    that an image was the source of leave the store too."""
    from anyarch.emulation import register
    from anyarch.emulation.host import read_handlers

    wanted = None if text == "all" else register.architectures(text)
    register.ensure_mounted()
    paths = {
        handler.name: handler.interpreter
        for handlers in read_handlers(register.BINFMT_MISC).values()
        for handler in handlers
    }
    changes = register.uninstall(wanted)
    kept = _kept()
    for change in changes:
        path = Path(paths.get(change.detail, "/"))
        if kept in path.parents:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return changes


def _kept() -> Path:
    """Where emulators of images are kept: a registration has to name a file."""
    from anyarch.store.store import default_root

    return Path(os.path.abspath(default_root())) / "emulators"


def _of_image(name: str, wanted: Iterable[str]) -> dict[str, Emulator]:
    import asyncio

    return asyncio.run(_pull(name, list(wanted)))


async def _pull(name: str, wanted: Sequence[str]) -> dict[str, Emulator]:
    """Take the programs out of an image for this machine's platform."""
    import asyncio

    from anyarch.emulation.emulator import emulators_in
    from anyarch.spec.reference import Reference
    from anyarch.store.store import Store, default_root
    from anyarch.worker.result import SnapshotResult
    from anyarch.worker.worker import Worker

    with Store.open(default_root()) as store:
        async with Worker(store, lambda event: None) as worker:
            reference = Reference.parse(name)
            image = await asyncio.to_thread(worker.images.image, reference, worker.platform)
            pinned = str(reference.with_digest(image.manifest_digest))
            chain = tuple(
                worker.layers.add_blob(descriptor, diff_id, fetch_from=pinned).id
                for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
            )
            snapshot = SnapshotResult(chain)
            await worker.ensure_local(snapshot)
            target = _kept() / image.manifest_digest.partition(":")[2][:16]
            taken = await asyncio.to_thread(_extract, worker.view(snapshot), wanted, target)
    if not taken:
        raise BuildError(
            f"{name} holds no QEMU program for {', '.join(wanted)}",
            hint="an image such as docker.io/tonistiigi/binfmt has them in /usr/bin",
        )
    return emulators_in(str(target))


def _extract(tree: TreeView, wanted: Iterable[str], target: Path) -> int:
    from anyarch.emulation.emulator import program_names

    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    count = 0
    for arch in wanted:
        paths = [f"{directory}/{name}" for directory in _IMAGE_DIRECTORIES for name in program_names(arch)]
        for path in paths:
            node = tree.lookup(tree.resolve(path))
            if node is not None and node.entry.kind in (Kind.FILE, Kind.HARDLINK):
                with tree.open(node) as stream:
                    _copy(stream, target / f"qemu-{arch}")
                count += 1
                break
    return count


def _copy(stream: BinaryIO, path: Path) -> None:
    import shutil

    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    unfinished.chmod(0o755)
    os.replace(unfinished, path)  # one that is registered stays open, and what runs goes on
