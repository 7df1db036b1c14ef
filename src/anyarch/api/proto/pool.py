"""Message classes of the generated modules, in a descriptor pool of their own.

What protobuf's compiler writes calls a builder that loads protobuf's whole implementation in Python, even
where the one in C (upb) does all the work: 20 modules, and as many milliseconds. So with upb the classes are
made here. Any other implementation gets its builder.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["make"]


def _with_upb() -> Callable[[bytes, dict[str, Any]], Any] | None:
    """None where upb is not in use."""
    if os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "upb") != "upb":
        return None
    try:
        from google._upb import _message as upb  # type: ignore[import-not-found]
    except ImportError:
        return None
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

    pool = upb.DescriptorPool()

    def message(descriptor: Any, module: str, outer: str) -> Any:
        name = outer + descriptor.name
        fields = {
            inner: message(nested, module, f"{name}.")
            for inner, nested in descriptor.nested_types_by_name.items()
        }
        fields |= {"DESCRIPTOR": descriptor, "__module__": module, "__qualname__": name}
        return upb.MessageMeta(descriptor.name, (Message,), fields)

    def make(raw: bytes, module: dict[str, Any]) -> Any:
        file = pool.AddSerializedFile(raw)
        for name, enum in file.enum_types_by_name.items():
            module[name] = EnumTypeWrapper(enum)
            module |= {value.name: value.number for value in enum.values}
        for name, descriptor in file.message_types_by_name.items():
            module[name] = message(descriptor, module["__name__"], "")
        return file

    return make


def _with_builder() -> Callable[[bytes, dict[str, Any]], Any]:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.internal import builder

    pool = DescriptorPool()

    def make(raw: bytes, module: dict[str, Any]) -> Any:
        file = pool.AddSerializedFile(raw)
        builder.BuildMessageAndEnumDescriptors(file, module)
        builder.BuildTopDescriptorsAndMessages(file, module["__name__"], module)
        return file

    return make


make = _with_upb() or _with_builder()
"""Adds a serialized file to the pool, and its messages and enumerations to the names of a module. Answers the
descriptor of the file."""
