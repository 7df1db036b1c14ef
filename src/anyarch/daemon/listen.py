"""The sockets that the daemon listens on: made, taken over from systemd, and removed."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from anyarch.errors import UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    import ssl

    from anyarch.daemon.settings import Settings, Tls

__all__ = ["Listener", "listen", "tls_context"]

_FIRST_FD = 3
"""systemd hands sockets over from here (sd_listen_fds)."""


class Listener:
    """A listening socket. `secure`: TLS applies to it; `path` is that of a unix socket that we made."""

    def __init__(self, sock: socket.socket, address: str, *, secure: bool, path: str = "") -> None:
        self.sock = sock
        self.address = address
        self.secure = secure
        self.path = path

    def close(self) -> None:
        self.sock.close()
        if self.path:
            with suppress(FileNotFoundError):
                os.unlink(self.path)


def listen(settings: Settings) -> list[Listener]:
    """All the sockets, bound and listening; on TCP only such as demand a client's certificate, unless the
    settings say otherwise. Raises `UsageError`; then none is left open."""
    listeners: list[Listener] = []
    try:
        for address in settings.addresses:
            listeners += _listen(address, settings)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(address: str, settings: Settings) -> list[Listener]:
    scheme, separator, rest = address.partition("://")
    if not separator:
        raise UsageError(f"address {address} does not contain proto, you meant unix://{address} ?")
    try:
        match scheme:
            case "unix":
                return [_unix(address, rest, settings)]
            case "tcp":
                return [_tcp(address, rest, settings)]
            case "fd":
                return _handed_over(address, rest, settings)
            case _:
                raise UsageError(f"addr {address} not supported", hint="unix://, tcp:// and fd:// are")
    except OSError as error:
        raise UsageError(f"cannot listen on {address}: {error.strerror or error}") from None


def _unix(address: str, path: str, settings: Settings) -> Listener:
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, mode=0o755, exist_ok=True)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            _refuse_if_served(path)
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777)  # nobody may connect before owner and mode are right
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    listener = Listener(sock, address, secure=False, path=path)
    try:
        if settings.uid >= 0 or settings.gid >= 0:
            os.chown(path, settings.uid, settings.gid)
        os.chmod(path, 0o660)
        sock.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _refuse_if_served(path: str) -> None:
    """A socket file may be left over; one that somebody answers is not ours to remove."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return
    raise UsageError(f"unix://{path} is served by another process", hint="stop it, or choose another --addr")


def _tcp(address: str, rest: str, settings: Settings) -> Listener:
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    number = natural(port)
    if number is None or number > 65535:
        raise UsageError(f"addr {address} has no port", hint="write tcp://HOST:PORT")
    _demand_certificates(address, settings)
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, int(port)))
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, address, secure=settings.tls is not None)


def _demand_certificates(address: str, settings: Settings) -> None:
    """Who may build may do much on this machine, and TCP has no owner and no mode as a unix socket has: a
    loopback port is open to every user of the machine, and to build steps with the host's network. So no
    address is an exception."""
    if settings.unauthenticated_tcp or (settings.tls is not None and settings.tls.ca):
        return
    lacking = "TLS" if settings.tls is None else "tlscacert, so that clients show no certificate"
    raise UsageError(
        f"addr {address} without {lacking}: whoever reaches it could build here",
        hint="give --tlscert, --tlskey and --tlscacert, or listen on unix://; where only trusted clients "
        "reach the address, say --allow-unauthenticated-tcp",
    )


def _handed_over(address: str, rest: str, settings: Settings) -> list[Listener]:
    """`fd://` all that systemd hands over, `fd://NAME` or `fd://NUMBER` one of them."""
    count = int(os.environ.get("LISTEN_FDS", "0") or 0)
    if os.environ.get("LISTEN_PID", "") != str(os.getpid()) or count < 1:
        raise UsageError(
            f"{address}: no sockets were handed over", hint="start anyarchd by a systemd socket unit"
        )
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for number in range(count):
        name = names[number] if number < len(names) else ""
        if rest and rest not in (name, str(_FIRST_FD + number)):
            continue
        sock = socket.socket(fileno=_FIRST_FD + number)
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
        secure = settings.tls is not None and sock.family != socket.AF_UNIX
        if sock.family != socket.AF_UNIX:
            _demand_certificates(address, settings)
        found.append(Listener(sock, address, secure=secure))
    if not found:
        raise UsageError(f"{address}: no socket of that name was handed over")
    return found


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Our certificate, and with an authority the demand for the client's. Raises `UsageError`."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Offered, not demanded: some clients wrap TLS themselves and name no protocol.
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.ca:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        where = error.filename or f"{tls.cert}, {tls.key}" + (f", {tls.ca}" if tls.ca else "")
        raise UsageError(f"TLS: {where}: {error.strerror or error}") from None
    return context
