"""What the daemon is told by its command line and its configuration file, as one value."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.daemon.config import default_path, read_config
from anyarch.daemon.retention import HistoryLimits, gc_table, history_limits
from anyarch.errors import UsageError
from anyarch.registry.hosts import Hosts
from anyarch.sandbox.net.dns import Dns
from anyarch.sandbox.net.networks import MODES, NetworkSettings
from anyarch.spec.number import natural
from anyarch.worker.cdi import Settings as CdiSettings
from anyarch.worker.limits import Limits

if TYPE_CHECKING:
    from anyarch.daemon.config import Config
    from anyarch.daemon.flags import Value

__all__ = ["Settings", "Tls", "settings_of"]

ENTITLEMENTS = ("network.host", "security.insecure", "device")


class Tls(msgspec.Struct, frozen=True):
    """Files: our certificate and key, and the authority that clients' certificates are signed by ("": they
    need none)."""

    cert: str
    key: str
    ca: str = ""


class Settings(msgspec.Struct, frozen=True):
    root: str | None = None
    addresses: tuple[str, ...] = ()
    debug: bool = False
    log_json: bool = False
    tls: Tls | None = None
    unauthenticated_tcp: bool = False
    """Serve TCP to clients that show no certificate."""
    uid: int = -1
    gid: int = -1
    entitlements: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    platforms: tuple[str, ...] = ()
    gc: bool = True
    gc_rules: dict[str, Any] | None = None
    """As the table `[gc]` of the store has them; None: those of the user who runs the daemon."""
    history: HistoryLimits = HistoryLimits()
    notes: tuple[str, ...] = ()
    """What is set and has no effect, to be told."""
    hosts: Hosts | None = None
    """Settings of registries; None: those of the user who runs the daemon."""
    cdi: CdiSettings | None = None
    limits: Limits | None = None
    provenance: dict[str, Any] = {}
    """What the operator adds to provenance."""
    networks: NetworkSettings = NetworkSettings()
    dns: Dns | None = None
    """None: steps use the name servers of this machine."""
    is_proxied: bool = False
    """Whether the steps of all builds reach the network through a proxy only."""


def settings_of(flags: dict[str, Value]) -> Settings:
    """Flags over configuration over defaults. Raises `UsageError`."""
    text = _text(flags)
    path = text("config")
    config = read_config(path or default_path(), must_exist=bool(path))
    if text("containerd-worker") not in ("", "false", "auto"):
        raise UsageError("there is no containerd worker", hint="leave containerd-worker out, or say false")
    if text("oci-worker") not in ("", "true", "auto") or config.flag("worker", "oci", "enabled") is False:
        raise UsageError("oci-worker=false: no worker would be left", hint="leave it out, or say true")
    tls = _tls(flags, config)
    entitlements = _list(flags, "allow-insecure-entitlement") or config.texts("insecure-entitlements")
    for name in entitlements:
        if name not in ENTITLEMENTS:
            raise UsageError(f"invalid entitlement : {name}")
    log_format = text("log-format") or config.text("log", "format")
    if log_format not in ("", "text", "json"):
        raise UsageError(f"unsupported log type: {log_format}", hint="text and json are known")
    gc = flags.get("oci-worker-gc", config.flag("worker", "oci", "gc"))
    if text("oci-worker-snapshotter") not in ("", "auto", "overlayfs", "native"):
        raise UsageError(f"there is no snapshotter {text('oci-worker-snapshotter')}", hint="say auto")
    group = _gid(text("group"))
    return Settings(
        root=text("root") or config.text("root") or None,
        addresses=tuple(_list(flags, "addr")) or config.texts("grpc", "address") or (default_address(),),
        debug=bool(flags.get("debug") or flags.get("trace") or config.flag("debug") or config.flag("trace")),
        log_json=log_format == "json",
        tls=tls,
        unauthenticated_tcp=bool(
            flags.get("allow-unauthenticated-tcp", config.flag("grpc", "allowUnauthenticatedTCP"))
        ),
        uid=_number(config.number("grpc", "uid")),
        gid=group if group >= 0 else _number(config.number("grpc", "gid")),
        entitlements=tuple(entitlements),
        labels={**config.labels("worker", "oci", "labels"), **_labels(flags)},
        platforms=tuple(_list(flags, "oci-worker-platform")) or config.texts("worker", "oci", "platforms"),
        gc=gc is not False,
        gc_rules=gc_table(config, text("oci-worker-gc-keepstorage")),
        history=history_limits(config),
        notes=config.notes(),
        hosts=_hosts(config),
        cdi=_cdi(flags, config),
        limits=_limits(flags, config),
        provenance=_provenance(config.text("provenanceEnvDir")),
        networks=_networks(flags, config),
        dns=_dns(config),
        is_proxied=bool(flags.get("proxy-network", config.flag("proxyNetwork"))),
    )


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _tls(flags: dict[str, Value], config: Config) -> Tls | None:
    text = _text(flags)
    cert = text("tlscert") or config.text("grpc", "tls", "cert")
    key = text("tlskey") or config.text("grpc", "tls", "key")
    ca = text("tlscacert") or config.text("grpc", "tls", "ca")
    if bool(cert) != bool(key):
        raise UsageError("you must specify key and cert file if one is specified")
    if ca and not cert:
        raise UsageError("tlscacert needs tlscert and tlskey")
    return Tls(cert, key, ca) if cert else None


def _labels(flags: dict[str, Value]) -> dict[str, str]:
    labels = {}
    for label in _list(flags, "oci-worker-labels"):
        name, has_value, value = label.partition("=")
        if not has_value:
            raise UsageError(f"invalid label {label}", hint="write NAME=VALUE")
        labels[name] = value
    return labels


def _hosts(config: Config) -> Hosts | None:
    tables = config.get("registry")
    return Hosts.load().with_tables(config.path, tables) if tables else None


def _cdi(flags: dict[str, Value], config: Config) -> CdiSettings | None:
    directories = tuple(_list(flags, "cdi-spec-dir")) or config.texts("cdi", "specDirs")
    disabled = bool(flags.get("cdi-disabled") or config.flag("cdi", "disabled"))
    allowed = config.texts("cdi", "autoAllowed")
    if not (directories or disabled or allowed):
        return None
    plain = CdiSettings(auto_allowed=frozenset(allowed), disabled=disabled)
    return msgspec.structs.replace(plain, directories=directories) if directories else plain


def _limits(flags: dict[str, Value], config: Config) -> Limits | None:
    wanted = flags.get("oci-max-parallelism") or config.number("worker", "oci", "max-parallelism")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        return None
    return msgspec.structs.replace(Limits.default(), exec=wanted)


_OWN = ("buildConfig", "builderPlatform", "platform")


def _provenance(directory: str) -> dict[str, Any]:
    """What the JSON files of a directory say, the later on top. Raises `UsageError`."""
    import json

    path = directory or os.path.join(os.path.dirname(default_path()), "provenance.d")
    found: dict[str, Any] = {}
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".json"))
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                values = json.load(file)
            if not isinstance(values, dict):
                raise UsageError(f"failed to parse {name}: it is no object", hint=f"it is in {path}")
            found |= values
    except FileNotFoundError:
        return found
    except (OSError, ValueError) as error:
        raise UsageError(f"provenance of {path} cannot be read: {error}") from None
    for key in _OWN:
        if key in found:
            raise UsageError(
                f'key "{key}" is builtin and not allowed to be modified in provenance config',
                hint=f"take it out of the files in {path}",
            )
    return found


def _networks(flags: dict[str, Value], config: Config) -> NetworkSettings:
    text = _text(flags)
    mode = text("oci-worker-net") or config.text("worker", "oci", "networkMode") or "auto"
    if mode not in MODES:
        raise UsageError(f'invalid network mode: "{mode}"', hint=f"it is one of {', '.join(MODES)}")
    size = flags.get("oci-cni-pool-size", config.number("worker", "oci", "cniPoolSize")) or 0
    if not isinstance(size, int) or size < 0:
        raise UsageError("cniPoolSize has to be a number of networks, 0 or more")
    return NetworkSettings(
        mode=mode,
        cni_config=text("oci-cni-config-path") or config.text("worker", "oci", "cniConfigPath"),
        cni_binaries=text("oci-cni-binary-dir") or config.text("worker", "oci", "cniBinaryPath"),
        pool_size=size,
        bridge_name=config.text("worker", "oci", "bridgeName"),
        bridge_subnet=config.text("worker", "oci", "bridgeSubnet"),
    )


def _dns(config: Config) -> Dns | None:
    servers = config.texts("dns", "nameservers")
    for server in servers:
        try:
            ip_address(server)
        except ValueError as error:
            raise UsageError(f"{config.path}: dns.nameservers: bad nameserver address: {error}") from None
    dns = Dns(servers, config.texts("dns", "options"), config.texts("dns", "searchDomains"))
    for word in (*dns.options, *dns.search):
        if not word.isprintable() or len(word.split()) != 1:
            raise UsageError(f"{config.path}: dns: {word!r} is not one word")
    return None if dns == Dns() else dns


def _text(flags: dict[str, Value]) -> Any:
    def text(name: str) -> str:
        value = flags.get(name, "")
        return value if isinstance(value, str) else ""

    return text


def _list(flags: dict[str, Value], name: str) -> list[str]:
    value = flags.get(name)
    return value if isinstance(value, list) else []


def default_address() -> str:
    """Where clients look: the system's socket for root, else one of the user's runtime directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 or not runtime:
        return "unix:///run/anyarch/anyarchd.sock"
    return f"unix://{runtime}/anyarch/anyarchd.sock"


def _gid(text: str) -> int:
    if not text:
        return -1
    number = natural(text)
    if number is not None:
        return number
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise UsageError(f"group: unknown group {text}") from None
