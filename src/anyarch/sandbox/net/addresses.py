"""Who uses a bridge, and which of its addresses: shared by all daemons of a machine, kept by locks alone.

A lock ends with its process, so nothing has to be cleared after one that was killed. Locks are of open files
(fcntl, F_OFD_SETLK): the byte N of one file stands for the host number N of the subnet.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import threading
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from anyarch.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

__all__ = ["BridgeShare"]

_F_OFD_SETLK = 37  # linux/fcntl.h
_MOST = 1 << 16


class BridgeShare:
    """One daemon's part in the bridge of this name, in the network namespace that it runs in. Thread-safe."""

    def __init__(self, name: str, subnet: IPv4Network | IPv6Network, directory: str = "/run/anyarch") -> None:
        """Raises `SandboxError` for a subnet that is too small, OSError where nothing can be written."""
        last = min(subnet.num_addresses, _MOST) - 2
        if last < 2:
            raise SandboxError(f"the subnet {subnet} of the bridge has no address for a step")
        self.gateway = _host(subnet, 1)
        self._subnet = subnet
        self._last = last
        self._next = 2 + int.from_bytes(os.urandom(4), "big") % (last - 1)  # no haste in using one again
        self._used: set[int] = set()
        self._thread_lock = threading.Lock()
        self._place = os.path.join(directory, "net", f"{os.stat('/proc/thread-self/ns/net').st_ino}-{name}")
        self._files: list[int] = []
        while not self._join():
            self._close()

    def _join(self) -> bool:
        """Open the files and become a user. False when the last user removed them meanwhile."""
        try:
            os.makedirs(self._place, mode=0o700, exist_ok=True)
            for name in ("change", "users", "addresses"):
                self._files.append(_open(os.path.join(self._place, name)))
            self._change, self._users, self._addresses = self._files
            with self.changing():
                fcntl.flock(self._users, fcntl.LOCK_SH)
                return all(os.fstat(file).st_nlink for file in self._files)
        except FileNotFoundError:
            return False
        except BaseException:
            self._close()
            raise

    def close(self, *, removes: bool = False) -> None:
        """It is no longer a user, and no address is its own. The last one, under `changing`, removes the
        files too."""
        if removes:
            shutil.rmtree(self._place, ignore_errors=True)
            with suppress(OSError):  # as far as nothing else is there
                os.removedirs(os.path.dirname(self._place))
        self._close()

    def _close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files.clear()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else makes or removes the bridge meanwhile."""
        fcntl.flock(self._change, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._files:
                fcntl.flock(self._change, fcntl.LOCK_UN)

    def is_last(self) -> bool:
        """Whether there is no other user. Under `changing` only."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take(self) -> IPv4Interface | IPv6Interface:
        """An address that nobody has. Raises `SandboxError` when there is none left."""
        with self._thread_lock:
            for _ in range(self._last - 1):
                number = self._next
                self._next = number + 1 if number < self._last else 2
                if number not in self._used and self._lock(number, fcntl.F_WRLCK):
                    self._used.add(number)
                    return _host(self._subnet, number)
        raise SandboxError(
            f"all addresses of {self._subnet} are used by steps",
            hint="run fewer steps at a time, or give the bridge a larger bridgeSubnet",
        )

    def give_back(self, address: IPv4Interface | IPv6Interface) -> None:
        number = int(address.ip) - int(self._subnet.network_address)
        with self._thread_lock:
            self._used.discard(number)
            self._lock(number, fcntl.F_UNLCK)

    def _lock(self, number: int, kind: int) -> bool:
        # struct flock: type, whence (from the start), start, length, pid
        request = struct.pack("=hh4xqqi4x", kind, os.SEEK_SET, number, 1, 0)
        try:
            fcntl.fcntl(self._addresses, _F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _host(subnet: IPv4Network | IPv6Network, number: int) -> IPv4Interface | IPv6Interface:
    return ip_interface(f"{subnet.network_address + number}/{subnet.prefixlen}")
