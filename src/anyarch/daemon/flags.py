"""The command line of the daemon: the flags of `buildkitd`, in Go's manner of writing them."""

from __future__ import annotations

from typing import Literal

import msgspec

from anyarch.errors import UsageError
from anyarch.spec.number import natural

__all__ = ["FLAGS", "Flag", "parse_flags", "usage"]


class Flag(msgspec.Struct, frozen=True):
    """`takes` says what the value is; a `bool` may stand without one, a `list` may be given several times or
    with commas."""

    name: str
    help: str
    takes: Literal["str", "bool", "list", "int"] = "str"


FLAGS = (
    Flag("addr", "listening address: unix://PATH, tcp://HOST:PORT or fd://", "list"),
    Flag("allow-insecure-entitlement", "allow builds to ask for network.host or security.insecure", "list"),
    Flag("allow-unauthenticated-tcp", "serve TCP to clients that show no certificate", "bool"),
    Flag("cdi-disabled", "offer no devices", "bool"),
    Flag("cdi-spec-dir", "directory of CDI specifications", "list"),
    Flag("config", "configuration file (TOML)"),
    Flag("containerd-worker", "true is refused: there is no containerd worker"),
    Flag("containerd-worker-gc", "accepted beside containerd-worker=false", "bool"),
    Flag("containerd-worker-labels", "accepted beside containerd-worker=false", "list"),
    Flag("debug", "log what is done", "bool"),
    Flag("debugaddr", "accepted; there is no debugging listener"),
    Flag("group", "group, by name or number, that owns unix sockets"),
    Flag("help", "print this help", "bool"),
    Flag("log-format", "text or json"),
    Flag("log-level", "debug, info, warn or error"),
    Flag("oci-cni-binary-dir", "directory of CNI plugins"),
    Flag("oci-cni-config-path", "configuration of a CNI network"),
    Flag("oci-cni-pool-size", "how many networks are made ahead of steps", "int"),
    Flag("oci-max-parallelism", "how many steps run at the same time", "int"),
    Flag("oci-worker", "false is refused: it is the only worker"),
    Flag("oci-worker-gc", "collect what no build needs (default true)", "bool"),
    Flag("oci-worker-gc-keepstorage", "limits of the store in MB: RESERVED[,FREE[,MAXIMUM]]"),
    Flag("oci-worker-labels", "label of the worker: NAME=VALUE", "list"),
    Flag("oci-worker-net", "network of steps: auto, bridge, cni, host or none"),
    Flag("oci-worker-platform", "platforms of the worker, instead of those that are found", "list"),
    Flag("oci-worker-rootless", "accepted; an ordinary user needs no mode of its own", "bool"),
    Flag("oci-worker-snapshotter", "auto, overlayfs or native"),
    Flag("otel-socket-path", "accepted; traces are not collected"),
    Flag("proxy-network", "steps reach the network through a proxy of the daemon only", "bool"),
    Flag("root", "directory of the store"),
    Flag("rootless", "accepted; an ordinary user needs no mode of its own", "bool"),
    Flag("tlscacert", "certificates that clients have to be signed by"),
    Flag("tlscert", "certificate of the daemon"),
    Flag("tlskey", "key of the certificate"),
    Flag("trace", "as debug", "bool"),
    Flag("version", "print the version", "bool"),
)

_SHORT = {"h": "help", "v": "version"}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})

Value = str | bool | int | list[str]


def parse_flags(arguments: list[str]) -> dict[str, Value]:
    """The flags that are given, by name. Raises `UsageError` for one that is unknown, or has a value it
    cannot."""
    flags = {flag.name: flag for flag in FLAGS}
    found: dict[str, Value] = {}
    todo = list(arguments)
    while todo:
        argument = todo.pop(0)
        if not argument.startswith("-") or argument in ("-", "--"):
            raise UsageError(f"unexpected argument: {argument}", hint="anyarchd takes flags only; see --help")
        name, has_value, value = argument.lstrip("-").partition("=")
        flag = flags.get(_SHORT.get(name, name))
        if flag is None:
            raise UsageError(f"flag provided but not defined: -{name}", hint="see --help")
        if flag.takes == "bool":
            if has_value and value not in _TRUE | _FALSE:
                raise UsageError(f'invalid boolean value "{value}" for flag -{name}')
            found[flag.name] = not has_value or value in _TRUE
            continue
        if not has_value:
            if not todo:
                raise UsageError(f"flag needs an argument: -{name}")
            value = todo.pop(0)
        if flag.takes == "list":
            values = found.setdefault(flag.name, [])
            assert isinstance(values, list)
            values += [part.strip() for part in value.split(",")]
        elif flag.takes == "int":
            number = natural(value)
            if number is None:
                raise UsageError(f'invalid value "{value}" for flag -{name}: not a number')
            found[flag.name] = number
        else:
            found[flag.name] = value
    return found


def usage() -> str:
    """The text of `--help`."""
    lines = [
        "Usage: anyarchd [OPTIONS]",
        "",
        "Build for BuildKit's clients: docker buildx, buildctl, anyarch.",
        "",
    ]
    lines += ["Options:"]
    for flag in FLAGS:
        name = f"--{flag.name}" + ("" if flag.takes == "bool" else " " + flag.takes.upper())
        lines.append(f"  {name:34}{flag.help}")
    return "\n".join(lines)
