"""The program `anyarch`: finds the command, imports its module and no other, and turns errors into text and
status.

Exit status: 0; 1 when a build or command failed or the command line was wrong; 130 when stopped by Ctrl-C
(or SIGTERM); 70 for an error of anyarch itself; `run` answers as its program did, 125 to 127 as `docker
run` does.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv in (["--version"], ["version"]):
            from anyarch.version import __version__

            print("anyarch", __version__)
            status = 0
        else:
            # Nothing that modules leave behind while they load is garbage: 3 % of a cached build goes into
            # looking.
            import gc

            from anyarch.cli.dispatch import dispatch

            gc.set_threshold(100_000, 20, 100)
            status = dispatch(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _stdout_went_away()
    except KeyboardInterrupt:  # before anything had begun
        return 130
    return status


def _stdout_went_away() -> int:
    """Who reads our output has had enough (`… | head`): end as a program that SIGPIPE killed, without a
    word."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # else the interpreter complains when it flushes at exit
    os.close(null)
    return 141
