"""The objects that a node of Kubernetes is: a Deployment (or, with storage of its own, a StatefulSet) of
daemon pods, and ConfigMaps with their files. Pure: options in, objects out.

Labels, annotations and names are those of buildx, so both tools find the same pods.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.builder.daemon_config import CONFIG_DIRECTORY, CONFIG_FILE
from anyarch.builder.driver import option_bool, option_int, refuse_unknown
from anyarch.errors import UsageError
from anyarch.spec.number import natural

if TYPE_CHECKING:
    from anyarch.builder.store import NodeRecord

__all__ = ["OPTIONS", "PLATFORM_ANNOTATION", "KubeOptions", "deployment_name", "manifests", "parse_options"]

IMAGE = "moby/buildkit:buildx-stable-1"
QEMU_IMAGE = "tonistiigi/binfmt:latest"
CONTAINER = "buildkitd"
PLATFORM_ANNOTATION = "buildx.docker.com/platform"
_STATE = "/var/lib/buildkit"
_ROOTLESS_STATE = "/home/user/.local/share/buildkit"
_PROBE = {
    "exec": {"command": ["buildctl", "debug", "workers"]},
    "failureThreshold": 3,
    "initialDelaySeconds": 5,
    "periodSeconds": 30,
    "successThreshold": 1,
    "timeoutSeconds": 60,
}
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?\Z")
_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_QUANTITIES = (
    *(f"{kind}.{name}" for kind in ("requests", "limits") for name in _RESOURCES),
    "persistent-volume-claim.requests.storage",
    "buildkit-root-volume-memory",
)
OPTIONS = (
    *_QUANTITIES,
    "annotations",
    "default-load",
    "env.",
    "image",
    "labels",
    "loadbalance",
    "namespace",
    "nodeselector",
    "qemu.image",
    "qemu.install",
    "replicas",
    "rootless",
    "schedulername",
    "serviceaccount",
    "timeout",
    "tolerations",
)


class KubeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a node, parsed. Quantities stay texts, as Kubernetes has them."""

    name: str
    image: str = IMAGE
    namespace: str = ""
    replicas: int = 1
    flags: tuple[str, ...] = ()
    files: dict[str, bytes] = {}
    platforms: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    quantities: dict[str, str] = {}
    is_rootless: bool = False
    node_selector: dict[str, str] = {}
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    service_account: str = ""
    scheduler: str = ""
    load_balance: str = "sticky"
    qemu_image: str = ""
    default_load: bool = False
    timeout_s: float = 120.0

    @property
    def has_storage(self) -> bool:
        return "persistent-volume-claim.requests.storage" in self.quantities


def deployment_name(node: str) -> str:
    return node.replace("_", "-")


def parse_options(node: NodeRecord) -> KubeOptions:
    """Raises `UsageError`."""
    options = node.driver_opts or {}
    refuse_unknown(options, OPTIONS, "kubernetes")
    quantities = {name: options[name] for name in _QUANTITIES if options.get(name)}
    for name, text in quantities.items():
        if not _QUANTITY.match(text):
            raise UsageError(
                f"invalid quantity {text!r} of driver option {name}", hint="for example 500m or 2Gi"
            )
    is_rootless = option_bool(options, "rootless")
    load_balance = options.get("loadbalance", "sticky")
    if load_balance not in ("sticky", "random"):
        raise UsageError(f'invalid loadbalance "{load_balance}"', hint="it is sticky or random")
    labels, annotations = _pairs(options, "labels"), _pairs(options, "annotations")
    if "app" in labels:
        raise UsageError('the label "app" is reserved and cannot be customized')
    if PLATFORM_ANNOTATION in annotations:
        raise UsageError(f'the annotation "{PLATFORM_ANNOTATION}" is reserved and cannot be customized')
    env = tuple(
        (name.removeprefix("env."), value) for name, value in options.items() if name.startswith("env.")
    )
    if any(not name for name, _ in env):
        raise UsageError('invalid env option "env.", expecting env.FOO=bar')
    qemu = options.get("qemu.image") or QEMU_IMAGE
    return KubeOptions(
        name=deployment_name(node.name),
        image=options.get("image") or (f"{IMAGE}-rootless" if is_rootless else IMAGE),
        namespace=options.get("namespace", ""),
        replicas=option_int(options, "replicas") if "replicas" in options else 1,
        flags=node.flags or (),
        files=node.files or {},
        platforms=tuple(str(platform) for platform in node.fixed),
        env=tuple(sorted(env)),
        quantities=quantities,
        is_rootless=is_rootless,
        node_selector=_pairs(options, "nodeselector"),
        annotations=annotations,
        labels=labels,
        tolerations=_tolerations(options.get("tolerations", "")),
        service_account=options.get("serviceaccount", ""),
        scheduler=options.get("schedulername", ""),
        load_balance=load_balance,
        qemu_image=qemu if option_bool(options, "qemu.install") else "",
        default_load=option_bool(options, "default-load"),
        timeout_s=_seconds(options.get("timeout", "120s")),
    )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or found is None:
        raise UsageError(f"cannot parse timeout {text!r}", hint="for example 120s or 5m")
    return sum(float(part) * scale for part, scale in zip(found.groups(), (3600, 60, 1), strict=True) if part)


def _pairs(options: dict[str, str], name: str) -> dict[str, str]:
    found = {}
    for item in options.get(name, "").strip('"').split(","):
        if not item and not options.get(name):
            continue
        key, equals, value = item.partition("=")
        if not equals or "=" in value:
            raise UsageError(f"cannot parse {name}: invalid key-value pair: {item}")
        found[key] = value
    return found


def _tolerations(text: str) -> tuple[dict[str, Any], ...]:
    names = ("key", "operator", "value", "effect", "tolerationSeconds")
    found = []
    for item in text.strip('"').split(";"):
        toleration: dict[str, Any] = {}
        for pair in item.split(","):
            key, equals, value = pair.partition("=")
            if not pair.strip():
                continue
            if not equals or key not in names:
                raise UsageError(f'invalid toleration "{text}"', hint=f"its parts are {', '.join(names)}")
            toleration[key] = value
        if "tolerationSeconds" in toleration:
            seconds = natural(toleration["tolerationSeconds"])
            if seconds is None:
                raise UsageError(f'invalid toleration "{text}": tolerationSeconds is a number')
            toleration["tolerationSeconds"] = seconds
        if toleration:
            found.append(toleration)
    return tuple(found)


def manifests(options: KubeOptions) -> list[dict[str, Any]]:
    """The objects, in the order in which they are made: ConfigMaps, then what runs the pods."""
    labels = {"app": options.name, **options.labels}
    annotations = {**options.annotations}
    if options.platforms:
        annotations[PLATFORM_ANNOTATION] = ",".join(options.platforms)
    maps = _config_maps(options, annotations)
    meta = {"name": options.name, "labels": labels, "annotations": annotations}
    body: dict[str, Any] = {
        "replicas": options.replicas,
        "selector": {"matchLabels": labels},
        "template": _pod(options, labels, annotations, maps),
    }
    kind = "Deployment"
    if options.has_storage:
        kind = "StatefulSet"
        storage = options.quantities["persistent-volume-claim.requests.storage"]
        claim = {
            "metadata": {"name": CONTAINER},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": storage}},
            },
        }
        body |= {
            "serviceName": CONTAINER,
            "podManagementPolicy": "Parallel",
            "volumeClaimTemplates": [claim],
        }
    runs = {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": body}
    return [*(item for _, item in maps), runs]


def _config_maps(
    options: KubeOptions, annotations: dict[str, str]
) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """One for each directory of the node's files: its volume's name, where it is mounted, and the object."""
    directories: dict[str, dict[str, str]] = {}
    for path, content in sorted(options.files.items()):
        directory = posixpath.dirname(path)
        text = content.decode("utf-8", "replace")
        directories.setdefault(directory, {})[posixpath.basename(path)] = text
    found = []
    number = 0
    for directory, data in sorted(directories.items()):
        number += bool(directory)
        name = f"config-{number}" if directory else "config"
        place = posixpath.join(CONFIG_DIRECTORY, directory).rstrip("/")
        item = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{options.name}-{name}", "annotations": annotations},
            "data": data,
        }
        found.append(((name, place), item))
    return found


def _pod(
    options: KubeOptions,
    labels: dict[str, str],
    annotations: dict[str, str],
    maps: list[tuple[tuple[str, str], dict[str, Any]]],
) -> dict[str, Any]:
    flags = list(options.flags)
    if CONFIG_FILE in options.files and options.is_rootless:
        flags = ["--config", f"{CONFIG_DIRECTORY}/{CONFIG_FILE}", *flags]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image,
        "args": flags,
        "securityContext": {"privileged": True},
        "readinessProbe": _PROBE,
        "livenessProbe": _PROBE,
        "volumeMounts": [{"name": name, "mountPath": place} for (name, place), _ in maps],
    }
    volumes: list[dict[str, Any]] = [
        {"name": name, "configMap": {"name": item["metadata"]["name"]}} for (name, _), item in maps
    ]
    notes = dict(annotations)
    memory = options.quantities.get("buildkit-root-volume-memory")
    state = _ROOTLESS_STATE if options.is_rootless else _STATE
    if options.is_rootless:
        container["args"] = [*flags, "--oci-worker-no-process-sandbox"]
        container["securityContext"] = {"seccompProfile": {"type": "Unconfined"}}
        notes[f"container.apparmor.security.beta.kubernetes.io/{CONTAINER}"] = "unconfined"
    if options.has_storage:
        container["volumeMounts"].append({"name": CONTAINER, "mountPath": state})
    elif memory or options.is_rootless:
        name = CONTAINER if options.is_rootless else "buildkit-memory"
        empty = {"medium": "Memory", "sizeLimit": memory} if memory else {}
        volumes.append({"name": name, "emptyDir": empty})
        container["volumeMounts"].append({"name": name, "mountPath": state})
    resources = {
        kind: {
            name: options.quantities[f"{kind}.{name}"]
            for name in _RESOURCES
            if f"{kind}.{name}" in options.quantities
        }
        for kind in ("requests", "limits")
    }
    container["resources"] = {kind: values for kind, values in resources.items() if values}
    if options.env:
        container["env"] = [{"name": name, "value": value} for name, value in options.env]
    spec: dict[str, Any] = {"containers": [container]}
    if volumes:
        spec["volumes"] = volumes
    if options.qemu_image:
        spec["initContainers"] = [
            {
                "name": "qemu",
                "image": options.qemu_image,
                "args": ["--install", "all"],
                "securityContext": {"privileged": True},
            }
        ]
    if options.node_selector:
        spec["nodeSelector"] = options.node_selector
    if options.tolerations:
        spec["tolerations"] = list(options.tolerations)
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.scheduler:
        spec["schedulerName"] = options.scheduler
    return {"metadata": {"labels": labels, "annotations": notes}, "spec": spec}
