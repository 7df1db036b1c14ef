"""One step, from the fork in the supervisor to the execve of its program. The process is pid 1 of its
namespace.

The order is what the kernel asks for: namespaces, the tree (with the capabilities of the supervisor), the new
root, the user namespace with the emulators, then giving up privileges one by one. The program itself becomes
pid 1, as with other builders; when it ends the kernel ends all that it left behind.
"""

from __future__ import annotations

import errno
import os
from time import sleep

from . import syscalls as kernel
from .limits import limit_processes
from .mounts import Tree, make_in_root, real_path
from .programs import CONTROL_FD
from .report import Refused, gate, receive_frame, send_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from .cgroups import Cgroup
    from .namespaces import Ticket
    from .programs import Programs

    Plan = dict[str, Any]  # the fields of anyarch.sandbox.compile.Plan

_LAST_CAPABILITY = 63
_HEAD_SIZE = 4096
_JOIN_ATTEMPTS, _JOIN_PERIOD_S = 1000, 0.002
_SIGPIPE, _SIGXFSZ = 13, 25
_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_step(
    control: socket,
    stdio: tuple[int, int, int],
    state_dir: bytes,
    emulator: Ticket,
    *,
    cgroup: Cgroup | None,
    programs: Programs,
    network: int,
) -> None:
    """Never returns. What goes wrong before the program runs is reported on `control`."""
    try:
        plan = receive_frame(control)
        if plan is not None:
            if cgroup is not None:
                # before the cgroup namespace, whose root is the new group then
                for note in cgroup.join():
                    send_frame(control, ("note", note))
            if plan["own_network"]:
                with gate("network"):
                    kernel.setns(network, kernel.CLONE_NEWNET)
            _run(plan, control, stdio, state_dir, emulator, programs)
    except Refused as refused:
        _report(control, refused)
    except BaseException as error:
        _report(control, Refused("internal", repr(error).encode("utf-8", "replace"), 0))
    os._exit(127)


def run_joined(
    control: socket,
    stdio: tuple[int, int, int],
    pidfd: int,
    emulator: Ticket,
    *,
    cgroup: Cgroup | None,
    launch: int,
) -> None:
    """A further process in the namespaces of the step that `pidfd` is the first process of. Never returns."""
    try:
        plan = receive_frame(control)
        if plan is not None:
            if cgroup is not None:
                for note in cgroup.join():
                    send_frame(control, ("note", note))
            if plan["rlimits"]:
                import resource  # noqa: F401 - once the root has changed nothing can be imported
            if plan["tty"]:
                import _socket  # noqa: F401
                import fcntl  # noqa: F401
                import struct  # noqa: F401
            with gate("join"):
                own_network = kernel.CLONE_NEWNET if plan["own_network"] else 0
                # The root is that of the mount namespace then.
                _join(pidfd, plan["namespaces"] | own_network)
                os.chdir(b"/")
            if plan["tty"]:
                root = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
                stdio = _open_terminal(root, control, is_console=False)
                os.close(root)
            _become_program(plan, control, stdio, emulator, launch=launch, init=-1)
    except Refused as refused:
        _report(control, refused)
    except BaseException as error:
        _report(control, Refused("internal", repr(error).encode("utf-8", "replace"), 0))
    os._exit(127)


def _join(pidfd: int, namespaces: int) -> None:
    """A process that is just about to execute its program may not be looked into yet (see `_become_program`),
    and without the machine's privileges that counts for its namespaces too."""
    for _ in range(_JOIN_ATTEMPTS):
        try:
            kernel.setns(pidfd, namespaces)
        except PermissionError:
            sleep(_JOIN_PERIOD_S)
        else:
            return
    kernel.setns(pidfd, namespaces)


def run_command(control: socket, stdio: tuple[int, int, int]) -> None:
    """Run a host program with the ids and capabilities of the supervisor. Never returns."""
    try:
        request = receive_frame(control)
        if isinstance(request, tuple):
            argv, env = request
            os.setsid()
            _set_stdio(stdio)
            _restore_signals()
            kernel.close_range_on_exec(3)
            _execute(argv, env)
    except Refused as refused:
        _report(control, refused)
    except BaseException as error:
        _report(control, Refused("internal", repr(error).encode("utf-8", "replace"), 0))
    os._exit(127)


def _report(control: socket, refused: Refused) -> None:
    send_frame(control, ("refused", refused.gate, refused.subject, refused.code, refused.detail))


def _run(
    plan: Plan,
    control: socket,
    stdio: tuple[int, int, int],
    state_dir: bytes,
    emulator: Ticket,
    programs: Programs,
) -> None:
    os.umask(0)  # modes are given in full
    if plan["rlimits"]:
        import resource  # noqa: F401 - once the root has changed nothing can be imported
    if plan["pids"]:
        limit_processes(plan["pids"])
    with gate("unshare"):
        kernel.unshare(plan["namespaces"])
        kernel.mount(b"none", b"/", None, kernel.MS_REC | kernel.MS_PRIVATE)  # before anything is mounted
    if plan["namespaces"] & kernel.CLONE_NEWNET:
        from .network import loopback_up

        loopback_up()
        if plan["listens"]:
            from .network import send_listener

            send_listener(control, plan["listens"])
    with gate("hostname"):
        kernel.sethostname(plan["hostname"])
    tree = Tree(state_dir, plan["overlay_options"])
    tree.build(plan["operations"])
    if plan["tty"]:
        stdio = _open_terminal(tree.root_fd, control)
    _enter_root(tree.root_fd)
    tree.hide()
    # A process that others signal and join is to be the first one itself, as it is with BuildKit.
    init = -1 if plan["tells_start"] else programs.init
    _become_program(plan, control, stdio, emulator, launch=programs.launch, init=init)


def _become_program(
    plan: Plan,
    control: socket,
    stdio: tuple[int, int, int],
    emulator: Ticket,
    *,
    launch: int,
    init: int,
) -> None:
    """From a process whose namespaces and root are the step's to its program."""
    # Until it executes another program this one is the machine's Python with a socket to the parent: none of
    # the step's processes may look into it (/proc/N/exe, ptrace) once it has no more rights than they have.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    os.umask(0o022)
    # Before any path of the step's is looked up: /proc/self/fd of what is open here leads out of its root.
    kernel.close_all_but(control.fileno(), emulator.fd, launch, init, *stdio)
    _change_directory(plan["cwd"])
    emulator_ns = emulator.take()
    if emulator_ns >= 0:
        with gate("emulator namespace"):
            kernel.setns(emulator_ns, kernel.CLONE_NEWUSER)
            if plan["insecure"]:  # a mount namespace that the user namespace owns, so the step may mount
                kernel.unshare(kernel.CLONE_NEWNS)
    _leave_init(init, plan)
    os.setsid()
    _set_stdio(stdio)
    if plan["tty"]:
        _take_terminal()
    for limit in plan["rlimits"]:
        _set_limit(*limit)
    _restore_signals()
    kernel.close_range_on_exec(3)
    _drop_privileges(plan)
    if plan["tells_start"]:
        send_frame(control, ("started",))
    if launch >= 0:
        _launch(plan["argv"], plan["env"], control, launch)
    _execute(plan["argv"], plan["env"])


def _leave_init(program: int, plan: Plan) -> None:
    """Go on in a child; what is pid 1 becomes `program`, as the step's user, without any privilege and with
    nothing open. Whoever gets hold of it, as the step's other processes may by ptrace, gets no call that the
    step has not, and no right by executing a file."""
    if program < 0:
        return
    with gate("fork"):
        pid = os.fork()
    if pid == 0:
        return
    kernel.close_range(0, program - 1)
    kernel.close_range(program + 1)
    if pid == 2:  # the first child in a pid namespace always is
        try:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            os.setresgid(plan["gid"], plan["gid"], plan["gid"])
            os.setresuid(plan["uid"], plan["uid"], plan["uid"])
            kernel.capset(0, 0, 0)
            number, seccomp_program = plan["seccomp"]
            if seccomp_program:
                kernel.seccomp_filter(number, seccomp_program)
            os.execve(program, [b"init"], {})
        except OSError:
            kernel.close_range(0)  # it goes on here then, a little slower
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(128 - code if code < 0 else code)


def _enter_root(root_fd: int) -> None:
    with gate("pivot_root"):
        os.fchdir(root_fd)
        kernel.pivot_root(b".", b".")
        kernel.umount2(b".", kernel.MNT_DETACH)
        os.chdir(b"/")


def _open_terminal(root_fd: int, control: socket, *, is_console: bool = True) -> tuple[int, int, int]:
    """A terminal of the step's own devpts; its other side goes to the parent. The first process's is the
    console too."""
    import _socket
    import fcntl
    import struct

    with gate("terminal"):
        master = kernel.open_in_root(root_fd, b"dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        peer = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # TIOCGPTPEER
        if is_console:
            console = kernel.open_in_root(root_fd, b"dev", os.O_PATH)
            os.close(os.open(b"console", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=console))
            clone = kernel.open_tree(peer, b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
            kernel.move_mount(clone, console, b"console")
            os.close(clone)
            os.close(console)
        send_frame(control, ("terminal",))
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))]
        control.sendmsg([b"t"], ancillary)
        os.close(master)
    return peer, peer, peer


def _take_terminal() -> None:
    import fcntl

    with gate("terminal"):
        fcntl.ioctl(0, 0x540E, 0)  # TIOCSCTTY


def _set_stdio(stdio: tuple[int, int, int]) -> None:
    # none of the three is below 3: those are the supervisor's own
    for number, fd in enumerate(stdio):
        os.dup2(fd, number, inheritable=True)


def _change_directory(path: bytes) -> None:
    """The path is the step's: no link of /proc (`/proc/self/cwd`, `/proc/self/fd/7`) is followed."""
    with gate("chdir", path):
        root = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
        try:
            try:
                fd = kernel.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                fd = make_in_root(root, real_path(root, path), is_directory=True)
            os.fchdir(fd)
            os.close(fd)
            if not os.getcwdb().startswith(b"/"):
                raise OSError(errno.EXDEV, "outside of the root")
        finally:
            os.close(root)


def _set_limit(number: int, soft: int, hard: int) -> None:
    import resource  # a module of the interpreter, loaded before its files were out of reach

    with gate("limit", b"%d" % number):
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError as error:
            raise OSError(errno.EPERM, str(error)) from error


def _restore_signals() -> None:
    # the interpreter ignores these, and an ignored signal stays so over execve
    kernel.default_signal(_SIGPIPE)
    kernel.default_signal(_SIGXFSZ)


def _drop_privileges(plan: Plan) -> None:
    keep = plan["capabilities"]
    with gate("capabilities"):
        for capability in range(_LAST_CAPABILITY + 1):
            if not keep >> capability & 1:
                try:
                    kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
                except OSError as error:
                    if error.errno == errno.EINVAL:  # beyond the last one this kernel knows
                        break
                    raise
    uid, gid = plan["uid"], plan["gid"]
    with gate("groups", b"%d" % gid):
        _set_groups(plan["groups"], gid)
    number, program = plan["seccomp"]
    if program:
        with gate("seccomp"):
            kernel.seccomp_filter(number, program)
    if uid != 0 and plan["insecure"]:
        _change_user_with_capabilities(uid)
        return
    with gate("user", b"%d" % uid):
        os.setresuid(uid, uid, uid)
    if uid == 0:
        with gate("capabilities"):
            held = kernel.permitted_capabilities() & keep
            kernel.capset(held, held, 0)


def _change_user_with_capabilities(uid: int) -> None:
    """Ambient capabilities pass an execve; those of an ordinary user would be lost."""
    with gate("user", b"%d" % uid):
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setresuid(uid, uid, uid)
    with gate("capabilities"):
        held = kernel.permitted_capabilities()
        kernel.capset(held, held, held)
        for capability in range(held.bit_length()):
            if held >> capability & 1:
                kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, capability)


def _set_groups(groups: tuple[int, ...], gid: int) -> None:
    try:
        os.setgroups(groups)
    except PermissionError:
        # A namespace with a single id may not set groups at all. Its one user owns everything there is in it,
        # so further groups would give it nothing.
        groups = ()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.setgroups([group for group in groups if _exists(group)])
    os.setresgid(gid, gid, gid)


def _exists(group: int) -> bool:
    """Whether a group id has a meaning in this user namespace."""
    with open("/proc/self/gid_map", "rb", buffering=0) as file:
        ranges = [line.split() for line in file.read().splitlines()]
    return any(int(first) <= group < int(first) + int(count) for first, _, count in ranges)


def _launch(argv: tuple[bytes, ...], env: dict[bytes, bytes], control: socket, program: int) -> None:
    """Have `program` execute it (see `.programs`). Returns when that could not be tried."""
    path = _find(argv[0], env)
    # `program` can only tell the errno: who reads it needs to know of what
    send_frame(control, ("exec", path, _head(path)))
    try:
        if control.fileno() != CONTROL_FD:
            os.dup2(control.fileno(), CONTROL_FD, inheritable=True)
        else:
            os.set_inheritable(CONTROL_FD, True)
    except OSError:
        return  # the limit of open files is that low
    try:
        os.execve(program, [path, *argv], env)
    except OSError as error:
        raise Refused("exec", path, error.errno or 0) from error


def _find(name: bytes, env: dict[bytes, bytes]) -> bytes:
    """The path of a program, as execvp(3) looks for it. Raises `Refused`."""
    if b"/" in name:
        return name
    code, failed = errno.ENOENT, name
    for directory in env.get(b"PATH", _DEFAULT_PATH).split(b":"):
        path = os.path.join(directory or b".", name)
        try:
            if os.path.isdir(path) or not os.access(path, os.X_OK, effective_ids=True):
                os.stat(path)
                code, failed = errno.EACCES, path
                continue
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                code, failed = error.errno or 0, path
            continue
        return path
    raise Refused("exec", failed, code)


def _execute(argv: tuple[bytes, ...], env: dict[bytes, bytes]) -> None:
    name = argv[0]
    if b"/" in name:
        paths = [name]
    else:
        search = env.get(b"PATH", _DEFAULT_PATH)
        paths = [os.path.join(directory or b".", name) for directory in search.split(b":")]
    code = errno.ENOENT
    failed = name
    for path in paths:
        try:
            os.execve(path, argv, env)
        except OSError as error:
            found = error.errno or 0
            if found in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(path):
                continue
            if found == errno.EACCES and len(paths) > 1:
                code, failed = found, path
                continue
            raise Refused("exec", path, found, _head(path)) from error
    raise Refused("exec", failed, code)


def _head(path: bytes) -> bytes:
    """The start of the file, for the parent to say what it is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.read(fd, _HEAD_SIZE)
        finally:
            os.close(fd)
    except OSError:
        return b""
