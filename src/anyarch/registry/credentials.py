"""Credentials from where docker and podman keep them.

Looked into, in this order: `$REGISTRY_AUTH_FILE`; docker's `config.json` (`$DOCKER_CONFIG`, else
`~/.docker`); podman's `auth.json` (`$XDG_RUNTIME_DIR/containers`, `$XDG_CONFIG_HOME/containers`). In each
file a credential helper of the registry goes before the plain entries, those before the general credential
store.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HUB_KEY", "HUB_NAMES", "Credential", "CredentialSource", "Credentials"]

HUB_KEY = "https://index.docker.io/v1/"
HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_TIMEOUT_S = 60
_NOT_FOUND = "credentials not found in native keychain"


class Credential(msgspec.Struct, frozen=True):
    """User name and password, or an identity token (OAuth2 refresh token), or a ready bearer token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def basic(self) -> str:
        """The value of an Authorization header."""
        from base64 import b64encode

        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialSource(Protocol):
    """Who knows credentials. `complaints` says what went wrong in looking for them."""

    complaints: list[str]

    def get(self, domain: str, repository: str = "") -> Credential | None: ...

    def token(self, domain: str, realm: str, service: str, scopes: Sequence[str]) -> tuple[str, float] | None:
        """A bearer token that the source fetches itself, and for how many seconds; None where it gives
        credentials only."""
        ...


class Credentials:
    """Finds the credential of a registry. Files are read on the first question, not before. Thread-safe.

    `complaints` says what went wrong on the way (a damaged file, a helper that is missing): the search goes
    on without, since most pulls need no credential, and the text belongs to the hint when access is denied.
    """

    def __init__(
        self, env: Mapping[str, str] | None = None, *, fixed: Mapping[str, Credential] | None = None
    ) -> None:
        """`env` stands in for os.environ; `fixed` (by registry domain) goes before all files."""
        self._env = os.environ if env is None else env
        self._fixed = dict(fixed or {})
        self._lock = threading.Lock()
        self._documents: list[tuple[str, dict[str, Any]]] | None = None
        self._helped: dict[tuple[str, str], Credential | None] = {}
        self.complaints: list[str] = []

    def get(self, domain: str, repository: str = "") -> Credential | None:
        """What is known for `domain` (`docker.io`, `ghcr.io`, `localhost:5000`) and a repository path in
        it."""
        if domain in self._fixed:
            return self._fixed[domain]
        with self._lock:
            if self._documents is None:
                self._documents = list(self._read())
            for _, document in self._documents:
                found = self._find(document, domain, repository)
                if found is not None:
                    return found
        return None

    def token(self, domain: str, realm: str, service: str, scopes: Sequence[str]) -> tuple[str, float] | None:
        """Tokens are asked for with credentials."""
        return None

    def _paths(self) -> list[str]:
        env = self._env
        home = env.get("HOME") or os.path.expanduser("~")
        config = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        paths = [
            env.get("REGISTRY_AUTH_FILE") or "",
            os.path.join(env.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"),
            os.path.join(env["XDG_RUNTIME_DIR"], "containers", "auth.json")
            if env.get("XDG_RUNTIME_DIR")
            else "",
            os.path.join(config, "containers", "auth.json"),
        ]
        return [path for path in paths if path]

    def _read(self) -> list[tuple[str, dict[str, Any]]]:
        result = []
        for path in self._paths():
            try:
                with open(path, "rb") as file:
                    document = msgspec.json.decode(file.read())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self.complaints.append(f"cannot read {path}: {error.strerror}")
                continue
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.complaints.append(f"{path}: {error}")
                continue
            if isinstance(document, dict):
                result.append((path, document))
        return result

    def _find(self, document: dict[str, Any], domain: str, repository: str) -> Credential | None:
        helpers = _table(document, "credHelpers")
        for name in _spellings(domain):
            helper = helpers.get(name)
            if isinstance(helper, str) and helper:
                return self._ask(helper, HUB_KEY if domain in HUB_NAMES else name)
        auths = _table(document, "auths")
        found = _entry(auths, domain, repository)
        if found is not None:
            return found
        store = document.get("credsStore")
        if isinstance(store, str) and store:
            return self._ask(store, HUB_KEY if domain in HUB_NAMES else domain)
        return None

    def _ask(self, helper: str, server: str) -> Credential | None:
        """`docker-credential-HELPER get` (docker-credential-helpers' protocol); one question a server."""
        key = (helper, server)
        if key not in self._helped:
            self._helped[key] = self._run(f"docker-credential-{helper}", server)
        return self._helped[key]

    def _run(self, program: str, server: str) -> Credential | None:
        import subprocess

        try:
            done = subprocess.run(
                [program, "get"],
                input=server.encode(),
                capture_output=True,
                timeout=_HELPER_TIMEOUT_S,
                check=False,
                env=dict(self._env),
            )
        except FileNotFoundError:
            self.complaints.append(f"the credential helper {program} is not installed")
            return None
        except subprocess.TimeoutExpired:
            self.complaints.append(f"{program} did not answer in {_HELPER_TIMEOUT_S} seconds")
            return None
        except OSError as error:
            self.complaints.append(f"{program} cannot be run: {error.strerror}")
            return None
        if done.returncode:
            said = (done.stdout or done.stderr).decode(errors="replace").strip()
            if said != _NOT_FOUND:
                self.complaints.append(f"{program} failed: {said[:200] or f'exit code {done.returncode}'}")
            return None
        try:
            answer = msgspec.json.decode(done.stdout)
            username, secret = answer["Username"], answer["Secret"]
        except (msgspec.DecodeError, KeyError, TypeError):
            self.complaints.append(f"{program} gave an answer that is not understood")
            return None
        if username == "<token>":
            return Credential(identity_token=secret)
        return Credential(username, secret) if username or secret else None


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _spellings(domain: str) -> list[str]:
    if domain in HUB_NAMES:
        return [HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io"]
    return [domain, f"https://{domain}", f"http://{domain}"]


def _entry(auths: dict[str, Any], domain: str, repository: str) -> Credential | None:
    # podman's files may name a repository or a part of its path: the longest that fits wins.
    path = f"{'docker.io' if domain in HUB_NAMES else domain}/{repository}".rstrip("/")
    while "/" in path:
        if (found := _decode(auths.get(path))) is not None:
            return found
        path = path.rpartition("/")[0]
    names = {_host_part(name) for name in _spellings(domain)}
    for name in _spellings(domain):
        if (found := _decode(auths.get(name))) is not None:
            return found
    for key in auths:
        # Old entries are URLs: https://host/v1/ and the like.
        if (key.startswith(("http://", "https://")) or key.endswith(("/v1/", "/v2/"))) and _host_part(
            key
        ) in names:
            found = _decode(auths[key])
            if found is not None:
                return found
    return None


def _host_part(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _decode(entry: Any) -> Credential | None:
    """One value of `auths`; None for an empty one (docker writes `{}` where a credential store has the
    secret)."""
    if not isinstance(entry, dict):
        return None

    def text(key: str) -> str:
        found = entry.get(key)
        return found if isinstance(found, str) else ""

    username, password = text("username"), text("password")
    if text("auth"):
        from base64 import b64decode

        try:
            pair = b64decode(text("auth")).decode().rstrip("\0")
        except ValueError:
            return None
        username, _, password = pair.partition(":")
    credential = Credential(username, password, text("identitytoken"), text("registrytoken"))
    return None if credential == Credential() else credential
