"""What the client lends to a build: secrets, agents, entitlements. Values are read when a step asks for
them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DeviceGrants", "Lent", "LentSecret", "LentSsh"]

_MAX_SECRET = 500 << 10
_ENTITLEMENTS = frozenset({"network.host", "security.insecure", "device"})
_KNOWN = "known are network.host, security.insecure, device and device=NAME"


class LentSecret(msgspec.Struct, frozen=True):
    """A secret: the content of file `source`, or of the environment variable `env`. With neither, the
    variable named
    like the secret if there is one, else the file."""

    source: str | None = None
    env: str | None = None


class LentSsh(msgspec.Struct, frozen=True):
    """An agent: a socket or private key files; nothing is `$SSH_AUTH_SOCK`."""

    paths: tuple[str, ...] = ()


class DeviceGrants(msgspec.Struct, frozen=True):
    """Which devices steps may use: all, or those of `devices`: name to nothing, or alias to the real name."""

    is_all: bool = False
    devices: dict[str, str] = {}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> DeviceGrants | None:
        """From `device`, `device=NAME` and `device=NAME,alias=OTHER` among the entitlements; None without
        any. Raises `UsageError`."""
        found: DeviceGrants | None = None
        for text in texts:
            name, has_value, value = text.partition("=")
            if name != "device":
                continue
            found = found or cls()
            if not has_value or not value:
                found = msgspec.structs.replace(found, is_all=True)
                continue
            device, *fields = value.split(",")
            alias = ""
            for field in fields:
                key, equals, alias_value = field.partition("=")
                if not equals:
                    raise UsageError(f'invalid device config "{field}"', hint=_DEVICE_HINT)
                if key != "alias":
                    raise UsageError(f'unknown device config key "{key}"', hint=_DEVICE_HINT)
                alias = alias_value
            pair = {alias: device} if alias else {device: ""}
            found = msgspec.structs.replace(found, devices={**found.devices, **pair})
        return found


_DEVICE_HINT = "written --allow device=vendor/class=name[,alias=NAME]"


class Lent:
    """All that is lent to one build."""

    def __init__(
        self,
        *,
        secrets: Mapping[str, LentSecret] | None = None,
        ssh: Mapping[str, LentSsh] | None = None,
        entitlements: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._secrets = dict(secrets or {})
        self._read_once: dict[str, bytes] = {}
        self._ssh = dict(ssh or {})
        self._env = os.environ if env is None else env
        texts = list(entitlements)
        self.devices = DeviceGrants.parse(texts)
        self.entitlements = frozenset("device" if text.startswith("device=") else text for text in texts)
        unknown = sorted(self.entitlements - _ENTITLEMENTS)
        if unknown:
            raise UsageError(f"unknown entitlement {unknown[0]}", hint=_KNOWN)

    def require(self, entitlement: str) -> None:
        """Raises `BuildError` unless the user allowed it."""
        if entitlement not in self.entitlements:
            raise BuildError(
                f"{entitlement} is not allowed",
                hint=f"if you trust this build, run it with --allow {entitlement}",
            )

    def check(self) -> None:
        """Raises `UsageError` for a secret file that cannot be read, before any work."""
        for name in self._secrets:
            self.secret(name)
        for name in self._ssh:
            self.ssh_paths(name)

    def secret(self, name: str) -> bytes | None:
        """The value, None when no such secret was lent (or its variable is not set)."""
        lent = self._secrets.get(name)
        if lent is None:
            return None
        if lent.env is not None or (lent.source is None and name in self._env):
            value = self._env.get(lent.env if lent.env is not None else name)
            return None if value is None else os.fsencode(value)
        if name in self._read_once:
            return self._read_once[name]
        path = lent.source if lent.source is not None else name
        try:
            with open(path, "rb") as file:
                found = file.read(_MAX_SECRET + 1)
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe tells it once only
                    self._read_once[name] = found
            if len(found) > _MAX_SECRET:
                raise UsageError(f"secret {name} is too big: {path}", hint="at most 500 KiB are allowed")
            return found
        except OSError as error:
            raise UsageError(
                f"could not read secret {name}: {path}: {error.strerror}", hint="check --secret id=…,src=FILE"
            ) from None

    def ssh_refusal(self, name: str) -> str:
        """Why there is nothing for a name."""
        return f"unset ssh forward key {name}"

    def ssh_paths(self, name: str) -> tuple[str, ...] | None:
        """A socket, or key files; None when no such agent was lent. Raises `UsageError`."""
        lent = self._ssh.get(name)
        if lent is None:
            return None
        paths = lent.paths
        if not paths:
            socket = self._env.get("SSH_AUTH_SOCK")
            if not socket:
                raise UsageError(
                    f"--ssh {name}: no agent: SSH_AUTH_SOCK is not set",
                    hint="start ssh-agent, or give a key file",
                )
            paths = (socket,)
        sockets = []
        for path in paths:
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    sockets.append(path)
            except OSError as error:
                raise UsageError(f"--ssh {name}: {path}: {error.strerror}") from None
        if sockets and len(paths) > 1:
            raise UsageError(f"--ssh {name}: a socket cannot be combined with others: {sockets[0]}")
        return tuple(paths)
