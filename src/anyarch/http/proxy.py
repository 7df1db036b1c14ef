"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, lower case first.

The rules are those of Go's `httpproxy`, since the same variables steer docker: loopback addresses never go
through a proxy; NO_PROXY entries are host names (with their subdomains; with a leading dot only subdomains),
addresses, address blocks, each with an optional port, or `*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from anyarch.errors import NetworkError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Proxy", "is_loopback", "parse_proxy", "proxy_for"]

_HINT = "the proxy comes from HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; exceptions go to NO_PROXY"


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy, reached by TLS or not. `authorization` is the Proxy-Authorization header, or empty."""

    host: str
    port: int
    authorization: str = ""
    is_tls: bool = False

    @property
    def label(self) -> str:
        """For people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """localhost, its subdomains, 127.0.0.0/8 and ::1."""
    if host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(p.isdigit() and int(p) < 256 for p in parts)


def proxy_for(env: Mapping[str, str], scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a URL of `scheme` at `host`:`port`, None to go directly. Raises `NetworkError` on a bad
    one."""
    text = ""
    for name in (f"{scheme}_proxy", "all_proxy"):
        text = env.get(name) or env.get(name.upper()) or ""
        if text:
            break
    if not text or is_loopback(host):
        return None
    if _is_exempt(env.get("no_proxy") or env.get("NO_PROXY") or "", host, port):
        return None
    return parse_proxy(text)


def parse_proxy(text: str) -> Proxy:
    """`http[s]://[user:password@]host[:port]`; the scheme may be left out (http). Raises `NetworkError`."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NetworkError(f"invalid proxy address {text!r}", kind="proxy", hint=_HINT) from None
    if parts.scheme not in ("http", "https"):
        raise NetworkError(
            f"proxy {parts.scheme}://{parts.hostname}: only HTTP and HTTPS proxies are supported",
            kind="proxy",
            hint=_HINT,
        )
    if not host:
        raise NetworkError(f"invalid proxy address {text!r}", kind="proxy", hint=_HINT)
    authorization = ""
    if parts.username is not None:
        from base64 import b64encode

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    is_tls = parts.scheme == "https"
    return Proxy(host, port or (443 if is_tls else 80), authorization, is_tls)


def _is_exempt(no_proxy: str, host: str, port: int) -> bool:
    address = None
    for item in no_proxy.replace(" ", ",").split(","):
        item = item.strip().lower()
        if not item:
            continue
        if item == "*":
            return True
        pattern, item_port = _split_port(item)
        if item_port is not None and item_port != port:
            continue
        if "/" in pattern or ":" in pattern or pattern.replace(".", "").isdigit():
            import ipaddress

            try:
                address = address or ipaddress.ip_address(host)
                if address in ipaddress.ip_network(pattern, strict=False):
                    return True
            except ValueError:
                pass  # the host is a name, or the entry is no address after all
            continue
        pattern = pattern.removeprefix("*")
        if host == pattern or host.endswith(pattern if pattern.startswith(".") else "." + pattern):
            return True
    return False


def _split_port(item: str) -> tuple[str, int | None]:
    if item.startswith("["):
        inner, _, rest = item[1:].partition("]")
        port = rest.removeprefix(":")
        return inner, int(port) if port.isdigit() else None
    head, colon, port = item.rpartition(":")
    if colon and port.isdigit() and ":" not in head:
        return head, int(port)
    return item, None
