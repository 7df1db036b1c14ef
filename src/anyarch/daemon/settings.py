"""What the daemon is told by its command line and its configuration file, as one value."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import UsageError

if TYPE_CHECKING:
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
    uid: int = -1
    gid: int = -1
    entitlements: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    platforms: tuple[str, ...] = ()
    gc: bool = True
    max_parallelism: int = 0


def settings_of(flags: dict[str, Value]) -> Settings:
    """Flags over configuration over defaults. Raises `UsageError`."""
    text = _text(flags)
    if text("containerd-worker") not in ("", "false", "auto"):
        raise UsageError(
            "containerd-worker: there is no containerd worker", hint="leave it out, or say false"
        )
    if text("oci-worker") not in ("", "true", "auto"):
        raise UsageError("oci-worker=false: no worker would be left", hint="leave it out, or say true")
    cert, key, ca = text("tlscert"), text("tlskey"), text("tlscacert")
    if bool(cert) != bool(key):
        raise UsageError("you must specify key and cert file if one is specified")
    if ca and not cert:
        raise UsageError("tlscacert needs tlscert and tlskey")
    entitlements = _list(flags, "allow-insecure-entitlement")
    for name in entitlements:
        if name not in ENTITLEMENTS:
            raise UsageError(f"invalid entitlement : {name}")
    labels = {}
    for label in _list(flags, "oci-worker-labels"):
        name, has_value, value = label.partition("=")
        if not has_value:
            raise UsageError(f"invalid label {label}", hint="write NAME=VALUE")
        labels[name] = value
    if text("log-format") not in ("", "text", "json"):
        raise UsageError(f"unsupported log type: {text('log-format')}", hint="text and json are known")
    parallel = flags.get("oci-max-parallelism", 0)
    return Settings(
        root=text("root") or None,
        addresses=tuple(_list(flags, "addr")) or (default_address(),),
        debug=bool(flags.get("debug") or flags.get("trace")),
        log_json=text("log-format") == "json",
        tls=Tls(cert, key, ca) if cert else None,
        gid=_gid(text("group")),
        entitlements=tuple(entitlements),
        labels=labels,
        platforms=tuple(_list(flags, "oci-worker-platform")),
        gc=bool(flags.get("oci-worker-gc", True)),
        max_parallelism=parallel if isinstance(parallel, int) else 0,
    )


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
    if text.isascii() and text.isdigit():
        return int(text)
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise UsageError(f"group: unknown group {text}") from None
