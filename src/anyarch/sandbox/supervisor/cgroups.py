"""Control groups of steps: made by the supervisor before it forks, joined by the child, removed at its end.

Nothing is made for a step without limits. Where a machine or a user has no control group that may hold one,
the step runs without that limit and the caller is told; a value that the kernel calls wrong is refused.
"""

from __future__ import annotations

import errno
import os
import time

from .report import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    # name, controller, file and value of version 1, file and value of version 2; anyarch.sandbox.resources
    Setting = tuple[str, str, str, str, str, str]
    Wanted = tuple[str, tuple[Setting, ...]]  # the parent ("" for our own place), the limits

_PREFIX = "anyarch-"
_GROUP = "/anyarch"  # below the root of version 2, where processes of others may be
_ACCOUNTED = ("memory", "cpu", "cpuacct", "pids", "cpuset", "blkio")  # joined for a parent's sake
_STALE_S = 120.0
_WRONG_VALUE = (errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENODEV)


class Hierarchies:
    """What the machine offers: version 1 by controller, version 2 under an empty name; each the directory it
    is mounted at and our own place in it."""

    def __init__(self) -> None:
        self.mounts: dict[str, tuple[str, str]] = {}
        own = _own_places()
        for root, mountpoint, kind, options in _mounted():
            names = [""] if kind == "cgroup2" else [name for name in options if name in _ACCOUNTED]
            for name in names:
                place = own.get(name, "/")
                if place.startswith("/.."):  # outside of our cgroup namespace
                    place = "/"
                if root != "/":  # a part of it is mounted here, as in containers
                    place = place[len(root) :] if (place + "/").startswith(root + "/") else "/"
                self.mounts.setdefault(name, (mountpoint, place.rstrip("/")))
        self.unified = _words(f"{self.mounts[''][0]}/cgroup.controllers") if "" in self.mounts else []

    def offers(self, controller: str) -> bool:
        return controller in self.mounts or controller in self.unified


class Cgroup:
    """The groups of one step."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.notes: list[str] = []

    def join(self) -> list[str]:
        """Put the calling process into them. Returns notes of those that only another user may join."""
        notes = []
        for path in self.paths:
            try:
                _write(f"{path}/cgroup.procs", "0")
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM):
                    raise Refused("cgroup", os.fsencode(path), error.errno or 0) from error
                notes.append(f"no limit: {path}: {os.strerror(error.errno).lower()}")
        return notes

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed one of its processes for the limit's sake."""
        return any(
            _counter(f"{path}/{name}", "oom_kill") > 0
            for path in self.paths
            for name in ("memory.events", "memory.oom_control")
        )

    def remove(self) -> None:
        """All processes in them have ended. What the kernel does not give up yet stays for `clear_stale`."""
        for path in self.paths:
            _remove(path)


class Cgroups:
    """Makes the groups of steps; one for a supervisor."""

    def __init__(self) -> None:
        self._hierarchies: Hierarchies | None = None
        self._cleared: set[str] = set()

    def make(self, wanted: Wanted) -> Cgroup:
        """Groups with these limits. Raises `Refused` for a value that the kernel does not take."""
        if self._hierarchies is None:
            self._hierarchies = Hierarchies()
        parent, settings = wanted
        name = _PREFIX + os.urandom(8).hex()
        group = Cgroup()
        try:
            self._version_1(group, name, parent, settings)
            self._version_2(group, name, parent, settings)
        except BaseException:
            group.remove()
            raise
        for setting in settings:
            if not self._hierarchies.offers(setting[1]):
                group.notes.append(f"{setting[0]}: this machine has no control group for {setting[1]}")
        # Nobody has asked for that one.
        group.notes = [note for note in group.notes if not note.startswith("pids: ")]
        return group

    def _version_1(self, group: Cgroup, name: str, parent: str, settings: tuple[Setting, ...]) -> None:
        assert self._hierarchies is not None
        controllers = dict.fromkeys(setting[1] for setting in settings)
        if parent:
            controllers.update(dict.fromkeys(_ACCOUNTED))
        made: dict[str, str] = {}  # by mount point: cpu and cpuacct may be one hierarchy
        for controller in controllers:
            if controller not in self._hierarchies.mounts:
                continue
            mountpoint, place = self._hierarchies.mounts[controller]
            if mountpoint not in made:
                try:
                    path = self._directory(mountpoint, parent or place, name, controller == "cpuset")
                except OSError as error:
                    for setting in settings:
                        if setting[1] == controller:
                            _note(group, setting[0], mountpoint + (parent or place), error)
                    continue
                made[mountpoint] = path
                group.paths.append(path)
            for setting in settings:
                if setting[1] == controller:
                    _set(group, setting[0], f"{made[mountpoint]}/{setting[2]}", setting[3])

    def _directory(self, mountpoint: str, base: str, name: str, is_cpuset: bool) -> str:
        path = mountpoint
        for part in [*base.strip("/").split("/"), name]:
            if part:
                path = f"{path}/{part}"
                _make(path, last=part == name)
                if is_cpuset:
                    _inherit_cpuset(path)
        self._clear_stale(os.path.dirname(path))
        return path

    def _version_2(self, group: Cgroup, name: str, parent: str, settings: tuple[Setting, ...]) -> None:
        assert self._hierarchies is not None
        ours = [setting for setting in settings if setting[1] in self._hierarchies.unified]
        if "" not in self._hierarchies.mounts or not (ours or (parent and self._hierarchies.unified)):
            return
        mountpoint, place = self._hierarchies.mounts[""]
        # A group that has processes gives no controllers to others in it (except the root): so not in our
        # own, but beside it.
        places = [parent] if parent else [_GROUP, os.path.dirname(place) or "/"]
        refused: dict[str, OSError] = {}
        for base in places:
            try:
                path, refused = self._unified(mountpoint, base, name, {setting[1] for setting in ours})
            except OSError as error:
                refused = {setting[1]: error for setting in ours}
                continue
            if refused and base != places[-1]:
                _remove(path)
                continue
            group.paths.append(path)
            break
        for setting in ours:
            if setting[1] in refused:
                _note(group, setting[0], mountpoint + places[-1], refused[setting[1]])
            else:
                _set(group, setting[0], f"{path}/{setting[4]}", setting[5])

    def _unified(
        self, mountpoint: str, base: str, name: str, controllers: set[str]
    ) -> tuple[str, dict[str, OSError]]:
        """A new group, and the controllers that it could not be given."""
        path = mountpoint
        refused: dict[str, OSError] = {}
        for part in [*base.strip("/").split("/"), name]:
            if not part:
                continue
            for word in sorted(controllers - set(_words(f"{path}/cgroup.subtree_control"))):
                try:
                    _write(f"{path}/cgroup.subtree_control", f"+{word}")
                except OSError as error:
                    refused.setdefault(word, error)
            path = f"{path}/{part}"
            _make(path, last=part == name)
        self._clear_stale(os.path.dirname(path))
        return path, refused

    def _clear_stale(self, directory: str) -> None:
        """What builds that were killed have left; those in use refuse."""
        if directory in self._cleared:
            return
        self._cleared.add(directory)
        now = time.time()
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            try:
                # a young one may be another build's, not joined yet
                if name.startswith(_PREFIX) and now - os.stat(path).st_mtime > _STALE_S:
                    os.rmdir(path)
            except OSError:
                continue  # a step is in it, or it is another user's


def _own_places() -> dict[str, str]:
    found = {}
    for line in _lines("/proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = place
    return found


def _mounted() -> list[tuple[str, str, str, list[str]]]:
    """Root, mount point, kind and options of each hierarchy."""
    found = []
    for line in _lines("/proc/self/mountinfo"):
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = head.split(" ")
            found.append((_plain(fields[3]), _plain(fields[4]), kind, options.split(",")))
    return found


def _plain(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _words(path: str) -> list[str]:
    return " ".join(_lines(path)).split()


def _counter(path: str, name: str) -> int:
    for line in _lines(path):
        word, _, value = line.partition(" ")
        if word == name:
            return int(value)
    return 0


def _make(path: str, *, last: bool) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if last:
            raise


def _inherit_cpuset(path: str) -> None:
    """A new cpuset of version 1 has no CPU at all, and takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _words(f"{path}/{name}"):
            _write(f"{path}/{name}", " ".join(_words(f"{os.path.dirname(path)}/{name}")))


def _set(group: Cgroup, name: str, path: str, value: str) -> None:
    try:
        _write(path, value)
    except OSError as error:
        if error.errno in _WRONG_VALUE:
            raise Refused("cgroup value", f"{name}={value}".encode(), error.errno) from error
        _note(group, name, path, error)


def _note(group: Cgroup, name: str, path: str, error: OSError) -> None:
    group.notes.append(f"{name}: {path}: {os.strerror(error.errno or 0).lower()}")


def _remove(path: str) -> None:
    for _ in range(20):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.001)  # its last process has ended, but is not forgotten yet
            continue
        return


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
