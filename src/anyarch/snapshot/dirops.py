"""What is done to the directories of layers: unpack, scan, amend, pack, remove.

They are plain functions of paths, because an ordinary user has to run them inside a user namespace:
`python -I -m anyarch.snapshot.dirops` does what the JSON line on its standard input asks for.
`LocalDirOps` runs them in this process, `NamespacedDirOps` in such a child, started by a function that the
engine gives.

Protocol: in, one line of JSON and then the bytes of an index (for pack). Out, frames of a one-byte
channel, a 4-byte little-endian length and the payload: channel 1 a tar, 2 an index, 3 the JSON answer,
which is last.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import msgspec

from anyarch import errors
from anyarch.archive.entry import Entry
from anyarch.errors import AnyarchError, DigestMismatch, NoSpace, StoreError
from anyarch.snapshot.index import decode_index, encode_index
from anyarch.snapshot.upper import Amendment, amend_directory
from anyarch.spec.digest import Digest
from anyarch.store.failure import disk_errors, no_space, storage_error
from anyarch.store.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyarch.archive.tar import Readable

__all__ = ["DirOps", "LocalDirOps", "NamespacedDirOps", "Overlay", "UnpackedLayer"]

Overlay = Literal["trusted", "user"]

_FRAME = struct.Struct("<BI")
_TAR, _INDEX, _REPLY = 1, 2, 3
_CHUNK = 1 << 20


class UnpackedLayer(msgspec.Struct, frozen=True):
    """What an archive held: sorted entries, the digest of its uncompressed tar, and that tar's size in
    bytes."""

    entries: list[Entry]
    diff_id: Digest
    tar_size: int


class DirOps(Protocol):
    """Operations on layer directories; thread-safe. All raise `StoreError` (`NoSpace`) and
    `MalformedArchive`."""

    @property
    def overlay(self) -> Overlay:
        """The attributes that mark opaque directories where steps of this user run."""

    def unpack(
        self, source: str, target: str, *, overlay: Overlay, parents: Sequence[Entry], expected: str | None
    ) -> UnpackedLayer:
        """Make the directory `target` from the tar `source` (compressed or not) as a lower directory of an
        overlay mount. `parents` are the attributes of directories that have no entry in it.
        `DigestMismatch` when its tar has not the digest `expected`."""

    def scan(self, directory: str, *, overlay: Overlay) -> list[Entry]:
        """Sorted entries of an upper directory, its root first."""

    def amend(self, directory: str, amendment: Amendment, *, overlay: Overlay) -> None:
        """Change an upper directory as `snapshot.upper` found."""

    def pack(self, directory: str, entries: Sequence[Entry], write: Callable[[bytes], object]) -> list[Entry]:
        """Write the tar of `entries`, contents from `directory`; answers them with their offsets."""

    def remove(self, path: str) -> None:
        """Remove a file or tree; nothing there is no error."""


class LocalDirOps:
    """Runs them in this process. `chown` is whether owners can be given away (we are root, be it of a user
    namespace with several ids)."""

    def __init__(self, *, overlay: Overlay | None = None, chown: bool | None = None) -> None:
        self.overlay: Overlay = overlay or ("trusted" if _sets_trusted_attributes() else "user")
        self._chown = _maps_many_ids() if chown is None else chown

    def unpack(
        self, source: str, target: str, *, overlay: Overlay, parents: Sequence[Entry], expected: str | None
    ) -> UnpackedLayer:
        from anyarch.archive.apply import apply_tar
        from anyarch.archive.compression import open_decompressed
        from anyarch.archive.fold import fold

        attributes = {entry.path: entry for entry in parents}
        entries: list[Entry] = []
        try:
            with (
                disk_errors(target),
                open(source, "rb", buffering=0) as raw,
                open_decompressed(raw) as plain,
            ):
                os.mkdir(target, 0o755)
                reader = DigestingReader(plain)
                apply_tar(
                    reader,
                    target,
                    whiteouts="overlay-trusted" if overlay == "trusted" else "overlay-user",
                    chown=self._chown,
                    parent=attributes.get,
                    on_entry=entries.append,
                )
                diff_id = reader.finish(expected, source)
        except NoSpace as error:
            raise no_space(target) from error  # it names the entry only
        return UnpackedLayer(fold(entries), diff_id, reader.size)

    def scan(self, directory: str, *, overlay: Overlay) -> list[Entry]:
        from anyarch.archive.tree import scan_tree

        with disk_errors(directory):
            return scan_tree(directory, overlay=overlay, include_root=True)

    def amend(self, directory: str, amendment: Amendment, *, overlay: Overlay) -> None:
        with disk_errors(directory):
            amend_directory(directory, amendment, f"{overlay}.overlay.opaque")

    def pack(self, directory: str, entries: Sequence[Entry], write: Callable[[bytes], object]) -> list[Entry]:
        from anyarch.archive.tar import TarWriter
        from anyarch.archive.tree import tar_tree

        with disk_errors(directory):
            writer = TarWriter(write)
            packed = tar_tree(entries, directory, writer)
            writer.close()
        return packed

    def remove(self, path: str) -> None:
        with disk_errors(path):
            remove_tree(path)


class DigestingReader:
    """Reads through, digesting; `finish` reads what is left and checks the digest of it all. `tee` gets
    every byte."""

    def __init__(self, source: Readable, *, tee: Callable[[bytes], object] | None = None) -> None:
        import hashlib

        self._source = source
        self._tee = tee
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.size += len(data)
        if self._tee is not None:
            self._tee(data)
        return data

    def finish(self, expected: str | None, name: str) -> Digest:
        while self.read(_CHUNK):
            continue
        digest = Digest.from_hex(self._hash.hexdigest())
        if expected is not None and digest != expected:
            raise DigestMismatch(
                f"layer {expected}: its archive {name} unpacks to {digest}",
                hint="the image's config and layers do not belong together: pull it again or tell its maker",
            )
        return digest


class NamespaceRunner(Protocol):
    def __call__(
        self, argv: Sequence[str], stdin: bytes, on_output: Callable[[bytes], object]
    ) -> tuple[int, bytes]:
        """Run `argv` where layer directories may be written (a user namespace with the ids of the steps),
        feed it `stdin`, hand over its standard output as it comes. Answers exit status and standard error."""


class NamespacedDirOps:
    """Runs each operation in a child process, started by `run`."""

    overlay: Overlay = "user"

    def __init__(self, run: NamespaceRunner, *, python: str | None = None) -> None:
        self._run = run
        self._argv = [python or sys.executable, "-I", "-m", "anyarch.snapshot.dirops"]

    def unpack(
        self, source: str, target: str, *, overlay: Overlay, parents: Sequence[Entry], expected: str | None
    ) -> UnpackedLayer:
        request = {"op": "unpack", "source": _text(source), "target": _text(target), "overlay": overlay}
        index, reply = self._call(
            {**request, "expected": expected and str(expected)}, encode_index(list(parents))
        )
        return UnpackedLayer(list(decode_index(index)), Digest(reply["diff_id"]), int(reply["tar_size"]))

    def scan(self, directory: str, *, overlay: Overlay) -> list[Entry]:
        index, _ = self._call({"op": "scan", "directory": _text(directory), "overlay": overlay})
        return list(decode_index(index))

    def amend(self, directory: str, amendment: Amendment, *, overlay: Overlay) -> None:
        paths = {
            name: [_text(path) for path in paths] for name, paths in msgspec.structs.asdict(amendment).items()
        }
        self._call({"op": "amend", "directory": _text(directory), "overlay": overlay, **paths})

    def pack(self, directory: str, entries: Sequence[Entry], write: Callable[[bytes], object]) -> list[Entry]:
        request = {"op": "pack", "directory": _text(directory)}
        index, _ = self._call(request, encode_index(list(entries)), on_tar=write)
        return list(decode_index(index))

    def remove(self, path: str) -> None:
        self._call({"op": "remove", "path": _text(path)})

    def _call(
        self,
        request: dict[str, Any],
        payload: bytes = b"",
        *,
        on_tar: Callable[[bytes], object] | None = None,
    ) -> tuple[bytes, dict[str, Any]]:
        """The bytes of the index that came back, and the answer."""
        received: dict[int, list[bytes]] = {_INDEX: [], _REPLY: []}

        def on_frame(channel: int, data: bytes) -> None:
            if channel == _TAR and on_tar is not None:
                on_tar(data)
            else:
                received[channel].append(data)

        status, stderr = self._run(
            self._argv, msgspec.json.encode(request) + b"\n" + payload, _Deframer(on_frame)
        )
        if not received[_REPLY]:
            last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise StoreError(
                f"{request['op']} of a layer directory in a user namespace ended with status {status}: {last}"
            )
        reply: dict[str, Any] = msgspec.json.decode(b"".join(received[_REPLY]))
        if (error := reply.get("error")) is not None:
            kind = getattr(errors, str(error["type"]), StoreError)
            if not (isinstance(kind, type) and issubclass(kind, AnyarchError)):
                kind = StoreError
            raise kind(error["message"], hint=error["hint"])
        return b"".join(received[_INDEX]), reply


class _Deframer:
    """Cuts what arrives in any portions into frames."""

    def __init__(self, on_frame: Callable[[int, bytes], object]) -> None:
        self._on_frame = on_frame
        self._buffer = bytearray()

    def __call__(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _FRAME.size:
            channel, length = _FRAME.unpack_from(self._buffer)
            end = _FRAME.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_FRAME.size : end])
            del self._buffer[:end]
            self._on_frame(channel, payload)


def _text(path: str) -> str:
    """A path as JSON text, whatever its bytes."""
    return os.fsencode(path).decode("latin-1")


def _path(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Do the one operation that `stdin` asks for. Every error is in the answer."""

    def send(channel: int, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            part = data[start : start + _CHUNK]
            stdout.write(_FRAME.pack(channel, len(part)))
            stdout.write(part)

    try:
        request = msgspec.json.decode(stdin.readline())
        reply = _perform(request, stdin.read(), send)
    except AnyarchError as error:
        reply = {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}
    except OSError as error:
        known = storage_error(error, os.fspath(error.filename or ""))
        reply = {"error": {"type": type(known).__name__, "message": known.message, "hint": known.hint}}
    send(_REPLY, msgspec.json.encode(reply))
    stdout.flush()


def _perform(request: dict[str, Any], payload: bytes, send: Callable[[int, bytes], None]) -> dict[str, Any]:
    # Inside the namespace we are its root, but ids may be missing from its map: then owners stay as they are.
    local = LocalDirOps(overlay="user", chown=_maps_many_ids())
    match request["op"]:
        case "unpack":
            unpacked = local.unpack(
                _path(request["source"]),
                _path(request["target"]),
                overlay=request["overlay"],
                parents=list(decode_index(payload)),
                expected=request["expected"],
            )
            send(_INDEX, encode_index(unpacked.entries))
            return {"diff_id": str(unpacked.diff_id), "tar_size": unpacked.tar_size}
        case "scan":
            send(_INDEX, encode_index(local.scan(_path(request["directory"]), overlay=request["overlay"])))
            return {}
        case "amend":
            paths = {name: tuple(map(_path, request[name])) for name in ("removed", "whiteouts", "opened")}
            local.amend(_path(request["directory"]), Amendment(**paths), overlay=request["overlay"])
            return {}
        case "pack":
            entries = list(decode_index(payload))
            packed = local.pack(_path(request["directory"]), entries, lambda data: send(_TAR, data))
            send(_INDEX, encode_index(packed))
            return {}
        case "remove":
            local.remove(_path(request["path"]))
            return {}
        case unknown:
            raise StoreError(f"no such operation on layer directories: {unknown}")


_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of linux/proc_ns.h


def _sets_trusted_attributes() -> bool:
    """`trusted.*` is for root of the machine; root of a container's user namespace may not set it."""
    try:
        return os.geteuid() == 0 and os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return os.geteuid() == 0


def _maps_many_ids() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        with open("/proc/self/uid_map") as file:
            return sum(int(line.split()[2]) for line in file) > 1
    except OSError:
        return False


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
