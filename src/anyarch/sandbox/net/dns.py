"""The resolv.conf of steps: the machine's, with what a daemon is told instead, without what a network of its
own cannot reach."""

from __future__ import annotations

import msgspec

__all__ = ["Dns", "resolv_conf", "resolvers"]

_LOOPBACK = (b"127.", b"::1")
# What Docker and BuildKit fall back to where the machine's resolver listens on its loopback only.
_PUBLIC_RESOLVERS = b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
_PATH, _UPSTREAM = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"


class Dns(msgspec.Struct, frozen=True):
    """What stands instead of the machine's own lines; empty: those stay."""

    nameservers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def resolv_conf(dns: Dns | None, *, is_own: bool) -> bytes:
    """The file of a step, `is_own` when its network is not the machine's."""
    try:
        with open(_PATH, "rb") as file:
            text = file.read()
    except OSError:
        text = b""
    if dns is not None:
        text = _overridden(text, dns)
    return resolvers(text) if is_own else text


def resolvers(text: bytes) -> bytes:
    """A resolv.conf for a network of its own, of the machine's: what listens on the machine's loopback cannot
    be reached from there (systemd-resolved's own list, or public resolvers, take its place), nor what is
    named with one of the machine's interfaces."""
    kept, has_server = _reachable(text)
    if has_server:
        return kept
    try:
        with open(_UPSTREAM, "rb") as file:
            kept_upstream, has_server = _reachable(file.read())
    except OSError:
        has_server = False
    return kept_upstream if has_server else kept + _PUBLIC_RESOLVERS


def _reachable(text: bytes) -> tuple[bytes, bool]:
    kept, has_server = [], False
    for line in text.splitlines(keepends=True):
        words = line.split()
        if len(words) > 1 and words[0] == b"nameserver":
            if words[1].startswith(_LOOPBACK) or b"%" in words[1]:
                continue
            has_server = True
        kept.append(line)
    return b"".join(kept), has_server


def _overridden(text: bytes, dns: Dns) -> bytes:
    given = {b"nameserver": dns.nameservers, b"search": dns.search, b"options": dns.options}
    replaced = {word for word, values in given.items() if values}
    if dns.search:
        replaced.add(b"domain")  # of the two the last one counts
    lines = [line for line in text.splitlines() if not line.split()[:1] or line.split()[0] not in replaced]
    lines += [b"nameserver " + address.encode() for address in dns.nameservers]
    if dns.search:
        lines.append(b"search " + " ".join(dns.search).encode())
    if dns.options:
        lines.append(b"options " + " ".join(dns.options).encode())
    return b"".join(line + b"\n" for line in lines)
