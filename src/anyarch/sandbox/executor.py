"""Run steps in sandboxes: the side of the supervisor that lives in our process.

One small supervisor process is started on the first step that has to run, and forks a child for each step.
All of it ends with this process, however that ends. What the child does is in `anyarch.sandbox.supervisor`.

Each step has a control socket of its own, shared by this process, the supervisor and the child. We write the
plan to it and shut our half to cancel; the child reports on it what the kernel refused, the supervisor how it
ended.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Literal

import msgspec

from anyarch.errors import SandboxError
from anyarch.sandbox.compile import compile_plan
from anyarch.sandbox.exchange import GONE, GONE_HINT, Exchange
from anyarch.sandbox.gates import refusal
from anyarch.sandbox.idmap import map_arguments, parse_subids
from anyarch.sandbox.openfiles import limit_of_steps
from anyarch.sandbox.plan import NO_RESOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyarch.sandbox.network import OwnNetwork
    from anyarch.sandbox.plan import CancelToken, ExecRequest, Registration
    from anyarch.sandbox.resources import Setting

__all__ = ["Executor", "StepHandle", "is_privileged", "owns_the_machine"]

_CHUNK = 1 << 16
_CAP_SYS_ADMIN = 21
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of linux/proc_ns.h
_START = (
    "import sys;p=type(sys)('supervisor');p.__path__=[sys.argv[1]];sys.modules['supervisor']=p;"
    "from supervisor.main import main;main(*sys.argv[2:])"
)


def is_privileged() -> bool:
    """Whether this process may mount and make namespaces itself: root with CAP_SYS_ADMIN."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def owns_the_machine() -> bool:
    """Whether this process is in the user namespace that the machine began with. Root of another one (in a
    rootless container) may mount, but makes no device nodes and sets no `trusted.*` attributes."""
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return True  # a kernel without user namespaces


class Executor:
    """Runs `ExecRequest`s. Thread-safe; several requests run at once. Close it, or use it as a context
    manager.
    """

    def __init__(self, state_dir: Path | str, *, privileged: bool | None = None) -> None:
        """`state_dir` serves as a mountpoint that only the steps see; it is made if missing and stays empty.

        `privileged` is found out when it is None; False runs everything in a user namespace, as an ordinary
        user's.
        """
        self.state_dir = os.path.abspath(os.fspath(state_dir))
        self._privileged = is_privileged() if privileged is None else privileged
        self._lock = threading.Lock()
        self._link: socket.socket | None = None
        self._launcher = 0
        self._ids = ""
        self._last_key = 0
        self._own_network: OwnNetwork | None = None
        self._closed = False

    @property
    def overlay(self) -> Literal["trusted", "user"]:
        """Whose overlay attributes the steps' upper directories carry: `trusted` (as root of the machine) or
        `user`."""
        return "trusted" if self._privileged and owns_the_machine() else "user"

    @property
    def ids(self) -> str:
        """Which ids a step can have: `all`, `range` (those of /etc/subuid), `single`. Starts it."""
        self._start()
        return self._ids

    def run(
        self,
        request: ExecRequest,
        *,
        on_output: Callable[[int, bytes], None],
        cancel: threading.Event | CancelToken | None = None,
        stdio: tuple[int, int, int] | None = None,
        on_note: Callable[[str, str], None] | None = None,
        handle: StepHandle | None = None,
        join: StepHandle | None = None,
        on_listener: Callable[[socket.socket], None] | None = None,
    ) -> int:
        """Run to the end and return the exit code (128+N when signal N ended it).

        `on_output(stream, data)` is called in this thread with what the process writes to stream 1 or 2,
        `on_note(kind, text)` with what is to be known of the step: `limit`, a limit that cannot be kept here
        and why; `out of memory`, a process was killed for the limit's sake.
        `stdio` hands these descriptors to the process instead; with a `tty` they are joined to its terminal.
        `handle` lets others act on the process while it runs. With `join` it runs in the namespaces of that
        one, which has to be running, beside it and as long as it: root, mounts, host name and limits of
        `request` count for nothing then. `on_listener` gets the socket of a `proxy` network, to keep and to
        close, before the program runs.
        Raises `SandboxError` when the sandbox cannot be set up or the program cannot be executed, `Canceled`
        when `cancel` was set before the process ended.
        """
        plan = compile_plan(
            request, overlay=self.overlay, machine=os.uname().machine, tells_start=handle is not None
        )
        registrations = tuple(sorted(_registration(emulator) for emulator in request.emulators))
        stdin = stdio[0] if stdio is not None else request.stdin
        outputs = (stdio[1], stdio[2]) if stdio is not None else None
        wanted = _cgroup_of(request) if join is None else None
        keys = (0, 0)
        if handle is not None or join is not None:
            keys = (handle._bind(self) if handle is not None else 0, join.key if join is not None else 0)
        try:
            if request.tty:
                return self._run_terminal(
                    plan,
                    registrations,
                    wanted,
                    stdin,
                    outputs,
                    on_output,
                    cancel,
                    on_note,
                    keys,
                    handle,
                    request.namespace,
                    on_listener,
                )
            exchange = self._exchange("step", registrations, stdin, outputs, wanted, keys, request.namespace)
            with exchange:
                exchange.on_note = on_note
                exchange.handle = handle
                exchange.on_listener = on_listener
                exchange.send(msgspec.structs.asdict(plan))
                return exchange.finish(on_output, cancel)
        finally:
            if handle is not None:
                handle._ended()

    def run_in_userns(
        self, argv: Sequence[str], stdin: bytes = b"", *, env: Sequence[str] | None = None
    ) -> bytes:
        """Run a host program as the owner of all ids a step can have, and return what it writes to its
        output.

        For an ordinary user that is inside the user namespace of the steps, so directories they left can be
        read and removed. `env` is this process's own when None. Raises `SandboxError` with the program's
        error output when it does not end with 0.
        """
        out = bytearray()
        code, errors = self.run_command(argv, stdin, out.extend, env=env)
        if code != 0:
            tail = errors[-2000:].decode("utf-8", "replace").strip()
            raise SandboxError(f"{argv[0]} ended with status {code}: {tail}")
        return bytes(out)

    def run_command(
        self,
        argv: Sequence[str],
        stdin: bytes,
        on_output: Callable[[bytes], object],
        *,
        env: Sequence[str] | None = None,
    ) -> tuple[int, bytes]:
        """Like `run_in_userns`, but hand over the output as it comes, and answer exit status and error
        output.
        """
        pairs = os.environb.items() if env is None else [_pair(text) for text in env]
        read_end, write_end = os.pipe()
        errors = bytearray()

        def on_data(stream: int, data: bytes) -> None:
            if stream == 1:
                on_output(data)
            else:
                errors.extend(data)

        feeder = threading.Thread(target=_feed, args=(write_end, stdin), name="anyarch-stdin")
        try:
            exchange = self._exchange("command", (), read_end, None)
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        feeder.start()
        with exchange:
            exchange.send((tuple(os.fsencode(word) for word in argv), dict(pairs)))
            code = exchange.finish(on_data, None)
        feeder.join()
        return code, bytes(errors)

    def check_emulators(self, emulators: Sequence[Registration]) -> None:
        """Make the namespace that steps with these emulators run in. Raises `SandboxError` naming what
        refused.
        """
        registrations = tuple(sorted(_registration(emulator) for emulator in emulators))
        with self._exchange("namespace", registrations, None, None) as exchange:
            exchange.finish(lambda _stream, _data: None, None)

    def own_network(self) -> str:
        """Have a network of their own for the steps, connected to the world; starts it. Why there is none,
        empty when there is: requests may ask for `own` then."""
        if self._privileged or os.geteuid() == 0:
            return "root's steps share the machine's network"
        with self._lock:
            if self._own_network is None:
                from anyarch.sandbox.network import OwnNetwork

                self._own_network = OwnNetwork(self)
            network = self._own_network
        return network.refusal()

    def make_network(self) -> str:
        """The path, for programs that `run_command` runs, of a network namespace that the steps have."""
        with self._exchange("network", (), None, None) as exchange:
            exchange.finish(lambda _stream, _data: None, None)
        return f"{self.state_dir}/net"

    def close(self) -> None:
        """End the supervisor and every step that still runs. Twice is once."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
            launcher, self._launcher = self._launcher, 0
        if link is not None:
            link.close()
        if launcher:
            _reap(launcher)
        if self._own_network is not None:
            self._own_network.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run_terminal(
        self,
        plan: msgspec.Struct,
        registrations: tuple[tuple[bytes, ...], ...],
        wanted: tuple[str, tuple[Setting, ...]] | None,
        stdin: int | None,
        outputs: tuple[int, int] | None,
        on_output: Callable[[int, bytes], None],
        cancel: threading.Event | CancelToken | None,
        on_note: Callable[[str, str], None] | None,
        keys: tuple[int, int],
        handle: StepHandle | None,
        namespace: int | None,
        on_listener: Callable[[socket.socket], None] | None,
    ) -> int:
        from anyarch.sandbox.terminal import Relay

        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            exchange = self._exchange("step", registrations, None, (null, null), wanted, keys, namespace)
        finally:
            os.close(null)
        with exchange:
            exchange.on_note = on_note
            exchange.handle = handle
            exchange.on_listener = on_listener
            exchange.send(msgspec.structs.asdict(plan))
            master = exchange.receive_terminal()
            if master is None:
                return exchange.finish(on_output, cancel)
            if handle is not None:
                handle._has_terminal(master)
            with Relay(master, stdin, outputs[0] if outputs else None, on_output) as relay:
                return exchange.finish(on_output, cancel, relay)

    def _start(self) -> socket.socket:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox has been closed")
            if self._link is None:
                self._launch()
            assert self._link is not None
            return self._link

    def _launch(self) -> None:
        os.makedirs(self.state_dir, mode=0o700, exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owner = os.pidfd_open(os.getpid())
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        sources = [null, null, null, theirs.fileno(), owner]
        high = [_duplicate_high(fd) for fd in sources]  # so that no target is a source still to come
        try:
            directory = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor")
            mode = "root" if self._privileged else "user"
            maps = ("", "") if self._privileged else _id_arguments()
            arguments = (directory, self.state_dir, mode, *maps, limit_of_steps())
            self._launcher = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-E", "-c", _START, *arguments],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(high)],
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in (null, owner, *high):
                os.close(fd)
        answer = ours.recv(_CHUNK)
        hello = marshal.loads(answer) if answer else ("refused", "internal", b"the supervisor ended", 0, b"")
        if hello[0] != "ready":
            ours.close()
            _reap(self._launcher)
            self._launcher = 0
            raise refusal(*hello[1:])
        self._ids = hello[1]
        self._link = ours

    def _exchange(
        self,
        kind: str,
        registrations: tuple[tuple[bytes, ...], ...],
        stdin: int | None,
        outputs: tuple[int, int] | None,
        wanted: tuple[str, tuple[Setting, ...]] | None = None,
        keys: tuple[int, int] = (0, 0),
        namespace: int | None = None,
    ) -> Exchange:
        """Ask the supervisor for a child; the caller sends what it is to do, and closes the exchange."""
        control, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin is None else -1
        pipes = [os.pipe(), os.pipe()] if outputs is None else []
        writers = outputs or (pipes[0][1], pipes[1][1])
        passed = [theirs.fileno(), null if stdin is None else stdin, *writers]
        if namespace is not None:
            passed.append(namespace)
        try:
            self._pass(marshal.dumps((kind, registrations, wanted, *keys)), passed)
        except BaseException:
            control.close()
            for reader, _ in pipes:
                os.close(reader)
            raise
        finally:
            theirs.close()
            if null >= 0:
                os.close(null)
            for _, writer in pipes:
                os.close(writer)
        return Exchange(control, [reader for reader, _ in pipes])

    def _new_key(self) -> int:
        with self._lock:
            self._last_key += 1
            return self._last_key

    def _signal(self, key: int, number: int) -> None:
        link = self._link
        if link is not None:
            try:
                link.send(marshal.dumps(("signal", key, int(number))))
            except OSError:
                return  # the supervisor has ended, and the step with it

    def _pass(self, message: bytes, descriptors: list[int]) -> None:
        """Hand a request to the supervisor. One that was killed meanwhile is replaced."""
        for attempt in range(2):
            link = self._start()
            try:
                socket.send_fds(link, [message], descriptors)  # one message, so threads need no lock
                return
            except OSError as error:
                if attempt:
                    raise SandboxError(GONE, hint=GONE_HINT) from error
                self._forget(link)

    def _forget(self, link: socket.socket) -> None:
        with self._lock:
            if self._link is not link:
                return
            self._link = None
            self._own_network = None  # ended with it
            launcher, self._launcher = self._launcher, 0
        link.close()
        _reap(launcher)


class StepHandle:
    """Acts on one process while it runs, from any thread."""

    def __init__(self) -> None:
        self.key = 0
        self.started = threading.Event()
        """Set when the program is about to run, and when it has ended in any way."""
        self._executor: Executor | None = None
        self._terminal = -1
        self._lock = threading.Lock()

    def signal(self, number: int) -> None:
        """Send it a signal. Nothing happens when it does not run."""
        with self._lock:
            if self._executor is not None:
                self._executor._signal(self.key, number)

    def resize(self, rows: int, columns: int) -> None:
        """Tell it the size of its terminal, if it has one."""
        import fcntl
        import struct
        import termios

        with self._lock:
            if self._terminal >= 0:
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def _bind(self, executor: Executor) -> int:
        with self._lock:
            self._executor = executor
            self.key = executor._new_key()
            return self.key

    def _has_terminal(self, master: int) -> None:
        with self._lock:
            self._terminal = os.dup(master)

    def _has_started(self) -> None:
        self.started.set()

    def _ended(self) -> None:
        with self._lock:
            self._executor = None
            if self._terminal >= 0:
                os.close(self._terminal)
                self._terminal = -1
        self.started.set()


def _cgroup_of(request: ExecRequest) -> tuple[str, tuple[Setting, ...]] | None:
    """What the supervisor is to make control groups for; None when nothing asks for one."""
    from anyarch.sandbox.supervisor.limits import has_own_pid_max

    needs_pids = bool(request.pids) and not has_own_pid_max()
    if not needs_pids and request.resources == NO_RESOURCES and not request.cgroup_parent:
        return None
    from anyarch.sandbox.resources import cgroup_directory, pids_setting, settings_of

    settings = settings_of(request.resources)
    if needs_pids:
        settings += (pids_setting(request.pids),)
    return cgroup_directory(request.cgroup_parent), settings


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # the program that embeds us waits for all children


def _feed(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        return  # the program did not want all of it
    finally:
        os.close(fd)


def _duplicate_high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _pair(text: str) -> tuple[bytes, bytes]:
    name, _, value = os.fsencode(text).partition(b"=")
    return name, value


def _registration(emulator: Registration) -> tuple[bytes, ...]:
    name, interpreter, flags = (
        os.fsencode(text) for text in (emulator.name, emulator.interpreter, emulator.flags)
    )
    return (name, emulator.magic, emulator.mask, interpreter, flags)


def _id_arguments() -> tuple[str, str]:
    """What newuidmap and newgidmap are to be called with for this user; empty texts when it has no ranges."""
    import pwd

    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    arguments = []
    for path, own in (("/etc/subuid", uid), ("/etc/subgid", gid)):
        try:
            with open(path) as file:
                ranges = parse_subids(file.read(), name=name, number=uid)
        except OSError:
            ranges = []
        arguments.append(" ".join(map_arguments(own, ranges)))
    if not all(arguments):
        return "", ""
    return arguments[0], arguments[1]
