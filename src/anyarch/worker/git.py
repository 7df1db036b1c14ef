"""Git sources of a build: what was lent for them, and checkouts as layers."""

from __future__ import annotations

import base64
import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from anyarch.archive.entry import Kind
from anyarch.archive.tree import scan_tree
from anyarch.errors import BuildError
from anyarch.solver.events import LogEvent
from anyarch.source.git import GitSource
from anyarch.source.gitcli import GitAuth
from anyarch.source.giturl import is_commit, is_git, parse_git_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyarch.llb.ops import SourceOp
    from anyarch.source.git import Checkout, Resolved
    from anyarch.worker.worker import Worker

__all__ = ["checkout_layer", "commit_time", "git_source", "lender"]

_GITHUB = ("https://github.com/", "https://www.github.com/")
_SIGNATURE = ("pubkey", "rejectexpired", "requiresignedtag", "ignoresignedtag")


def git_source(op: SourceOp) -> GitSource:
    """What an op asks for. Raises `BuildError` for an identifier or attribute that is not understood."""
    text = op.identifier.removeprefix("git://")
    url = parse_git_url(text if is_git(text) else f"https://{text}")
    attrs = op.attrs
    remote = attrs.get("git.fullurl", "")
    if remote and not is_transport(remote):
        remote = f"https://{remote}"
    if url is None:
        raise BuildError(f"invalid git identifier {op.identifier}")
    _check_bundle(op, url.ref, url.subdir)
    if any(attrs.get(f"git.sig.{name}") for name in _SIGNATURE) and not attrs.get("git.sig.pubkey"):
        raise BuildError(f"{op.identifier}: a signature can only be checked with a public key")
    return GitSource(
        remote=remote or url.remote,
        ref=url.ref,
        subdir=url.subdir,
        checksum=attrs.get("git.checksum", ""),
        keep_git_dir=attrs.get("git.keepgitdir") == "true",
        submodules=attrs.get("git.skipsubmodules") != "true",
        mtime=attrs.get("git.mtime", ""),
        fetch_by_commit=attrs.get("git.fetchbycommit") == "true",
        bundle=attrs.get("git.bundle", ""),
        as_bundle=attrs.get("git.checkoutbundle") == "true",
        signed_by=attrs.get("git.sig.pubkey", ""),
        reject_expired_keys=attrs.get("git.sig.rejectexpired") == "true",
        require_signed_tag=attrs.get("git.sig.requiresignedtag") == "true",
        ignore_signed_tag=attrs.get("git.sig.ignoresignedtag") == "true",
    )


def _check_bundle(op: SourceOp, ref: str, subdir: str) -> None:
    attrs = op.attrs
    bundle, checksum = attrs.get("git.bundle", ""), attrs.get("git.checksum", "")
    if bundle:
        scheme, sep, _ = bundle.partition("://")
        if not sep or scheme not in ("docker-image+blob", "oci-layout+blob"):
            raise BuildError(
                f'git.bundle locator "{bundle}" is not supported',
                hint="it has to begin with docker-image+blob:// or oci-layout+blob://",
            )
        from anyarch.worker.ops.blob import split_blob_name

        split_blob_name(bundle)
        if not checksum:
            raise BuildError("git.bundle requires git.checksum to be set")
        if not ref and not is_commit(checksum):
            raise BuildError("git.bundle without a ref requires git.checksum to be a whole commit id")
    if attrs.get("git.checkoutbundle") == "true":
        for name, is_set in (("keepgitdir", attrs.get("git.keepgitdir") == "true"), ("subdir", bool(subdir))):
            if is_set:
                raise BuildError(f"git.checkoutbundle is incompatible with git.{name}")


def is_transport(remote: str) -> bool:
    """Whether it says how to get there."""
    return "://" in remote or is_git(remote)


class _Lender:
    """Implements `source.git.Lender` for one op."""

    def __init__(self, worker: Worker, op: SourceOp, vertex: str, agent: str) -> None:
        self._worker = worker
        self._attrs = op.attrs
        self._vertex = vertex
        self._agent = agent

    def auth(self, remote: str, main: str) -> GitAuth:
        header, scope = "", ""
        if remote.startswith(("http://", "https://")):
            # A token is for the remote it was lent for; all of GitHub counts as one.
            scope = next((prefix for prefix in _GITHUB if remote.startswith(prefix)), remote)
            header = self._header(remote, is_main=main.startswith(scope))
        return GitAuth(header, scope, self._agent, self._attrs.get("git.knownsshhosts", ""))

    def _header(self, remote: str, *, is_main: bool) -> str:
        url = parse_git_url(remote)
        header_name = self._attrs.get("git.authheadersecret", "")
        token_name = self._attrs.get("git.authtokensecret", "")
        for suffix in (f".{url.host}" if url is not None else "", "" if is_main else None):
            if suffix is None:
                continue
            for name, is_token in ((header_name, False), (token_name, True)):
                value = self._worker.lent.secret(name + suffix) if name else None
                if value is None:
                    continue
                value = value.rstrip(b"\r\n")
                if is_token:
                    value = b"basic " + base64.b64encode(b"x-access-token:" + value)
                return os.fsdecode(value)
        return ""

    def bundle(self, name: str) -> Path:
        from anyarch.worker.ops.blob import check_named_blob, fetch_named_blob

        store = self._attrs.get("oci.store", "") or name.partition("://")[2].partition("@")[0]
        session = self._attrs.get("oci.session", "")
        check_named_blob(self._worker, name, session, store)
        digest = fetch_named_blob(self._worker, name, session, store, self._vertex)
        return self._worker.store.content.path(digest)

    def log(self, text: bytes) -> None:
        self._worker.emit(LogEvent(self._vertex, 2, text, time.time()))


@contextmanager
def lender(worker: Worker, op: SourceOp, vertex: str) -> Iterator[_Lender]:
    """What the build lends `op`. Raises `BuildError` when it needs an agent and was lent none."""
    with ExitStack() as stack:
        agent = ""
        name = op.attrs.get("git.mountsshsock", "")
        if name:
            paths = worker.lent.ssh_paths(name)
            if paths is None:
                raise BuildError(
                    f'no SSH key "{name}" forwarded from the client',
                    hint=f"lend the build an agent: --ssh {name}, or --ssh {name}=KEYFILE",
                )
            from anyarch.worker.ssh import agent_socket

            directory = stack.enter_context(worker.step_directory())
            ids = {"uid": os.geteuid(), "gid": os.getegid()}
            agent = stack.enter_context(agent_socket(paths, directory, name="git", mode=0o600, **ids))
        yield _Lender(worker, op, vertex, agent)


def checkout_layer(worker: Worker, op: SourceOp, source: GitSource, resolved: Resolved, vertex: str) -> str:
    """The id of a layer with the files; one that was made before is found by the commit."""
    key = source.key(resolved)
    known = worker.store.cache.get_value("git", key)
    if known is not None and worker.has_layer(known.decode()):
        return known.decode()
    with (
        lender(worker, op, vertex) as lent,
        worker.repositories.checkout(source, resolved, lent) as checkout,
    ):
        seconds = int(time.time()) if source.mtime == "checkout" else checkout.committed
        layer = _layer(worker, checkout, seconds, f"git {op.identifier}")
    worker.store.cache.set_value("git", key, layer.encode())
    return layer


def _layer(worker: Worker, checkout: Checkout, seconds: int, description: str) -> str:
    """The files with the modes that git knows, owned by root."""
    top = os.fsencode(checkout.directory)
    facts = {"uid": 0, "gid": 0, "mtime_ns": seconds * 1_000_000_000, "xattrs": ()}
    with worker.layers.new_tar(description=description) as layer:
        for entry in scan_tree(str(checkout.directory)):
            match entry.kind:
                case Kind.FILE:
                    mode = 0o755 if entry.mode & 0o100 else 0o644
                    path = top + b"/" + os.fsencode(entry.path)
                    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
                        layer.add(msgspec.structs.replace(entry, mode=mode, **facts), stream)
                case Kind.DIRECTORY:
                    layer.add(msgspec.structs.replace(entry, mode=0o755, **facts))
                case _:
                    layer.add(msgspec.structs.replace(entry, mode=0o777, **facts))
        return layer.commit().id


def commit_time(worker: Worker, op: SourceOp, vertex: str) -> int:
    """When the commit that `op` leads to was made, seconds since the epoch."""
    source = git_source(op)
    with lender(worker, op, vertex) as lent:
        resolved = worker.repositories.resolve(source, lent)
        return worker.repositories.time_of(source, resolved, lent)
