"""Unpack entries into a directory, without ever leaving it: overlay lower directories and local outputs.

The directory may hold a hostile tree and the entries may be hostile; see `dirfd` for how paths are walked.
What is in the way of an entry is removed first, so nothing is ever written through an existing file or
link. Nobody else may change the directory meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from anyarch.archive.dirfd import RootWalker, encode, remove
from anyarch.archive.entry import Entry, Kind
from anyarch.archive.fold import sort_key
from anyarch.archive.tar import read_tar
from anyarch.errors import MalformedArchive, NoSpace, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from anyarch.archive.sparse import SparseReader
    from anyarch.archive.tar import Readable

__all__ = ["Unpacked", "Unpacker", "Whiteouts", "apply_tar"]

Whiteouts = Literal["overlay-trusted", "overlay-user", "delete"]

_CHUNK = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_TYPE = {Kind.CHAR_DEVICE: stat.S_IFCHR, Kind.BLOCK_DEVICE: stat.S_IFBLK}
_KEPT_SECURITY = frozenset({"security.capability"})
_DEFAULT_ACL = "system.posix_acl_default"
_IMPLIED = Entry("", Kind.DIRECTORY, 0o755)


class Unpacked(msgspec.Struct, frozen=True):
    """What was unpacked: number of entries, bytes of content, and (path, reason) of what could not."""

    entries: int
    size: int
    skipped: tuple[tuple[str, str], ...] = ()


class Unpacker:
    """Puts entries into `directory` (a path or descriptor), in the order of an archive.

    `whiteouts`: how removals are shown. `delete` removes what was there before (and keeps what this
    unpacker made, as whiteouts hide lower layers only); the overlay forms make character devices 0:0 and
    the attribute `trusted.overlay.opaque` or `user.overlay.opaque`.

    `chown`: give files to their owners, after `ids(uid, gid)` if there is one; an ordinary user says False.
    `parent(path)`: attributes of a directory that is needed but has no entry; default is mode 0755, owner
    0:0, time 0. `keep_root`: leave the attributes of `directory` itself alone.

    Devices, and attributes beyond `user.*`, that the process may not make are left out and listed in
    `skipped`; attributes that the file system does not know are left out silently. Modes and times of
    directories are set by `finish`. Raises `MalformedArchive`, `NoSpace`, `StoreError`; errors of reading
    contents pass. Context manager (closes descriptors). Not thread-safe.
    """

    def __init__(
        self,
        directory: str | int,
        *,
        whiteouts: Whiteouts,
        chown: bool = True,
        ids: Callable[[int, int], tuple[int, int]] | None = None,
        parent: Callable[[str], Entry | None] | None = None,
        keep_root: bool = False,
    ) -> None:
        try:
            self._walker = RootWalker(directory)
        except OSError as error:
            raise StoreError(f"cannot open the directory {directory!r}: {error.strerror}") from error
        self._opaque_name = None if whiteouts == "delete" else f"{whiteouts[8:]}.overlay.opaque"
        self._chown = chown
        self._ids = ids
        self._parent = parent
        self._keep_root = keep_root
        self._entries = 0
        self._size = 0
        self._skipped: list[tuple[str, str]] = []
        self._directories: dict[str, Entry] = {}  # by real path, for finish()
        self._made: set[str] = set()  # real paths, kept for `delete` only
        self._hidden: set[str] = set()  # real paths of lower layers' things, kept for overlays only

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close descriptors; `finish` does it too. Idempotent."""
        self._walker.close()

    def put(self, entry: Entry, content: Readable | bytes | None = None) -> None:
        """Make `entry`; `content` of a FILE gives `entry.size` bytes."""
        try:
            self._put(entry, content)
        except OSError as error:
            raise _explained(error, entry.path) from error
        except _ReadFailed as failed:
            raise failed.error from None
        self._entries += 1

    def finish(self) -> Unpacked:
        """Set modes and times of the directories, children first, and close."""
        self._walker.enter("")  # forget where links led
        for path in sorted(self._directories, key=sort_key, reverse=True):
            entry = self._directories[path]
            try:
                fd = self._walker.enter(path, follow=False)
                self._set_xattrs(fd, entry, lambda name: name == _DEFAULT_ACL)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry took its place
            except OSError as error:
                raise _explained(error, path) from error
        self._directories.clear()
        self.close()
        return Unpacked(self._entries, self._size, tuple(self._skipped))

    # -- one entry -----------------------------------------------------------------------------------------

    def _put(self, entry: Entry, content: Readable | bytes | None) -> None:
        kind = entry.kind
        path = entry.path
        if kind is Kind.WHITEOUT:
            if entry.opaque:
                self._make_opaque(path)
            else:
                self._hide(path)
            return
        if not path:
            if kind is not Kind.DIRECTORY:
                raise MalformedArchive("an entry without a name")
            self._put_root(entry)
            return
        parent_path, _, name = path.rpartition("/")
        fd = self._walker.enter(parent_path, make=self._make_parent)
        raw = encode(name)
        if self._opaque_name is None:
            self._remember(self._real(name))
        match kind:
            case Kind.FILE:
                self._put_file(fd, raw, entry, content)
            case Kind.DIRECTORY:
                self._put_directory(fd, raw, entry, self._real(name))
            case Kind.HARDLINK:
                self._put_hardlink(fd, raw, entry)
            case Kind.SYMLINK:
                self._replacing(fd, raw, lambda: os.symlink(encode(entry.linkname), raw, dir_fd=fd))
                self._dress(fd, raw, entry)
            case Kind.FIFO:
                self._replacing(fd, raw, lambda: os.mkfifo(raw, 0o600, dir_fd=fd))
                self._dress(fd, raw, entry)
            case _:
                self._put_device(fd, raw, entry)

    def _put_file(self, fd: int, name: bytes, entry: Entry, content: Readable | bytes | None) -> None:
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=fd)
        except FileExistsError:
            self._remove(fd, name)
            file = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            _write(file, entry, content)
            # Writing clears set-id bits and capabilities, and so does chown. The mode may forbid attributes.
            if self._chown:
                os.fchown(file, *self._owner(entry))
            if entry.xattrs:
                self._set_xattrs(file, entry)
            os.fchmod(file, entry.mode)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)
        self._size += entry.size

    def _put_directory(self, fd: int, name: bytes, entry: Entry, real: str) -> None:
        if not _make_directory(fd, name) and not _is_directory(fd, name):
            self._remove(fd, name)
            os.mkdir(name, 0o700, dir_fd=fd)
        # By its real path: what was removed may be the very link that led to its parent.
        self._dress_directory(self._walker.enter(real, follow=False), entry, real)
        if entry.opaque or real in self._hidden:
            self._make_opaque(real)

    def _put_root(self, entry: Entry) -> None:
        fd = self._walker.enter("")
        if not self._keep_root:
            self._dress_directory(fd, entry, "")
        if entry.opaque:
            self._make_opaque("")

    def _put_hardlink(self, fd: int, name: bytes, entry: Entry) -> None:
        parent_path, _, target = entry.linkname.rpartition("/")
        raw = encode(target)
        # The walker has one current directory, and that is `fd`, the link's own.
        own = os.dup(fd)
        here = self._walker.real
        try:
            try:
                there = self._walker.enter(parent_path)
                status = os.stat(raw, dir_fd=there, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                raise MalformedArchive(
                    f"the hard link {entry.path!r} leads to {entry.linkname!r}, which is not there before it"
                ) from None
            if _is_whiteout(status) or stat.S_ISDIR(status.st_mode):
                raise MalformedArchive(f"the hard link {entry.path!r} leads to no file: {entry.linkname!r}")
            if (self._walker.real, raw) == (here, name):
                return
            self._replacing(
                own,
                name,
                lambda: os.link(raw, name, src_dir_fd=there, dst_dir_fd=own, follow_symlinks=False),
            )
        except FileNotFoundError:
            raise MalformedArchive(f"the hard link {entry.path!r} replaces its own target") from None
        finally:
            os.close(own)

    def _put_device(self, fd: int, name: bytes, entry: Entry) -> None:
        mode = _DEVICE_TYPE[entry.kind] | 0o600
        device = os.makedev(entry.major, entry.minor)
        try:
            self._replacing(fd, name, lambda: os.mknod(name, mode, device, dir_fd=fd))
        except PermissionError:
            self._skipped.append((entry.path, "device nodes can be made by root only"))
            return
        self._dress(fd, name, entry)

    # -- attributes ----------------------------------------------------------------------------------------

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return (entry.uid, entry.gid) if self._ids is None else self._ids(entry.uid, entry.gid)

    def _dress(self, fd: int, name: bytes, entry: Entry) -> None:
        """Attributes of what is no file and no directory, and was just made."""
        if self._chown:
            os.chown(name, *self._owner(entry), dir_fd=fd, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (fd, name), entry)
        if entry.kind is not Kind.SYMLINK:  # whose mode means nothing
            os.chmod(name, entry.mode, dir_fd=fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _dress_directory(self, fd: int, entry: Entry, real: str) -> None:
        if self._chown:
            os.fchown(fd, *self._owner(entry))
        # The mode may forbid its owner to make the children, and those change the time.
        # A default ACL would be inherited by them.
        self._directories[real] = entry
        self._set_xattrs(fd, entry, lambda name: name != _DEFAULT_ACL)

    def _set_xattrs(
        self, target: int | bytes, entry: Entry, wanted: Callable[[str], bool] = lambda _: True
    ) -> None:
        follow = isinstance(target, int)
        for name, value in entry.xattrs:
            if not wanted(name):
                continue
            if name.startswith("security.") and name not in _KEPT_SECURITY:
                continue  # labels of the machine that built (SELinux, IMA), not of the image
            try:
                os.setxattr(target, encode(name), value, follow_symlinks=follow)
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    continue
                if error.errno == errno.EPERM and not name.startswith("user."):
                    self._skipped.append((entry.path, f"not allowed to set the attribute {name}"))
                    continue
                raise

    # -- removals ------------------------------------------------------------------------------------------

    def _hide(self, path: str) -> None:
        parent_path, _, name = path.rpartition("/")
        raw = encode(name)
        if self._opaque_name is None:
            try:
                fd = self._walker.enter(parent_path)
            except (FileNotFoundError, NotADirectoryError):
                return  # lower layers have nothing there
            if self._real(name) not in self._made:
                self._remove(fd, raw)
            elif _is_directory(fd, raw):
                self._clear(path, self._real(name))
            return
        fd = self._walker.enter(parent_path, make=self._make_parent)
        self._hidden.add(self._real(name))
        try:
            os.mknod(raw, stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)
        except FileExistsError:
            # A real entry of this layer: it hides the lower one, if it is not a directory, which is merged.
            if _is_directory(fd, raw):
                self._make_opaque(path)

    def _make_opaque(self, path: str) -> None:
        if self._opaque_name is None:
            try:
                self._walker.enter(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            self._clear(path, self._walker.real)
            return
        fd = self._walker.enter(path, make=self._make_parent)
        self._mark_opaque(fd)

    def _mark_opaque(self, fd: int) -> None:
        assert self._opaque_name is not None
        os.setxattr(fd, self._opaque_name, b"y")

    def _clear(self, path: str, real: str) -> None:
        """Remove what the directory `path` had before this unpacker, at any depth."""
        waiting = [(path, real)]
        while waiting:
            path, real = waiting.pop()
            fd = self._walker.enter(path)
            with os.scandir(fd) as items:
                names = [os.fsencode(item.name) for item in items]
            for raw in names:
                name = raw.decode("utf-8", "surrogateescape")
                inner = f"{real}/{name}" if real else name
                if inner not in self._made:
                    self._remove(fd, raw)
                elif _is_directory(fd, raw):
                    waiting.append((f"{path}/{name}" if path else name, inner))

    def _replacing(self, fd: int, name: bytes, make: Callable[[], None]) -> None:
        """`make` what must not exist yet, in place of what is there."""
        try:
            make()
        except FileExistsError:
            self._remove(fd, name)
            make()

    def _remove(self, fd: int, name: bytes) -> None:
        self._walker.forget()  # it may be a link that was followed
        remove(fd, name)

    # -- places --------------------------------------------------------------------------------------------

    def _real(self, name: str) -> str:
        """Where `name` in the walker's directory really is."""
        real = self._walker.real
        return f"{real}/{name}" if real else name

    def _remember(self, real: str) -> None:
        while real and real not in self._made:
            self._made.add(real)
            real = real.rpartition("/")[0]

    def _make_parent(self, fd: int, name: str, real: str) -> None:
        """Make a directory that has no entry (yet)."""
        raw = encode(name)
        if not _make_directory(fd, raw):
            if real not in self._hidden:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._remove(fd, raw)
            os.mkdir(raw, 0o700, dir_fd=fd)
        made = os.open(raw, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            entry = self._parent(real) if self._parent is not None else None
            self._dress_directory(made, entry or _IMPLIED, real)
            if real in self._hidden:
                self._mark_opaque(made)
        finally:
            os.close(made)


def apply_tar(
    source: Readable,
    directory: str | int,
    *,
    whiteouts: Whiteouts,
    chown: bool = True,
    ids: Callable[[int, int], tuple[int, int]] | None = None,
    parent: Callable[[str], Entry | None] | None = None,
    keep_root: bool = False,
    on_entry: Callable[[Entry], object] | None = None,
) -> Unpacked:
    """Unpack the uncompressed tar `source` with an `Unpacker`; `on_entry` sees each entry as `read_tar`
    gave it.

    Reads to the end marker of the archive, not to the end of `source`.
    """
    with Unpacker(
        directory, whiteouts=whiteouts, chown=chown, ids=ids, parent=parent, keep_root=keep_root
    ) as unpacker:
        for entry, content in read_tar(source):
            unpacker.put(entry, content)
            if on_entry is not None:
                on_entry(entry)
        return unpacker.finish()


class _ReadFailed(Exception):
    """Carries an OSError of a content, which must not be taken for one of the directory."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


def _explained(error: OSError, path: str) -> Exception:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {path!r}", hint="free some space, or choose another directory")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
        return MalformedArchive(f"{path!r} cannot be unpacked: {reason}")
    hint = "an ordinary user cannot give files away" if error.errno in (errno.EPERM, errno.EINVAL) else None
    return StoreError(f"{path!r} cannot be unpacked: {reason}", hint=hint)


def _make_directory(fd: int, name: bytes) -> bool:
    """Make it; False when something is there."""
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:
        return False
    return True


def _is_directory(fd: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data) if data else 0
    while written < len(data):
        written += os.write(file, memoryview(data)[written:])


def _write(file: int, entry: Entry, content: Readable | bytes | None) -> None:
    if content is None or isinstance(content, bytes):
        if len(content or b"") != entry.size:
            raise _wrong_size(entry)
        _write_all(file, content or b"")
        return
    segments = getattr(content, "segments", None)
    if (
        segments is not None
    ):  # a sparse file of `read_tar`: only what is stored is read, the rest stays a hole
        os.ftruncate(file, entry.size)
        for start, length in segments:
            os.lseek(file, start, os.SEEK_SET)
            _copy(file, cast("SparseReader", content).read_stored, length, entry)
        return
    _copy(file, content.read, entry.size, entry)


def _copy(file: int, read: Callable[[int], bytes], left: int, entry: Entry) -> None:
    while left:
        try:
            data = read(min(left, _CHUNK))
        except OSError as error:
            raise _ReadFailed(error) from error
        if not data:
            raise _wrong_size(entry)
        _write_all(file, data)
        left -= len(data)


def _wrong_size(entry: Entry) -> MalformedArchive:
    return MalformedArchive(f"the content of {entry.path!r} is not {entry.size} bytes long")
