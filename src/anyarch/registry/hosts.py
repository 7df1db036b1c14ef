"""How to reach a registry: endpoints (mirrors first), plain HTTP, certificates.

Settings come from the configuration file (`$ANYARCH_CONFIG`, else `$XDG_CONFIG_HOME/anyarch/config.toml`), in
the form BuildKit's daemon uses:

    [registry."docker.io"]
    mirrors = ["localhost:5000", "mirror.example/dockerhub"]
    [registry."localhost:5000"]
    http = true

and from `$ANYARCH_REGISTRY_MIRRORS` (`docker.io=localhost:5000,other:5000,quay.io=…`), which goes first. What
buildx or BuildKit were told is heard last: `buildkitd.default.toml` of buildx, and `buildkitd.toml`.
Certificates are also found where docker and podman keep them (`certs.d/HOST/`). A mirror's own settings are
those of its host.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from anyarch.errors import UsageError
from anyarch.http.client import Tls
from anyarch.http.proxy import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Endpoint", "HostConfig", "Hosts"]

_HUB_DOMAIN = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_KEYS = {"mirrors", "http", "insecure", "ca", "keypair", "tlsconfigdir"}


class HostConfig(msgspec.Struct, frozen=True):
    """Settings of one registry domain, as under `[registry."domain"]` of the configuration file.

    `http` None means: plain for loopback names, else TLS. `insecure` takes any certificate, and plain HTTP if
    the server does not speak TLS.
    """

    mirrors: tuple[str, ...] = ()
    http: bool | None = None
    insecure: bool = False
    ca: tuple[str, ...] = ()
    keypairs: tuple[tuple[str, str], ...] = ()


class Endpoint(msgspec.Struct, frozen=True):
    """One place that serves a registry domain. `prefix` goes before repository paths; `label` is for people.

    `domain` is what is asked for; `name` what credentials go by: the domain itself, or the mirror's host.
    """

    domain: str
    name: str
    scheme: str
    netloc: str
    prefix: str = ""
    is_mirror: bool = False
    tls: Tls = Tls()
    may_downgrade: bool = False

    @property
    def label(self) -> str:
        return f"{self.netloc}/{self.prefix}".rstrip("/")

    def pull_scopes(self, path: str) -> tuple[str, ...]:
        """The token scopes for reading from the repository `path`."""
        return (f"repository:{self.prefix}{path}:pull",)

    def push_scopes(self, path: str, mount_from: str | None = None) -> tuple[str, ...]:
        """The token scopes for writing to the repository `path`, with blobs mounted from another."""
        scopes = (f"repository:{self.prefix}{path}:pull,push",)
        return (*scopes, *self.pull_scopes(mount_from)) if mount_from and mount_from != path else scopes

    def url(self, path: str, kind: str, name: str = "") -> str:
        """The URL of `kind` (`manifests`, `blobs`, …) `name` in the repository `path`."""
        query = f"?ns={self.domain}" if self.is_mirror else ""  # as containerd: one mirror may serve several
        return f"{self.scheme}://{self.netloc}/v2/{self.prefix}{path}/{kind}/{name}{query}"


class Hosts:
    """The settings of all registries. `Hosts.load()` is what programs use; tests give `configs`."""

    def __init__(
        self, configs: Mapping[str, HostConfig] | None = None, *, certificate_dirs: tuple[str, ...] = ()
    ) -> None:
        """`certificate_dirs` hold one directory a registry: `*.crt` are CAs, `*.cert` + `*.key` client
        pairs."""
        self._configs = dict(configs or {})
        self._certificate_dirs = certificate_dirs

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Hosts:
        """From the configuration file and the environment. Raises `UsageError` when they make no sense."""
        env = os.environ if env is None else env
        home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "/", ".config")
        explicit = env.get("ANYARCH_CONFIG")
        configs = _read_file(
            explicit or os.path.join(home, "anyarch", "config.toml"), must_exist=bool(explicit)
        )
        for path in _buildkit_files(env, home):
            configs = {**_read_file(path, must_exist=False), **configs}
        for domain, mirrors in _parse_mirrors(env.get("ANYARCH_REGISTRY_MIRRORS") or "").items():
            config = configs.get(domain, HostConfig())
            later = tuple(m for m in config.mirrors if m not in mirrors)
            configs[domain] = msgspec.structs.replace(config, mirrors=mirrors + later)
        return cls(
            configs,
            certificate_dirs=(
                os.path.join(home, "containers", "certs.d"),
                "/etc/containers/certs.d",
                "/etc/docker/certs.d",
            ),
        )

    def with_tables(self, path: str, tables: Mapping[str, Any]) -> Hosts:
        """The same, after the `[registry."DOMAIN"]` tables of another file. Raises `UsageError`."""
        configs = {domain: _parse_config(path, domain, value) for domain, value in tables.items()}
        return Hosts({**self._configs, **configs}, certificate_dirs=self._certificate_dirs)

    def config(self, domain: str) -> HostConfig:
        return self._configs.get(domain) or HostConfig()

    def with_insecure(self, domain: str) -> Hosts:
        """A copy in which `domain` may be reached without a valid certificate or by plain HTTP."""
        configs = {**self._configs, domain: msgspec.structs.replace(self.config(domain), insecure=True)}
        return Hosts(configs, certificate_dirs=self._certificate_dirs)

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """Mirrors in order, then the registry itself (always last). Raises `UsageError` on a senseless
        mirror."""
        mirrors = [self._mirror(domain, text) for text in self.config(domain).mirrors]
        return (*mirrors, self.upstream(domain))

    def upstream(self, domain: str) -> Endpoint:
        """The registry itself."""
        return self._endpoint(domain, domain, _HUB_HOST if domain == _HUB_DOMAIN else domain)

    def _mirror(self, domain: str, text: str) -> Endpoint:
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "", text
        netloc, _, path = rest.strip("/").partition("/")
        prefix = path.removeprefix("v2/").strip("/")
        if scheme not in ("", "http", "https") or not netloc or _host_of(netloc) is None:
            raise UsageError(
                f"{text!r} is not a mirror of {domain}",
                hint="a mirror is written host[:port][/path], without a tag",
            )
        return self._endpoint(domain, netloc, netloc, scheme, f"{prefix}/" if prefix else "", is_mirror=True)

    def _endpoint(
        self,
        domain: str,
        name: str,
        netloc: str,
        scheme: str = "",
        prefix: str = "",
        *,
        is_mirror: bool = False,
    ) -> Endpoint:
        config = self.config(name)
        if not scheme:
            plain = (
                is_loopback(_host_of(netloc) or "") and not config.insecure
                if config.http is None
                else config.http
            )
            scheme = "http" if plain else "https"
        if scheme == "http":
            return Endpoint(domain, name, "http", netloc, prefix, is_mirror)
        ca, keypairs = self._certificates(netloc)
        tls = Tls(not config.insecure, config.ca + ca, config.keypairs + keypairs)
        return Endpoint(domain, name, "https", netloc, prefix, is_mirror, tls, config.insecure)

    def _certificates(self, netloc: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        for parent in self._certificate_dirs:
            directory = os.path.join(parent, netloc)
            try:
                names = sorted(os.listdir(directory))
            except OSError:
                continue
            ca = tuple(os.path.join(directory, n) for n in names if n.endswith(".crt"))
            pairs = tuple(
                (os.path.join(directory, n), os.path.join(directory, n[:-5] + ".key"))
                for n in names
                if n.endswith(".cert") and n[:-5] + ".key" in names
            )
            return ca, pairs
        return (), ()


def _buildkit_files(env: Mapping[str, str], config_home: str) -> tuple[str, ...]:
    """Where the same tables are written for BuildKit, the nearest to the user first."""
    docker = env.get("DOCKER_CONFIG") or os.path.join(env.get("HOME") or "/", ".docker")
    return (
        os.path.join(env.get("BUILDX_CONFIG") or os.path.join(docker, "buildx"), "buildkitd.default.toml"),
        os.path.join(config_home, "buildkit", "buildkitd.toml"),
        "/etc/buildkit/buildkitd.toml",
    )


def _host_of(netloc: str) -> str | None:
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port  # raises on a bad one
        return parts.hostname if parts.username is None else None
    except ValueError:
        return None


def _parse_mirrors(text: str) -> dict[str, tuple[str, ...]]:
    result: dict[str, tuple[str, ...]] = {}
    domain = ""
    for item in text.split(","):
        item = item.strip()
        if not item:
            continue
        name, equals, mirror = item.partition("=")
        if equals:
            domain = name.strip()
            item = mirror.strip()
        if not domain or not item:
            raise UsageError(
                f"ANYARCH_REGISTRY_MIRRORS: {text!r} makes no sense",
                hint="write DOMAIN=MIRROR[,MIRROR…][,DOMAIN=…], for example docker.io=localhost:5000",
            )
        result[domain] = (*result.get(domain, ()), item)
    return result


def _read_file(path: str, *, must_exist: bool) -> dict[str, HostConfig]:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        if must_exist:
            raise UsageError(
                f"the configuration file {path} does not exist", hint="see ANYARCH_CONFIG"
            ) from None
        return {}
    except OSError as error:
        raise UsageError(f"cannot read the configuration file {path}: {error.strerror}") from None
    import tomllib

    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    table = document.get("registry", {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: registry must be a table")
    return {domain: _parse_config(path, domain, value) for domain, value in table.items()}


def _parse_config(path: str, domain: str, value: Any) -> HostConfig:
    where = f'{path}: [registry."{domain}"]'
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table")
    unknown = sorted(set(value) - _KEYS)
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}", hint=f"known are {', '.join(sorted(_KEYS))}")

    def typed(key: str, kind: type, default: Any) -> Any:
        found = value.get(key, default)
        if found is not default and not isinstance(found, kind):
            raise UsageError(f"{where}: {key} must be {_TYPE_NAMES[kind]}")
        return found

    def strings(key: str) -> tuple[str, ...]:
        found = typed(key, list, [])
        if not all(isinstance(item, str) for item in found):
            raise UsageError(f"{where}: {key} must be a list of strings")
        return tuple(found)

    pairs = []
    for pair in typed("keypair", list, []):
        if not isinstance(pair, dict) or not all(isinstance(pair.get(k), str) for k in ("key", "cert")):
            raise UsageError(f'{where}: keypair must be a list of {{ key = "…", cert = "…" }}')
        pairs.append((pair["cert"], pair["key"]))
    for directory in strings("tlsconfigdir"):
        ca, found_pairs = Hosts(certificate_dirs=(os.path.dirname(directory),))._certificates(
            os.path.basename(directory)
        )
        value = {**value, "ca": [*value.get("ca", []), *ca]}
        pairs += found_pairs
    return HostConfig(
        strings("mirrors"),
        typed("http", bool, None),
        typed("insecure", bool, False),
        strings("ca"),
        tuple(pairs),
    )


_TYPE_NAMES: dict[type, str] = {list: "a list", bool: "true or false"}
