"""Where states begin: images, local directories, downloads, git checkouts, definitions made elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import UsageError
from anyarch.llb.ops import OpMetadata, SourceOp
from anyarch.llb.state import Constraints, State, normal_or_none
from anyarch.llb.vertex import Output, Vertex
from anyarch.spec.platform import host_platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.llb.definition import Definition
    from anyarch.spec.platform import Platform

__all__ = ["from_definition", "git", "http", "image", "local", "oci_layout"]

_PLAIN = Constraints()


def _source(
    identifier: str, attrs: dict[str, str], constraints: Constraints, *, platform: Platform | None = None
) -> State:
    vertex = Vertex(
        SourceOp(identifier, attrs),
        platform=platform,
        metadata=constraints.metadata(),
        places=constraints.places,
    )
    return State(Output(vertex), normal_or_none(platform))


def image(
    reference: str,
    *,
    platform: Platform | None = None,
    resolve_mode: str = "",
    record_type: str = "",
    layer_limit: int | None = None,
    checksum: str = "",
    constraints: Constraints = _PLAIN,
) -> State:
    """A registry image; `reference` is normalised. `resolve_mode` is default, pull or local. Raises
    `BadReference`.

    `platform` is the machine's own when not given, here or in `constraints`.
    """
    from anyarch.spec.reference import Reference

    attrs = {}
    if resolve_mode:
        attrs["image.resolvemode"] = resolve_mode
    if record_type:
        attrs["image.recordtype"] = record_type
    if layer_limit is not None:
        attrs["image.layerlimit"] = str(layer_limit)
    if checksum:
        attrs["image.checksum"] = checksum
    platform = platform or constraints.platform
    state = _source(
        f"docker-image://{Reference.parse(reference)}",
        attrs,
        constraints,
        platform=platform or host_platform(),
    )
    return state if platform is not None else State(state.output)


def oci_layout(
    reference: str,
    *,
    platform: Platform | None = None,
    session_id: str = "",
    store_id: str = "",
    layer_limit: int | None = None,
    constraints: Constraints = _PLAIN,
) -> State:
    """An image of an OCI layout; `reference` is `name@digest`."""
    attrs = {}
    if session_id:
        attrs["oci.session"] = session_id
    if store_id:
        attrs["oci.store"] = store_id
    if layer_limit is not None:
        attrs["oci.layerlimit"] = str(layer_limit)
    platform = platform or constraints.platform or host_platform()
    return _source(f"oci-layout://{reference}", attrs, constraints, platform=platform)


def local(
    name: str,
    *,
    session_id: str = "",
    unique: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow_paths: Sequence[str] = (),
    shared_key_hint: str = "",
    differ: str = "",
    constraints: Constraints = _PLAIN,
) -> State:
    """A directory of the client, by the name it offers it under.

    Without `session_id` the op needs `unique`, which keeps two builds apart. `follow_paths` are transferred
    with what their links point to; `differ` is none or metadata.
    """
    attrs = {}
    if session_id:
        attrs["local.session"] = session_id
    else:
        attrs["local.unique"] = unique
    if include:
        attrs["local.includepattern"] = _json_list(include)
    if follow_paths:
        attrs["local.followpaths"] = _json_list(follow_paths)
    if exclude:
        attrs["local.excludepatterns"] = _json_list(exclude)
    if shared_key_hint:
        attrs["local.sharedkeyhint"] = shared_key_hint
    if differ:
        attrs["local.differ"] = differ
    return _source(f"local://{name}", attrs, constraints)


def _json_list(items: Sequence[str]) -> str:
    """As Go's encoding/json writes a list of strings, which escapes characters that matter in HTML."""
    try:
        text = msgspec.json.encode(list(items)).decode()
    except UnicodeEncodeError:  # names that are not UTF-8
        import json

        text = json.dumps(list(items), ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        if char in text:
            text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def http(
    url: str,
    *,
    checksum: str = "",
    filename: str = "",
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    auth_header_secret: str = "",
    headers: Mapping[str, str] | None = None,
    constraints: Constraints = _PLAIN,
) -> State:
    """A file downloaded from `url`, in a directory of its own. `checksum` is the digest it must have."""
    attrs = {}
    if checksum:
        attrs["http.checksum"] = checksum
    if filename:
        attrs["http.filename"] = filename
    if mode:
        attrs["http.perm"] = f"0{mode:o}"
    if uid:
        attrs["http.uid"] = str(uid)
    if gid:
        attrs["http.gid"] = str(gid)
    if auth_header_secret:
        attrs["http.authheadersecret"] = auth_header_secret
    for name, value in (headers or {}).items():
        attrs[f"http.header.{name}"] = value
    return _source(url, attrs, constraints)


def git(identifier: str, attrs: Mapping[str, str], *, constraints: Constraints = _PLAIN) -> State:
    """A git checkout; `identifier` without its `git://`, `attrs` those of the LLB source (`git.fullurl`,
    …)."""
    return _source(f"git://{identifier}", dict(attrs), constraints)


def from_definition(definition: Definition) -> State:
    """The result of a definition as a state to build upon. Raises `UsageError` when it is malformed."""
    head = definition.head()
    if head is None:
        return State()
    vertices: dict[str, Vertex] = {}
    for digest, raw in zip(definition.digests, definition.ops, strict=True):
        op = definition.op(digest)
        if op.kind is None:
            continue
        try:
            sources = [Output(vertices[item.digest], item.index) for item in op.inputs]
        except KeyError:
            raise UsageError(f"malformed LLB: an input of {digest} does not come before it") from None
        metadata = definition.metadata.get(digest, OpMetadata())
        vertex = Vertex.of(digest, raw, op, sources, metadata)
        vertex.places = tuple(definition.locations(digest))
        vertices[digest] = vertex
    if head.digest not in vertices:
        raise UsageError(f"malformed LLB: the result {head.digest} is not in the definition")
    vertex = vertices[head.digest]
    return State(Output(vertex, head.index), normal_or_none(vertex.platform))
