"""What the docker command line is configured with: its directory, its contexts, the endpoint in use.

Read as Docker's tools read it (docs.docker.com, "docker context", "docker CLI environment variables").
Nothing is written here but the alias of the builder, which `plugin install` asks for.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_HOST", "DockerConfig", "DockerContext", "TlsFiles"]

DEFAULT_HOST = "unix:///var/run/docker.sock"


class TlsFiles(msgspec.Struct, frozen=True):
    """Files of a TLS client; an empty path is one that there is not."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


class DockerContext(msgspec.Struct, frozen=True):
    """A context: the address of its engine, and the TLS files for it (None: no TLS)."""

    name: str
    host: str
    tls: TlsFiles | None = None


class DockerConfig:
    """The configuration that `env` points to. Files are read when they are asked for, each once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.directory = env.get("DOCKER_CONFIG") or os.path.join(
            env.get("HOME") or os.path.expanduser("~"), ".docker"
        )
        self._document: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "config.json")

    def document(self) -> dict[str, Any]:
        """`config.json`; empty when there is none. Raises `UsageError` when it is not JSON."""
        if self._document is None:
            try:
                with open(self.path, "rb") as file:
                    raw = file.read()
            except OSError:
                raw = b""  # absent, or not ours to read: as docker, go on without
            try:
                found = msgspec.json.decode(raw) if raw.strip() else {}
            except msgspec.DecodeError as error:
                raise UsageError(
                    f"error loading config file: {self.path}: {error}", hint="correct or remove the file"
                ) from None
            self._document = found if isinstance(found, dict) else {}
        return self._document

    # contexts -------------------------------------------------------------------------------------

    @property
    def current_context(self) -> str:
        """The name of the context in use. DOCKER_HOST means `default`, whatever else is set."""
        if self._env.get("DOCKER_HOST"):
            return "default"
        if name := self._env.get("DOCKER_CONTEXT"):
            return name
        name = self.document().get("currentContext")
        return name if isinstance(name, str) and name else "default"

    def contexts(self) -> list[DockerContext]:
        """All contexts, `default` among them, by name. What cannot be read is left out, as docker does."""
        found = [self.default_context()]
        meta = os.path.join(self.directory, "contexts", "meta")
        try:
            entries = sorted(os.listdir(meta))
        except OSError:
            entries = []
        for entry in entries:
            context = self._read(os.path.join(meta, entry, "meta.json"))
            if context is not None and context.name != "default":
                found.append(context)
        return sorted(found, key=lambda context: context.name)

    def context(self, name: str) -> DockerContext | None:
        """The context of that name, None when there is none."""
        if name == "default":
            return self.default_context()
        key = hashlib.sha256(name.encode()).hexdigest()
        return self._read(os.path.join(self.directory, "contexts", "meta", key, "meta.json"))

    def default_context(self) -> DockerContext:
        """The engine that the environment names."""
        host = self._env.get("DOCKER_HOST") or DEFAULT_HOST
        verify = bool(self._env.get("DOCKER_TLS_VERIFY"))
        if not verify and not self._env.get("DOCKER_TLS"):
            return DockerContext("default", host)
        directory = self._env.get("DOCKER_CERT_PATH") or self.directory
        paths = [os.path.join(directory, f"{name}.pem") for name in ("ca", "cert", "key")]
        ca, cert, key = (path if os.path.exists(path) else "" for path in paths)
        return DockerContext("default", host, TlsFiles(ca, cert, key, verify))

    @property
    def has_tls_in_environment(self) -> bool:
        return self.default_context().tls is not None

    def current_endpoint(self) -> str:
        """The key under which buildx keeps the current builder: a context's name, or the address of the
        default one."""
        name = self.current_context
        return name if name != "default" else self.default_context().host

    def resolve(self, endpoint: str) -> DockerContext:
        """The engine at `endpoint`: a context's name or an address."""
        return self.context(endpoint) or DockerContext("", endpoint)

    def _read(self, path: str) -> DockerContext | None:
        try:
            with open(path, "rb") as file:
                document = msgspec.json.decode(file.read())
            endpoint = document["Endpoints"]["docker"]
            name, host = document["Name"], endpoint.get("Host") or DEFAULT_HOST
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return None
        if not isinstance(name, str) or not isinstance(host, str):
            return None
        key = hashlib.sha256(name.encode()).hexdigest()
        directory = os.path.join(self.directory, "contexts", "tls", key, "docker")
        tls = None
        if os.path.isdir(directory) or endpoint.get("SkipTLSVerify"):
            paths = [os.path.join(directory, f"{part}.pem") for part in ("ca", "cert", "key")]
            ca, cert, private = (path if os.path.exists(path) else "" for path in paths)
            tls = TlsFiles(ca, cert, private, not endpoint.get("SkipTLSVerify"))
        return DockerContext(name, host, tls)

    # other ----------------------------------------------------------------------------------------

    def proxies(self, host: str = "") -> dict[str, str]:
        """The proxies for builds with the engine at `host`, as build arguments in upper case."""
        table = self.document().get("proxies")
        if not isinstance(table, dict):
            return {}
        chosen = table.get(host) if host in table else table.get("default")
        names = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "ftpProxy": "FTP_PROXY"}
        names |= {"noProxy": "NO_PROXY", "allProxy": "ALL_PROXY"}
        if not isinstance(chosen, dict):
            return {}
        return {
            names[key]: value
            for key, value in chosen.items()
            if key in names and value and isinstance(value, str)
        }

    def set_alias(self, *, is_wanted: bool) -> bool:
        """Make `docker builder` (and `docker build` of docker before version 23) an alias of buildx, or
        remove that; everything else in the file is kept. Returns whether the file was changed."""
        document = dict(self.document())
        aliases = dict(document.get("aliases") or {})
        if is_wanted == (aliases.get("builder") == "buildx"):
            return False
        if is_wanted:
            aliases["builder"] = "buildx"
        else:
            aliases.pop("builder")
        if aliases:
            document["aliases"] = aliases
        else:
            document.pop("aliases", None)
        from anyarch.builder.files import write_atomically

        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(document), indent=8)
        write_atomically(os.path.realpath(self.path), text.replace(b"        ", b"\t"), 0o600)
        self._document = document
        return True
