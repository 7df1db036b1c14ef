"""Keeping credentials where docker and podman look for them: what `login` and `logout` change.

The file is `$REGISTRY_AUTH_FILE`, else docker's `config.json`. Where it names a credential helper
(`credHelpers`, `credsStore`) the helper keeps the secret. The file is replaced as a whole, readable by
its owner only; what else is in it stays as it is.
"""

from __future__ import annotations

import os
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import OutputError, UsageError
from anyarch.registry.credentials import HUB_KEY, HUB_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.registry.credentials import Credential

__all__ = ["erase", "key_of", "save"]

_HELPER_TIMEOUT_S = 60


def key_of(server: str) -> str:
    """How a registry is called in the file: `https://index.docker.io/v1/` for Docker Hub, else its host.
    Raises `UsageError`."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    if not host or any(c.isspace() for c in host) or "@" in host:
        raise UsageError(f"{server!r} is not a registry", hint="write host[:port], for example ghcr.io")
    return HUB_KEY if host in HUB_NAMES else host


def save(server: str, credential: Credential, env: Mapping[str, str] | None = None) -> str:
    """Keep the credential of a registry; answers where: a path, or the name of the helper. Raises
    `UsageError`, `OutputError`."""
    env = os.environ if env is None else env
    key = key_of(server)
    path, document = _load(env)
    helper = _helper(document, key)
    if helper:
        secret = credential.identity_token or credential.password
        username = "<token>" if credential.identity_token else credential.username
        entry = {"ServerURL": key, "Username": username, "Secret": secret}
        _run(helper, "store", msgspec.json.encode(entry), env)
        _auths(document)[key] = {}  # as docker does: it lists the registries that have a login
    else:
        pair = f"{credential.username}:{credential.password}".encode()
        found: dict[str, str] = {"auth": b64encode(pair).decode()}
        if credential.identity_token:
            found["identitytoken"] = credential.identity_token
        _auths(document)[key] = found
    _store(path, document)
    return helper or path


def erase(server: str, env: Mapping[str, str] | None = None) -> bool:
    """Forget the credential of a registry; whether there was one. Raises as `save`."""
    env = os.environ if env is None else env
    key = key_of(server)
    path, document = _load(env)
    helper = _helper(document, key)
    auths = _auths(document)
    names = {key, f"https://{key}", f"http://{key}", f"https://{key}/v1/", f"https://{key}/v2/"}
    if key == HUB_KEY:
        names |= set(HUB_NAMES)
    found = [name for name in names if name in auths]
    if helper and found:
        _run(helper, "erase", key.encode(), env)
    for name in found:
        del auths[name]
    if found:
        _store(path, document)
    return bool(found)


def _load(env: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    path = env.get("REGISTRY_AUTH_FILE")
    if not path:
        home = env.get("HOME") or os.path.expanduser("~")
        path = os.path.join(env.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")
    try:
        with open(path, "rb") as file:
            document = msgspec.json.decode(file.read() or b"{}")
    except FileNotFoundError:
        document = {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"cannot read {path}: {reason}", hint="repair or remove the file first") from None
    if not isinstance(document, dict):
        raise OutputError(f"{path}: not a JSON object", hint="repair or remove the file first")
    return path, document


def _auths(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("auths")
    if not isinstance(found, dict):
        found = document["auths"] = {}
    return found


def _helper(document: dict[str, Any], key: str) -> str:
    found = document.get("credHelpers")
    helpers: dict[str, Any] = found if isinstance(found, dict) else {}
    for name in sorted({key, *(HUB_NAMES if key == HUB_KEY else ())}):
        if isinstance(helpers.get(name), str) and helpers[name]:
            return str(helpers[name])
    store = document.get("credsStore")
    return store if isinstance(store, str) else ""


def _run(helper: str, action: str, given: bytes, env: Mapping[str, str]) -> None:
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action],
            input=given,
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
            env=dict(env),
        )
    except FileNotFoundError:
        raise OutputError(
            f"the credential helper {program} is not installed",
            hint="install it, or take credsStore and credHelpers out of docker's config.json",
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"{program} {action}: {error}") from None
    if done.returncode:
        said = (done.stdout or done.stderr).decode(errors="replace").strip()
        raise OutputError(f"{program} {action} failed: {said[:200] or f'exit code {done.returncode}'}")


def _store(path: str, document: dict[str, Any]) -> None:
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    text = msgspec.json.format(msgspec.json.encode(document), indent=8)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
