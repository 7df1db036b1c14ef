"""Source policies: rules that allow, deny or convert what a build takes from elsewhere (images, URLs, git
repositories), applied to every source of a graph before anything of it is resolved.

Within one policy the last rule that matches decides between allow and deny; a conversion is looked at by all
policies anew.
"""

from __future__ import annotations

import asyncio
import enum
import json
import posixpath
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from anyarch.errors import AnyarchError, BuildError, NotAnImage
from anyarch.llb.definition import Definition, SourceMap
from anyarch.llb.ops import SourceOp
from anyarch.llb.wire import marshal_op, op_digest
from anyarch.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyarch.llb.ops import OpMetadata
    from anyarch.spec.platform import Platform

__all__ = [
    "Action",
    "Condition",
    "Constraint",
    "Match",
    "Rule",
    "SourcePolicy",
    "apply_rules",
    "normalized",
    "policed",
    "policed_image",
]

_MOST_CONVERSIONS = 20
_REGEX_S = 2.0


class SourcePolicy(Protocol):
    async def evaluate(self, op: SourceOp, platform: Platform | None) -> SourceOp:
        """What is to be taken instead of `op`, itself where that is allowed. Raises `BuildError` where it is
        denied, and what asking raises."""
        ...


class Action(enum.IntEnum):
    ALLOW = 0
    DENY = 1
    CONVERT = 2


class Match(enum.IntEnum):
    WILDCARD = 0
    EXACT = 1
    REGEX = 2


class Condition(enum.IntEnum):
    EQUAL = 0
    NOTEQUAL = 1
    MATCHES = 2


class Constraint(msgspec.Struct, frozen=True):
    key: str
    value: str
    condition: int


class Rule(msgspec.Struct, frozen=True):
    """Numbers are those of the wire, which may be none that is known. `updates` are an identifier (empty: the
    selector's) and attributes, None where there are none."""

    action: int
    identifier: str
    match: int = Match.WILDCARD
    constraints: tuple[Constraint, ...] = ()
    updates: tuple[str, dict[str, str]] | None = None


def normalized(op: SourceOp) -> SourceOp:
    """`op` with the name in full that rules are written for, of images and repositories."""
    scheme, found, name = op.identifier.partition("://")
    try:
        match scheme if found else "":
            case "docker-image":
                return msgspec.structs.replace(op, identifier=f"{scheme}://{Reference.parse(name)}")
            case "git":
                return msgspec.structs.replace(op, identifier=_git(name, op.attrs.get("git.fullurl", "")))
    except AnyarchError:
        pass  # what is wrong with it is told when it is resolved
    return op


def _git(name: str, remote: str) -> str:
    """HOST/PATH#REF:DIRECTORY of what is fetched indeed, whatever the identifier calls it."""
    place, _, fragment = name.partition("#")
    place = remote or place
    ref, _, directory = fragment.partition(":")
    if "://" in place:
        parts = urlsplit(place)
        place = parts.netloc.rpartition("@")[2] + posixpath.normpath("/" + parts.path.lstrip("/"))
    directory = posixpath.normpath("/" + directory).strip("/")
    tail = f"#{ref}" + (f":{directory}" if directory else "") if ref or directory else ""
    return f"git://{place}{tail}"


def apply_rules(policies: Sequence[Sequence[Rule]], op: SourceOp) -> SourceOp:
    """Raises `BuildError` for a source that is denied and for rules that make no sense. Blocks."""
    for _ in range(_MOST_CONVERSIONS + 2):
        changed = next((made for rules in policies if (made := _apply(rules, op)) is not None), None)
        if changed is None:
            return op
        op = changed
    raise BuildError("too many mutations on a single source: too many operations")


def _apply(rules: Sequence[Rule], op: SourceOp) -> SourceOp | None:
    """The converted source, None where it stays."""
    denied = False
    for rule in rules:
        if not _fits(rule, op):
            continue
        match rule.action:
            case Action.ALLOW:
                denied = False
            case Action.DENY:
                denied = True
            case Action.CONVERT:
                made = _converted(rule, op)
                if made != op:
                    return made
            case _:
                raise BuildError(
                    f'source policy: rule {rule.action} {rule.identifier}: unknown type "{op.identifier}"'
                )
    if denied:
        raise BuildError(f'source "{op.identifier}" denied by policy: source denied by policy')
    return None


def _fits(rule: Rule, op: SourceOp) -> bool:
    for item in rule.constraints:
        value = op.attrs.get(item.key, "")
        match item.condition:
            case Condition.EQUAL:
                fits = value == item.value
            case Condition.NOTEQUAL:
                fits = value != item.value
            case Condition.MATCHES:
                fits = bool(_regex(item.value, value))
            case _:
                raise BuildError(f"error matching source policy: unknown attr condition: {item.condition}")
        if not fits:
            return False
    if rule.identifier == op.identifier:
        return True
    match rule.match:
        case Match.EXACT:
            return False
        case Match.WILDCARD:
            return _wildcard(rule.identifier, op.identifier) is not None
        case Match.REGEX:
            return bool(_regex(rule.identifier, op.identifier))
    raise BuildError(f"error matching source policy: unknown match type: {rule.match}")


def _converted(rule: Rule, op: SourceOp) -> SourceOp:
    if rule.updates is None:
        raise BuildError("error mutating source policy: missing destination for convert rule")
    wanted, attrs = rule.updates
    wanted = wanted or rule.identifier
    match rule.match:
        case Match.WILDCARD:
            stars = _wildcard(rule.identifier, op.identifier)
            groups = {str(n): text for n, text in enumerate([op.identifier, *(stars or ())])}
            identifier = _expand(wanted, groups) if stars is not None else op.identifier
        case Match.REGEX:
            identifier, at = "", 0
            for start, end, found in _regex(rule.identifier, op.identifier):
                identifier += op.identifier[at:start] + _expand(wanted, found)
                at = end
            identifier += op.identifier[at:]
        case _:
            identifier = wanted
    return SourceOp(identifier or op.identifier, {**op.attrs, **attrs})


def _wildcard(pattern: str, text: str) -> list[str] | None:
    """What each `*` of `pattern` stands for, the first as much as possible; None where it does not fit. Done
    without regular expressions, which some patterns make very slow."""
    if "**" in pattern:
        raise BuildError(f'error matching source policy: invalid wildcard: "**" in "{pattern}"')
    first, *parts = pattern.split("*")
    if not parts:
        return [] if text == pattern else None
    if not text.startswith(first) or not text.endswith(parts[-1]):
        return None
    low, high = len(first), len(text) - len(parts[-1])
    if high < low:
        return None
    stars: list[str] = []
    for part in reversed(parts[:-1]):
        at = text.rfind(part, low, high)
        if at < 0:
            return None
        stars.append(text[at + len(part) : high])
        high = at
    return [text[low:high], *reversed(stars)]


_SEARCH = """
import json, re, sys
pattern, text = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
except re.error as error:
    json.dump({"error": str(error)}, sys.stdout)
else:
    def groups(match):
        found = {str(n): match.group(n) or "" for n in range(compiled.groups + 1)}
        return {**found, **{name: match.group(name) or "" for name in compiled.groupindex}}
    found = [(m.start(), m.end(), groups(m)) for m in compiled.finditer(text)]
    json.dump({"found": found}, sys.stdout)
"""


def _regex(pattern: str, text: str) -> list[tuple[int, int, dict[str, str]]]:
    """All matches. In a process of its own: a client's pattern may take for ever, and nothing else could run
    meanwhile."""
    command = [sys.executable, "-I", "-S", "-c", _SEARCH]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, text]), capture_output=True, text=True, timeout=_REGEX_S
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f'invalid regex "{pattern}": it takes too long') from None
    answer: dict[str, Any] = json.loads(done.stdout or '{"error": "it cannot be tried"}')
    if "error" in answer:
        raise BuildError(f'invalid regex "{pattern}": {answer["error"]}')
    return [(start, end, groups) for start, end, groups in answer["found"]]


def _expand(template: str, groups: Mapping[str, str]) -> str:
    """`$1`, `${1}` and `${name}` replaced as Go's regexp does: a name is as long as it can be, one that is
    not there is empty, `$$` is a dollar."""
    made, rest = "", template
    while True:
        before, dollar, rest = rest.partition("$")
        made += before
        if not dollar:
            return made
        if rest.startswith("$"):
            made, rest = made + "$", rest[1:]
            continue
        name, after = _name(rest)
        if name is None:
            made += "$"
        else:
            made, rest = made + groups.get(name, ""), after


def _name(text: str) -> tuple[str | None, str]:
    braced = text.startswith("{")
    body = text[1:] if braced else text
    length = next((n for n, c in enumerate(body) if not (c.isalnum() or c == "_")), len(body))
    name, after = body[:length], body[length:]
    if not name or (braced and not after.startswith("}")):
        return None, text
    return name, after[1:] if braced else after


async def policed_image(
    policy: SourcePolicy, reference: str, platform: Platform | None, *, is_layout: bool = False
) -> str:
    """The image to be resolved instead of `reference`. Raises `BuildError`, `NotAnImage`."""
    scheme = "oci-layout" if is_layout else "docker-image"
    op = normalized(SourceOp(f"{scheme}://{reference}"))
    try:
        made = await policy.evaluate(op, platform)
    except BuildError as error:
        error.message = f"could not resolve image due to policy: {error.message}"
        raise
    found, _, name = made.identifier.partition("://")
    if found != scheme:
        raise NotAnImage(
            f"could not resolve image due to policy: {reference} is {made.identifier} now",
            identifier=made.identifier,
        )
    return name if made != op else reference


async def policed(definition: Definition, policy: SourcePolicy) -> Definition:
    """`definition` with what the policy makes of its sources. Raises what that raises."""
    renamed: dict[str, str] = {}
    ops: list[bytes] = []

    async def evaluated(digest: str, kind: SourceOp, platform: Platform | None) -> SourceOp:
        try:
            return await policy.evaluate(kind, platform)
        except BuildError as error:
            error.message = f"error evaluating the source policy: {error.message}"
            error.vertex = error.vertex or digest
            raise

    sources = {digest: op.kind for digest, op in definition.decoded.items() if isinstance(op.kind, SourceOp)}
    # All at once: a client's answer to one may wait for the question about another.
    answers = await asyncio.gather(
        *(evaluated(digest, kind, definition.decoded[digest].platform) for digest, kind in sources.items())
    )
    decided = dict(zip(sources, answers, strict=True))
    for digest, raw in zip(definition.digests, definition.ops, strict=True):
        op = definition.decoded[digest]
        changed = op
        if digest in decided and decided[digest] != op.kind:
            changed = msgspec.structs.replace(op, kind=decided[digest])
        if any(item.digest in renamed for item in changed.inputs):
            inputs = tuple(
                msgspec.structs.replace(item, digest=renamed.get(item.digest, item.digest))
                for item in changed.inputs
            )
            changed = msgspec.structs.replace(changed, inputs=inputs)
        if changed is op:
            ops.append(raw)
            continue
        ops.append(marshal_op(changed))
        renamed[digest] = op_digest(ops[-1])
    if not renamed:
        return definition
    if len({op_digest(raw) for raw in ops}) != len(ops):
        ops = list(dict.fromkeys(ops))  # two sources became one
    metadata: dict[str, OpMetadata] = {
        renamed.get(digest, digest): item for digest, item in definition.metadata.items()
    }
    locations = {renamed.get(digest, digest): item for digest, item in definition.source.locations.items()}
    return Definition(tuple(ops), metadata, SourceMap(definition.source.infos, locations))
