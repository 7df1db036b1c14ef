"""A request as it came in, and as it goes out: where it is for, how long it is, what of it is passed on."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote_to_bytes

import msgspec

from anyarch.http.intercept.message import CHUNKED, Head, end_to_end, length_of
from anyarch.http.intercept.target import Refusal, Target, authority, target_of

__all__ = ["Request", "for_server", "request_of", "start_of"]

_METHOD = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_NOT_IN_HOST = frozenset("@/?#\\ \t,")


class Request(msgspec.Struct, frozen=True):
    """`length` is of its body: bytes or `CHUNKED`."""

    method: str
    version: str
    target: Target
    head: Head
    length: int

    @property
    def is_http11(self) -> bool:
        return self.version == "HTTP/1.1"

    @property
    def wants_more(self) -> bool:
        """Whether another request may come on the connection."""
        words = (*self.head.words("connection"), *self.head.words("proxy-connection"))
        return self.is_http11 and "close" not in words

    @property
    def waits(self) -> bool:
        """Whether its body comes only when it is asked for."""
        return self.is_http11 and "100-continue" in self.head.words("expect")

    @property
    def may_be_repeated(self) -> bool:
        return not self.length and self.method in ("GET", "HEAD")


def start_of(head: Head) -> tuple[str, str, str]:
    """Method, target and version. Raises `Refusal`."""
    parts = head.start.split(" ")
    if len(parts) != 3 or not parts[0] or set(parts[0]) - _METHOD or not parts[1]:
        raise Refusal(400, "malformed request line")
    if parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise Refusal(505 if parts[2].startswith("HTTP/") else 400, "HTTP/1.1 is spoken here")
    return parts[0], parts[1], parts[2]


def request_of(head: Head, tunnel: tuple[str, int] | None) -> Request:
    """`tunnel` is the host and port that the sender believes to speak TLS to. Raises `Refusal`."""
    method, where, version = start_of(head)
    hosts = head.all("host")
    if len(hosts) > 1 or any(set(host) & _NOT_IN_HOST for host in hosts):
        raise Refusal(400, "malformed Host")
    length = length_of(head, 400, is_chunkable=version == "HTTP/1.1") or 0
    target = _in_tunnel(where, hosts, tunnel) if tunnel is not None else _in_the_clear(where, hosts)
    return Request(method, version, target, head, length)


def _in_the_clear(where: str, hosts: list[str]) -> Target:
    if where.startswith("/"):
        if not hosts:
            raise Refusal(400, "missing Host")
        where = f"http://{hosts[0]}{where}"
    # The Host beside a whole address does not count (RFC 9112, 3.2.2). Small clients (busybox) ask for https
    # in this way too, and leave TLS to the proxy.
    return target_of(where)


def _in_tunnel(where: str, hosts: list[str], tunnel: tuple[str, int]) -> Target:
    """Else a request in the tunnel to one host would be for another, which no policy has seen."""
    outer = Target("https", *tunnel, "/")
    target = target_of(where if not where.startswith("/") else f"https://{outer.authority}{where}")
    if target.origin != outer.origin:
        raise Refusal(421, "the request is for another host than the tunnel")
    if hosts and authority(hosts[0], 443) != tunnel:
        raise Refusal(421, "the Host is another one than that of the tunnel")
    return target


def for_server(request: Request, target: Target) -> bytes:
    """The head as `target` gets it, which a policy may have put in the place of the request's own."""
    left_out = ["host", "accept-encoding", "expect"]  # a digest is of what is fetched, not of its packing
    if target.origin != request.target.origin:  # what is for one host is not for the other
        left_out += ["authorization", "cookie"]
    fields = [("Host", target.authority), *end_to_end(request.head, without=left_out)]
    if target.credentials and not request.head.all("authorization"):
        fields.append(("Authorization", f"Basic {b64encode(unquote_to_bytes(target.credentials)).decode()}"))
    if request.length == CHUNKED:
        fields.append(("Transfer-Encoding", "chunked"))
    elif request.length or request.head.all("content-length"):
        fields.append(("Content-Length", str(request.length)))
    return Head(f"{request.method} {target.path} HTTP/1.1", tuple(fields)).encode()
