"""How a call ended: codes, messages and details as they stand in trailers."""

from __future__ import annotations

import base64
import binascii

from anyarch.errors import AnyarchError

__all__ = [
    "Code",
    "RpcError",
    "decode_binary",
    "decode_message",
    "encode_binary",
    "encode_message",
    "parse_timeout",
]


class Code:
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(AnyarchError):
    """A call that did not end well. `code` is one of `Code`; `details` is the serialized `google.rpc.Status`
    that came with it, or is to be sent with it (empty: none)."""

    def __init__(self, code: int, message: str, *, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return self.message


_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}


def encode_message(text: str) -> str:
    """`text` percent-encoded as in `grpc-message`."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)


def decode_message(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(text).decode("utf-8", "replace")


def encode_binary(value: bytes) -> str:
    """The value of a `-bin` header."""
    return base64.b64encode(value).rstrip(b"=").decode()


def decode_binary(text: str) -> bytes:
    """Raises `RpcError`. Of several values joined by commas the first counts."""
    text = text.split(",", 1)[0]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RpcError(Code.INTERNAL, "a binary header is not base64") from None


_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def parse_timeout(text: str) -> float:
    """Seconds of a `grpc-timeout`. Raises `RpcError`."""
    if not (1 < len(text) <= 9 and text[:-1].isascii() and text[:-1].isdigit() and text[-1] in _UNITS):
        raise RpcError(Code.INTERNAL, f"malformed grpc-timeout: {text[:20]}")
    return int(text[:-1]) * _UNITS[text[-1]]
