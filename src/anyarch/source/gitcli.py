"""Running the `git` program so that neither this machine's settings nor a repository can steer it.

Git sees no configuration of the user or the system, no terminal, no credential helper, no hooks and no
filters, speaks only the protocols it is allowed, and starts nothing in the background. Credentials are what
a build was lent; they travel in the environment, which other users cannot read, and never in arguments.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, Canceled, NotSupported

from .giturl import redacted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Git", "GitAuth", "GitFailed"]

_POLL_S = 0.2
_PROTOCOLS = "http:https:ssh:git"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_SETTINGS = (
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("core.attributesFile", os.devnull),
    ("core.excludesFile", os.devnull),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("init.templateDir", ""),
    ("init.defaultBranch", "main"),
    ("advice.detachedHead", "false"),
    # The same packs and indexes on machines of any number of CPUs.
    ("pack.threads", "1"),
    ("index.threads", "1"),
)


class GitAuth(msgspec.Struct, frozen=True):
    """What was lent for one remote: the value of an Authorization header and the URLs it is for, the socket
    of an SSH agent, lines of known hosts."""

    header: str = ""
    scope: str = ""
    agent: str = ""
    known_hosts: str = ""


class GitFailed(BuildError):
    """Git ended with an error; `stderr` is what it said."""

    def __init__(self, message: str, stderr: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stderr = stderr


class Git:
    """One repository or none, and the circumstances to run git in.

    `hosts` is a file in which host keys of SSH servers are kept when the build brought none: a server that
    was seen before has to show the same key. `log` gets what git tells people. With `reads_files` a file of
    this machine may be fetched from: a bundle, and nothing that a repository or build names.
    """

    def __init__(
        self,
        *,
        directory: Path,
        hosts: Path,
        cancel: threading.Event,
        auth: GitAuth | None = None,
        git_dir: Path | None = None,
        log: Callable[[bytes], object] | None = None,
        reads_files: bool = False,
    ) -> None:
        self._directory = directory
        self._hosts = hosts
        self._cancel = cancel
        self._auth = auth or GitAuth()
        self.git_dir = git_dir
        self._log = log
        self._reads_files = reads_files

    def at(self, git_dir: Path | None, *, reads_files: bool = False) -> Git:
        """The same for another repository."""
        return Git(
            directory=self._directory,
            hosts=self._hosts,
            cancel=self._cancel,
            auth=self._auth,
            git_dir=git_dir,
            log=self._log,
            reads_files=reads_files,
        )

    def run(
        self,
        *arguments: str,
        index: Path | None = None,
        work_tree: Path | None = None,
        stdin: bytes = b"",
        what: str = "",
        is_loud: bool = False,
    ) -> bytes:
        """What git writes. `what` says for the error what was tried; with `is_loud` the log gets git's words.

        Raises `GitFailed`, `NotSupported` where there is no git, `Canceled`.
        """
        argv = ["git", *([f"--git-dir={self.git_dir}"] if self.git_dir else []), *arguments]
        extra = {}
        if index is not None:
            extra["GIT_INDEX_FILE"] = str(index)
        if work_tree is not None:
            extra["GIT_WORK_TREE"] = str(work_tree)
        try:
            process = subprocess.Popen(
                argv,
                cwd=work_tree or self._directory,
                env={**self._environment(), **extra},
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError:
            raise NotSupported(
                "git repositories need the program git", hint="install it: apt-get install git"
            ) from None
        out, errors = self._wait(process, stdin)
        if is_loud and errors and self._log is not None:
            self._log(errors)
        if process.returncode:
            raise _failure(what or f"git {arguments[0]}", errors.decode("utf-8", "replace"))
        return out

    def succeeds(self, *arguments: str) -> bool:
        """Whether git ends without an error."""
        try:
            self.run(*arguments)
        except GitFailed:
            return False
        return True

    def _wait(self, process: subprocess.Popen[bytes], stdin: bytes) -> tuple[bytes, bytes]:
        given: bytes | None = stdin or None
        try:
            while True:
                if self._cancel.is_set():
                    raise Canceled("context canceled")
                try:
                    return process.communicate(given, timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    given = None  # it has been taken over
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its helpers, which would hold the connection
            process.communicate()
            raise

    def _environment(self) -> dict[str, str]:
        env = {
            "PATH": os.environ.get("PATH") or os.defpath,
            "HOME": os.devnull,
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "file" if self._reads_files else _PROTOCOLS,
            "GIT_SSH_COMMAND": self._ssh(),
            "GIT_SSH_VARIANT": "ssh",
        }
        for name in _PROXIES:
            for spelling in (name, name.upper()):
                if value := os.environ.get(spelling):
                    env[spelling] = value
        for ours, gits in (("SSL_CERT_FILE", "GIT_SSL_CAINFO"), ("SSL_CERT_DIR", "GIT_SSL_CAPATH")):
            if value := os.environ.get(ours):
                env[gits] = value
        if self._auth.agent:
            env["SSH_AUTH_SOCK"] = self._auth.agent
        env.update(self._settings())
        return env

    def _settings(self) -> Mapping[str, str]:
        settings = list(_SETTINGS)
        if self._auth.header:
            name = f"http.{self._auth.scope}.extraheader"
            settings.append((name, f"Authorization: {self._auth.header}"))
        env = {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings):
            env[f"GIT_CONFIG_KEY_{number}"] = name
            env[f"GIT_CONFIG_VALUE_{number}"] = value
        return env

    def _ssh(self) -> str:
        """Only keys of a lent agent; host keys as the build brought them, else as they were at first."""
        options = ["BatchMode=yes", "IdentityFile=none"]
        if self._auth.known_hosts:
            file = self._directory / "known_hosts"
            file.write_text(self._auth.known_hosts)
            options += [f'UserKnownHostsFile="{file}"', "StrictHostKeyChecking=yes"]
        else:
            options += [f'UserKnownHostsFile="{self._hosts}"', "StrictHostKeyChecking=accept-new"]
        return " ".join(["ssh", "-F", os.devnull, *(f"-o {shlex.quote(option)}" for option in options)])


def _failure(what: str, stderr: str) -> GitFailed:
    lines = [line for line in stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal: ", "error: "))] or lines[-1:]
    text = redacted(reasons[0]).removeprefix("fatal: ") if reasons else ""
    hint = None
    if "could not read Username" in stderr or "Authentication failed" in stderr:
        hint = "lend the build a token: --secret id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN"
    elif "Permission denied" in stderr or "Host key verification failed" in stderr:
        hint = "lend the build an agent with --ssh default; the server's host key must not have changed"
    elif "cannot run ssh" in stderr:
        hint = "install it: apt-get install openssh-client"
    return GitFailed(f"{what}: {text}" if text else what, stderr, hint=hint)
