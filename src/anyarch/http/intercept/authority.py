"""The certificate authority of one build, and certificates by it for the hosts that steps ask for.

It lives in the memory of this process and ends with the build. Its key is never written to a file: OpenSSL is
given keys of hosts through a file that has no name (memfd).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import threading
from collections import OrderedDict
from ipaddress import ip_address
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["NAME", "Authority", "subject_hash"]

NAME = "BuildKit exec proxy"
_LIFE = datetime.timedelta(days=14)  # longer than a build
_LEAF_LIFE = datetime.timedelta(hours=24)
_REFRESH_BEFORE = datetime.timedelta(hours=1)
_SLACK = datetime.timedelta(hours=1)
_MOST_HOSTS = 1024


class Authority:
    """Thread-safe. `pem` is its certificate, for those who are to trust it."""

    def __init__(self) -> None:
        """Raises `NotSupported` where what makes certificates is not installed."""
        try:
            from cryptography.hazmat.primitives.asymmetric import ec
        except ImportError:
            raise NotSupported(
                "the proxy network takes the Python package cryptography, which is not installed",
                hint="install anyarch[proxy], or cryptography beside it",
            ) from None
        from cryptography.hazmat.primitives.serialization import Encoding

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._lock = threading.Lock()
        self._contexts: OrderedDict[str, tuple[datetime.datetime, ssl.SSLContext]] = OrderedDict()
        self._certificate = _signed_by_itself(self._key)
        self.pem = self._certificate.public_bytes(Encoding.PEM)
        self.der = self._certificate.public_bytes(Encoding.DER)

    def context(self, host: str) -> ssl.SSLContext:
        """For a server that is `host`, a name or an address."""
        now = datetime.datetime.now(datetime.UTC)
        with self._lock:
            known = self._contexts.get(host)
            if known is not None and now < known[0]:
                self._contexts.move_to_end(host)
                return known[1]
            context = self._made(host, now)
            self._contexts[host] = (now + _LEAF_LIFE - _REFRESH_BEFORE, context)
            self._contexts.move_to_end(host)
            while len(self._contexts) > _MOST_HOSTS:
                self._contexts.popitem(last=False)
            return context

    def _made(self, host: str, now: datetime.datetime) -> ssl.SSLContext:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        try:
            name: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, host)] if len(host) <= 64 else []
        usage = [ExtendedKeyUsageOID.SERVER_AUTH]
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SLACK)
            .not_valid_after(now + _LEAF_LIFE)
            .add_extension(x509.SubjectAlternativeName([name]), critical=not subject)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Small clients (busybox) name no signatures, which means SHA-1. What is between is one loopback.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.set_alpn_protocols(["http/1.1"])
        key = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(file, key + certificate.public_bytes(Encoding.PEM))
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context


def _signed_by_itself(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    own_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .add_extension(own_key, critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def subject_hash(name: str = NAME) -> str:
    """By what OpenSSL finds the certificate of that (common) name in a directory: `HASH.0`. The SHA-1 of the
    name's canonical form (X509_NAME_hash): as UTF-8, lower case, spaces single, without the outer header."""
    text = " ".join(name.lower().split()).encode()
    value = b"\x06\x03\x55\x04\x03" + b"\x0c" + bytes([len(text)]) + text  # 2.5.4.3, UTF8String
    pair = b"\x30" + bytes([len(value)]) + value
    whole = b"\x31" + bytes([len(pair)]) + pair
    digest = hashlib.sha1(whole, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"
