"""A certificate authority for tests, and certificates of servers and clients: made by the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["make_authority", "make_certificate"]

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def make_authority(directory: Path, name: str = "ca") -> None:
    """`NAME.pem` and `NAME.key`: an authority that has signed itself."""
    files = ("-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem")
    _openssl("req", "-x509", *_KEY, "-subj", f"/CN={name}", "-days", "2", *files)


def make_certificate(
    directory: Path, name: str, *, hosts: str = "IP:127.0.0.1", authority: str = "ca"
) -> None:
    """`NAME.pem` and `NAME.key`, signed by the authority; `hosts` is openssl's subjectAltName."""
    request, extensions = f"{directory}/{name}.csr", Path(directory) / f"{name}.ext"
    extensions.write_text(f"subjectAltName={hosts}\n")
    _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{directory}/{name}.key", "-out", request)
    signer = (
        "-CA",
        f"{directory}/{authority}.pem",
        "-CAkey",
        f"{directory}/{authority}.key",
        "-CAcreateserial",
    )
    files = ("-in", request, "-extfile", str(extensions), "-out", f"{directory}/{name}.pem")
    _openssl("x509", "-req", "-days", "2", *signer, *files)
