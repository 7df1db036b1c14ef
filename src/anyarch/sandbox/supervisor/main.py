"""The supervisor's loop: takes requests from the parent, forks a child for each, reports how it ended.

It is pid 1 of a pid namespace, so whatever ends it ends all steps. It ends itself when the parent does. A
request is a short message with descriptors: a control socket, the step's three standard streams and perhaps a
network namespace. The rest
goes over the control socket between parent and child; the supervisor only watches it: half closed, the step
is cancelled.
"""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import select
import struct

from . import syscalls as kernel
from .launch import become_supervisor
from .namespaces import EmulatorNamespaces, Ticket
from .programs import Programs
from .report import Refused, send_frame
from .step import run_command, run_joined, run_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cgroups import Cgroup, Cgroups, Wanted

PARENT_FD, OWNER_FD = 3, 4
_MESSAGE_SIZE = 1 << 16
_MOST_DESCRIPTORS = 5
_POLLRDHUP = 0x2000


class Running:
    """A child that has not ended: its control socket and a descriptor that becomes readable when it ends.
    `key` is what the parent calls it by, 0 for nothing; with one `pid_ns` is its pid namespace."""

    def __init__(
        self,
        pid: int,
        control: _socket.socket,
        pidfd: int,
        cgroup: Cgroup | None,
        key: int = 0,
        pid_ns: int = -1,
    ) -> None:
        self.pid = pid
        self.key = key
        self.cgroup = cgroup
        self.control = control
        self.pidfd = pidfd
        self.pid_ns = pid_ns


class Supervisor:
    def __init__(self, parent: _socket.socket, state_dir: bytes) -> None:
        self.parent = parent
        self.state_dir = state_dir
        self.own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.cgroups: Cgroups | None = None
        self.programs = Programs()
        self.network = -1
        self.running: dict[int, Running] = {}  # by pid
        self.by_fd: dict[int, Running] = {}  # by control socket and by pidfd
        self.by_key: dict[int, Running] = {}
        self.poll = select.poll()
        self.emulators = EmulatorNamespaces(self.poll)
        self.poll.register(parent.fileno(), select.POLLIN)
        self.poll.register(OWNER_FD, select.POLLIN)

    def serve(self) -> None:
        """Until the parent closes its socket or ends."""
        while True:
            for fd, _events in self.poll.poll():
                if fd == OWNER_FD:
                    return
                if fd == self.parent.fileno():
                    if not self._accept():
                        return
                    continue
                running = self.by_fd.get(fd)
                if running is None:
                    self.emulators.serve(fd)
                    continue
                if fd == running.pidfd:
                    self._reap()
                else:
                    self._cancel(running)

    def end(self) -> None:
        """Kill what runs, and remove its control groups: whoever wanted it is gone, and nobody else knows of
        them."""
        for running in self.running.values():
            os.kill(running.pid, 9)
        # In whatever order they end: a step's init ends after those that joined it have been waited for.
        left = set(self.running)
        while left:
            left.discard(os.waitpid(-1, 0)[0])
        for running in self.running.values():
            if running.cgroup is not None:
                running.cgroup.remove()

    def _accept(self) -> bool:
        size = _socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        message, ancillary, _flags, _address = self.parent.recvmsg(
            _MESSAGE_SIZE, size, _socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            return False
        if not ancillary:
            _, key, number = marshal.loads(message)  # a signal for a step
            if key in self.by_key:
                os.kill(self.by_key[key].pid, number)
            return True
        descriptors = ancillary[0][2]
        control_fd, *stdio = struct.unpack(f"={len(descriptors) // 4}i", descriptors)
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control_fd)
        kind, registrations, wanted, key, joined = marshal.loads(message)
        cgroup: Cgroup | None = None
        emulator = Ticket()
        pid_ns = -1
        try:
            if kind == "step":
                if registrations:
                    emulator = self.emulators.order(registrations)
                if wanted is not None:
                    cgroup = self._make_cgroup(wanted, control)
                streams = (stdio[0], stdio[1], stdio[2])
                network = stdio[3] if len(stdio) > 3 else self.network
                if joined:
                    pid, pid_ns = self._fork_joined(control, streams, emulator, joined)
                else:
                    pid, pid_ns = self._fork_step(control, streams, emulator, cgroup, network)
                if not key:
                    os.close(pid_ns)
                    pid_ns = -1
            elif kind == "network":
                if self.network < 0:
                    from .network import make_network  # few steps have one

                    self.network = make_network(self.state_dir)
                send_frame(control, ("ended", 0))
                control.close()
                return True
            elif kind == "namespace":
                self.emulators.watch(registrations, control)
                return True
            else:
                pid = self._fork_command(control, (stdio[0], stdio[1], stdio[2]))
        except Refused as refused:
            send_frame(control, ("refused", refused.gate, refused.subject, refused.code, refused.detail))
            control.close()
        except OSError as error:
            send_frame(control, ("refused", "fork", b"", error.errno or 0, b""))
            control.close()
        else:
            running = Running(pid, control, os.pidfd_open(pid), cgroup, key, pid_ns)
            self.running[pid] = running
            if key:
                self.by_key[key] = running
            self.by_fd[control_fd] = self.by_fd[running.pidfd] = running
            self.poll.register(control_fd, _POLLRDHUP)
            self.poll.register(running.pidfd, select.POLLIN)
        finally:
            self.emulators.close(emulator)
            for fd in stdio:
                os.close(fd)
        return True

    def _make_cgroup(self, wanted: Wanted, control: _socket.socket) -> Cgroup:
        if self.cgroups is None:
            from .cgroups import Cgroups  # few steps have limits

            self.cgroups = Cgroups()
        cgroup = self.cgroups.make(wanted)
        for note in cgroup.notes:
            send_frame(control, ("note", note))
        return cgroup

    def _fork_step(
        self,
        control: _socket.socket,
        stdio: tuple[int, int, int],
        emulator: Ticket,
        cgroup: Cgroup | None,
        network: int,
    ) -> tuple[int, int]:
        """Its pid, and a descriptor of its pid namespace: by its pidfd that can only be entered once it has
        executed its program."""
        # The next child is the first process of a new pid namespace; children after it are not.
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                run_step(
                    control,
                    stdio,
                    self.state_dir,
                    emulator,
                    cgroup=cgroup,
                    programs=self.programs,
                    network=network,
                )
            pid_ns = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            kernel.setns(self.own_pid_ns, kernel.CLONE_NEWPID)
        return pid, pid_ns

    def _fork_joined(
        self, control: _socket.socket, stdio: tuple[int, int, int], emulator: Ticket, key: int
    ) -> tuple[int, int]:
        """A further process in the namespaces of a step; it ends with the step's first one."""
        step = self.by_key.get(key)
        if step is None:
            raise Refused("join", b"the step has ended", 3)  # ESRCH
        kernel.setns(step.pid_ns, kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                run_joined(
                    control,
                    stdio,
                    step.pidfd,
                    emulator,
                    cgroup=step.cgroup,
                    launch=self.programs.launch,
                )
        finally:
            kernel.setns(self.own_pid_ns, kernel.CLONE_NEWPID)
        return pid, os.dup(step.pid_ns)

    def _fork_command(self, control: _socket.socket, stdio: tuple[int, int, int]) -> int:
        pid = os.fork()
        if pid == 0:
            run_command(control, stdio)
        return pid

    def _cancel(self, running: Running) -> None:
        self.poll.unregister(running.control.fileno())
        os.kill(running.pid, 9)  # not reaped yet, so the number is still its own

    def _reap(self) -> None:
        """Report every child that has ended; orphans of host commands come here as well."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self.running.pop(pid, None)
            if running is not None:
                self._report(running, os.waitstatus_to_exitcode(status))

    def _report(self, running: Running, code: int) -> None:
        fd = running.control.fileno()
        self.by_key.pop(running.key, None)
        for watched in (fd, running.pidfd):
            del self.by_fd[watched]
            try:
                self.poll.unregister(watched)
            except KeyError:
                continue  # the control socket of a cancelled step
        os.close(running.pidfd)
        if running.pid_ns >= 0:
            os.close(running.pid_ns)
        out_of_memory = False
        if running.cgroup is not None:
            out_of_memory = running.cgroup.was_out_of_memory()
            running.cgroup.remove()
        try:
            if out_of_memory:
                send_frame(running.control, ("out of memory",))
            send_frame(running.control, ("ended", 128 - code if code < 0 else code))
        except OSError:
            return  # nobody listens any more
        finally:
            running.control.close()


def main(state_dir: str, mode: str, uid_args: str, gid_args: str, open_files: str) -> None:
    """Entry point of the process; see `anyarch.sandbox.executor` for the arguments."""
    parent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, PARENT_FD)
    try:
        if open_files:
            import resource  # where a daemon has raised its own

            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(open_files), hard))
        ids = become_supervisor(mode, uid_args.split(), gid_args.split())
        gc.freeze()
        gc.disable()  # children are short-lived and share these pages
        supervisor = Supervisor(parent, os.fsencode(state_dir))
        parent.send(marshal.dumps(("ready", ids)))
    except Refused as refused:
        parent.send(marshal.dumps(("refused", refused.gate, refused.subject, refused.code, refused.detail)))
        os._exit(1)
    supervisor.serve()
    supervisor.end()
    os._exit(0)
