"""What the daemon says of itself: its version and its worker."""

from __future__ import annotations

import os
import platform as machine
from typing import TYPE_CHECKING

from anyarch.api.proto import llb_pb2, worker_pb2
from anyarch.session.identity import base36_id
from anyarch.store.policy import Disk
from anyarch.store.policy import Settings as GcSettings
from anyarch.version import DOCKERFILE_LINE, __version__
from anyarch.worker.cdi import Devices
from anyarch.worker.cdi import Settings as CdiSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anyarch.daemon.settings import Settings
    from anyarch.spec.platform import Platform

__all__ = [
    "VERSION",
    "device_messages",
    "gc_policies",
    "platform_message",
    "version_message",
    "worker_id",
    "worker_record",
]

BUILDKIT_LINE = "v0.32.0"
"""The release whose behaviour is met; clients switch features by it."""
VERSION = f"{BUILDKIT_LINE}+anyarch.{__version__}"


def version_message() -> worker_pb2.BuildkitVersion:
    return worker_pb2.BuildkitVersion(
        package="anyarch", version=VERSION, revision=__version__, dockerfileVersion=DOCKERFILE_LINE
    )


def worker_id(root: Path) -> str:
    """The worker's id, the same for as long as the store lives."""
    path = root / "workerid"
    try:
        found = path.read_text(encoding="ascii").strip()
        if found:
            return found
    except FileNotFoundError:
        pass
    root.mkdir(parents=True, exist_ok=True)
    new = base36_id()
    temporary = root / f"workerid.{os.getpid()}"
    temporary.write_text(new + "\n", encoding="ascii")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    finally:
        temporary.unlink()
    return new


def platform_message(platform: Platform) -> llb_pb2.Platform:
    return llb_pb2.Platform(
        OS=platform.os,
        Architecture=platform.architecture,
        Variant=platform.variant,
        OSVersion=platform.os_version,
        OSFeatures=list(platform.os_features),
    )


def device_messages(settings: Settings) -> list[worker_pb2.CDIDevice]:
    """The devices of the machine just now. Blocks."""
    devices = Devices(settings.cdi or CdiSettings.load())
    return [
        worker_pb2.CDIDevice(
            Name=device.name, AutoAllow=devices.is_auto_allowed(device.name), Annotations=device.annotations
        )
        for device in devices
    ]


def gc_policies(settings: Settings, root: Path) -> list[worker_pb2.GCPolicy]:
    """The rules that the store is collected by, those of the user's configuration included. Raises
    `UsageError` for a configuration that is wrong. Blocks."""
    if not settings.gc:
        return []
    disk = Disk.of(root)
    rules = GcSettings.load(disk) if settings.gc_rules is None else GcSettings.of(settings.gc_rules, disk)
    if not rules.enabled:
        return []
    return [
        worker_pb2.GCPolicy(
            all=policy.all,
            keepDuration=int(policy.keep_s * 1e9),
            filters=[",".join(map(str, group)) for group in policy.filters],
            reservedSpace=policy.reserved,
            maxUsedSpace=policy.max_used,
            minFreeSpace=policy.min_free,
        )
        for policy in rules.policies
    ]


def worker_record(
    settings: Settings, identity: str, platforms: Sequence[Platform], *, network: str = "host"
) -> worker_pb2.WorkerRecord:
    labels = {
        "org.mobyproject.buildkit.worker.executor": "oci",
        "org.mobyproject.buildkit.worker.hostname": machine.node(),
        "org.mobyproject.buildkit.worker.network": network,
        "org.mobyproject.buildkit.worker.oci.process-mode": "sandbox",
        "org.mobyproject.buildkit.worker.selinux.enabled": "false",
        "org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
        **settings.labels,
    }
    return worker_pb2.WorkerRecord(
        ID=identity,
        Labels=labels,
        platforms=[platform_message(platform) for platform in platforms],
        BuildkitVersion=version_message(),
    )
