"""Git repositories as texts: which texts name one, and what they say of ref, directory and options.

The forms are `git://`, `ssh://`, `http(s)://` and `user@host:path`, followed by `?key=value&…` and
`#ref[:subdir]`; the rules are those of BuildKit. Shared by the Dockerfile frontend (ADD, contexts) and the
source itself. Nothing here is fetched.
"""

from __future__ import annotations

import re

import msgspec

from anyarch.errors import UsageError

__all__ = ["GitRef", "GitUrl", "is_commit", "is_git", "parse_git_ref", "parse_git_url", "redacted"]

# Compiled by whoever needs them: a build without URLs does not.
_PROTOCOL = r"([a-zA-Z0-9]+)://"
_SCP = r"([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^\n]*?)(?:\?([^\n]*?))?(?:#([^\n]*))?\Z"
_SCHEMES = ("http", "https", "ssh", "git")
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_BARE_KEYS = ("submodules", "keep-git-dir", "fetch-by-commit")


class GitUrl(msgspec.Struct, frozen=True):
    """`remote` is what git is given: without query and fragment. `host` has no user, `path` no escapes."""

    scheme: str
    host: str
    path: str
    remote: str
    query: tuple[tuple[str, str], ...] = ()
    ref: str = ""
    subdir: str = ""


class GitRef(msgspec.Struct, frozen=True, kw_only=True):
    """A repository and what is wanted of it. None: the text does not say.

    `looks_local` marks `github.com/…`, which only a build context may be. `checksum` is a commit id or the
    beginning of one; `mtime` is checkout, commit or empty.
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False
    looks_local: bool = False


def is_commit(text: str) -> bool:
    """A full object id, sha1 or sha256."""
    return len(text) in (40, 64) and not text.strip("0123456789abcdef")


def redacted(remote: str) -> str:
    """Without the password a URL may hold."""
    return re.sub(r"^([a-zA-Z0-9]+://[^/@:]*):[^/@]*@", r"\1:xxxxx@", remote)


def is_git(text: str) -> bool:
    """Whether `text` is a repository that cannot be taken for a path; its options may be wrong."""
    if ":" not in text or text.startswith(("./", "../")):
        return False
    match = re.match(_PROTOCOL, text)
    if match is None:
        return re.match(_SCP, text) is not None
    protocol = match[1].lower()
    if protocol not in _SCHEMES:
        return False
    if protocol in ("http", "https"):
        # Other URLs are downloads.
        path = re.split(r"[?#]", text, maxsplit=1)[0]
        return path.endswith(".git") and "/" in path[match.end() :]
    return True


def parse_git_url(text: str) -> GitUrl | None:
    """The parts of a URL, None if git would not be asked about it. Raises `UsageError` for another
    protocol."""
    from urllib.parse import parse_qsl, unquote

    match = re.match(_PROTOCOL, text)
    if match is not None:
        scheme = match[1].lower()
        if scheme not in _SCHEMES:
            raise UsageError(f"{scheme}: invalid protocol", hint=f"one of {', '.join(_SCHEMES)}")
        rest, _, fragment = text[match.end() :].partition("#")
        rest, _, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        host = authority.rpartition("@")[2]
        remote = f"{scheme}://{rest}"
        path, fragment = unquote(slash + path), unquote(fragment)
    else:
        found = re.match(_SCP, text)
        if found is None:
            return None
        scheme, host, path = "ssh", found[2], found[3]
        query, fragment = found[4] or "", found[5] or ""
        remote = f"{found[1]}@{host}:{path}"
    ref, _, subdir = fragment.partition(":")
    pairs = tuple(parse_qsl(query, keep_blank_values=True))
    return GitUrl(scheme, host, path, remote, pairs, ref, clean_subdir(subdir))


def clean_subdir(subdir: str) -> str:
    """As a path below the root, which `..` does not leave; empty for the root itself."""
    import posixpath

    return posixpath.normpath("/" + subdir).lstrip("/")


def parse_git_ref(text: str) -> GitRef | None:
    """What `text` says, None if it is no git repository. Raises `UsageError` for wrong options."""
    looks_local = text.startswith("github.com/")
    if looks_local:
        url = parse_git_url(f"https://{text}")
    elif is_git(text):
        url = parse_git_url(text)
    else:
        return None
    if url is None:
        return None
    found = GitRef(
        remote=url.remote.removeprefix("https://") if looks_local else url.remote,
        ref=url.ref,
        subdir=url.subdir,
        looks_local=looks_local,
    )
    return _with_query(found, url.query) if url.query else found


def _with_query(found: GitRef, query: tuple[tuple[str, str], ...]) -> GitRef:
    values: dict[str, str] = {}
    for key, value in query:
        if key in values:
            raise UsageError(f'query "{key}" has multiple values')
        if not value and key not in _BARE_KEYS:
            raise UsageError(f'query "{key}" has no value')
        values[key] = value
    ref, subdir, checksum = found.ref, found.subdir, found.checksum
    keep_git_dir = submodules = None
    mtime, fetch_by_commit = "", False
    for key, value in values.items():
        match key:
            case "ref":
                ref = _same("ref", ref, value)
            case "subdir":
                subdir = _same("subdir", subdir, value)
            case "checksum" | "commit":
                checksum = value
            case "keep-git-dir":
                keep_git_dir = _truth(key, value)
            case "submodules":
                submodules = _truth(key, value)
            case "fetch-by-commit":
                fetch_by_commit = _truth(key, value)
            case "mtime":
                if value not in ("checkout", "commit"):
                    raise UsageError(f'invalid mtime value: "{value}" (must be "checkout" or "commit")')
                mtime = value
            case "tag" | "branch":
                continue  # below, when the ref is known
            case _:
                raise UsageError(
                    f'unexpected query "{key}"',
                    hint="keys are ref, tag, branch, commit, checksum, subdir, keep-git-dir, submodules, "
                    "mtime, fetch-by-commit",
                )
    if "tag" in values and "branch" in values:
        raise UsageError("branch conflicts with tag", hint="give one of them")
    for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if key in values:
            ref = _same("ref", ref, prefix + values[key].removeprefix(prefix))
    return GitRef(
        remote=found.remote,
        ref=ref,
        subdir=subdir,
        checksum=checksum,
        keep_git_dir=keep_git_dir,
        submodules=submodules,
        mtime=mtime,
        fetch_by_commit=fetch_by_commit,
        looks_local=found.looks_local,
    )


def _same(what: str, known: str, value: str) -> str:
    if known and known != value:
        raise UsageError(f'{what} conflicts: "{known}" vs "{value}"', hint="it is given twice")
    return value


def _truth(key: str, value: str) -> bool:
    if not value or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise UsageError(f'invalid {key} value: "{value}"', hint="write true or false")
