"""Git repositories as a source: a ref to a commit, and the commit's files.

The store has one bare repository for each remote, shared by all builds and guarded by a file lock; what a
build fetches of it, at a depth of 1, serves later ones. A checkout is made by git's plumbing from the tree
of the commit, so nothing a repository holds is executed, and submodules are repositories like any other,
put in their place here and not by git. Rules of refs, checksums and keys are those of BuildKit.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from anyarch.errors import BuildError, Canceled, DigestMismatch, PathNotFound
from anyarch.store.tree import remove_tree

from .gitcli import Git
from .gitdir import make_git_dir
from .gitfetch import bundled_name, clear_locks, fetch, fetch_bundle, has_commit
from .gitmodules import link_module, module_dir, submodule_remote, submodules
from .gittree import check_out, committed_s, is_below, peel, put_directory
from .giturl import is_commit, redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .gitcli import GitAuth

__all__ = ["Checkout", "GitRepositories", "GitSource", "Lender", "Resolved"]

_LOCK_POLL_S = 0.1
_DEPTH_LIMIT = 32


class GitSource(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted of a repository.

    Empty `ref` is the default branch, `checksum` the commit that it must be (or how that begins), `subdir` a
    path below the root. `mtime` is checkout or commit (also when empty). With `bundle` the objects come from
    the bundle that the lender has under that name, not from the remote; `as_bundle` wants the commit with its
    history as one file `bundle`, not its files. `signed_by` is a public key (OpenPGP armored, or a line of
    SSH's authorized_keys) of which tag or commit must have a signature.
    """

    remote: str
    ref: str = ""
    checksum: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    submodules: bool = True
    mtime: str = ""
    fetch_by_commit: bool = False
    bundle: str = ""
    as_bundle: bool = False
    signed_by: str = ""
    reject_expired_keys: bool = False
    require_signed_tag: bool = False
    ignore_signed_tag: bool = False

    def key(self, resolved: Resolved) -> str:
        """Equal for equal checkouts, wherever they come from."""
        key = resolved.object if self.keep_git_dir else resolved.commit
        if self.keep_git_dir:
            key += f".git#{resolved.ref}"
            key += f"@{redacted(self.remote)}"  # it is in .git/config
        if self.subdir:
            key += f":{self.subdir}"
        if not self.submodules:
            key += "(skip-submodules)"
        if self.mtime == "checkout":
            key += "(mtime=checkout)"
        if self.as_bundle:
            key += f"(bundle {resolved.ref})"  # the bundle names it
        return key


class Resolved(msgspec.Struct, frozen=True):
    """What a ref is now: `ref` in full (or the commit), `object` its object, a tag maybe, `commit` what that
    leads to."""

    ref: str
    object: str
    commit: str


class Checkout(msgspec.Struct, frozen=True):
    """Files in `directory`, for the caller to take; `committed` is the committer's time, seconds since the
    epoch."""

    directory: Path
    committed: int


class _Job:
    """One checkout with its submodules: where it works, and the remote that it began with."""

    def __init__(self, top: Path, main: str, lender: Lender) -> None:
        self.top = top
        self.main = main
        self.lender = lender
        self._places = 0

    def new_place(self) -> Path:
        """A path for a tree, in a directory of its own."""
        self._places += 1
        directory = self.top / f"module{self._places}"
        directory.mkdir()
        return directory / "tree"


class Lender(Protocol):
    """What a build step lends. Called in any thread."""

    def auth(self, remote: str, main: str) -> GitAuth:
        """What there is for `remote`, which is `main`, the remote that the build named, or a submodule."""
        ...

    def log(self, text: bytes) -> object:
        """Show what git tells people."""
        ...

    def bundle(self, name: str) -> Path:
        """The file of a bundle, fetched when it is not there yet."""
        ...


class GitRepositories:
    """The repositories of one store, for one build. Thread-safe.

    `root` holds the bare repositories; `work_dir` makes empty directories, which are removed here after use;
    `cancel` ends running git programs. Each method takes the `Lender` of its build step.
    """

    def __init__(
        self,
        root: Path,
        *,
        work_dir: Callable[[], Path],
        cancel: threading.Event,
    ) -> None:
        self._root = root
        self._work_dir = work_dir
        self._cancel = cancel
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._resolved: dict[tuple[str, str], Resolved] = {}

    # refs -----------------------------------------------------------------------------------------

    def resolve(self, source: GitSource, lender: Lender) -> Resolved:
        """Ask the remote what the ref is; a commit is not asked for. Each ref of a remote is the same for a
        whole build. Raises `BuildError`, `DigestMismatch`."""
        checksum = source.checksum
        if checksum.strip("0123456789abcdefABCDEF"):
            raise BuildError(
                f"invalid checksum {checksum} for Git URL, expected hex commit hash",
                hint="a commit id, or how it begins",
            )
        if source.ref.startswith("-"):
            raise BuildError(f'invalid git ref "{source.ref}"')
        if source.bundle and not source.ref:
            _compare(checksum, checksum)
            return Resolved(checksum, checksum, checksum)
        if is_commit(source.ref):
            _compare(checksum, source.ref)
            return Resolved(source.ref, source.ref, source.ref)
        if source.fetch_by_commit:
            if not is_commit(checksum):
                raise BuildError(
                    f'fetch-by-commit requires a full commit SHA checksum, got "{checksum}"'
                    if checksum
                    else "fetch-by-commit requires a checksum or a commit SHA ref"
                )
            ref = source.ref or checksum
            if source.ref and not ref.startswith("refs/"):
                ref = f"refs/heads/{ref}"
            return Resolved(ref, checksum, checksum)
        key = (source.bundle or source.remote, source.ref)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._resolved.get(key)
            if found is None:
                found = self._resolved[key] = self._ask(source, lender)
        _compare(checksum, found.object, found.commit)
        return found

    def _ask(self, source: GitSource, lender: Lender) -> Resolved:
        with self._scratch() as top:
            git = self._git(_Job(top, source.remote, lender), source.remote)
            what = f"failed to fetch remote {redacted(source.remote)}"
            wanted = [source.ref, source.ref + "^{}"] if source.ref else ["HEAD"]
            place = source.remote
            if source.bundle:
                place = str(lender.bundle(source.bundle))
                git = git.at(None, reads_files=True)
            raw = git.run("ls-remote", "--symref", "--", place, *wanted, what=what)
        found: dict[str, str] = {}
        head = ""
        for line in raw.decode("utf-8", "surrogateescape").splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: "):
                head = value.removeprefix("ref: ")
            elif is_commit(value):
                found[name] = value
        if not source.ref:
            if "HEAD" not in found:
                raise BuildError(
                    f"could not find default branch for repository: {redacted(source.remote)}",
                    hint="name a branch, tag or commit: URL#REF",
                )
            # A HEAD that is no branch is a commit.
            return Resolved(head or found["HEAD"], found["HEAD"], found["HEAD"])
        # In this order, as git-checkout prefers branches to tags.
        for prefix in ("refs/", "refs/heads/", "refs/tags/"):
            name = prefix + source.ref.removeprefix(prefix)
            if name in found:
                return Resolved(name, found[name], found.get(name + "^{}", found[name]))
        raise BuildError(
            f"repository does not contain ref {source.ref}: {redacted(source.remote)}",
            hint="a branch, a tag, a full ref or a full commit id",
        )

    # files ----------------------------------------------------------------------------------------

    def time_of(self, source: GitSource, resolved: Resolved, lender: Lender) -> int:
        """When the commit was made, seconds since the epoch."""
        with (
            self._scratch() as top,
            self._fetched(_Job(top, source.remote, lender), source, resolved) as bare,
        ):
            return committed_s(bare, peel(bare, resolved.object))

    def objects(self, source: GitSource, resolved: Resolved, lender: Lender) -> tuple[bytes, bytes]:
        """The commit as git keeps it, and the annotated tag that led to it (b"" without one)."""
        with (
            self._scratch() as top,
            self._fetched(_Job(top, source.remote, lender), source, resolved) as bare,
        ):
            tag = b""
            if bare.run("cat-file", "-t", resolved.object).strip() == b"tag":
                tag = bare.run("cat-file", "tag", resolved.object)
            return bare.run("cat-file", "commit", peel(bare, resolved.object)), tag

    def verify(self, source: GitSource, resolved: Resolved, lender: Lender) -> None:
        """Raises `SignatureInvalid` unless tag or commit are signed as `source` demands."""
        if not source.signed_by:
            return
        from anyarch.errors import SignatureInvalid

        from .signature import verify_object

        commit, tag = self.objects(source, resolved, lender)
        what = f"{redacted(source.remote)}#{resolved.ref}"

        def check(raw: bytes) -> None:
            verify_object(
                raw,
                source.signed_by.encode(),
                what=what,
                directory=self._work_dir,
                reject_expired=source.reject_expired_keys,
            )

        if tag and not source.ignore_signed_tag:
            try:
                check(tag)
            except SignatureInvalid:
                if source.require_signed_tag:
                    raise
            else:
                return
        if source.require_signed_tag:
            raise SignatureInvalid(f"{what}: signed tag required but no signed tag found")
        check(commit)

    @contextmanager
    def checkout(self, source: GitSource, resolved: Resolved, lender: Lender) -> Iterator[Checkout]:
        """Fetch what is missing and lay the files out in a directory that lasts as long as the context.

        Raises `BuildError`, `DigestMismatch`, `PathNotFound` for a `subdir` that is no directory.
        """
        with self._scratch() as top:
            tree = top / "tree"
            git_dir = tree / ".git" if source.keep_git_dir and not source.subdir else None
            job = _Job(top, source.remote, lender)
            if source.as_bundle:
                yield self._bundle(job, source, resolved, tree)
                return
            committed = self._lay_out(job, source, resolved, tree, git_dir)
            directory = tree
            for part in source.subdir.split("/") if source.subdir else ():
                directory = directory / part
                if directory.is_symlink() or not directory.is_dir():
                    raise PathNotFound(
                        f"invalid subdir {source.subdir}: not a directory in {redacted(source.remote)}",
                        hint=f"the commit is {resolved.commit}",
                    )
            yield Checkout(directory, committed)

    def _bundle(self, job: _Job, source: GitSource, resolved: Resolved, tree: Path) -> Checkout:
        """One file: the commit with its history under the name that it was asked for by."""
        tree.mkdir()
        with self._fetched(job, source, resolved) as bare:
            commit = peel(bare, resolved.object)
            name = bundled_name(resolved.ref)
            bare.run("update-ref", name, resolved.object if name.startswith("refs/tags/") else commit)
            try:
                bare.run("bundle", "create", "--quiet", str(tree / "bundle"), name)
            finally:
                bare.run("update-ref", "-d", name)
            return Checkout(tree, committed_s(bare, commit))

    def _lay_out(
        self,
        job: _Job,
        source: GitSource,
        resolved: Resolved,
        tree: Path,
        git_dir: Path | None,
        depth: int = 0,
    ) -> int:
        """Files of the commit and of its submodules; the answer is when it was committed."""
        if depth > _DEPTH_LIMIT:
            raise BuildError(f"submodules are nested too deep: {redacted(source.remote)}")
        with self._fetched(job, source, resolved) as bare:
            commit = peel(bare, resolved.object)
            committed = committed_s(bare, commit)
            links = check_out(bare, commit, tree, source.subdir, redacted(source.remote))
            if git_dir is not None:
                make_git_dir(bare, git_dir, resolved.object, commit, remote=source.remote, ref=resolved.ref)
            modules = submodules(bare, commit) if source.submodules and links else {}
        # Nothing is held any more: a submodule may be of the same remote.
        for path, wanted in links.items() if source.submodules else ():
            module = modules.get(path)
            if module is None:
                raise BuildError(
                    f"No url found for submodule path '{path}' in .gitmodules: {redacted(source.remote)}",
                    hint="add ?submodules=false to the URL to leave submodules out",
                )
            if module.update == "none":
                continue
            remote = submodule_remote(source.remote, module.url)
            inside = source.subdir.removeprefix(path).lstrip("/") if is_below(source.subdir, path) else ""
            child = GitSource(remote=remote, subdir=inside)
            place = job.new_place()
            own = module_dir(git_dir, module.name) if git_dir is not None else None
            self._lay_out(job, child, Resolved(wanted, wanted, wanted), place, own, depth + 1)
            put_directory(place, tree, path)
            if own is not None and git_dir is not None:
                link_module(bare, module, remote, git_dir=git_dir, own=own, place=tree / path)
        return committed

    # repositories ---------------------------------------------------------------------------------

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        directory = self._work_dir()
        try:
            yield directory
        finally:
            remove_tree(str(directory))

    def _git(self, job: _Job, remote: str) -> Git:
        self._root.mkdir(mode=0o700, exist_ok=True)
        return Git(
            directory=job.top,
            hosts=self._root / "known_hosts",
            cancel=self._cancel,
            auth=job.lender.auth(remote, job.main),
            log=job.lender.log,
        )

    @contextmanager
    def _fetched(self, job: _Job, source: GitSource, resolved: Resolved) -> Iterator[Git]:
        """The bare repository of the remote, with the object in it, which nobody removes inside."""
        remote = source.remote
        git = self._git(job, remote)
        name = hashlib.sha256(remote.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        if len(resolved.object) == 64:
            name += "-sha256"
        if source.as_bundle:
            name += "-whole"  # the others lack the history
        directory = self._root / name
        with self._locked(self._root / f"{name}.lock", remote):
            bare = git.at(directory)
            if not (directory / "HEAD").exists():
                kind = "sha256" if len(resolved.object) == 64 else "sha1"
                git.run("init", "--quiet", "--bare", f"--object-format={kind}", str(directory))
            if not has_commit(bare, resolved):
                clear_locks(directory)
                if source.bundle:
                    bundle = job.lender.bundle(source.bundle)
                    fetch_bundle(git.at(directory, reads_files=True), bundle, source, resolved)
                else:
                    fetch(bare, remote, resolved, whole=source.as_bundle)
            yield bare

    @contextmanager
    def _locked(self, path: Path, remote: str) -> Iterator[None]:
        """Whoever uses a repository is alone in it, among all processes. The lock file tells what the
        repository is, and when it was last used."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._cancel.wait(_LOCK_POLL_S):
                        raise Canceled("context canceled") from None
            os.pwrite(fd, redacted(remote).encode("utf-8", "surrogateescape"), 0)
            yield
        finally:
            os.close(fd)


def _compare(checksum: str, *found: str) -> None:
    if checksum and not any(item.startswith(checksum) for item in found):
        raise DigestMismatch(
            f"expected checksum to match {checksum}, got {' or '.join(dict.fromkeys(found))}",
            hint="the ref has moved, or the checksum is that of another commit",
        )
