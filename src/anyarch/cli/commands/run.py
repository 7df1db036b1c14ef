"""`anyarch run`: a program of an image, as `docker run` would, for the platform that is asked for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import NotSupported, UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import Port, RunRequest, Volume
    from anyarch.solver.events import Event

__all__ = ["COMMAND", "run", "run_request", "volume_of"]

OWN_FAILURE = 125

COMMAND = Command(
    "run",
    summary="Run a program of an image, emulated where needed",
    usage="run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    description=(
        "Run a program of an image and answer with its exit status. Of an index the image for this "
        "machine is taken, or "
        "the one that --platform asks for, which is emulated where it has to be. What the program "
        "writes into the image's "
        "files is gone when it ends."
    ),
    arguments=(
        (
            "IMAGE",
            "reference in a registry, name in the local store, oci-layout://PATH[:TAG], or the path "
            "of an OCI layout (directory or tar)",
        ),
        ("COMMAND", "program and arguments in the place of the image's CMD"),
    ),
    least=1,
    most=None,
    interspersed=False,
    usage_exit_code=OWN_FAILURE,
    flags=(
        Flag("add-host", "Add a line to the program's /etc/hosts", metavar="HOST:IP", repeat=True),
        Flag("cpus", "How many CPUs it may use, for example 1.5", metavar="N"),
        Flag(
            "env-file", "Read environment variables from a file", metavar="PATH", repeat=True, complete="file"
        ),
        Flag("hostname", "Host name", metavar="NAME"),
        Flag("memory", "How much memory it may use", short="m", metavar="BYTES"),
        Flag(
            "mount",
            "Show something to the program: type=bind,source=…,target=…[,readonly], or type=tmpfs,target=…",
            metavar="ATTRS",
            repeat=True,
        ),
        Flag(
            "publish",
            "Let a port of this machine lead to one of the program, which shares its network",
            short="p",
            metavar="[IP:]PORT:PORT",
            repeat=True,
        ),
        Flag("read-only", "Let nobody write to the image's files"),
        Flag("shm-size", "Size of /dev/shm", metavar="BYTES"),
        Flag("tmpfs", "Mount an empty file system in memory", metavar="DIR[:size=BYTES]", repeat=True),
        Flag("ulimit", "Limit of the program", metavar="NAME=SOFT[:HARD]", repeat=True),
        Flag(
            "emulators",
            "Directory of the QEMU programs to use, in place of the machine's",
            metavar="DIR",
            complete="directory",
        ),
        Flag("entrypoint", "Program in the place of the image's ENTRYPOINT", metavar="PROGRAM"),
        Flag(
            "env",
            "Set an environment variable; KEY alone takes the environment's value",
            short="e",
            metavar="KEY[=VALUE]",
            repeat=True,
        ),
        Flag("interactive", "Give the program standard input", short="i"),
        Flag("network", "Network of the program", metavar="MODE", choices=("host", "none")),
        Flag("platform", "Platform of the image", metavar="OS/ARCH[/VARIANT]"),
        Flag("pull", "When to ask the registry", metavar="WHEN", choices=("missing", "always", "never")),
        Flag("rm", "Leave nothing behind (always so)", state="ignored"),
        Flag("tty", "Give the program a terminal", short="t"),
        Flag("user", "User, as in USER of a Dockerfile", short="u", metavar="USER[:GROUP]"),
        Flag(
            "volume",
            "Show a directory or file of this machine to the program",
            short="v",
            metavar="SOURCE:DEST[:ro]",
            repeat=True,
        ),
        Flag("workdir", "Working directory", short="w", metavar="DIR"),
    ),
    examples=(
        ("The machine of a foreign platform", "anyarch run --platform linux/arm64 busybox uname -m"),
        ("From an OCI archive", "anyarch run --platform linux/riscv64 app.tar"),
        ("A shell in the image", "anyarch run -it --entrypoint sh busybox"),
    ),
)


def run(parsed: Parsed) -> int:
    """The program's exit status; 125 when it could not be started, 126 and 127 as `docker run` has them."""
    from anyarch.cli.dispatch import stderr
    from anyarch.cli.errors import EXIT_CANCELED, EXIT_INTERNAL, broken_pipe, report
    from anyarch.cli.signals import stopping
    from anyarch.engine.request import CancelToken

    cancel = CancelToken()
    try:
        request = run_request(parsed, os.environ)
        from anyarch import engine

        with stopping(cancel, notice=False):
            status = engine.run_image(request, on_event=_Notices(), cancel=cancel)
        return EXIT_CANCELED if cancel.is_set() else status
    except BaseException as error:
        pipe = broken_pipe(error)
        if pipe is not None:
            raise pipe from None
        status = report(error, stderr(), debug=parsed.debug, command="run", canceled=cancel.is_set())
        return status if status in (126, 127, EXIT_CANCELED, EXIT_INTERNAL) else OWN_FAILURE


def run_request(parsed: Parsed, environment: Mapping[str, str]) -> RunRequest:
    """What the flags ask for. Raises `UsageError`, `InvalidPlatform`."""
    from anyarch.engine import grammar
    from anyarch.engine.request import RunRequest

    if parsed.text("builder") not in (None, "", "default"):
        raise UsageError(
            f"--builder {parsed.text('builder')}: programs are run on this machine, not on nodes of a builder"
        )
    image, *command = parsed.args
    if not image:
        raise UsageError("invalid reference format: no image given")
    if "/" not in image and _is_layout_here(image):
        image = f"./{image}"
    platform = parsed.text("platform") or environment.get("DOCKER_DEFAULT_PLATFORM")
    if platform:
        names, _ = grammar.platforms([platform])
        if len(names) > 1:
            raise UsageError(f"--platform {platform}: a program runs on one platform")
        platform = names[0]
    if parsed.switch("tty") and parsed.switch("interactive") and not _stdin_is_terminal():
        raise UsageError(
            "the input device is not a TTY", hint="leave -t out when standard input is a pipe or file"
        )
    variables = _env_files(parsed.texts("env-file"), environment)
    variables |= grammar.key_values(parsed.texts("env"), environment)
    volumes, tmpfs = _mounts(parsed.texts("mount"))
    shm_size, memory = parsed.text("shm-size"), parsed.text("memory")
    return RunRequest(
        image=image,
        command=tuple(command),
        platform=platform or None,
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        workdir=parsed.text("workdir"),
        user=parsed.text("user"),
        entrypoint=parsed.text("entrypoint"),
        interactive=parsed.switch("interactive"),
        tty=parsed.switch("tty"),
        network=parsed.text("network") or "host",
        volumes=(*(volume_of(text) for text in parsed.texts("volume")), *volumes),
        hostname=parsed.text("hostname") or "",
        add_hosts=grammar.add_hosts(parsed.texts("add-host")),
        readonly=parsed.switch("read-only"),
        tmpfs=(*(_tmpfs(text) for text in parsed.texts("tmpfs")), *tmpfs),
        shm_size=grammar.size_bytes(shm_size) if shm_size else None,
        ulimits=tuple(grammar.ulimit(text) for text in parsed.texts("ulimit")),
        memory=grammar.size_bytes(memory) if memory else 0,
        cpu_quota=_cpu_quota(parsed.text("cpus")),
        ports=tuple(_port(text) for text in parsed.texts("publish")),
        emulators=grammar.directory(parsed.text("emulators"), "--emulators"),
        pull=parsed.text("pull") or "missing",
    )


def _env_files(paths: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """As docker reads them: a variable a line, `#` begins a comment, a name alone takes the environment's
    value."""
    result: dict[str, str] = {}
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"--env-file: open {path}: {reason}") from None
        for line in lines:
            text = line.lstrip()
            if not text or text.startswith("#"):
                continue
            name, equals, value = text.partition("=")
            if any(c.isspace() for c in name):
                raise UsageError(f"--env-file {path}: variable {name!r} contains whitespaces")
            if equals:
                result[name] = value
            elif name in environment:
                result[name] = environment[name]
    return result


def _mounts(texts: list[str]) -> tuple[list[Volume], list[tuple[str, int]]]:
    from anyarch.engine import grammar

    volumes, tmpfs = [], []
    for text in texts:
        attrs = {}
        for field in grammar.csv_fields(text):
            key, equals, value = field.partition("=")
            attrs[key.strip().lower()] = value if equals else "true"
        kind = attrs.pop("type", "volume")
        target = next((attrs.pop(k) for k in ("target", "destination", "dst") if k in attrs), "")
        if not target.startswith("/"):
            raise UsageError(f"invalid mount {text!r}: target must be an absolute path")
        if kind == "bind":
            source = next((attrs.pop(k) for k in ("source", "src") if k in attrs), "")
            readonly = next((attrs.pop(k) for k in ("readonly", "ro") if k in attrs), "false")
            if not source:
                raise UsageError(f"invalid mount {text!r}: source is missing")
            mode = "ro" if grammar.truth(readonly) else "rw"
            volumes.append(volume_of(f"{os.path.abspath(source)}:{target}:{mode}"))
        elif kind == "tmpfs":
            size = attrs.pop("tmpfs-size", "")
            tmpfs.append((target, grammar.size_bytes(size) if size else 0))
        else:
            raise NotSupported(f"--mount type={kind}: only bind and tmpfs can be mounted")
        if attrs:
            raise UsageError(f"invalid mount {text!r}: unknown key {next(iter(attrs))!r}")
    return volumes, tmpfs


def _tmpfs(text: str) -> tuple[str, int]:
    from anyarch.engine import grammar

    path, _, options = text.partition(":")
    if not path.startswith("/"):
        raise UsageError(f"invalid tmpfs {text!r}: an absolute path is expected")
    size = 0
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            size = grammar.size_bytes(value)
        elif key not in ("rw", "nosuid", "nodev"):
            raise NotSupported(f"--tmpfs {text}: option {option!r} is not supported", hint="size=BYTES is")
    return path, size


def _cpu_quota(cpus: str | None) -> int:
    if cpus is None:
        return 0
    try:
        quota = int(float(cpus) * 100_000)
    except ValueError:
        quota = 0
    if quota < 1000:
        raise UsageError(f"--cpus {cpus}: a number above 0.01 is expected")
    return quota


def _port(text: str) -> Port:
    from anyarch.engine.request import Port

    mapping, _, protocol = text.partition("/")
    if protocol not in ("", "tcp"):
        raise NotSupported(f"--publish {text}: only TCP ports can be passed on")
    head, _, container = mapping.rpartition(":")
    address, _, host = head.rpartition(":")
    host = host or container
    numbers = [natural(n) or 0 for n in (host, container)]
    if not all(0 < number < 65536 for number in numbers):
        raise UsageError(f"invalid port {text!r}", hint="write [IP:]HOST:PORT, for example -p 8080:80")
    return Port(numbers[0], numbers[1], address.strip("[]"))


def volume_of(text: str) -> Volume:
    """One `--volume`. Raises `UsageError`, `NotSupported`."""
    from anyarch.engine.request import Volume

    source, _, rest = text.partition(":")
    dest, _, options = rest.partition(":")
    if not source or not dest.startswith("/"):
        raise UsageError(
            f"invalid volume {text!r}", hint="write SOURCE:DEST[:ro], for example -v ./data:/data:ro"
        )
    if "/" not in source and source != "." and not os.path.exists(source):
        raise NotSupported(
            f"named volume {source!r}: only directories and files can be shown", hint=f"write ./{source}"
        )
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise UsageError(f"invalid volume {text!r}: {source} does not exist")
    if options not in ("", "ro", "rw"):
        raise UsageError(f"invalid volume {text!r}: unknown option {options!r}", hint="it is ro or rw")
    return Volume(source, dest, readonly=options == "ro")


def _is_layout_here(name: str) -> bool:
    """Whether a name without a slash is meant as a path: an archive, or a directory that is an OCI layout."""
    return (name.endswith(".tar") and os.path.isfile(name)) or os.path.isfile(
        os.path.join(name, "oci-layout")
    )


def _stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


class _Notices:
    """What takes time before the program starts is said once, on the error stream: pulls, unpacking. A
    display would get in the way of the program's own output."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        from anyarch.cli.dispatch import stderr
        from anyarch.progress.trace import clean_name
        from anyarch.solver.events import VertexEvent

        if (
            not isinstance(event, VertexEvent)
            or event.started is None
            or event.cached
            or event.digest in self._told
        ):
            return
        self._told.add(event.digest)
        try:
            stderr().write(f"{clean_name(event.name)}\n")
        except (OSError, ValueError):
            self._told.add(event.digest)
