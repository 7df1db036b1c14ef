"""What was asked of a frontend, as provenance tells it: the request, and where its files come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.attest.capture import redacted
from anyarch.llb.definition import Definition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.attest.capture import Capture

__all__ = [
    "ConfigSource",
    "FrontendRequest",
    "RequestFacts",
    "commit_digest",
    "kept_args",
    "request_facts",
    "scrub",
]

_OF_THE_HOST = frozenset(("cgroup-parent", "image-resolve-mode", "platform", "cache-imports"))
_GIVEN = ("build-arg:", "label:")


class FrontendRequest(msgspec.Struct, frozen=True):
    """`frontend` is empty for a client that leads the build itself."""

    frontend: str = ""
    attrs: dict[str, str] = {}
    inputs: dict[str, Definition] = {}

    def __bool__(self) -> bool:
        return bool(self.frontend or self.attrs or self.inputs)


class ConfigSource(msgspec.Struct):
    uri: str = ""
    digest: dict[str, str] = {}
    path: str = ""

    def document(self, path_key: str) -> dict[str, Any]:
        found = {"uri": self.uri, "digest": self.digest, path_key: self.path}
        return {key: value for key, value in found.items() if value}


class RequestFacts(msgspec.Struct):
    """`inputs` and `root` are the requests that led to this one."""

    source: ConfigSource
    frontend: str = ""
    args: dict[str, str] = {}
    inputs: dict[str, RequestFacts] = {}
    root: RequestFacts | None = None

    def document(self) -> dict[str, Any]:
        """As it is told inside another one."""
        return {"configSource": self.source.document("path"), "request": self.parameters()}

    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.frontend:
            found["frontend"] = self.frontend
        if self.args:
            found["args"] = dict(sorted(self.args.items()))
        if self.inputs:
            found["inputs"] = {name: item.document() for name, item in sorted(self.inputs.items())}
        if self.root is not None:
            found["root"] = self.root.document()
        return found


def kept_args(attrs: Mapping[str, str]) -> dict[str, str]:
    """What of a request's attributes is told: not what is the host's alone, no attestations, no
    passwords."""
    context = attrs.get("contextkey") or "context"
    return {
        name: redacted(value) if name == context or name.startswith("context:") else value
        for name, value in attrs.items()
        if name not in _OF_THE_HOST and not name.startswith("attest:")
    }


def request_facts(frontend: str, args: Mapping[str, str], sources: Capture | None) -> RequestFacts:
    """`args` are kept ones."""
    left = dict(args)
    key = left.get("contextkey") or ("input:context" if left.get("input:context") else "context")
    source = ConfigSource()
    if left.get(key):
        text = left.pop(key)
        source.uri, source.digest = _material(sources, text)
        source.uri = redacted(source.uri)
    if left.get("filename"):
        source.path = left.pop("filename")
    return RequestFacts(source, frontend, left)


def commit_digest(commit: str) -> dict[str, str]:
    return {"sha256" if len(commit) == 64 else "sha1": commit}


def _material(sources: Capture | None, text: str) -> tuple[str, dict[str, str]]:
    """The address of what a context is, and its digest when that is known."""
    from anyarch.errors import UsageError
    from anyarch.source.giturl import parse_git_ref

    shown, bare = text, text
    try:
        found = parse_git_ref(text)
    except UsageError:
        found = None
    if found is not None:
        bare = found.remote + (f"#{found.ref}" if found.ref else "")
        shown = bare
        if found.subdir:
            shown = f"{found.remote}#{found.ref}:{found.subdir}"
    if sources is not None:
        for repository in sources.repositories:
            if repository.url == bare and repository.commit:
                return shown, commit_digest(repository.commit)
        for download in sources.downloads:
            if download.url == bare and download.digest:
                algorithm, _, value = download.digest.partition(":")
                return download.url, {algorithm: value}
    return text, {}


def scrub(facts: RequestFacts) -> bool:
    """Leave out what the user gave: arguments and labels. Whether there was any."""
    args = {name: value for name, value in facts.args.items() if not name.startswith(_GIVEN)}
    is_less = len(args) != len(facts.args)
    facts.args = args
    for item in (*facts.inputs.values(), *([facts.root] if facts.root is not None else [])):
        is_less = scrub(item) or is_less
    return is_less
