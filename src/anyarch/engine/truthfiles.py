"""The files of an image as the architecture check sees them: what its new layers hold, and what its programs
can find."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.elf.binary import HEAD_SIZE, Binary, inspect
from anyarch.elf.findings import Finding, check_binary, check_command
from anyarch.elf.libraries import Libraries
from anyarch.errors import BlobNotFound, PathNotFound
from anyarch.snapshot.slices import reader_of
from anyarch.spec.codec import msgpack_decoder
from anyarch.spec.oci import ImageConfig, decode
from anyarch.spec.platform import Platform, compatible
from anyarch.worker.result import SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.exporter.assemble import PlatformResult
    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.worker.worker import Worker

__all__ = ["ImageFiles", "binaries_of", "inspect_image"]

_SMALLEST = 64  # bytes; no program is smaller than its header
_LIBRARY_NAMES = (".so", ".dylib", ".dll", ".exe")
_LIBRARY_VERSION = re.compile(r"\.so\.[\w.]*$")
_TRIPLET = re.compile(r"[\w]+-linux-(gnu|musl)\w*$")
_VERSION = "2"


def inspect_image(
    worker: Worker, result: PlatformResult, base_config: bytes
) -> tuple[list[tuple[int, Finding]], bool]:
    """What is wrong, each with the position of its layer (-1: of the image as a whole), and whether all that
    was to be looked at was here."""
    platform = result.platform
    config = decode(ImageConfig, result.config).config
    base = decode(ImageConfig, base_config) if base_config else None
    inherited = len(base.rootfs.diff_ids or ()) if base is not None else 0
    files = ImageFiles(worker, result.layers, config.env or ())
    libraries = Libraries(files)
    found: list[tuple[int, Finding]] = []
    is_complete = True
    if base is not None and base.architecture:
        own = Platform.make(base.os or "linux", base.architecture, base.variant)
        if (own.os, own.architecture) not in {(p.os, p.architecture) for p in compatible(platform)}:
            found.append((-1, Finding("base", "", f"its base image is for {own}")))
    has_wrong_base = bool(found)
    for position in range(inherited, len(result.layers)):
        try:
            binaries = binaries_of(worker, result.layers[position])
        except BlobNotFound:
            is_complete = False  # it came from a build cache, and so far is only known
            continue
        for path, binary in binaries:
            if position < len(result.layers) - 1:
                node = files.node(path)
                if node is None or node.position != position:
                    continue  # a later layer has removed it or has another file there
            try:
                wrong = check_binary(path, binary, platform, files, libraries=libraries)
                found += [(position, item) for item in wrong]
            except BlobNotFound:
                is_complete = False
    if has_wrong_base:
        return found, is_complete
    argv = (*(config.entrypoint or ()), *(config.cmd or ()))
    try:
        told = {item.path for _, item in found}
        for item in check_command(
            argv, env=config.env or (), directory=config.working_dir, platform=platform, files=files
        ):
            if item.path not in told:
                node = files.node(item.path) if item.path.startswith("/") else None
                found.append((node.position if node is not None else len(result.layers), item))
    except BlobNotFound:
        is_complete = False
    return found, is_complete


def binaries_of(worker: Worker, layer_id: str) -> list[tuple[str, Binary]]:
    """The programs and libraries of a layer by absolute path; looked for once a layer."""
    records = worker.store.cache
    key = f"{_VERSION} {layer_id}"
    kept = records.get_value("binaries", key)
    if kept is not None:
        return msgpack_decoder(list[tuple[str, Binary]]).decode(kept) if kept else []
    layer = worker.layers.get(layer_id)
    candidates = (
        entry
        for entry in worker.layers.index(layer)
        if entry.kind is Kind.FILE
        and entry.size >= _SMALLEST
        and (entry.mode & 0o111 or _is_named_as_library(entry.path))
    )
    found = []
    for entry, read in worker.layers.open_files(layer, candidates):
        binary = inspect(read)
        if binary is not None:
            found.append((f"/{entry.path}", binary))
    # A name that is not UTF-8 cannot be kept so; such a layer is looked at again.
    if all(path.isprintable() for path, _ in found):
        records.set_value("binaries", key, msgspec.msgpack.encode(found) if found else b"")
    return found


def _is_named_as_library(path: str) -> bool:
    return path.endswith(_LIBRARY_NAMES) or (".so." in path and bool(_LIBRARY_VERSION.search(path)))


class ImageFiles:
    """Implements `elf.findings.Files`. Raises `BlobNotFound` where a layer that is not here would tell."""

    def __init__(self, worker: Worker, layers: Sequence[str], env: Sequence[str]) -> None:
        self._worker = worker
        self._layers = layers
        self._env = env
        self._view: TreeView = worker.view(SnapshotResult(tuple(layers)))
        self._names: set[str] | None = None
        self._nodes: dict[str, Node | None] = {}
        self._directories: list[str] | None = None

    def node(self, path: str) -> Node | None:
        """The file that `path` leads to; a hard link stands for its file."""
        if path not in self._nodes:  # programs ask for the same libraries
            self._nodes[path] = self._find(path)
        return self._nodes[path]

    def _find(self, path: str) -> Node | None:
        try:
            node = self._view.lookup(self._view.resolve(path))
        except PathNotFound:
            return None
        return node if node is not None and node.entry.kind in (Kind.FILE, Kind.HARDLINK) else None

    def exists(self, path: str) -> bool:
        return self.node(path) is not None

    def head(self, path: str) -> tuple[bytes, int] | None:
        node = self.node(path)
        if node is None:
            return None
        with self._view.open(node) as stream:
            return stream.read(HEAD_SIZE), self._view.target(node).entry.mode

    def binary(self, path: str) -> Binary | None:
        node = self.node(path)
        if node is None:
            return None
        with self._view.open(node) as stream:
            return inspect(reader_of(stream))

    def library(self, path: str) -> Binary | None:
        node = self.node(path)
        if node is None:
            return None
        try:
            with self._view.open(node) as stream:
                return inspect(reader_of(stream), of_library=True)
        except BlobNotFound:
            return None  # it lies in a base that is not here, with what it needs

    def named(self, name: str) -> bool:
        if self._names is None:
            layers = self._worker.layers
            self._names = {
                entry.path.rpartition("/")[2]
                for layer in self._layers
                for entry in layers.index(layers.get(layer))
                if entry.kind in (Kind.FILE, Kind.HARDLINK, Kind.SYMLINK)
            }
        return name in self._names

    def library_directories(self) -> Sequence[str]:
        if self._directories is None:
            self._directories = self._find_directories()
        return self._directories

    def _find_directories(self) -> list[str]:
        found = []
        for item in self._env:
            if item.startswith("LD_LIBRARY_PATH="):
                found += item.partition("=")[2].split(":")
        for parent in ("/lib", "/usr/lib"):
            found += [f"{parent}/{name}" for name in self._names_in(parent) if _TRIPLET.match(name)]
        lists = [f"/etc/{name}" for name in self._names_in("/etc") if re.match(r"ld-musl-.*\.path$", name)]
        lists += [f"/etc/ld.so.conf.d/{name}" for name in self._names_in("/etc/ld.so.conf.d")]
        for path in ("/etc/ld.so.conf", *lists):
            node = self.node(path)
            if node is not None:
                with self._view.open(node) as stream:
                    text = stream.read(1 << 16).decode("utf-8", "replace")
                found += [word for word in re.split(r"[\s:,]+", text) if word.startswith("/")]
        return [posixpath.normpath(path) for path in found if path]

    def _names_in(self, directory: str) -> list[str]:
        try:
            return self._view.listdir(directory)
        except PathNotFound:
            return []
