"""TLS contexts. Loaded only when https is spoken."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from anyarch.errors import NetworkError

if TYPE_CHECKING:
    from anyarch.http.client import Tls

__all__ = ["make_context"]


def make_context(tls: Tls) -> ssl.SSLContext:
    """Raises `NetworkError` when a certificate or key file cannot be used."""
    context = ssl.create_default_context()
    # ALPN must not offer h2: http.client speaks HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    for path in tls.ca:
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise NetworkError(
                f"cannot use the CA certificates in {path}: {_why(error)}", kind="tls"
            ) from None
    for certificate, key in tls.keypairs:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise NetworkError(
                f"cannot use the client certificate {certificate}: {_why(error)}", kind="tls"
            ) from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror or str(error)).lower()
