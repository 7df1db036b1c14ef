"""Paths of the target system, which need not be this machine's: WORKDIR, COPY destinations and sources.

On Windows targets a drive letter is allowed if it is the system drive, either slash separates, and the
result is written with forward slashes (only WORKDIR goes back to the system's own). Everywhere else a path
is a POSIX path.
"""

from __future__ import annotations

import posixpath

from anyarch.errors import DockerfileError

__all__ = ["clean", "from_slash", "is_absolute", "join", "normalize", "strip_drive", "to_slash"]


def clean(path: str) -> str:
    """The shortest equal path; empty becomes `.`, several leading slashes one."""
    path = posixpath.normpath(path)
    return path[1:] if path.startswith("//") else path


def join(*parts: str) -> str:
    """Joined with slashes and cleaned; a later absolute part does not start anew. Empty parts are skipped."""
    return clean("/".join([part for part in parts if part])) if any(parts) else ""


def to_slash(path: str, os: str) -> str:
    return path.replace("\\", "/") if os == "windows" else path


def from_slash(path: str, os: str) -> str:
    return path.replace("/", "\\") if os == "windows" else path


def strip_drive(path: str, os: str, *, keep_slash: bool = False) -> str:
    """Without the drive letter. Raises `DockerfileError` for a drive other than C, a bare drive, a UNC
    path."""
    if os != "windows":
        return path
    if len(path) == 2 and path[1] == ":":
        raise DockerfileError(f'No relative path specified in "{path}"')
    if to_slash(path[:2], os) == "//":
        raise DockerfileError("UNC paths are not supported")
    drive, colon, rest = path.partition(":")
    if not colon:
        rest = path
    elif drive.lower() != "c":
        raise DockerfileError("The specified path is not on the system drive (C:)")
    rest = to_slash(rest, os)
    short = clean(rest)
    return short + "/" if keep_slash and len(short) > 1 and rest.endswith("/") else short


def is_absolute(path: str, os: str) -> bool:
    try:
        return to_slash(strip_drive(path, os), os).startswith("/")
    except DockerfileError:
        return False


def normalize(parent: str, path: str, os: str, *, keep_slash: bool = False) -> str:
    """`path` as an absolute path with forward slashes, relative ones from `parent`; an absolute one is not
    cleaned.

    With `keep_slash` an ending `/` or `/.` stays. Raises `DockerfileError` for Windows paths that cannot
    be.
    """
    path = to_slash(path, os)
    written = path
    parent = strip_drive(to_slash(parent, os) or "/", os, keep_slash=keep_slash)
    if not parent.startswith("/"):
        parent = join("/", parent)
    path = strip_drive(path or parent, os, keep_slash=keep_slash)
    if not path.startswith("/"):
        path = join(parent, path)
    if keep_slash:
        if written.endswith("/"):
            if not path.endswith("/"):
                path += "/"
        elif written.endswith("/."):
            path = path + "." if path == "/" else path + "/."
    return to_slash(path, os)
