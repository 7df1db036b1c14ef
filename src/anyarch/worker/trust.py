"""The certificate of a build's proxy in the trust stores of its steps, for as long as they run.

The stores' files with the certificate in them are a layer of their own on top of what the step runs on: they
are plain files, which it may replace (as the installation of `ca-certificates` does), and where it does not
nothing of them is in what it leaves. What it made of them is there without the certificate.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.errors import PathNotFound, SandboxError

if TYPE_CHECKING:
    from pathlib import Path

    from anyarch.snapshot.tree import Node, TreeView
    from anyarch.worker.result import SnapshotResult
    from anyarch.worker.worker import Worker

__all__ = ["Trust", "without_certificate"]

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_HASHED = "/etc/ssl/certs"
"""Where OpenSSL looks for certificates by the hash of their name."""
_BEGIN, _END = b"\n# buildkit proxy CA begin\n", b"# buildkit proxy CA end\n"  # BuildKit's
_MOST = 10 << 20


class Trust:
    """Of one build: `pem` is the certificate, `name_hash` what OpenSSL finds it by. Thread-safe as far as
    the worker is; a layer is made once for equal trees."""

    def __init__(self, worker: Worker, pem: bytes, name_hash: str) -> None:
        self._worker = worker
        self._pem = pem
        self._name_hash = name_hash
        self._known: dict[SnapshotResult, tuple[SnapshotResult, tuple[str, ...]]] = {}

    def over(self, root: SnapshotResult | None) -> SnapshotResult | None:
        """`root` with the certificate in its stores; itself where it has none."""
        return self._made(root)[0] if root is not None else None

    def _made(self, root: SnapshotResult) -> tuple[SnapshotResult, tuple[str, ...]]:
        known = self._known.get(root)
        if known is None:
            files = self._files(self._worker.view(root))
            made = root
            if files:
                with self._worker.layers.new_tar(description="trust of a proxy") as layer:
                    for path in sorted(files, key=lambda one: one.split("/")):
                        node, content = files[path]
                        entry = node.entry
                        layer.add(
                            msgspec.structs.replace(
                                entry,
                                path=path,
                                kind=Kind.FILE,
                                linkname="",
                                size=len(content),
                                digest=b"",
                                offset=-1,
                            ),
                            content,
                        )
                    identity = layer.commit().id
                self._worker.passing_layers.append(identity)
                made = root.on(identity)
            known = self._known[root] = made, tuple(files)
        return known

    def _files(self, tree: TreeView) -> dict[str, tuple[Node, bytes]]:
        """The files of stores as they are to be, by their real paths, each with the node it looks like."""
        files: dict[str, tuple[Node, bytes]] = {}
        for name in _BUNDLES:
            found = _file(tree, name)
            if found is None or found[0] in files:
                continue
            path, node = found
            with tree.open(node) as stream:
                content = stream.read(_MOST + 1)
            if len(content) > _MOST:
                raise SandboxError(
                    f"{name} exceeds {_MOST} bytes: the proxy's certificate is not added to it"
                )
            if content and not content.endswith(b"\n"):
                content += b"\n"
            files[path] = node, content + _BEGIN + self._pem + _END
        hashed = self._hashed(tree)
        if hashed is not None:
            files[hashed[0]] = hashed[1], self._pem
        return files

    def _hashed(self, tree: TreeView) -> tuple[str, Node] | None:
        """A free name in the directory of hashed names, and a file there that looks as ours should."""
        try:
            names = tree.listdir(_HASHED)
            links = [name for name in names if name.endswith(".0")]
            if not links:
                return None
            node = _file(tree, f"{_HASHED}/{links[0]}")
            directory = tree.resolve(_HASHED).strip("/")
        except PathNotFound:
            return None
        if node is None:
            return None
        number = next(n for n in range(len(names) + 1) if f"{self._name_hash}.{n}" not in names)
        return f"{directory}/{self._name_hash}.{number}", node[1]

    def remove_from(self, upper: Path, root: SnapshotResult | None) -> None:
        """Take the certificate out of what a step on `root` left in `upper`. Raises `SandboxError`."""
        if root is None:
            return
        below = self._worker.view(root)
        for path in self._made(root)[1]:
            try:
                self._clean(upper, path, is_ours=below.lookup(path) is None)
            except OSError as error:
                raise SandboxError(
                    f"the proxy's certificate could not be taken out of /{path}: {error.strerror}",
                    hint="the step may leave the trust stores as they are",
                ) from None

    def _clean(self, upper: Path, path: str, *, is_ours: bool) -> None:
        *parents, name = path.split("/")
        place = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for parent in parents:  # what the step made is not followed
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inner = os.open(parent, flags, dir_fd=place)
                except (FileNotFoundError, NotADirectoryError):
                    return
                os.close(place)
                place = inner
            self._clean_file(place, name, is_ours=is_ours)
        finally:
            os.close(place)

    def _clean_file(self, place: int, name: str, *, is_ours: bool) -> None:
        try:
            known = os.stat(name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(known.st_mode):
            return
        is_open = bool(known.st_mode & 0o600 == 0o600) or os.geteuid() == 0
        if not is_open:
            os.chmod(f"/proc/self/fd/{place}/{name}", known.st_mode | 0o600)
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        try:
            with open(file, "rb", closefd=False) as stream:
                content = stream.read(_MOST + 1)
            cleaned = without_certificate(content, self._pem) if len(content) <= _MOST else content
            if cleaned != content:
                if is_ours and not cleaned.strip():
                    times = os.stat(f"/proc/self/fd/{place}")
                    os.unlink(name, dir_fd=place)
                    os.utime(f"/proc/self/fd/{place}", ns=(times.st_atime_ns, times.st_mtime_ns))
                    return
                os.pwrite(file, cleaned, 0)
                os.ftruncate(file, len(cleaned))
                os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
            if not is_open:
                os.fchmod(file, stat.S_IMODE(known.st_mode))
        finally:
            os.close(file)


def _file(tree: TreeView, name: str) -> tuple[str, Node] | None:
    """The real path and the file that a name leads to."""
    try:
        path = tree.resolve(name).strip("/")
        node = tree.lookup(path)
        if node is None or node.entry.kind not in (Kind.FILE, Kind.HARDLINK):
            return None
        return path, tree.target(node)
    except PathNotFound:
        return None


def without_certificate(content: bytes, pem: bytes) -> bytes:
    """`content` without the marked block that has the certificate, and without any other copy of it."""
    block = _BEGIN + pem + _END
    content = content.replace(block, b"")
    body = b"".join(pem.strip().splitlines()[1:-1])
    start = 0
    while (start := content.find(b"-----BEGIN CERTIFICATE-----", start)) >= 0:
        end = content.find(b"-----END CERTIFICATE-----", start)
        if end < 0:
            break
        end += len(b"-----END CERTIFICATE-----")
        lines = content[start:end].split(b"\n")[1:-1]
        if b"".join(b"".join(lines).split()) != body:
            start = end
            continue
        if content[end : end + 1] == b"\n":
            end += 1
        content = content[:start] + content[end:]
    return content
