"""Typed decoders for documents, made one at a time.

msgspec works out what a struct is made of when the first decoder for it is made, and keeps that with the
class before it is complete: a second thread that decodes the same struct at that moment crashes the
interpreter (seen with 0.22). So no code of ours calls `msgspec.json.decode(raw, type=SomeStruct)`; it asks
here.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

__all__ = ["convert", "json_decoder", "msgpack_decoder"]

_T = TypeVar("_T")

_lock = threading.Lock()
_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def json_decoder(kind: type[_T]) -> msgspec.json.Decoder[_T]:
    """The decoder of JSON into `kind`; safe to use from several threads."""
    decoder = _json.get(kind)
    if decoder is None:
        with _lock:
            decoder = _json.setdefault(kind, msgspec.json.Decoder(kind))
    return decoder


def msgpack_decoder(kind: type[_T]) -> msgspec.msgpack.Decoder[_T]:
    """The decoder of MessagePack into `kind`; safe to use from several threads."""
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _lock:
            decoder = _msgpack.setdefault(kind, msgspec.msgpack.Decoder(kind))
    return decoder


def convert(document: object, kind: type[_T]) -> _T:
    """What a TOML or YAML parser gave, as `kind`. Raises `msgspec.ValidationError`."""
    with _lock:
        return msgspec.convert(document, kind)
