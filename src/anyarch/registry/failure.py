"""What a registry's refusal means: from status and body to the error that the user reads. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import ManifestNotFound, NetworkError, RegistryError, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Failure", "Refused", "of_error", "of_status", "summary"]

_LIMIT = 300


class Failure(msgspec.Struct, frozen=True):
    """One endpoint's refusal. `kind` is missing, denied, limited, or other; `reason` begins with the host;
    `codes` are the registry's error codes."""

    kind: str
    reason: str
    hint: str | None = None
    codes: frozenset[str] = frozenset()


class Refused(Exception):
    """One endpoint's refusal, on its way to the choice of the next. Never leaves the package."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def server_message(raw: bytes) -> tuple[str, frozenset[str]]:
    """Text and codes of a registry's error document (distribution-spec, "Error Codes"), or a short plain
    answer."""
    document: Any
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        plain = raw.decode(errors="replace").strip()
        return "" if plain.startswith("<") or len(plain) > _LIMIT else " ".join(plain.split()), frozenset()
    parts = []
    codes = set()
    error: Any
    text: Any
    if isinstance(document, dict):
        errors = document.get("errors")
        for error in errors if isinstance(errors, list) else [document]:
            if isinstance(error, dict):
                code, text, detail = (error.get(key) for key in ("code", "message", "detail"))
                if isinstance(code, str) and code:
                    codes.add(code)
                if not isinstance(text, str) or not text:
                    text = code or error.get("details")
                if isinstance(text, str) and text:
                    parts.append(f"{text}: {detail}" if isinstance(detail, str) and detail else text)
    return "; ".join(parts)[:_LIMIT], frozenset(codes)


def of_status(
    label: str, status: int, reason: str, raw: bytes, *, retry_after: str | None, login: str
) -> Failure:
    """From an HTTP answer. `login` is the hint for whoever lacks credentials."""
    said, codes = server_message(raw)
    tail = f": {said}" if said else ""
    if status == 404:
        tail = "" if said.lower() == "not found" else tail
        return Failure("missing", f"{label}: not found{tail}", None, codes)
    if status in (401, 403):
        return Failure("denied", f"{label}: access denied{tail}", login, codes)
    if status == 429:
        again = ""
        if retry_after:
            again = (
                f" (try again in {retry_after} s)"
                if retry_after.isdigit()
                else f" (try again at {retry_after})"
            )
        hint = f"too many requests from this address or account: {login}, wait, or set up a mirror"
        return Failure("limited", f"{label}: rate limited{again}{tail}", hint, codes)
    if status == 400 and "HTTPS" in said:
        return Failure(
            "other", f"{label}: the server speaks HTTPS, not plain HTTP", tls_hint(label, "only_tls")
        )
    return Failure("other", f"{label}: {status} {reason}".rstrip() + tail, None, codes)


def of_error(label: str, error: NetworkError | RegistryError) -> Failure:
    """From a broken exchange, or from the token service's refusal."""
    if isinstance(error, Unauthorized):
        return Failure("denied", error.message, error.hint)
    if isinstance(error, ManifestNotFound):
        return Failure("missing", error.message, error.hint)
    hint = error.hint
    if isinstance(error, NetworkError) and hint is None:
        hint = tls_hint(label, error.kind)
    return Failure("other", error.message, hint)


def tls_hint(label: str, kind: str) -> str | None:
    host = label.partition("/")[0]
    table = f'[registry."{host}"]'
    return {
        "tls": f'give its CA in the configuration file: {table} ca = ["/path/ca.pem"], or insecure = true',
        "not_tls": f"say so in the configuration file: {table} http = true",
        "only_tls": f"say so in the configuration file: {table} http = false",
    }.get(kind)


def summary(what: str, action: str, failures: Sequence[Failure]) -> RegistryError:
    """The error of `what` (a reference) when all endpoints refused: the registry's own refusal, the last,
    decides.

    `action` completes "could not be …".
    """
    last = failures[-1]
    kinds = {failure.kind for failure in failures}
    reasons = "; ".join(failure.reason for failure in failures)
    if kinds == {"missing"} and action == "downloaded":
        return ManifestNotFound(
            f"{what}: not found",
            hint="the registry names this part of the image and does not have it: push the image again, "
            f"or take another; asked was {', '.join(_host(f) for f in failures)}",
        )
    if kinds == {"missing"}:
        return ManifestNotFound(
            f"{what}: not found",
            hint=f"check the name and the tag; asked was {', '.join(_host(f) for f in failures)}",
        )
    message = f"{what}: could not be {action}: {reasons}"
    if last.kind == "missing":
        return ManifestNotFound(message, hint=_other_hint(failures) or "check the name and the tag")
    if last.kind == "denied":
        hint = last.hint
        return Unauthorized(message, hint=f"it does not exist or is private: {hint}" if hint else None)
    return RegistryError(message, hint=last.hint or _other_hint(failures) or _NETWORK_HINT)


_NETWORK_HINT = (
    "check the network, the registry's name and your credentials; "
    "a mirror can be set with ANYARCH_REGISTRY_MIRRORS=docker.io=HOST or in the configuration file"
)


def _host(failure: Failure) -> str:
    return failure.reason.partition(": ")[0]


def _other_hint(failures: Sequence[Failure]) -> str | None:
    return next((f.hint for f in reversed(failures) if f.hint), None)
