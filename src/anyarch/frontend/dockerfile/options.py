"""The frontend attributes of a build, checked once and given names."""

from __future__ import annotations

import msgspec

from anyarch.errors import InvalidPlatform, NotSupported, UsageError
from anyarch.llb.ops import HostIP, LinuxResources, NetMode, ProxyEnv, Ulimit
from anyarch.spec.platform import Platform

from .gotext import parse_bool
from .mount import split_csv

__all__ = ["Options", "parse_options"]

_NETWORKS = {"": NetMode.UNSET, "sandbox": NetMode.UNSET, "none": NetMode.NONE, "host": NetMode.HOST}
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the attributes say.

    `platforms` are the targets in order, empty: the builder's own. `no_cache` is None (use the cache),
    empty (use it for no stage) or the names of the stages not to use it for, in lower case. `resolve_mode`
    is default, pull or local. `shm_size` in bytes, 0: the executor's own. `named_contexts` are the values
    of `context:NAME`.
    """

    filename: str = "Dockerfile"
    target: str = ""
    platforms: tuple[Platform, ...] = ()
    multi_platform: bool = False
    build_args: dict[str, str] = {}
    labels: dict[str, str] = {}
    no_cache: frozenset[str] | None = None
    resolve_mode: str = "default"
    network: NetMode = NetMode.UNSET
    extra_hosts: tuple[HostIP, ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    hostname: str = ""
    linux_resources: LinuxResources | None = None
    cache_namespace: str = ""
    check: str | None = None
    context: str = ""
    context_subdir: str = ""
    dockerfile_local: str = "dockerfile"
    force_local_dockerfile: bool = False
    local_session_ids: dict[str, str] = {}
    shared_keys: dict[str, str] = {}
    named_contexts: dict[str, str] = {}
    proxy_env: ProxyEnv | None = None
    forwarded: bool = False
    stage_platform: bool = False

    def ignores_cache(self, stage: str) -> bool:
        """True if the steps of that stage are to run anew."""
        return self.no_cache is not None and (not self.no_cache or stage.lower() in self.no_cache)


def _with_prefix(opts: dict[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in opts.items() if key.startswith(prefix)}


def parse_options(opts: dict[str, str], build_platform: Platform) -> Options:
    """Check the attributes. Raises `UsageError`, `InvalidPlatform`, `NotSupported`."""
    build_args = _with_prefix(opts, "build-arg:")
    _refuse_removed(opts, build_args)
    platforms = _platforms(opts.get("platform", ""), build_platform)
    no_cache = opts.get("no-cache")
    resolve_mode = opts.get("image-resolve-mode") or "default"
    if resolve_mode not in ("default", "pull", "local"):
        raise UsageError(f"invalid image-resolve-mode: {resolve_mode}", hint="one of default, pull, local")
    network = opts.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise UsageError(f"invalid netmode {network}", hint="one of none, host, sandbox")
    return Options(
        filename=opts.get("filename", "Dockerfile"),
        target=opts.get("target", ""),
        platforms=platforms,
        multi_platform=_multi_platform(opts, build_args, len(platforms)),
        build_args=build_args,
        labels=_with_prefix(opts, "label:"),
        no_cache=None if no_cache is None else frozenset(no_cache.lower().split(",")) - {""},
        resolve_mode=resolve_mode,
        network=_NETWORKS[network],
        extra_hosts=_hosts(opts.get("add-hosts", "")),
        shm_size=_number(opts, "shm-size", least=0),
        ulimits=_ulimits(opts.get("ulimit", "")),
        cgroup_parent=opts.get("cgroup-parent", ""),
        hostname=build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or opts.get("hostname", ""),
        linux_resources=_resources(opts),
        cache_namespace=build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        check=build_args.get("BUILDKIT_DOCKERFILE_CHECK"),
        # `contextkey` names the attribute that holds the URL, as stock clients mean it.
        context=opts.get(opts.get("contextkey", "context"), ""),
        context_subdir=opts.get("contextsubdir", ""),
        dockerfile_local=opts.get("dockerfilekey", "dockerfile"),
        force_local_dockerfile="dockerfilekey" in opts,
        local_session_ids=_with_prefix(opts, "local-sessionid:"),
        shared_keys=_with_prefix(opts, "sharedkey:localdir:"),
        named_contexts=_with_prefix(opts, "context:"),
        proxy_env=_proxy_env(build_args),
        forwarded="cmdline" in opts,
        stage_platform=parse_bool(opts.get("stage-platform", "")) is True,
    )


def _refuse_removed(opts: dict[str, str], build_args: dict[str, str]) -> None:
    if opts.get("override-copy-image"):
        raise NotSupported('support for "override-copy-image" was removed in BuildKit 0.11')
    if parse_bool(build_args.get("BUILDKIT_DISABLE_FILEOP", "")):
        raise NotSupported('support for "BUILDKIT_DISABLE_FILEOP" build-arg was removed in BuildKit 0.11')


def _platforms(text: str, build_platform: Platform) -> tuple[Platform, ...]:
    result = []
    for item in text.split(",") if text else ():
        try:
            result.append(Platform.parse(item, default=build_platform))
        except InvalidPlatform as error:
            raise InvalidPlatform(
                f"failed to parse target platform {item}: {error.message}", hint=error.hint
            ) from None
    return tuple(result)


def _multi_platform(opts: dict[str, str], build_args: dict[str, str], count: int) -> bool:
    text = build_args.get("BUILDKIT_MULTI_PLATFORM") or opts.get("multi-platform", "")
    if not text:
        return count > 1
    value = parse_bool(text)
    if value is None:
        raise UsageError(f"invalid boolean value for multi-platform: {text}")
    if not value and count > 1:
        raise UsageError(
            "conflicting config: returning multiple target platforms is not allowed",
            hint="leave out BUILDKIT_MULTI_PLATFORM=0, or ask for one platform",
        )
    return value


def _hosts(text: str) -> tuple[HostIP, ...]:
    if not text:
        return ()
    import ipaddress

    result = []
    for item in split_csv(text):
        host, equals, address = item.lower().partition("=")
        if not equals:
            raise UsageError(f"failed to parse additional hosts: invalid key-value pair {item}")
        try:
            result.append(HostIP(host, str(ipaddress.ip_address(address))))
        except ValueError:
            raise UsageError(f"failed to parse additional hosts: failed to parse IP {address}") from None
    return tuple(result)


def _number(opts: dict[str, str], key: str, *, least: int) -> int:
    text = opts.get(key, "")
    if not text:
        return 0
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"invalid {key} value: {text}", hint="a whole number is expected") from None
    if value < least and not (key == "memswap" and value == -1):
        raise UsageError(f"invalid {key} value: {text}: must be at least {least}")
    return value


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    result = []
    for item in split_csv(text) if text else ():
        name, equals, limits = item.partition("=")
        soft, colon, hard = limits.partition(":")
        try:
            if not equals or not name:
                raise ValueError
            first = int(soft)
            last = int(hard) if colon else first
        except ValueError:
            raise UsageError(f"failed to parse ulimit: {item}", hint="written name=soft[:hard]") from None
        if first > last >= 0 or (first == -1 and last != -1):
            raise UsageError(f"failed to parse ulimit: {item}: soft limit must not exceed hard limit")
        result.append(Ulimit(name, first, last))
    return tuple(result)


def _resources(opts: dict[str, str]) -> LinuxResources | None:
    resources = LinuxResources(
        memory=_number(opts, "memory", least=1),
        memory_swap=_number(opts, "memswap", least=1),
        cpu_shares=_number(opts, "cpushares", least=1),
        cpu_period=_number(opts, "cpuperiod", least=1),
        cpu_quota=_number(opts, "cpuquota", least=1),
        cpuset_cpus=opts.get("cpusetcpus", ""),
        cpuset_mems=opts.get("cpusetmems", ""),
    )
    return None if resources == LinuxResources() else resources


def _proxy_env(build_args: dict[str, str]) -> ProxyEnv | None:
    found = {}
    for name in sorted(build_args):
        if name.lower() in _PROXIES:
            found[name.lower()] = build_args[name]
    return ProxyEnv(**found) if found else None
