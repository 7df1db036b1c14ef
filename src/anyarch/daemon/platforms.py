"""Platforms: those whose steps this daemon can run, the native one first, and what a message names."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from anyarch.spec.platform import Platform, host_platform, parse_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.api.proto import llb_pb2

__all__ = ["Platforms", "platform_of"]

_MAX_AGE_S = 20.0


class Platforms:
    """Found when first asked for, and again some time later: emulators may be installed meanwhile."""

    def __init__(self, fixed: Sequence[str] = ()) -> None:
        self._fixed = parse_list(list(fixed)) if fixed else []
        self._found: list[Platform] = []
        self._time = 0.0
        self._lock = threading.Lock()

    def list(self) -> list[Platform]:
        """Blocks while emulators are looked for; call it in a thread. What was found once stays."""
        if self._fixed:
            return self._fixed
        with self._lock:
            if not self._found or time.monotonic() - self._time > _MAX_AGE_S:
                self._found = list(dict.fromkeys([host_platform(), *self._found, *_find()]))
                self._time = time.monotonic()
            return self._found


def platform_of(message: llb_pb2.Platform) -> Platform:
    """What is not said is this machine's."""
    host = host_platform()
    variant = message.Variant if message.Architecture else host.variant
    made = Platform.make(message.OS or host.os, message.Architecture or host.architecture, variant)
    return msgspec.structs.replace(made, os_version=message.OSVersion, os_features=tuple(message.OSFeatures))


def _find() -> list[Platform]:
    from anyarch.engine.emulators import usable_platforms

    return usable_platforms(is_root=os.geteuid() == 0)
