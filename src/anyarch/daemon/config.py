"""The configuration file: buildkitd's TOML, as far as it means something here.

Keys that BuildKit knows and this daemon does not act on are errors where a build or an administrator would
see the difference, and else told in the log; what is unknown is an error, as a misspelt limit would otherwise
be no limit.
"""

from __future__ import annotations

import os
from typing import Any

from anyarch.errors import UsageError

__all__ = ["Config", "default_path", "read_config"]

_WORKER = (
    "enabled",
    "platforms",
    "snapshotter",
    "rootless",
    "gc",
    "gckeepstorage",
    "reservedSpace",
    "maxUsedSpace",
    "minFreeSpace",
    "gcpolicy",
    "networkMode",
    "cniConfigPath",
    "cniBinaryPath",
    "cniPoolSize",
    "bridgeName",
    "bridgeSubnet",
    "apparmor-profile",
    "selinux",
    "max-parallelism",
    "defaultCgroupParent",
    "labels",
)
_WORKERS = {
    "oci": frozenset([*_WORKER, "noProcessSandbox", "binary", "proxySnapshotterPath", "stargzSnapshotter"]),
    "containerd": frozenset([*_WORKER, "address", "namespace", "runtime"]),
}
_KNOWN: dict[str, frozenset[str]] = {
    "log": frozenset({"format", "level"}),
    "dns": frozenset({"nameservers", "options", "searchDomains"}),
    "grpc": frozenset(
        [
            "address",
            "allowUnauthenticatedTCP",
            "debugAddress",
            "uid",
            "gid",
            "securityDescriptor",
            "max_recv_message_size",
            "max_send_message_size",
            "tls",
        ]
    ),
    "otel": frozenset({"socketPath"}),
    "cdi": frozenset({"disabled", "specDirs", "autoAllowed"}),
    "history": frozenset({"maxAge", "maxEntries"}),
    "frontend": frozenset({"dockerfile.v0", "gateway.v0"}),
    "system": frozenset({"platformsCacheMaxAge", "maxRegistryConcurrency"}),
    "cache": frozenset({"gha"}),
}
_TOP = frozenset(
    [
        "debug",
        "trace",
        "root",
        "insecure-entitlements",
        "proxyNetwork",
        "provenanceEnvDir",
        "worker",
        "registry",
    ]
)
_REFUSED = {
    ("grpc", "max_recv_message_size"): "the limits of messages are fixed",
    ("grpc", "max_send_message_size"): "the limits of messages are fixed",
    ("grpc", "securityDescriptor"): "is for Windows",
    ("system", "maxRegistryConcurrency"): "transfers have a limit of their own",
    ("cache", "gha"): "is not supported here; clients name it with --cache-to and --cache-from",
    ("frontend", "gateway.v0", "allowedRepositories"): "limits to frontends are not supported",
    ("worker", "oci", "noProcessSandbox"): "steps always have processes of their own",
    ("worker", "oci", "binary"): "steps run without an OCI runtime",
    ("worker", "oci", "apparmor-profile"): "profiles for steps are not supported",
    ("worker", "oci", "selinux"): "labels for steps are not supported",
    ("worker", "oci", "defaultCgroupParent"): "is not supported",
    ("worker", "oci", "proxySnapshotterPath"): "there are no other snapshotters",
    ("worker", "oci", "stargzSnapshotter"): "there are no other snapshotters",
}
"""Keys that may only be empty, zero or false."""
_IDLE = {
    ("log", "level"): "",
    ("grpc", "debugAddress"): "",
    ("otel", "socketPath"): "",
    ("system", "platformsCacheMaxAge"): "",
}
"""Keys that are told of, and what is said more."""


class Config:
    """The tables of one file; `get` walks them."""

    def __init__(self, document: dict[str, Any], path: str) -> None:
        self.document = document
        self.path = path

    def get(self, *keys: str) -> Any:
        """The value there; None where there is none."""
        found: Any = self.document
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def text(self, *keys: str) -> str:
        return str(self._typed(keys, str, "", "a string"))

    def flag(self, *keys: str) -> bool | None:
        found: bool | None = self._typed(keys, bool, None, "true or false")
        return found

    def number(self, *keys: str) -> int | None:
        found: int | None = self._typed(keys, int, None, "a number")
        return found

    def texts(self, *keys: str) -> tuple[str, ...]:
        found = self.get(*keys)
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise UsageError(f"{self.path}: {'.'.join(keys)} has to be a list of strings")
        return tuple(found)

    def labels(self, *keys: str) -> dict[str, str]:
        found = self.get(*keys)
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
            raise UsageError(f"{self.path}: {'.'.join(keys)} has to be a table of strings")
        return found

    def notes(self) -> tuple[str, ...]:
        """One line for each key that is set and has no effect."""
        found = {".".join(keys): more for keys, more in _IDLE.items() if self.get(*keys)}
        other = self.get("worker", "containerd") or {}
        if set(other) - {"enabled"}:
            found["worker.containerd"] = ": there is no containerd worker"
        return tuple(f"{self.path}: {name} has no effect here{more}" for name, more in found.items())

    def _typed(self, keys: tuple[str, ...], kind: type, default: Any, what: str) -> Any:
        found = self.get(*keys)
        if found is None:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise UsageError(f"{self.path}: {'.'.join(keys)} has to be {what}")
        return found


def default_path() -> str:
    """Where the file is looked for when none is named."""
    if os.geteuid() == 0:
        return "/etc/buildkit/buildkitd.toml"
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.environ.get("HOME") or "/", ".config")
    return os.path.join(home, "buildkit", "buildkitd.toml")


def read_config(path: str, *, must_exist: bool) -> Config:
    """Raises `UsageError` for a file that cannot be read or says what is not known."""
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        if must_exist:
            raise UsageError(f"failed to load config from {path}: no such file or directory") from None
        return Config({}, path)
    except OSError as error:
        raise UsageError(f"failed to load config from {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"failed to parse config {path}: {error}") from None
    _check(document, path)
    config = Config(document, path)
    _refuse(config)
    return config


def _check(document: dict[str, Any], path: str) -> None:
    for key, value in document.items():
        if key not in _TOP and key not in _KNOWN:
            raise UsageError(f"{path}: unknown key {key!r}")
        if key in _KNOWN or key in ("worker", "registry"):
            if not isinstance(value, dict):
                raise UsageError(f"{path}: {key} has to be a table")
            if key in _KNOWN:
                _known_keys(value, _KNOWN[key], f"{path}: [{key}]")
    for kind, table in (document.get("worker") or {}).items():
        if kind not in _WORKERS or not isinstance(table, dict):
            raise UsageError(f"{path}: unknown worker {kind!r}")
        _known_keys(table, _WORKERS[kind], f"{path}: [worker.{kind}]")
        if kind == "containerd" and table.get("enabled") is True:
            raise UsageError(f"{path}: there is no containerd worker", hint="say enabled = false")


def _refuse(config: Config) -> None:
    for keys, why in _REFUSED.items():
        if config.get(*keys):
            raise UsageError(f"{config.path}: {'.'.join(keys)}: {why}", hint="remove the key")
    for name in ("dockerfile.v0", "gateway.v0"):
        if config.flag("frontend", name, "enabled") is False:
            raise UsageError(f"{config.path}: frontend.{name}.enabled: a frontend cannot be turned off")
    snapshotter = config.text("worker", "oci", "snapshotter")
    if snapshotter not in ("", "auto", "overlayfs", "native"):
        raise UsageError(f"{config.path}: worker.oci.snapshotter: there is no {snapshotter}", hint="say auto")


def _known_keys(table: dict[str, Any], known: frozenset[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}", hint=f"known are {', '.join(sorted(known))}")
