"""What goes wrong with a connection, in words."""

from __future__ import annotations

import errno
import http.client
import socket

from anyarch.errors import NetworkError

__all__ = ["ended_early", "network_error"]

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)


def ended_early(label: str, left: int) -> NetworkError:
    """What a body comes to that lacks `left` bytes."""
    return NetworkError(
        f"{label}: what was to be sent is {left} bytes shorter than announced", kind="body", host=label
    )


def network_error(error: Exception, label: str) -> NetworkError:
    """What the standard library raised, as a `NetworkError` in words; `label` is the host."""
    kind, text = _classify(error)
    return NetworkError(f"{label}: {text}", kind=kind, host=label)


def _classify(error: Exception) -> tuple[str, str]:
    match error:
        case socket.gaierror():
            return "dns", "name lookup failed"
        case ConnectionRefusedError():
            return "refused", "connection refused"
        case http.client.RemoteDisconnected():
            return "closed", "connection closed before an answer came"
        case http.client.BadStatusLine():
            if "\\x15\\x03" in str(error) or "\x15\x03" in str(error):  # the start of a TLS alert record
                return "only_tls", "the server speaks HTTPS, not plain HTTP"
            return "protocol", f"not an HTTP answer: {str(error)[:60]}"
        case http.client.IncompleteRead():
            return "closed", "connection closed in the middle of an answer"
        case http.client.HTTPException():
            return "protocol", f"malformed HTTP answer ({type(error).__name__})"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "reset", "connection reset"
        case TimeoutError():
            return "timeout", str(error) if error.args and error.errno is None else "connection timed out"
        case UnicodeError():
            return "protocol", "invalid host name"
    if isinstance(error, OSError):
        if error.errno in _UNREACHABLE:
            return "refused", (error.strerror or "unreachable").lower()
        tls = _classify_tls(error)
        if tls is not None:
            return tls
        return "other", (error.strerror or str(error) or type(error).__name__).lower()
    return "protocol", str(error)


def _classify_tls(error: OSError) -> tuple[str, str] | None:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "reset", "connection closed during the TLS handshake"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return "not_tls", "the server speaks plain HTTP, not HTTPS"
        return "tls", f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return None
