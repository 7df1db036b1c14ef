"""The image config while a stage is converted: what metadata instructions change, and the history.

A plain mutable object: a stage copies that of its base, changes it instruction by instruction, and the last
one becomes an `ImageConfig` value. Configs leave out what is empty, as Docker does; times are the
exporter's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.spec.oci import History, ImageConfig, RootFS, RunConfig
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from anyarch.spec.oci import Healthcheck

__all__ = ["DEFAULT_PATH", "Image", "default_path"]

HISTORY_COMMENT = "buildkit.dockerfile.v0"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELLS = {"windows": ("cmd", "/S", "/C")}


def default_path(os: str) -> str | None:
    """The PATH that every image gets; Windows has its own."""
    return None if os == "windows" else DEFAULT_PATH


class Image:
    """An image config being changed. Fields are those of `ImageConfig` and `RunConfig`."""

    __slots__ = (
        "architecture",
        "args_escaped",
        "author",
        "cmd",
        "entrypoint",
        "env",
        "exposed_ports",
        "healthcheck",
        "history",
        "inherited",
        "labels",
        "on_build",
        "os",
        "os_features",
        "os_version",
        "rootfs",
        "shell",
        "stop_signal",
        "user",
        "variant",
        "volumes",
        "working_dir",
    )

    def __init__(self, config: ImageConfig) -> None:
        run = config.config
        self.architecture = config.architecture
        self.os = config.os
        self.os_version = config.os_version
        self.os_features: tuple[str, ...] = config.os_features or ()
        self.variant = config.variant
        self.author = config.author
        self.rootfs = config.rootfs
        self.history: list[History] = list(config.history or ())
        self.inherited = len(self.history)  # entries of the base image
        self.user = run.user
        self.exposed_ports: set[str] = set(run.exposed_ports or ())
        self.env: list[str] = list(run.env or ())
        self.entrypoint: tuple[str, ...] = run.entrypoint or ()
        self.cmd: tuple[str, ...] = run.cmd or ()
        self.healthcheck = run.healthcheck
        self.args_escaped = run.args_escaped
        self.volumes: set[str] = set(run.volumes or ())
        self.working_dir = run.working_dir
        self.on_build: tuple[str, ...] = run.on_build or ()
        self.labels: dict[str, str] = dict(run.labels or {})
        self.stop_signal = run.stop_signal
        self.shell: tuple[str, ...] = run.shell or ()

    @classmethod
    def empty(cls, platform: Platform) -> Image:
        """That of `FROM scratch`."""
        path = default_path(platform.os)
        run = RunConfig(working_dir="/", env=None if path is None else (f"PATH={path}",))
        return cls(
            ImageConfig(
                architecture=platform.architecture,
                os=platform.os,
                os_version=platform.os_version,
                os_features=platform.os_features,
                variant=platform.variant,
                config=run,
            )
        )

    def copy(self) -> Image:
        """A copy that can be changed independently."""
        other = Image.__new__(Image)
        for name in Image.__slots__:
            value = getattr(self, name)
            if isinstance(value, list | dict | set):
                value = value.copy()
            setattr(other, name, value)
        return other

    def platform(self) -> Platform | None:
        """The platform the config names, if it names one."""
        if not self.os or not self.architecture:
            return None
        return Platform.make(self.os, self.architecture, self.variant, self.os_version, self.os_features)

    def set_env(self, name: str, value: str) -> None:
        """Assign in place when the variable is there, else append."""
        item = f"{name}={value}"
        for index, known in enumerate(self.env):
            if known.partition("=")[0] == name:
                self.env[index] = item
                return
        self.env.append(item)

    def default_shell(self) -> tuple[str, ...]:
        """What runs a shell form."""
        return self.shell or _SHELLS.get(self.os, ("/bin/sh", "-c"))

    def commit(self, created_by: str, *, layer: bool = False) -> None:
        """Add a history entry."""
        self.history.append(History(created_by=created_by, comment=HISTORY_COMMENT, empty_layer=not layer))

    def force_platform(self, target: Platform) -> None:
        """Say that the image is for `target`, whatever its last stage was for."""
        same = (target.os, target.architecture) == (self.os, self.architecture)
        self.os, self.architecture = target.os, target.architecture
        if target.variant or not same:
            self.variant = target.variant
        if target.os_version or not same:
            self.os_version = target.os_version
        if target.os_features:
            self.os_features = target.os_features

    def finish(self, *, created: str | None = None) -> ImageConfig:
        """The config as a value, its platform normalised. `created` is the time of new history entries, where
        it is known before they are made."""
        platform = Platform.make(self.os, self.architecture, self.variant, self.os_version, self.os_features)
        run = RunConfig(
            user=self.user,
            exposed_ports={port: {} for port in sorted(self.exposed_ports)} or None,
            env=tuple(self.env) or None,
            entrypoint=self.entrypoint or None,
            cmd=self.cmd or None,
            healthcheck=self.healthcheck,
            args_escaped=self.args_escaped,
            volumes={volume: {} for volume in sorted(self.volumes)} or None,
            working_dir=self.working_dir,
            on_build=self.on_build or None,
            labels=self.labels or None,
            stop_signal=self.stop_signal,
            shell=self.shell or None,
        )
        return ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            os_version=platform.os_version,
            os_features=platform.os_features or None,
            variant=platform.variant,
            author=self.author,
            config=run,
            rootfs=RootFS(self.rootfs.kind, self.rootfs.diff_ids or ()),
            history=tuple(
                msgspec.structs.replace(item, created=created) if created and n >= self.inherited else item
                for n, item in enumerate(self.history)
            ),
        )


def healthcheck_text(check: Healthcheck) -> str:
    """As the history has it: Go's `%+v` of the struct."""
    return (
        f"{{Test:[{' '.join(check.test)}] Interval:{duration_text(check.interval)} "
        f"Timeout:{duration_text(check.timeout)} StartPeriod:{duration_text(check.start_period)} "
        f"StartInterval:{duration_text(check.start_interval)} Retries:{check.retries}}}"
    )


def duration_text(nanoseconds: int) -> str:
    """As Go writes a duration: `1h0m0s`, `1.5s`, `10ms`."""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1000:
            return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}." + f"{fraction:0{digits}d}".rstrip("0")
