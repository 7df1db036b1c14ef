"""Where a request goes, in one spelling: what a policy decides on, what is written down and what is asked of
the server are the same text.

Else `http://EXAMPLE.com./a/../b` would pass a rule about `http://example.com/b`. RFC 3986, 6.2.2 (case,
percent-encoding, dot segments); hosts as browsers read them, where they end in a number.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import msgspec

__all__ = ["Refusal", "Target", "authority", "target_of"]

_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_CREDENTIALS = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_BAD = re.compile(r"[\x00-\x20\x7f#]")
_UNSAFE = re.compile(r"[\\\x80-\U0010ffff]")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PORTS = {"http": 80, "https": 443}
_LONGEST_NAME = 253


class Refusal(Exception):
    """A request that is answered with an error and not passed on. `text` is for its sender."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Target(msgspec.Struct, frozen=True):
    """`path` begins with a slash and has the query. `credentials` (`name:password`, not decoded) are told to
    the server and nobody else."""

    scheme: str
    host: str
    port: int
    path: str
    credentials: str = ""

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def target_of(url: str) -> Target:
    """Raises `Refusal` for what is not an address of http or https."""
    found = _SCHEME.match(url)
    if found is None:
        raise Refusal(400, f"unsupported address {_shown(url)}")
    scheme = found[1].lower()
    rest = url[found.end() :]
    end = re.search(r"[/?]", rest)
    place, path = (rest[: end.start()], rest[end.start() :]) if end is not None else (rest, "")
    credentials, at, place = place.rpartition("@")
    if at and not _CREDENTIALS.fullmatch(credentials):
        raise Refusal(400, "malformed credentials in the address")
    host, port = authority(place, _PORTS[scheme])
    return Target(scheme, host, port, _path(path), credentials)


def authority(text: str, default: int) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]`. Raises `Refusal`."""
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise Refusal(400, f"bad host {_shown(text)}")
        port = rest[1:]
        try:
            host = IPv6Address(name)
        except AddressValueError:
            raise Refusal(400, f"bad host {_shown(text)}") from None
        if host.scope_id:
            raise Refusal(400, f"bad host {_shown(text)}")
        return str(host), _port(port, default)
    name, _, port = text.partition(":")
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise Refusal(400, f"bad host {_shown(text)}")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):  # the resolver reads 0x7f.1 as an address too
        try:
            name = str(IPv4Address(name))
        except AddressValueError:
            raise Refusal(400, f"bad host {_shown(text)}") from None
    return name, _port(port, default)


def _port(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 0 < int(text) < 65536:
        raise Refusal(400, f"bad port {_shown(text)}")
    return int(text)


def _path(text: str) -> str:
    if _BAD.search(text):
        raise Refusal(400, "bad character in the address")
    text = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in _bytes(found[0])), text)
    path, mark, query = text.partition("?")
    path = _PERCENT.sub(_one_spelling, path)
    kept: list[str] = []
    parts = path.split("/")[1:]
    for number, part in enumerate(parts):
        if part in (".", ".."):
            if part == ".." and kept:
                kept.pop()
            if number == len(parts) - 1:
                kept.append("")
        else:
            kept.append(part)
    return "/" + "/".join(kept) + mark + query


def _bytes(text: str) -> bytes:
    """Heads are read as Latin-1: what they are made of. An address of elsewhere is UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _one_spelling(found: re.Match[str]) -> str:
    if found[1] is None:
        raise Refusal(400, "bad percent-encoding in the address")
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else f"%{found[1].upper()}"


def _shown(text: str) -> str:
    return ascii(text[:100])
