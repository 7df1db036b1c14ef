"""Signatures of sources: OpenPGP by the program gpgv, SSH by ssh-keygen.

Both get the one key that a build names and nothing of the user's: no keyring, no agent, no trust database.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported, SignatureInvalid
from anyarch.store.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["verify_object", "verify_pgp", "verify_ssh"]

_PGP = b"-----BEGIN PGP SIGNATURE-----"
_SSH = b"-----BEGIN SSH SIGNATURE-----"
_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_SSH_KEY = re.compile(
    r"(?:^|\s)((?:ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9-]+@openssh\.com) [A-Za-z0-9+/]+=*)"
)
_TIMEOUT_S = 120


def verify_object(
    raw: bytes, key: bytes, *, what: str, directory: Callable[[], Path], reject_expired: bool
) -> None:
    """Check the signature in a git commit or tag (`raw`: its content). Raises `SignatureInvalid`."""
    signed, signature = _split(raw)
    if not signature:
        raise SignatureInvalid(f"{what}: git object is not signed")
    if signature.startswith(_SSH):
        verify_ssh(signed, signature, key, what=what, directory=directory)
        return
    if not signature.startswith(_PGP):
        raise SignatureInvalid(f"{what}: invalid signature format")
    place = directory()
    try:
        data = place / "signed"
        data.write_bytes(signed)
        verify_pgp(str(data), signature, key, what=what, directory=directory, reject_expired=reject_expired)
    finally:
        remove_tree(str(place))


def verify_pgp(
    path: str,
    signature: bytes,
    key: bytes,
    *,
    what: str,
    directory: Callable[[], Path],
    reject_expired: bool = False,
) -> None:
    """Check the armored detached signature of a file by an armored public key (or several).

    A key that has expired since it signed counts unless `reject_expired`; a revoked one never does. Raises
    `SignatureInvalid`, `NotSupported` where there is no gpgv.
    """
    ring = b"".join(_dearmored(block) for block in _BLOCK.findall(key))
    if not ring:
        raise SignatureInvalid(f"{what}: failed to read armored public key: no armored data found")
    place = directory()
    try:
        (place / "keys.gpg").write_bytes(ring)
        (place / "signature").write_bytes(signature)
        argv = ["gpgv", "--homedir", str(place), "--keyring", str(place / "keys.gpg"), "--status-fd", "1"]
        argv += ["--ignore-time-conflict", "--weak-digest", "SHA1", "--weak-digest", "RIPEMD160"]
        found = _run([*argv, str(place / "signature"), path], "gpgv", "apt-get install gpgv")
    finally:
        remove_tree(str(place))
    words = [
        line.split()[1]
        for line in found.stdout.decode("utf-8", "replace").splitlines()
        if line.startswith("[GNUPG:] ") and len(line.split()) > 1
    ]
    accepted = {"GOODSIG"} if reject_expired else {"GOODSIG", "EXPKEYSIG"}
    verdicts = [word for word in words if word in _VERDICTS]
    if verdicts and "VALIDSIG" in words and accepted.issuperset(verdicts):
        return
    reason = (
        _VERDICTS[next(word for word in verdicts if word not in accepted)]
        if set(verdicts) - accepted
        else "no valid signature was found"
    )
    raise SignatureInvalid(f"{what}: {reason}", hint="the content was altered, or another key signed it")


_VERDICTS = {
    "GOODSIG": "signed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key that signed has expired",
    "REVKEYSIG": "the key that signed was revoked",
    "BADSIG": "the signature does not match the content",
    "ERRSIG": "signature by a key that was not given, or of a kind that is not accepted",
}


def verify_ssh(
    signed: bytes, signature: bytes, key: bytes, *, what: str, directory: Callable[[], Path]
) -> None:
    """Check an SSH signature (namespace git) by the key in a line of authorized_keys. Raises
    `SignatureInvalid`, `NotSupported` where there is no ssh-keygen."""
    match = _SSH_KEY.search(key.decode("utf-8", "replace"))
    if match is None:
        raise SignatureInvalid(f"{what}: failed to parse ssh public key")
    place = directory()
    try:
        (place / "allowed").write_text(f'signer namespaces="git" {match[1]}\n')
        (place / "signature").write_bytes(signature)
        argv = ["ssh-keygen", "-Y", "verify", "-f", str(place / "allowed"), "-I", "signer", "-n", "git"]
        argv += ["-s", str(place / "signature")]
        found = _run(argv, "ssh-keygen", "apt-get install openssh-client", stdin=signed)
    finally:
        remove_tree(str(place))
    if found.returncode:
        raise SignatureInvalid(
            f"{what}: failed to verify ssh signature",
            hint="the content was altered, or another key signed it",
        )


def _run(
    argv: list[str], program: str, install: str, *, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": os.environ.get("PATH") or os.defpath, "HOME": os.devnull, "LC_ALL": "C"}
    try:
        return subprocess.run(
            argv, input=stdin, env=env, capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        raise NotSupported(
            f"checking this signature needs the program {program}", hint=f"install it: {install}"
        ) from None
    except subprocess.TimeoutExpired:
        raise SignatureInvalid(f"{program} did not end within {_TIMEOUT_S} seconds") from None


def _dearmored(block: bytes) -> bytes:
    """The packets of an armored block without its first and last line (RFC 9580, 6.2)."""
    lines = block.replace(b"\r", b"").split(b"\n")
    start = next(
        (n for n, line in enumerate(lines) if not line.strip()), -1
    )  # headers end with an empty line
    body = [line.strip() for line in lines[start + 1 :] if not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(body), validate=True)
    except binascii.Error:
        raise SignatureInvalid("failed to decode armored public key") from None


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """What of a git object is signed, and the signature."""
    if raw.startswith(b"object "):  # a tag: the signature is the end of its message
        places = [at for mark in (_PGP, _SSH) if (at := raw.find(b"\n" + mark)) >= 0]
        if not places:
            return raw, b""
        return raw[: min(places) + 1], raw[min(places) + 1 :]
    head, gap, message = raw.partition(b"\n\n")
    kept: list[bytes] = []
    signature: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        name, _, rest = line.partition(b" ")
        if name in (b"gpgsig", b"gpgsig-sha256"):
            inside = True
            signature.append(rest)
        elif inside and line.startswith(b" "):
            signature.append(line[1:])
        else:
            inside = False
            kept.append(line)
    return b"\n".join(kept) + gap + message, b"\n".join(signature) + b"\n" if signature else b""
