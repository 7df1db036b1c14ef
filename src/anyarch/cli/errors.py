"""The texts of errors: what happened, where in the Dockerfile, on which platform, and what to do next.

The form is that of Docker's tools, so people and programs that read theirs read ours. A traceback is shown
only with `--debug`; an error that is not an `AnyarchError` is a fault of anyarch, and said to be one.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TextIO

from anyarch.cli.flags import BadCommandLine
from anyarch.errors import AnyarchError, Canceled, ExecFailed, NoMatchingPlatform, NoSpace, PlatformsFailed
from anyarch.spec.text import visible

if TYPE_CHECKING:
    from anyarch.errors import SourceRange
    from anyarch.progress.trace import Failure

__all__ = ["EXIT_CANCELED", "EXIT_INTERNAL", "broken_pipe", "excerpt", "leaves", "report"]

EXIT_CANCELED = 130
EXIT_INTERNAL = 70
_RULE = "--------------------"
_MOST_SHOWN = 4


def report(
    error: BaseException,
    stream: TextIO,
    *,
    prefix: str = "",
    debug: bool = False,
    command: str = "",
    failures: tuple[Failure, ...] = (),
    canceled: bool = False,
) -> int:
    """Write the text of `error` to `stream` and return the exit status.

    `prefix` goes before the message (`failed to build: …`). `failures` are the steps that the progress
    display saw fail, with their last output. With `canceled` the error is the echo of a cancellation that
    the user asked for.
    """
    try:
        return _report(error, stream, prefix, debug, command, failures, canceled)
    except OSError:
        # The error stream is closed or its disk is full: the status is all that can still be told.
        if canceled or _is_cancellation(error):
            return EXIT_CANCELED
        return error.exit_code if isinstance(error, AnyarchError) else EXIT_INTERNAL


def _report(
    error: BaseException,
    stream: TextIO,
    prefix: str,
    debug: bool,
    command: str,
    failures: tuple[Failure, ...],
    canceled: bool,
) -> int:
    found = leaves(error)
    if debug and not isinstance(error, (BadCommandLine, SystemExit)):
        _traceback(error, stream)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if canceled or all(_is_cancellation(leaf) for leaf in found):
        stream.write(f"ERROR: {prefix}Canceled: context canceled\n")
        return EXIT_CANCELED
    known = [leaf for leaf in (_known(leaf) for leaf in found) if leaf is not None]
    strangers = [leaf for leaf in found if _known(leaf) is None and not _is_cancellation(leaf)]
    if strangers:
        _internal(strangers[0], stream, debug, command)
        return EXIT_INTERNAL
    known = _distinct([leaf for leaf in known if not isinstance(leaf, Canceled)])
    for failure in failures[:_MOST_SHOWN]:
        stream.write(_block(failure.name, failure.lines))
    for leaf in known[:_MOST_SHOWN]:
        if isinstance(leaf, ExecFailed) and not failures and leaf.tail:
            lines = leaf.tail.decode("utf-8", "replace").splitlines()[-10:]
            stream.write(_block(_step_name(leaf), lines))
        if leaf.source is not None:
            stream.write(excerpt(leaf.source))
    whole = [leaf for leaf in known if isinstance(leaf, PlatformsFailed)]
    known = [leaf for leaf in known if leaf not in whole] or known
    for leaf in known[:_MOST_SHOWN]:
        stream.write(_message(leaf, prefix, failures))
    if len(known) > _MOST_SHOWN:
        stream.write(f"ERROR: and {len(known) - _MOST_SHOWN} more\n")
    for leaf in whole:
        stream.write(_message(leaf, prefix, failures))
    first = known[0]
    if isinstance(first, BadCommandLine):
        name = f"anyarch {first.command.name}".strip()
        stream.write(f"\nUsage:  anyarch {first.command.usage}\n\nRun '{name} --help' for more information\n")
    return first.exit_code


def broken_pipe(error: BaseException) -> BrokenPipeError | None:
    """The closed pipe of whom our output was for, if `error` is that or was made of it."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, BrokenPipeError):
            return candidate
    return None


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a (nested) group, or the error itself; those of the platforms of a build before it."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    if isinstance(error, PlatformsFailed):
        return [*(leaf for member in error.errors.values() for leaf in leaves(member)), error]
    return [error]


def _is_cancellation(error: BaseException) -> bool:
    # asyncio's class is told by its name: importing asyncio only to say that something failed would cost 40
    # ms.
    return isinstance(error, (Canceled, KeyboardInterrupt)) or type(error).__name__ == "CancelledError"


def _known(error: BaseException) -> AnyarchError | None:
    """`error` as one that can be told to a user; None when it is a fault of ours."""
    if isinstance(error, AnyarchError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f": {error.filename}" if error.filename else ""
        return NoSpace(
            f"no space left on device{where}", hint="free some space, or set ANYARCH_ROOT to another disk"
        )
    if isinstance(error, MemoryError):
        return AnyarchError(
            "out of memory", hint="build fewer platforms at once, or on a machine with more memory"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return AnyarchError("too many open files", hint="raise the limit (ulimit -n) and try again")
    return None


def _distinct(errors: list[AnyarchError]) -> list[AnyarchError]:
    """Each error once: a step that several platforms share fails for each of them."""
    seen: dict[tuple[object, ...], AnyarchError] = {}
    for error in errors:
        where = (error.source.filename, error.source.start) if error.source else None
        seen.setdefault((error.message, where, error.platform, error.vertex), error)
    return list(seen.values())


def excerpt(source: SourceRange) -> str:
    """The lines of a Dockerfile around `source`, those of it marked with `>>>`; empty when the text is not
    known."""
    lines = source.data.decode("utf-8", "replace").splitlines()
    if not 1 <= source.start <= len(lines):
        return f"{source.filename}:{source.start}\n" if source.start else ""
    start, end = source.start, min(max(source.end, source.start), len(lines))
    around = 2 if start == end else 1
    shown = range(max(1, start - around), min(len(lines), end + around) + 1)
    text = [f"{source.filename}:{start}", _RULE]
    for number in shown:
        mark = ">>>" if start <= number <= end else "   "
        text.append(f" {number:3d} | {mark} {lines[number - 1]}".rstrip())
    return visible("\n".join([*text, _RULE, ""]))


def _block(name: str, lines: list[str]) -> str:
    return "\n".join(["------", f" > {visible(name)}:", *lines, "------", ""])


def _step_name(error: ExecFailed) -> str:
    name = " ".join(error.argv)
    return f"[{error.platform}] {name}" if error.platform else name


def _message(error: AnyarchError, prefix: str, failures: tuple[Failure, ...]) -> str:
    text = f"ERROR: {prefix}{error.message}\n"
    told = " ".join([error.message, *(failure.name for failure in failures)])
    if error.platform and error.platform not in told:
        text += f"  platform: {error.platform}\n"
    if error.node:
        text += f"  node: {error.node}\n"
    if isinstance(error, NoMatchingPlatform) and error.available:
        missing = [
            name for name in error.available if name not in error.message and name not in (error.hint or "")
        ]
        if missing:
            text += f"  available: {', '.join(error.available)}\n"
    if error.hint:
        text += "".join(f"  hint: {line}\n" for line in error.hint.splitlines() if line)
    return visible(text)


def _internal(error: BaseException, stream: TextIO, debug: bool, command: str) -> None:
    what = f"{type(error).__name__}: {error}".replace("\n", " ").rstrip(": ")
    how = f"anyarch -D {command}".strip()
    stream.write(f"anyarch: internal error: {what}\n")
    if not debug:
        stream.write(
            f"  This is a fault of anyarch; please report it with the output of `{how} …` (same arguments).\n"
        )


def _traceback(error: BaseException, stream: TextIO) -> None:
    import traceback

    traceback.print_exception(error, file=stream)
