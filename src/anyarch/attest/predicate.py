"""The predicate of SLSA provenance: version 1, and version 0.2 made from it.

<https://slsa.dev/spec/v1.0/provenance>; what goes where is BuildKit's choice
(docs/attestations/slsa-definitions.md there).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.attest.request import commit_digest, scrub
from anyarch.attest.steps import Steps
from anyarch.spec.digest import Digest
from anyarch.spec.intoto import SLSA_PROVENANCE
from anyarch.spec.platform import Platform, host_platform
from anyarch.spec.purl import image_purl
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from anyarch.attest.capture import Capture, ImageSource
    from anyarch.attest.options import ProvenanceOptions
    from anyarch.attest.request import RequestFacts

__all__ = ["BUILD_TYPE", "TYPES", "RunFacts", "as_version_02", "for_metadata", "predicate"]

BUILD_TYPE = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_BUILD_TYPE_02 = "https://mobyproject.org/buildkit@v1"
TYPES = {"v1": f"{SLSA_PROVENANCE}v1", "v0.2": f"{SLSA_PROVENANCE}v0.2"}


class RunFacts(msgspec.Struct, frozen=True):
    """What is known of the run itself. Times are RFC 3339, empty where they are not to be told, as is the
    id. `custom` is the operator's; `layers` are the chains of blobs by a step's output."""

    id: str = ""
    started: str = ""
    finished: str = ""
    compatibility: int = 30
    dockerfile_version: str = ""
    custom: dict[str, Any] = {}
    steps: Steps | None = None
    layers: dict[str, list[list[dict[str, Any]]]] = {}


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value} if value else {}


def _plain(platform: Platform | None) -> Platform | None:
    return Platform.make(platform.os, platform.architecture, platform.variant) if platform else None


def _image(item: ImageSource) -> dict[str, Any]:
    kind = "oci" if item.is_local else "docker"
    more = (("ref_type", "blob"),) if item.is_blob else ()
    uri = image_purl(kind, item.reference, _plain(item.platform), more=more)
    return _material(uri, _digest(item.digest))


def _material(uri: str, digest: dict[str, str]) -> dict[str, Any]:
    return {"uri": uri, "digest": digest} if digest else {"uri": uri}


def _materials(capture: Capture) -> list[dict[str, Any]]:
    found = [_image(item) for item in (*capture.images, *capture.blobs)]
    for repository in capture.repositories:
        digest = commit_digest(repository.commit) if repository.commit else {}
        found.append(_material(repository.url, digest))
        scheme, _, body = repository.bundle.partition("://")
        if body:
            name, _, blob = body.rpartition("@")
            more = (("ref_type", "bundle"), ("vcs_url", repository.url))
            kind = "oci" if scheme == "oci-layout+blob" else "docker"
            uri = image_purl(kind, Reference.parse(name), more=more)
            found.append(_material(uri, _digest(str(Digest.parse(blob)))))
    found += [_material(item.url, _digest(item.digest)) for item in capture.downloads]
    return found


def predicate(
    capture: Capture, facts: RequestFacts, options: ProvenanceOptions, run: RunFacts
) -> dict[str, Any]:
    """Version 1. `facts` is changed to what may be told."""
    vcs: dict[str, str] = {}
    for name in [name for name in facts.args if name.startswith("vcs:")]:
        value = facts.args.pop(name)
        if name == "vcs:source":
            from anyarch.attest.capture import redacted

            value = redacted(value)
        if value:
            vcs[name.removeprefix("vcs:")] = value
    is_whole = bool(facts.frontend)
    if not options.is_max and scrub(facts):
        is_whole = False
    materials = not (capture.is_incomplete or capture.locals)
    request = facts.parameters()
    if options.is_max:
        for name, lent in (("secrets", capture.secrets), ("ssh", capture.ssh)):
            if lent:
                request[name] = [
                    {"id": key, "optional": True} if optional else {"id": key}
                    for key, optional in sorted(lent.items())
                ]
    if capture.locals:
        request["locals"] = [{"name": name} for name in sorted(capture.locals)]
    request["compatibilityVersion"] = run.compatibility
    definition: dict[str, Any] = {"buildType": BUILD_TYPE}
    definition["externalParameters"] = {
        "configSource": facts.source.document("path"),
        "request": request,
    }
    internal: dict[str, Any] = {}
    own: dict[str, Any] = {}
    if vcs:
        own["vcs"] = dict(sorted(vcs.items()))
    if options.is_max and run.steps is not None:
        internal["buildConfig"] = run.steps.config
        if run.steps.source is not None:
            own["source"] = run.steps.source
        if run.layers:
            own["layers"] = dict(sorted(run.layers.items()))
    if capture.has_proxy:
        own["network"] = {"mode": "proxy"}
        if capture.unknown:
            own["network"]["proxy"] = {"incomplete": [item.document() for item in capture.unknown]}
    internal["builderPlatform"] = str(host_platform())
    if facts.frontend == "dockerfile.v0" and run.dockerfile_version:
        internal["dockerfileVersion"] = run.dockerfile_version
    definition["internalParameters"] = {**internal, **run.custom}
    dependencies = _materials(capture)
    if dependencies:
        definition["resolvedDependencies"] = dependencies
    times = {"invocationId": run.id, "startedOn": run.started, "finishedOn": run.finished}
    metadata: dict[str, Any] = {key: value for key, value in times.items() if value}
    metadata["buildkit_metadata"] = own
    if materials and not capture.has_network:
        metadata["buildkit_hermetic"] = True
    metadata["buildkit_completeness"] = {"request": is_whole, "resolvedDependencies": materials}
    if options.reproducible:
        metadata["buildkit_reproducible"] = True
    details = {"builder": {"id": options.builder_id}, "metadata": metadata}
    return {"buildDefinition": definition, "runDetails": details}


_BUILT_IN = ("buildConfig", "builderPlatform", "dockerfileVersion")


def as_version_02(document: dict[str, Any]) -> dict[str, Any]:
    """The same in version 0.2."""
    definition, details = document["buildDefinition"], document["runDetails"]
    external, internal = definition["externalParameters"], definition["internalParameters"]
    told = details["metadata"]
    source = dict(external["configSource"])
    if "path" in source:
        source["entryPoint"] = source.pop("path")
    environment: dict[str, Any] = {"platform": internal["builderPlatform"]}
    if "dockerfileVersion" in internal:
        environment["dockerfileVersion"] = internal["dockerfileVersion"]
    environment |= {key: value for key, value in internal.items() if key not in _BUILT_IN}
    metadata: dict[str, Any] = {}
    for old, new in (
        ("buildInvocationID", "invocationId"),
        ("buildStartedOn", "startedOn"),
        ("buildFinishedOn", "finishedOn"),
    ):
        if new in told:
            metadata[old] = told[new]
    complete = told["buildkit_completeness"]
    metadata["completeness"] = {
        "parameters": complete["request"],
        "environment": True,
        "materials": complete["resolvedDependencies"],
    }
    metadata["reproducible"] = told.get("buildkit_reproducible", False)
    metadata["https://mobyproject.org/buildkit@v1#metadata"] = told["buildkit_metadata"]
    if told.get("buildkit_hermetic"):
        metadata["https://mobyproject.org/buildkit@v1#hermetic"] = True
    found: dict[str, Any] = {"builder": details["builder"], "buildType": _BUILD_TYPE_02}
    if "resolvedDependencies" in definition:
        found["materials"] = [
            {key: item[key] for key in ("uri", "digest") if key in item}
            for item in definition["resolvedDependencies"]
        ]
    found["invocation"] = {
        "configSource": source,
        "parameters": external["request"],
        "environment": environment,
    }
    if "buildConfig" in internal:
        found["buildConfig"] = internal["buildConfig"]
    found["metadata"] = metadata
    return found


def for_metadata(raw: bytes, kind: str, *, is_max: bool) -> dict[str, Any]:
    """A predicate as the metadata file of a build has it: version 0.2, and unless `is_max` without steps and
    metadata. Raises `ValueError` for what is none."""
    document = json.loads(raw)
    try:
        found: dict[str, Any] = as_version_02(document) if kind == TYPES["v1"] else document
    except (KeyError, TypeError) as error:
        raise ValueError(f"provenance without {error}") from None
    if not is_max:
        found.pop("buildConfig", None)
        found.pop("metadata", None)
    return found
