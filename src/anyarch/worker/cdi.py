"""Devices of the machine that steps may be given (`RUN --device`), as CDI files describe them.

A CDI file (JSON or YAML; https://github.com/cncf-tags/container-device-interface) names devices of one kind,
`vendor/class`, and what a container needs to use each: device nodes, mounts, variables, groups. Files of
later directories win over earlier ones; a device that two files of one directory claim is none.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import BuildError, UsageError
from anyarch.spec.codec import convert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anyarch.llb.ops import CDIDevice

__all__ = [
    "AUTO_ALLOW",
    "Device",
    "Devices",
    "Edits",
    "Hook",
    "MountEdit",
    "NodeEdit",
    "Settings",
    "read_file",
]

AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"
_CLASS = "org.mobyproject.buildkit.device.class"
_DIRECTORIES = ("/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi")
_VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_KIND = re.compile(r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z](?:[\w.-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?", re.ASCII)
_MAX_FILE = 16 << 20
_Scalar = str | bool | int | float


class NodeEdit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A device node. What is not given is that of the node at `host_path`, or at `path`, on the machine."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class MountEdit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a step gets with a device."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[NodeEdit, ...] = ()
    net_devices: tuple[dict[str, str], ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[MountEdit, ...] = ()
    intel_rdt: dict[str, object] | None = None
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGids")

    def and_(self, other: Edits) -> Edits:
        """Both, `other` last."""
        return Edits(
            self.env + other.env,
            self.device_nodes + other.device_nodes,
            self.net_devices + other.net_devices,
            self.hooks + other.hooks,
            self.mounts + other.mounts,
            other.intel_rdt or self.intel_rdt,
            self.additional_gids + other.additional_gids,
        )


class _DeviceEntry(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    name: _Scalar
    annotations: dict[str, _Scalar] = {}
    container_edits: Edits = Edits()


class _File(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    cdi_version: str
    kind: str
    devices: tuple[_DeviceEntry, ...]
    annotations: dict[str, _Scalar] = {}
    container_edits: Edits = Edits()


class Device(msgspec.Struct, frozen=True):
    """`name` is `vendor/class=device`; `common` are the edits of its file, made once for all its devices."""

    name: str
    annotations: dict[str, str]
    edits: Edits
    common: Edits
    path: str

    @property
    def kind(self) -> str:
        return self.name.partition("=")[0]


class Settings(msgspec.Struct, frozen=True):
    """The `[cdi]` table of the configuration file, with buildkitd's keys."""

    directories: tuple[str, ...] = _DIRECTORIES
    auto_allowed: frozenset[str] = frozenset()
    disabled: bool = False

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Raises `UsageError`."""
        env = os.environ if env is None else env
        home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "/", ".config")
        path = env.get("ANYARCH_CONFIG") or os.path.join(home, "anyarch", "config.toml")
        try:
            with open(path, "rb") as file:
                raw = file.read()
        except OSError:
            return cls()  # a file that must exist is complained about where registries are read
        import tomllib

        try:
            table = tomllib.loads(raw.decode()).get("cdi", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
        try:
            found = convert(table, _Table)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"{path}: [cdi]: {error}",
                hint="known are specDirs, autoAllowed (lists of strings) and disabled",
            ) from None
        return cls(found.spec_dirs or _DIRECTORIES, frozenset(found.auto_allowed), found.disabled)


class _Table(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    spec_dirs: tuple[str, ...] = ()
    auto_allowed: tuple[str, ...] = ()
    disabled: bool = False


def read_file(path: str) -> list[Device]:
    """The devices of a CDI file. Raises `BuildError` for one that is malformed, `OSError`."""
    with open(path, "rb") as file:
        raw = file.read(_MAX_FILE)
    try:
        document = msgspec.json.decode(raw) if path.endswith(".json") else _yaml(raw, path)
        found = convert(document, _File)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BuildError(f"{path}: {error}") from None
    version = found.cdi_version.removeprefix("v")
    if version not in _VERSIONS:
        raise BuildError(
            f"{path}: invalid version {found.cdi_version!r}", hint=f"{_VERSIONS[-1]} is the latest"
        )
    if not _KIND.fullmatch(found.kind):
        raise BuildError(f"{path}: invalid kind {found.kind!r}", hint="a kind is written vendor/class")
    if not found.devices:
        raise BuildError(f"{path}: it names no devices")
    devices = []
    for entry in found.devices:
        name = _text(entry.name)
        if not _NAME.fullmatch(name):
            raise BuildError(f"{path}: invalid device name {name!r}")
        edits = entry.container_edits
        if edits == Edits():
            raise BuildError(f"{path}: device {name}: it has no containerEdits")
        annotations = {key: _text(value) for key, value in (found.annotations | entry.annotations).items()}
        devices.append(Device(f"{found.kind}={name}", annotations, edits, found.container_edits, path))
    if len({device.name for device in devices}) < len(devices):
        raise BuildError(f"{path}: it names a device twice")
    return devices


def _text(value: _Scalar) -> str:
    """As Go's YAML has it, which makes strings of numbers and truth values."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _yaml(raw: bytes, path: str) -> object:
    try:
        import yaml
    except ImportError:
        raise BuildError(
            f"{path}: YAML files need PyYAML, which is not installed", hint="pip install 'anyarch[yaml]'"
        ) from None
    try:
        document: object = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise BuildError(f"{path}: {error}") from None
    return document


class Devices:
    """What the files of some directories describe. Reads them when it is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._devices: dict[str, Device] = {}
        self.errors: list[BuildError] = []
        """Of files that could not be used."""
        for directory in () if settings.disabled else settings.directories:
            self._scan(directory)

    def _scan(self, directory: str) -> None:
        found: dict[str, Device] = {}
        claimed_twice = set()
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            return  # most machines have none
        for name in names:
            path = os.path.join(directory, name)
            if not name.endswith((".json", ".yaml")) or os.path.isdir(path):
                continue
            try:
                devices = read_file(path)
            except BuildError as error:
                self.errors.append(error)
                continue
            except OSError as error:
                self.errors.append(BuildError(f"{path}: {error.strerror}"))
                continue
            for device in devices:
                other = found.setdefault(device.name, device)
                if other is not device:
                    claimed_twice.add(device.name)
                    both = f"{other.path} and {path}"
                    self.errors.append(BuildError(f"conflicting device {device.name!r}: {both} claim it"))
        self._devices.update(found)
        for name in claimed_twice:
            del self._devices[name]

    @property
    def names(self) -> list[str]:
        return sorted(self._devices)

    def __iter__(self) -> Iterator[Device]:
        """All devices, by name."""
        return iter([self._devices[name] for name in self.names])

    def find(self, wanted: Sequence[CDIDevice]) -> list[str]:
        """The names of what is asked for: `vendor/class` is the first of that kind, `vendor/class=*` all of
        it; else a class that devices are annotated with. Raises `BuildError` where what must be there is
        not."""
        found: dict[str, None] = {}
        for request in wanted:
            names = self._matching(request.name)
            if not names and not request.optional:
                raise self._missing(request.name)
            found.update(dict.fromkeys(names))
        return list(found)

    def _matching(self, wanted: str) -> list[str]:
        kind, _, name = wanted.partition("=")
        vendor, slash, class_ = kind.partition("/")
        names: list[str] = []
        if vendor and slash and class_:
            of_kind = [device for device in self.names if device.startswith(f"{kind}=")]
            if name == "*":
                names = of_kind
            else:
                names = of_kind[:1] if not name else [device for device in of_kind if device == wanted]
        return names or [n for n in self.names if self._devices[n].annotations.get(_CLASS) == wanted]

    def _missing(self, name: str) -> BuildError:
        known = ", ".join(self.names)
        hint = f"this machine has {known}" if known else "no CDI file describes a device of this machine"
        if self._settings.disabled:
            hint = "devices are switched off in the configuration file ([cdi] disabled)"
        elif self.errors:
            hint += f"; not used: {self.errors[0].message}"
        elif not known:
            hint += f"; they are looked for in {', '.join(self._settings.directories)}"
        return BuildError(f'required device "{name}" is not registered', hint=hint)

    def is_auto_allowed(self, name: str) -> bool:
        """True if the machine's administrator gives it to whoever asks."""
        device = self._devices[name]
        if {name, device.kind} & self._settings.auto_allowed:
            return True
        return device.annotations.get(AUTO_ALLOW, "") in ("1", "t", "T", "TRUE", "true", "True")

    def edits(self, names: Sequence[str]) -> Edits:
        """All that these devices need, in the order of the names. Raises `BuildError` for one that is not
        there."""
        whole = Edits()
        seen = set()
        for name in names:
            device = self._devices.get(name)
            if device is None:
                raise self._missing(name)
            if device.path not in seen:
                seen.add(device.path)
                whole = whole.and_(device.common)
            whole = whole.and_(device.edits)
        return whole
