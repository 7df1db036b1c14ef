"""What `imagetools inspect` prints. The layout of the text, the template's fields and the order of JSON keys
are those of docker buildx, so that scripts which read them go on working."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.imagetools.tree import Image, ImageTree
    from anyarch.spec.oci import Descriptor, Index

__all__ = ["render", "tabulate"]

_CONFIG_KEYS = (
    *("created", "author", "architecture", "os", "os.version", "os.features", "variant"),
    *("config", "rootfs", "history"),
)
_RUN_KEYS = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
    # Docker's own; buildx leaves the last three out, though they are a part of the image.
    *("ArgsEscaped", "Healthcheck", "OnBuild", "Shell"),
)
_REQUIRED = frozenset({"architecture", "os", "config", "rootfs"})


def render(tree: ImageTree, template: str = "") -> str:
    """The text, or what the template makes. Ends with a newline. Raises `UsageError`, and as `ImageTree`
    does."""
    if template.strip() == "json":
        template = "{{json .}}"
    if not template or re.fullmatch(r"\{\{\s*\.Manifest\s*\}\}", template.strip()):
        return _text(tree)
    from anyarch.imagetools.template import execute

    result = execute(template, _Fields(tree))
    return result if result.endswith("\n") else result + "\n"


def _text(tree: ImageTree) -> str:
    text = tabulate(
        [
            ("Name:", tree.name),
            ("MediaType:", tree.blob.media_type),
            ("Digest:", tree.blob.digest),
        ]
    )
    index = tree.index
    if index is not None:
        text += tabulate([("", ""), ("Manifests:", "")]) + _manifests(tree, index)
    return text


def _manifests(tree: ImageTree, index: Index) -> str:
    text = ""
    rows: list[tuple[str, str]] = []
    for number, entry in enumerate(index.manifests):
        if number:
            rows.append(("", ""))
        rows.append(("  Name:", tree.name_of(entry.digest)))
        rows.append(("  MediaType:", entry.media_type))
        platform = entry.platform
        if platform is None:
            continue
        parts = [platform.os or "unknown", platform.architecture, platform.variant]
        rows.append(("  Platform:", "/".join(part for part in parts if part)))
        if platform.os_version:
            rows.append(("  OSVersion:", platform.os_version))
        if platform.os_features:
            rows.append(("  OSFeatures:", ", ".join(platform.os_features)))
        if entry.urls:
            rows.append(("  URLs:", ", ".join(entry.urls)))
        if entry.annotations:
            rows.append(("  Annotations:", ""))
            text += tabulate(rows)
            rows = []
            text += tabulate([(f"    {key}:", value) for key, value in sorted(entry.annotations.items())])
    return text + tabulate(rows)


def tabulate(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns as Go's tabwriter aligns them: the first as wide as its widest cell and a space, also where
    that leaves blanks at the end of a line."""
    width = max((len(first) for first, _ in rows), default=0) + 1
    return "".join(f"{first:<{width}}{second}\n" for first, second in rows)


class _Fields:
    """The template's `.`: `.Name`, `.Manifest`, `.Image`, `.Provenance`, `.SBOM`, each fetched when it is
    used."""

    def __init__(self, tree: ImageTree) -> None:
        self._tree = tree

    def field(self, name: str) -> Any:
        """The value of one field; KeyError for a name that is none."""
        match name:
            case "Name":
                return self._tree.given
            case "Manifest":
                return _manifest_json(self._tree)
            case "Image":
                return self._per_platform(lambda image: _config_json(self._tree.config(image)))
            case "Provenance":
                return self._per_platform(self._provenance) or {}
            case "SBOM":
                return self._per_platform(self._sbom) or {}
        raise KeyError(name)

    def json(self) -> dict[str, Any]:
        """`{{json .}}`"""
        return {"name": self.field("Name"), "manifest": self.field("Manifest"), "image": self.field("Image")}

    def _provenance(self, image: Image) -> Any:
        found = self._tree.provenance(image)
        return None if found is None else {"SLSA": found}

    def _sbom(self, image: Image) -> Any:
        found = self._tree.sboms(image)
        if not found:
            return None
        return {"SPDX": found[0], **({"AdditionalSPDXs": found[1:]} if found[1:] else {})}

    def _per_platform(self, make: Any) -> Any:
        images = self._tree.images()
        made = {name: value for name, image in images.items() if (value := make(image)) is not None}
        if len(images) > 1:
            return made
        return next(iter(made.values()), None)


def _manifest_json(tree: ImageTree) -> dict[str, Any]:
    descriptor = tree.descriptor
    index = tree.index
    if index is None:
        return _descriptor_json(descriptor)
    result: dict[str, Any] = {"schemaVersion": index.schema_version}
    if index.media_type:
        result["mediaType"] = index.media_type
    result["digest"] = descriptor.digest
    result["size"] = descriptor.size
    result["manifests"] = [_descriptor_json(entry) for entry in index.manifests]
    if index.annotations:
        result["annotations"] = dict(sorted(index.annotations.items()))
    return result


def _descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(descriptor)
    if descriptor.annotations:
        found["annotations"] = dict(sorted(descriptor.annotations.items()))
    if descriptor.platform is not None:
        platform = descriptor.platform
        found["platform"] = {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"os.version": platform.os_version} if platform.os_version else {}),
            **({"os.features": list(platform.os_features)} if platform.os_features else {}),
            **({"variant": platform.variant} if platform.variant else {}),
        }
    return found


def _config_json(config: dict[str, Any]) -> dict[str, Any]:
    """The specification's part of a config, in the order of its fields; empty ones left out."""
    defaults: dict[str, Any] = {
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "", "diff_ids": None},
    }
    result = {}
    for key in _CONFIG_KEYS:
        value = config.get(key)
        if value in (None, "", [], {}):
            if key in _REQUIRED:
                result[key] = defaults[key]
            continue
        result[key] = value
    run = config.get("config")
    if isinstance(run, dict):
        result["config"] = {k: run[k] for k in _RUN_KEYS if run.get(k) not in (None, "", [], {}, False)}
    return result
