"""The file system tree of a step: from a plan's operations to mounts in this process's mount namespace.

All happens before any program of the step runs. Everything ours (mountpoints, private files) is on one tmpfs
that covers the state directory in this namespace only, so nothing of it is left and nothing enters the step's
diff.
"""

from __future__ import annotations

import errno
import os
import stat

from . import syscalls as kernel
from .report import Refused, gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Op = tuple[Any, ...]  # name, then what the operation takes; see anyarch.sandbox.compile

_HOST_DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
_DEVICE_LINKS = (
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"core", b"/proc/kcore"),
    (b"ptmx", b"pts/ptmx"),
)
_UNWRITABLE = (
    kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
)
_PROC_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_MAX_LINKS = 40


class Tree:
    """Builds the tree of one step below `state_dir`; `root_fd` refers to its root afterwards."""

    def __init__(self, state_dir: bytes, overlay_options: bytes) -> None:
        self.base = state_dir
        self.overlay_options = overlay_options
        self.root_fd = -1
        self._hidden: list[int] = []
        self._sources: dict[int, int] = {}  # position of an operation → what it mounts, opened
        self._layers: dict[int, tuple[list[int], int, int]] = {}

    def build(self, operations: tuple[Op, ...]) -> None:
        # Sources first: the tmpfs may cover them.
        for position, op in enumerate(operations):
            self._open_source(position, op)
        with gate("base", self.base):
            kernel.mount(b"tmpfs", self.base, b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, b"mode=755")
            for name in (b"/root", b"/skel", b"/empty", b"/file", b"/tree"):
                os.mkdir(self.base + name, 0o755)
            if any(op[0] == "node" for op in operations):
                os.mkdir(self.base + b"/node", 0o755)
                kernel.mount(
                    b"tmpfs", self.base + b"/node", b"tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, None
                )
        for position, op in enumerate(operations):
            if op[0] == "tree":
                self._mount_tree(position, op)
            elif op[0] == "file":
                self._write_file(position, op)
            elif op[0] == "node":
                self._make_node(position, op)
        self._mount_root(operations)
        empty = os.open(self.base + b"/empty", os.O_PATH | os.O_CLOEXEC)
        for position, op in enumerate(operations):
            match op[0]:
                case "proc":
                    self._mount_proc(op[1])
                case "dev":
                    self._mount_dev(op[1], shm_size=op[2], all_devices=op[3])
                case "sys":
                    self._mount_sys(op[1], writable=op[2])
                case "bind" | "file" | "tree" | "node":
                    self._attach(position, op)
                case "tmpfs":
                    self._mount_tmpfs(op[1], size=op[2], mode=op[3], nodev=op[4])
                case "readonly":
                    self._make_readonly(op[1])
                case "mask":
                    self._mask(op[1], empty)

    def hide(self) -> None:
        """In the new root: put what is hidden where only `/..` leads (see `anyarch.sandbox.plan.Hidden`)."""
        if not self._hidden:
            return
        with gate("hidden"):
            view = kernel.open_tree(
                self.root_fd, b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE
            )
            kernel.move_mount(view, self.root_fd)
            places = (b"/../dev/mqueue", b"/../dev/mqueue/log", b"/../dev/pts")
            for place, clone in zip(places, self._hidden, strict=True):
                target = os.open(place, os.O_PATH | os.O_CLOEXEC)
                kernel.move_mount(clone, target)
                os.close(target)
                os.close(clone)
            os.close(view)

    # sources

    def _open_source(self, position: int, op: Op) -> None:
        if op[0] == "bind":
            source, selector = op[2], op[3]
            with gate("source", source):
                fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
                self._sources[position] = kernel.open_in_root(fd, selector, os.O_PATH) if selector else fd
        elif op[0] == "node":
            self._sources[position] = _open_device(op[2])
        elif op[0] == "hidden":
            # mounts already: the file systems they come from are out of reach when they are attached
            source, log = op[1:]
            for path, attributes in (
                (source, kernel.MOUNT_ATTR_RDONLY),
                (log, kernel.MOUNT_ATTR_NOEXEC),
                (source, kernel.MOUNT_ATTR_RDONLY),
            ):
                with gate("source", path):
                    clone = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
                    attributes |= kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
                    kernel.mount_setattr(clone, attributes)
                    self._hidden.append(clone)
        elif op[0] in ("root", "tree"):
            lowers, upper, work = op[1], op[2], op[3]
            fds = []
            for path in lowers:
                with gate("layer", path):
                    fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            upper_fd = work_fd = -1
            if upper:
                with gate("layer", upper):
                    upper_fd = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                with gate("layer", work):
                    work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                _inherit_root_attributes(upper, fds[-1] if fds else -1)
            self._layers[position] = (fds, upper_fd, work_fd)

    def _mount_tree(self, position: int, op: Op) -> None:
        place = self.base + b"/tree/%d" % position
        os.mkdir(place, 0o755)
        self._mount_overlay(position, place, readonly=op[4], nodev=op[5], skeleton=b"/empty")
        root = os.open(place, os.O_PATH | os.O_CLOEXEC)
        selector = op[7]
        with gate("source", selector):
            self._sources[position] = kernel.open_in_root(root, selector, os.O_PATH) if selector else root

    def _write_file(self, position: int, op: Op) -> None:
        _, _, data, mode, uid, gid, _ = op
        place = self.base + b"/file/%d" % position
        with gate("file", op[1]):
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            os.close(fd)
            self._sources[position] = os.open(place, os.O_PATH | os.O_CLOEXEC)

    def _make_node(self, position: int, op: Op) -> None:
        """A node with the owner and mode that are wanted; else the machine's own, opened before."""
        _, dest, source, mode, number, uid, gid = op
        place = self.base + b"/node/%d" % position
        try:
            os.mknod(place, mode, number)
        except PermissionError as error:
            if self._sources[position] < 0:
                raise Refused("device", source, error.errno or 0) from error
            return
        with gate("device", dest):
            os.chown(place, uid, gid)
            os.chmod(place, stat.S_IMODE(mode))
            self._sources[position] = os.open(place, os.O_PATH | os.O_CLOEXEC)

    # the root

    def _mount_root(self, operations: tuple[Op, ...]) -> None:
        place = self.base + b"/root"
        destinations = [
            (_destination(op), self._is_directory(position))
            for position, op in enumerate(operations)
            if op[0] not in ("root", "readonly", "mask", "hidden")
        ]
        for dest, is_directory in destinations:
            self._add_mountpoint(dest, is_directory)
        root = operations[0]
        self._mount_overlay(0, place, readonly=root[4], nodev=root[5], skeleton=b"/skel")
        self.root_fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        # A link on the way can lead to where there is no mountpoint yet. That is rare: mount once more then.
        missing = [(dest, kind) for dest, kind in destinations if not self._exists(dest)]
        if missing:
            real = [(real_path(self.root_fd, dest), kind) for dest, kind in missing]
            os.close(self.root_fd)
            with gate("overlay"):
                kernel.umount2(place, 0)
                _forget_volatile(self._layers[0][2])
            for dest, is_directory in real:
                self._add_mountpoint(dest, is_directory)
            self._mount_overlay(0, place, readonly=root[4], nodev=root[5], skeleton=b"/skel")
            self.root_fd = os.open(place, os.O_PATH | os.O_CLOEXEC)

    def _mount_overlay(
        self, position: int, place: bytes, *, readonly: bool, nodev: bool, skeleton: bytes
    ) -> None:
        """Mount with descriptors as names: short (the kernel takes one page of options) and free of `:` and
        `,`.
        """
        lowers, upper, work = self._layers[position]
        opened = [os.open(self.base + skeleton, os.O_PATH | os.O_CLOEXEC)]
        stack = [*reversed(lowers), opened[0]]
        if upper < 0 and len(stack) < 2:  # without an upper the kernel wants two
            opened.append(os.open(self.base + b"/empty", os.O_PATH | os.O_CLOEXEC))
            stack.append(opened[1])
        options = b"lowerdir=" + b":".join(b"%d" % fd for fd in stack)
        if upper >= 0:
            options += b",upperdir=%d,workdir=%d" % (upper, work)
        options += b"," + self.overlay_options
        flags = (kernel.MS_RDONLY if readonly else 0) | (kernel.MS_NODEV if nodev else 0)
        with gate("overlay", options):
            os.chdir(b"/proc/self/fd")
            try:
                # volatile: no sync of the whole file system when it is unmounted; since Linux 5.10
                kernel.mount(
                    b"overlay", place, b"overlay", flags, options + (b",volatile" if upper >= 0 else b"")
                )
            except OSError as error:
                if error.errno != errno.EINVAL or upper < 0:
                    raise
                kernel.mount(b"overlay", place, b"overlay", flags, options)
            finally:
                os.chdir(b"/")
        for fd in opened:
            os.close(fd)

    def _is_directory(self, position: int) -> bool:
        fd = self._sources.get(position)
        return fd is None or stat.S_ISDIR(os.fstat(fd).st_mode)

    def _add_mountpoint(self, dest: bytes, is_directory: bool) -> None:
        place = self.base + b"/skel/" + dest
        with gate("mountpoint", dest):
            _make_directories(place if is_directory else os.path.dirname(place))
            if not is_directory:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def _exists(self, dest: bytes) -> bool:
        try:
            os.close(kernel.open_in_root(self.root_fd, dest, os.O_PATH))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Refused("mountpoint", dest, error.errno or 0) from error
        return True

    # what is mounted into it

    def _target(self, dest: bytes, *, is_directory: bool = True) -> int:
        with gate("mountpoint", dest):
            try:
                return kernel.open_in_root(self.root_fd, dest, os.O_PATH)
            except FileNotFoundError:
                # it lies in another mount: make it there, as other runtimes do
                os.close(make_in_root(self.root_fd, real_path(self.root_fd, dest), is_directory=is_directory))
                return kernel.open_in_root(self.root_fd, dest, os.O_PATH)

    def _attach(self, position: int, op: Op) -> None:
        source = self._sources[position]
        dest = _destination(op)
        match op[0]:
            case "bind":
                attributes = (kernel.MOUNT_ATTR_RDONLY if op[4] else 0) | (
                    kernel.MOUNT_ATTR_NODEV if op[5] else 0
                )
                attributes |= kernel.MOUNT_ATTR_NOSUID if b"nosuid" in op[6:] else 0
                attributes |= kernel.MOUNT_ATTR_NOEXEC if b"noexec" in op[6:] else 0
            case "node":
                attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC
            case "file":
                attributes = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
                attributes |= 0 if op[3] & 0o111 else kernel.MOUNT_ATTR_NOEXEC
                attributes |= kernel.MOUNT_ATTR_RDONLY if op[6] else 0
            case _:
                attributes = 0  # those of its overlay
        target = self._target(dest, is_directory=self._is_directory(position))
        with gate("bind", dest):
            clone = kernel.open_tree(
                source, b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE
            )
            if attributes:
                kernel.mount_setattr(clone, attributes, recursive=True)
            kernel.move_mount(clone, target)
        os.close(clone)
        os.close(target)

    def _mount_on(self, dest: bytes, kind: bytes, flags: int, data: bytes | None = None) -> None:
        with gate("mountpoint", dest):
            target = kernel.open_in_root(self.root_fd, dest, os.O_PATH | os.O_DIRECTORY, links=False)
        self._mount_at(target, dest, kind, flags, data)

    def _mount_at(self, target: int, dest: bytes, kind: bytes, flags: int, data: bytes | None) -> None:
        with gate("mount " + kind.decode(), dest):
            kernel.mount(kind, b"/proc/self/fd/%d" % target, kind, flags, data)
        os.close(target)

    def _mount_tmpfs(self, dest: bytes, *, size: int, mode: int, nodev: bool) -> None:
        options = b"mode=%o" % mode + (b",size=%d" % size if size else b"")
        flags = kernel.MS_NOSUID | (kernel.MS_NODEV if nodev else 0)
        self._mount_at(self._target(dest), dest, b"tmpfs", flags, options)

    def _mount_proc(self, dest: bytes) -> None:
        self._mount_on(dest, b"proc", _PROC_FLAGS)

    def _mount_sys(self, dest: bytes, *, writable: bool) -> None:
        try:
            self._mount_on(dest, b"sysfs", _PROC_FLAGS | (0 if writable else kernel.MS_RDONLY))
        except Refused as refused:
            if refused.code != errno.EPERM:
                raise
            # A user namespace that shares the host's network may not mount sysfs: show the host's, read-only.
            self._clone_host(b"/sys", dest, 0 if writable else _UNWRITABLE)
            if not writable:
                self._mask(dest + b"/fs/cgroup", os.open(self.base + b"/empty", os.O_PATH | os.O_CLOEXEC))
            return
        if writable:
            self._clone_host(b"/sys/fs/cgroup", dest + b"/fs/cgroup", 0)

    def _clone_host(self, source: bytes, dest: bytes, attributes: int) -> None:
        target = self._target(dest)
        with gate("bind", source):
            clone = kernel.open_tree(kernel.AT_FDCWD, source, kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
            if attributes:
                kernel.mount_setattr(clone, attributes, recursive=True)
            kernel.move_mount(clone, target)
        os.close(clone)
        os.close(target)

    def _mount_dev(self, dest: bytes, *, shm_size: int, all_devices: bool) -> None:
        flags = kernel.MS_NOSUID | (0 if all_devices else kernel.MS_NODEV)
        self._mount_on(dest, b"tmpfs", flags, b"mode=755,size=65536k")
        dev = self._target(dest)
        path = b"/proc/self/fd/%d/" % dev
        with gate("dev"):
            for name in (b"pts", b"shm", b"mqueue"):
                os.mkdir(name, 0o755, dir_fd=dev)
            for name, target in _DEVICE_LINKS:
                os.symlink(target, name, dir_fd=dev)
            for name in _HOST_DEVICES:
                _bind_device(name, dev)
            if all_devices:
                _add_all_devices(dev)
            options = b"newinstance,ptmxmode=0666,mode=0620"
            quiet = kernel.MS_NOSUID | kernel.MS_NOEXEC
            try:
                kernel.mount(b"devpts", path + b"pts", b"devpts", quiet, options + b",gid=5")
            except OSError as error:
                if error.errno != errno.EINVAL:  # the group tty has no number in this user namespace
                    raise
                kernel.mount(b"devpts", path + b"pts", b"devpts", quiet, options)
            kernel.mount(b"shm", path + b"shm", b"tmpfs", _PROC_FLAGS, b"mode=1777,size=%d" % shm_size)
            kernel.mount(b"mqueue", path + b"mqueue", b"mqueue", _PROC_FLAGS)
        os.close(dev)

    def _make_readonly(self, path: bytes) -> None:
        fd = self._find(path)
        if fd is not None:
            with gate("readonly", path):
                clone = kernel.open_tree(
                    fd, b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE
                )
                kernel.mount_setattr(clone, _UNWRITABLE, recursive=True)
                kernel.move_mount(clone, fd)
            os.close(clone)
            os.close(fd)

    def _mask(self, path: bytes, empty: int) -> None:
        fd = self._find(path)
        if fd is not None:
            with gate("mask", path):
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    clone = kernel.open_tree(empty, b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
                    kernel.mount_setattr(clone, _UNWRITABLE)
                else:
                    clone = kernel.open_tree(kernel.AT_FDCWD, b"/dev/null", kernel.OPEN_TREE_CLONE)
                kernel.move_mount(clone, fd)
            os.close(clone)
            os.close(fd)

    def _find(self, path: bytes) -> int | None:
        with gate("find", path):
            try:
                return kernel.open_in_root(self.root_fd, path, os.O_PATH)
            except FileNotFoundError:
                return None


def _destination(op: Op) -> bytes:
    dest: bytes = op[6] if op[0] == "tree" else op[1]
    return dest


def _mkdir(name: bytes, parent: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return


def _make_directories(path: bytes) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        _make_directories(os.path.dirname(path))
        os.mkdir(path, 0o755)


def _inherit_root_attributes(upper: bytes, below: int) -> None:
    """The merged root has the upper's owner and mode: give a fresh upper those of the layer below."""
    with gate("layer", upper):
        if os.listdir(upper):
            return
        info = os.fstat(below) if below >= 0 else None
        mode = stat.S_IMODE(info.st_mode) if info else 0o755
        uid, gid = (info.st_uid, info.st_gid) if info else (0, 0)
        current = os.stat(upper)
        if (current.st_uid, current.st_gid) != (uid, gid):
            os.chown(upper, uid, gid)
        if stat.S_IMODE(os.stat(upper).st_mode) != mode:
            os.chmod(upper, mode)


def _forget_volatile(work: int) -> None:
    """Nothing has been written yet, so this work directory may be mounted again."""
    if work >= 0:
        try:
            os.unlink("work/incompat/volatile/dirty", dir_fd=work)
            os.rmdir("work/incompat/volatile", dir_fd=work)
        except FileNotFoundError:
            return  # mounted without volatile


def make_in_root(root_fd: int, path: bytes, *, is_directory: bool) -> int:
    """Make what is missing of a path that `real_path` has given, and open it (O_PATH)."""
    parent = os.dup(root_fd)
    done = b""
    names = [name for name in path.split(b"/") if name]
    for position, name in enumerate(names):
        if position < len(names) - 1 or is_directory:
            _mkdir(name, parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
        os.close(parent)
        done = done + b"/" + name if done else name
        parent = kernel.open_in_root(root_fd, done, os.O_PATH)
    return parent


def real_path(root_fd: int, path: bytes) -> bytes:
    """`path` with the links on it resolved inside the root, as far as it exists. No program runs yet."""
    todo = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del done[-1:]
            continue
        try:
            target = os.readlink(b"/".join([*done, name]), dir_fd=root_fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise Refused("mountpoint", path, error.errno or 0) from error
            done.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise Refused("mountpoint", path, errno.ELOOP)
        if target.startswith(b"/"):
            done.clear()
        todo.extend(reversed(target.split(b"/")))
    return b"/".join(done)


def _open_device(path: bytes) -> int:
    """-1 where there is none: then its number has to do."""
    try:
        return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1


def _bind_device(name: bytes, dev: int) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666, dir_fd=dev))
    clone = kernel.open_tree(kernel.AT_FDCWD, b"/dev/" + name, kernel.OPEN_TREE_CLONE)
    kernel.move_mount(clone, dev, name)
    os.close(clone)


def _add_all_devices(dev: int) -> None:
    """Every device node of the host, for a step that may do everything. In a user namespace they are bind
    mounts.
    """
    pending = [b""]
    while pending:
        directory = pending.pop()
        with os.scandir(b"/dev/" + directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = directory + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name not in (b"pts", b"shm", b"mqueue", b"fd", b"hugepages"):
                        os.mkdir(name, 0o755, dir_fd=dev)
                        pending.append(name + b"/")
                    continue
                info = entry.stat(follow_symlinks=False)
                is_device = stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)
                if not is_device or name in _HOST_DEVICES or name == b"ptmx":
                    continue
                try:
                    os.mknod(name, info.st_mode, info.st_rdev, dir_fd=dev)
                except PermissionError:
                    _bind_device(name, dev)
