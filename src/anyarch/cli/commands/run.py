"""`anyarch run`: a program of an image, as `docker run` would, for the platform that is asked for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyarch.cli.flags import Command, Flag
from anyarch.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.cli.flags import Parsed
    from anyarch.engine.request import RunRequest, Volume
    from anyarch.solver.events import Event

__all__ = ["COMMAND", "run", "run_request"]

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
    variables = grammar.key_values(parsed.texts("env"), environment)
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
        volumes=tuple(_volume(text) for text in parsed.texts("volume")),
        emulators=grammar.directory(parsed.text("emulators"), "--emulators"),
        pull=parsed.text("pull") or "missing",
    )


def _volume(text: str) -> Volume:
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
