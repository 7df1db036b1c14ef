"""The environment variables of docker buildx, and what each of them does here: in one table, so that none is
ignored in silence.

`done` has its effect; `moot` cannot have one here, for the reason beside it; `warned` is ignored with a
warning; `refused` is an error when it is set, since a build would not be what its user relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

__all__ = ["VARIABLES", "check_environment"]

_NO_BAKE = "there is no bake command yet"
_NO_DEFAULT_POLICY = "images are not checked against a policy"

VARIABLES: dict[str, tuple[str, str]] = {
    "BUILDX_BUILDER": ("done", "the builder when --builder is not given"),
    "BUILDX_CONFIG": ("done", "where builders are kept"),
    "BUILDKIT_HOST": ("done", "the endpoint of `create` with the driver remote"),
    "DOCKER_CONFIG": ("done", "docker's configuration: contexts, credentials, proxies"),
    "DOCKER_CONTEXT": ("done", "the docker context in use"),
    "DOCKER_HOST": ("done", "the docker engine of the context default"),
    "DOCKER_DEFAULT_PLATFORM": ("done", "the platform when --platform is not given"),
    "KUBECONFIG": ("done", "the cluster of the driver kubernetes"),
    "DOCKER_BUILDKIT": ("moot", "read by docker itself before it calls its plugin"),
    "BUILDX_NO_DEFAULT_LOAD": ("done", "no load into docker, and no warning, without an output"),
    "BUILDX_NO_DEFAULT_ATTESTATIONS": ("done", "true: images that are pushed get no provenance unasked"),
    "BUILDX_NO_DEFAULT_OCI_ARTIFACT": ("done", "true: attestations as image manifests, not as artifacts"),
    "BUILDX_DEFAULT_POLICY": ("moot", _NO_DEFAULT_POLICY),
    "BUILDX_EXPERIMENTAL": ("moot", "no command or flag is hidden behind it"),
    "SOURCE_DATE_EPOCH": ("done", "given to the build as a build argument"),
    "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": ("refused", "source policies come in a later release"),
    "BUILDX_GIT_LABELS": ("done", "labels with revision, source and Dockerfile of the git repository"),
    "BUILDX_GIT_CHECK_DIRTY": ("done", "the label of a changed work tree ends with -dirty"),
    "BUILDX_GIT_INFO": ("done", "the build's record on a node tells the git repository, unless it is false"),
    "BUILDX_SEND_GIT_QUERY_AS_INPUT": ("moot", "queries of git URLs are always understood"),
    "BUILDX_METADATA_PROVENANCE": ("done", "provenance in the metadata file: min, max or disabled"),
    "BUILDX_METADATA_WARNINGS": ("done", "warnings go into the metadata file"),
    "BUILDKIT_PROGRESS": ("done", "default of --progress"),
    "BUILDKIT_COLORS": ("done", "colours on a terminal"),
    "NO_COLOR": ("done", "no colours"),
    "BUILDKIT_TTY_LOG_LINES": ("done", "log lines below a running step"),
    "TTY_DISPLAY_RATE": ("done", "milliseconds between two pictures on a terminal"),
    "ACTIONS_CACHE_URL": ("done", "the cache of GitHub Actions"),
    "ACTIONS_RESULTS_URL": ("done", "the cache of GitHub Actions"),
    "ACTIONS_RUNTIME_TOKEN": ("done", "the cache of GitHub Actions"),
    "ACTIONS_CACHE_SERVICE_V2": ("done", "the cache of GitHub Actions"),
    "BUILDX_BAKE_FILE": ("moot", _NO_BAKE),
    "BUILDX_BAKE_PATH_SEPARATOR": ("moot", _NO_BAKE),
    "BUILDX_BAKE_FILE_RELATIVE_PATHS": ("moot", _NO_BAKE),
    "BUILDX_BAKE_GIT_SSH": ("moot", _NO_BAKE),
    "BUILDX_BAKE_GIT_AUTH_TOKEN": ("moot", _NO_BAKE),
    "BUILDX_BAKE_GIT_AUTH_HEADER": ("moot", _NO_BAKE),
    "BUILDX_BAKE_ENTITLEMENTS_FS": ("moot", _NO_BAKE),
    "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP": ("moot", _NO_BAKE),
    "BAKE_ALLOW_REMOTE_FS_ACCESS": ("moot", _NO_BAKE),
    "BUILDX_CPU_PROFILE": ("warned", "no profile is written"),
    "BUILDX_MEM_PROFILE": ("warned", "no profile is written"),
}


def check_environment(env: Mapping[str, str], stream: TextIO) -> None:
    """Warn of what is ignored; raise `NotSupported` for what must not be."""
    for name in ("BUILDX_CPU_PROFILE", "BUILDX_MEM_PROFILE", "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"):
        if not env.get(name):
            continue
        state, why = VARIABLES[name]
        if state == "refused":
            raise NotSupported(f"{name} is set, but {why}", hint=f"unset {name}")
        print(f"WARNING: {name} is ignored: {why}", file=stream)
