"""What `history inspect` tells of a record, with buildx's keys."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from anyarch.errors import AnyarchError
from anyarch.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.history.record import BuildRecord

__all__ = ["CONFIG_TITLES", "describe", "local_time"]

CONFIG_TITLES = {
    "Network": "Network",
    "Hostname": "Hostname",
    "ExtraHosts": "Extra Hosts",
    "CgroupParent": "Cgroup Parent",
    "ImageResolveMode": "Image Resolve Mode",
    "MultiPlatform": "Multi-Platform",
    "NoCache": "No Cache",
    "NoCacheFilter": "No Cache Filter",
    "ShmSize": "Shm Size",
    "Ulimit": "Resource Limits",
    "Memory": "Memory",
    "MemorySwap": "Memory Swap",
    "CPUShares": "CPU Shares",
    "CPUPeriod": "CPU Period",
    "CPUQuota": "CPU Quota",
    "CPUSetCPUs": "CPUSet CPUs",
    "CPUSetMems": "CPUSet Mems",
    "CacheMountNS": "Cache Mount Namespace",
    "DockerfileCheckConfig": "Dockerfile Check Config",
    "SourceDateEpoch": "Source Date Epoch",
    "SandboxHostname": "Sandbox Hostname",
}
"""The keys of `Config`, in the order in which they are printed, and their titles."""
_TEXTS = {
    "Network": "force-network-mode",
    "Hostname": "hostname",
    "CgroupParent": "cgroup-parent",
    "ImageResolveMode": "image-resolve-mode",
    "ShmSize": "shm-size",
    "Ulimit": "ulimit",
    "Memory": "memory",
    "MemorySwap": "memswap",
    "CPUShares": "cpushares",
    "CPUPeriod": "cpuperiod",
    "CPUQuota": "cpuquota",
    "CPUSetCPUs": "cpusetcpus",
    "CPUSetMems": "cpusetmems",
    "CacheMountNS": "build-arg:BUILDKIT_CACHE_MOUNT_NS",
    "DockerfileCheckConfig": "build-arg:BUILDKIT_DOCKERFILE_CHECK",
    "SourceDateEpoch": "build-arg:SOURCE_DATE_EPOCH",
    "SandboxHostname": "build-arg:SANDBOX_HOSTNAME",
}
_STATUS = {"error": "failed"}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_LISTED = ("vcs:", "build-arg:", "label:", "context:", "attest:")


def describe(
    record: BuildRecord, *, name: str, local_path: str = "", dockerfile_path: str = "", cwd: str = "/"
) -> dict[str, Any]:
    """The object of `--format json` without what the daemon has to be asked for (`Error` in full,
    `Materials`, `Attachments`); what is empty is left out. The paths are those kept where the build was
    started."""
    attrs = dict(record.attrs)
    attrs.pop("frontend.caps", None)
    errors: list[str] = []
    context, dockerfile = _places(attrs, local_path, dockerfile_path, cwd)
    is_remote = "context" in attrs
    values: dict[str, Any] = {
        "Name": name,
        "Ref": record.ref,
        "Context": context,
        "Dockerfile": dockerfile,
        "VCSRepository": "" if is_remote else attrs.get("vcs:source", ""),
        "VCSRevision": "" if is_remote else attrs.get("vcs:revision", ""),
        "Target": attrs.pop("target", ""),
        "Platform": _platforms(attrs.pop("platform", ""), errors),
        "KeepGitDir": _truth(attrs.pop("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", ""), errors),
        "NamedContexts": _pairs(attrs, "context:"),
        "StartedAt": local_time(record.started),
        "CompletedAt": local_time(record.completed) if record.completed is not None else "",
        "Duration": record.duration,
        "Status": _STATUS.get(record.status, record.status),
    }
    values = {key: value for key, value in values.items() if value or key == "Ref"}
    if record.error is not None:
        values["Error"] = {"Code": record.error.code, "Message": record.error.message}
    values |= {
        "NumCompletedSteps": record.completed_steps,
        "NumTotalSteps": record.steps,
        "NumCachedSteps": record.cached_steps,
    }
    listed = {"BuildArgs": _pairs(attrs, "build-arg:"), "Labels": _pairs(attrs, "label:")}
    values |= {key: value for key, value in listed.items() if value}
    values["Config"] = _config(attrs, errors)
    if errors:
        values["Errors"] = errors
    return values


def local_time(nanoseconds: int) -> str:
    """RFC 3339 in the local time zone, to the nanosecond."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    moment = time.localtime(whole)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + fraction + zone


def _places(attrs: dict[str, str], local_path: str, dockerfile_path: str, cwd: str) -> tuple[str, str]:
    """Context and Dockerfile, as far as possible relative to what the user sees."""
    dockerfile = dockerfile_path
    if dockerfile not in ("", "-") and os.path.isabs(dockerfile) == os.path.isabs(local_path):
        dockerfile = _inside(dockerfile, local_path)
    context = local_path
    if os.path.isabs(context):
        context = _inside(context, cwd)
    if not context:
        context = attrs.pop("context", "")
    if not dockerfile and "filename" in attrs:
        dockerfile = os.path.normpath(
            os.path.join(attrs.get("vcs:localdir:dockerfile", ""), attrs["filename"])
        )
    attrs.pop("filename", None)
    return context, dockerfile


def _inside(path: str, directory: str) -> str:
    relative = os.path.relpath(path, directory or ".")
    return path if relative.startswith("../") else relative


def _platforms(text: str, errors: list[str]) -> list[str]:
    found = []
    for item in text.split(",") if text else []:
        try:
            found.append(str(Platform.parse(item)))
        except AnyarchError as error:
            errors.append(f"failed to parse {text}: ({error.message})")
            return []
    return found


def _truth(text: str, errors: list[str]) -> bool:
    if text and text not in _TRUE and text not in _FALSE:
        errors.append(f'failed to parse {text}: (strconv.ParseBool: parsing "{text}": invalid syntax)')
    return text in _TRUE


def _pairs(attrs: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    found = sorted(
        (key.removeprefix(prefix), value) for key, value in attrs.items() if key.startswith(prefix)
    )
    pairs = ({"Name": key, "Value": value} for key, value in found)
    return [{key: value for key, value in pair.items() if value} for pair in pairs]


def _config(attrs: dict[str, str], errors: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {key: attrs.pop(attr, "") for key, attr in _TEXTS.items()}
    arguments = _truth(attrs.pop("build-arg:BUILDKIT_MULTI_PLATFORM", ""), errors)
    found["MultiPlatform"] = _truth(attrs.pop("multi-platform", ""), errors) or arguments
    no_cache = attrs.pop("no-cache", None)
    found["NoCache"] = no_cache == ""
    found["NoCacheFilter"] = no_cache.split(",") if no_cache else []
    hosts = attrs.pop("add-hosts", "")
    found["ExtraHosts"] = hosts.split(",") if hosts else []
    config = {key: found[key] for key in CONFIG_TITLES if found[key]}
    rest = sorted(key for key in attrs if not key.startswith(_LISTED))
    if rest:
        config["RestRaw"] = [{"Name": key, **({"Value": attrs[key]} if attrs[key] else {})} for key in rest]
    return config
