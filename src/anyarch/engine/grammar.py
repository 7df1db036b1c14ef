"""The texts that Docker's tools use for outputs, secrets, caches and the like, turned into request values.

Both the command line and the Python API take these forms, and bake files use them too. Every function
raises `UsageError` with the wording of buildx where users search for it. Nothing here touches a file; the
environment is handed in where a form refers to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anyarch.engine.request import Annotation, CacheOption, Method, Output, Secret, Ssh, Ulimit
from anyarch.errors import AnyarchError, InvalidPlatform, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "add_hosts",
    "attests",
    "build_contexts",
    "cache_options",
    "csv_fields",
    "directory",
    "image_annotations",
    "key_values",
    "method",
    "output",
    "pairs",
    "platforms",
    "resources",
    "secret",
    "size_bytes",
    "ssh",
    "truth",
    "ulimit",
    "with_shorthands",
]

_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_ULIMITS = frozenset(
    (
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile"),
        *("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)
_ANNOTATION_KINDS = ("manifest", "manifest-descriptor", "index", "index-descriptor")


def truth(text: str) -> bool | None:
    """Go's spellings of a truth value; None for anything else."""
    return _TRUTH.get(text)


def csv_fields(text: str) -> list[str]:
    """The fields of one CSV record (RFC 4180): `a,"b,c"` is `a` and `b,c`."""
    if '"' not in text:
        return text.split(",")
    fields, position = [], 0
    while True:
        if text.startswith('"', position):
            field, position = _quoted(text, position + 1)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field, position = text[position:end], end
            if '"' in field:
                raise UsageError(
                    f'bare " in field {field!r} of {text!r}',
                    hint='to have a comma in a value, quote the whole field: type=local,"dest=a,b"',
                )
        fields.append(field)
        if position == len(text):
            return fields
        position += 1


def _quoted(text: str, position: int) -> tuple[str, int]:
    """The quoted field whose opening quote is before `position`, and where it ends."""
    parts = []
    while True:
        end = text.find('"', position)
        if end < 0:
            raise UsageError(f'missing closing " in {text!r}')
        parts.append(text[position:end])
        if text.startswith('""', end):
            parts.append('"')
            position = end + 2
            continue
        end += 1
        if end < len(text) and text[end] != ",":
            raise UsageError(f'extra text after the closing " in {text!r}')
        return "".join(parts), end


def pairs(text: str) -> list[tuple[str, str]]:
    """`k=v,k=v` with lower-case keys."""
    pairs = []
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"invalid value {field!r} in {text!r}", hint="key=value is expected")
        pairs.append((key.strip().lower(), value))
    return pairs


def output(text: str) -> Output:
    """One `--output`: `DIR`, `-`, or `type=…,dest=…,k=v`."""
    fields = csv_fields(text)
    if len(fields) == 1 and fields[0] == text and not text.startswith("type="):
        return Output("tar", "-") if text == "-" else Output("local", text)
    kind, dest, attrs = "", None, {}
    for key, value in pairs(text):
        if key == "type":
            kind = value
        elif key == "dest":
            dest = value
        else:
            attrs[key] = value
    if not kind:
        raise UsageError(
            "type is required for output", hint=f"{text!r} has no type=, for example type=oci,dest=image.tar"
        )
    return Output(kind, dest, attrs)


def with_shorthands(outputs: Iterable[Output], *, push: bool, load: bool) -> tuple[Output, ...]:
    """`outputs` and what `--push` and `--load` add: push goes into the image outputs that there are, else
    it is one of its own; load is one more docker output without a file."""
    result = [
        Output("image", out.dest, {**out.attrs, "push": "true"}) if out.type == "registry" else out
        for out in outputs
    ]
    if push:
        if not any(out.type == "image" for out in result):
            result.append(Output("image", None, {"unpack": "false"}))
        result = [
            Output(out.type, out.dest, {**out.attrs, "push": "true"}) if out.type == "image" else out
            for out in result
        ]
    if load and not any(out.type == "docker" and out.dest is None for out in result):
        result.append(Output("docker"))
    return tuple(result)


def platforms(texts: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Normalised platforms in order, each once, and those that were there twice. `local` is this
    machine's. Raises `InvalidPlatform`, also for a well-formed one that does not exist: mistyped, it would
    give an image that runs nowhere."""
    from anyarch.spec.platform import parse_list

    wanted: dict[str, None] = {}
    twice = []
    for platform in parse_list(tuple(texts)):
        name = platform.format_all()
        if platform.unknown_part:
            raise _unknown_platform(name, platform.unknown_part)
        if name in wanted:
            twice.append(name)
        wanted[name] = None
    return tuple(wanted), tuple(twice)


def _unknown_platform(name: str, part: str) -> InvalidPlatform:
    from difflib import get_close_matches

    from anyarch.spec.platform import KNOWN_NAMES

    close = get_close_matches(part, KNOWN_NAMES, 1, 0.7)
    if part in KNOWN_NAMES:  # it is one, but stands where the other belongs
        hint = f"did you mean linux/{name}?"
    elif close:
        hint = f"did you mean {name.replace(part, close[0])}?"
    else:
        hint = "for example linux/amd64, linux/arm64"
    return InvalidPlatform(
        f'unknown platform {name}: there is no operating system or architecture "{part}"', hint=hint
    )


def key_values(texts: Iterable[str], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`K=V` texts. A `K` alone takes its value from `environment` and is left out where that has none;
    without an environment it is empty."""
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise UsageError(f'invalid key-value pair "{text}": empty key')
        if equals:
            result[key] = value
        elif environment is None:
            result[key] = ""
        elif key in environment:
            result[key] = environment[key]
    return result


def attests(
    texts: Iterable[str], *, provenance: str | None = None, sbom: str | None = None
) -> dict[str, dict[str, str]]:
    """`--attest`, `--provenance` and `--sbom`: attributes by type. The last word on a type counts, disabled
    ones are left out."""
    entries = [pairs(text) for text in texts]
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if not text:
            continue
        wanted = truth(text)
        if wanted is None:
            entries.append([("type", kind), *pairs(text)])
        else:
            entries.append([("type", kind), ("disabled", "false" if wanted else "true")])
    result: dict[str, dict[str, str]] = {}
    for entry in entries:
        attrs = dict(entry)
        kind = attrs.pop("type", "")
        if not kind:
            raise UsageError(
                "attestation type not specified", hint="for example --attest type=provenance,mode=max"
            )
        disabled = truth(attrs.pop("disabled", "false"))
        if disabled is None:
            raise UsageError(f"invalid value of disabled= for attestation {kind}", hint="it is true or false")
        if disabled:
            result.pop(kind, None)
        else:
            result[kind] = attrs
    return result


def cache_options(texts: Iterable[str]) -> tuple[CacheOption, ...]:
    """`--cache-from`, `--cache-to`: `type=…,k=v`, or a comma list of references."""
    result = []
    for text in texts:
        fields = csv_fields(text) if text else []  # an empty one, such as of an unset variable, is none
        if not any("=" in field for field in fields):
            result += [CacheOption("registry", {"ref": field}) for field in fields]
            continue
        attrs = dict(pairs(text))
        kind = attrs.pop("type", "")
        if not kind:
            raise UsageError(
                f'type required for "{text}"', hint="for example type=registry,ref=user/app:cache"
            )
        result.append(CacheOption(kind, attrs))
    return tuple(result)


def method(text: str) -> Method:
    """`NAME[,format=json][,ignorestatus[=BOOL]]`; `check` is short for `lint`."""
    name, form, ignores = "", "", False
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if key == "format" and equals:
            form = value
        elif key == "ignorestatus" and equals:
            ignored = truth(value)
            if ignored is None:
                raise UsageError(f"invalid ignorestatus print value: {value}", hint="it is true or false")
            ignores = ignored
        elif equals:
            raise UsageError(f"invalid print field: {field}", hint="fields are format= and ignorestatus=")
        elif name:
            raise UsageError(f"invalid print value: {text}", hint="one method is named, for example check")
        else:
            name = field
    if form not in ("", "json", "text"):
        raise UsageError(f"invalid format {form!r} of --call", hint="it is json")
    return Method({"": "build", "check": "lint"}.get(name, name), form, ignores)


def secret(text: str, environment: Mapping[str, str]) -> Secret:
    """One `--secret`. Without src or env it is the environment variable of that name if there is one, else
    the file."""
    ident, source, env, kind = "", None, None, ""
    for key, value in pairs(text):
        match key:
            case "id":
                ident = value
            case "src" | "source":
                source = value
            case "env":
                env = value
            case "type" if value in ("file", "env"):
                kind = value
            case "type":
                raise UsageError(f'unsupported secret type "{value}"', hint="it is file or env")
            case _:
                raise UsageError(
                    f"unexpected key {key!r} in secret {text!r}", hint="keys are id, src, env, type"
                )
    if not ident:
        raise UsageError(f"secret {text!r} has no id", hint="for example --secret id=token,src=token.txt")
    if kind == "env" and env is None:
        source, env = None, source or ident
    if source is None and env is None:
        if kind != "file" and ident in environment:
            env = ident
        else:
            source = ident
    return Secret(ident, source, env if source is None else None)


def ssh(text: str) -> Ssh:
    """One `--ssh`: `ID[=SOCKET|KEY[,KEY…]]`."""
    ident, _, paths = text.partition("=")
    return Ssh(ident or "default", tuple(path for path in paths.split(",") if path))


def image_annotations(texts: Iterable[str]) -> tuple[Annotation, ...]:
    """`--annotation`: `[TYPE[PLATFORM],…:]KEY=VALUE`."""
    result = []
    for text in texts:
        head, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'invalid annotation "{text}", expected key=value')
        types, colon, key = head.partition(":")
        if not colon:
            result.append(Annotation(head, value))
            continue
        for item in types.split(","):
            match = re.fullmatch(r"([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?", item)
            if match is None:
                raise UsageError(
                    f'invalid annotation type "{item}", expected type and optional platform in '
                    "square brackets"
                )
            kind, platform = match[1], match[2] or ""
            if kind not in _ANNOTATION_KINDS:
                raise UsageError(
                    f'unknown annotation type "{kind}"', hint=f"it is one of {', '.join(_ANNOTATION_KINDS)}"
                )
            if platform:
                (platform,), _ = platforms([platform])
                if kind.startswith("index"):
                    raise UsageError(f'annotation type "{kind}" takes no platform')
            result.append(Annotation(key, value, kind, platform))
    return tuple(result)


def build_contexts(texts: Iterable[str]) -> dict[str, str]:
    """`--build-context NAME=VALUE`; a name is normalised as an image reference is, without `:latest`."""
    result = {}
    for text in texts:
        from anyarch.spec.reference import Reference

        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"invalid context value: {text}, expected key=value")
        try:
            result[Reference.parse(name).familiar.removesuffix(":latest")] = value
        except AnyarchError as error:
            raise UsageError(f"invalid context name {name}: {error.message}", hint=error.hint) from None
    return result


def add_hosts(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`--add-host HOST:IP` or `HOST=IP[,IP…]`: one pair an address, which may be `host-gateway`."""
    result = []
    for text in texts:
        host = ""
        for item in text.split(","):
            name, address = _host(item)
            if name:
                host = name
            if not host or not address:
                raise UsageError(
                    f"invalid host {text}", hint="for example --add-host db:10.0.0.2 or --add-host db=::1"
                )
            if address == "host-gateway":  # which address that is, the builder knows
                result.append((host, address))
                continue
            address = address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address
            if not _is_address(address):
                raise UsageError(f"invalid host {text}", hint=f"{address!r} is not an IP address")
            result.append((host, address))
    return tuple(result)


def _host(item: str) -> tuple[str, str]:
    if _is_address(item.strip("[]")):
        return "", item  # a further address of the host before it
    separator = "=" if "=" in item else ":"
    name, _, address = item.partition(separator)
    return name, address


def _is_address(text: str) -> bool:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def directory(text: str | None, flag: str) -> str:
    """The absolute path of a directory that is there; empty for none."""
    import os

    if not text:
        return ""
    if not os.path.isdir(text):
        raise UsageError(f"{flag}: {text} is not a directory")
    return os.path.abspath(text)


def size_bytes(text: str) -> int:
    """`64m`, `1.5g`, `1024`: units of 1024."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", text.lower())
    if match is None:
        raise UsageError(f"invalid size: '{text}'", hint="a number with one of k, m, g, for example 256m")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2] or " "))


_RESOURCES = {
    "memory": "memory",
    "memory-swap": "memswap",
    "cpu-shares": "cpushares",
    "cpu-period": "cpuperiod",
    "cpu-quota": "cpuquota",
    "cpuset-cpus": "cpusetcpus",
    "cpuset-mems": "cpusetmems",
}


def resources(texts: Iterable[str]) -> dict[str, str]:
    """`--resource KEY=VALUE` as the frontend's attributes; the last of a key counts, 0 is no limit."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            raise UsageError(f'invalid resource "{text}", expected key=value', hint="for example memory=2g")
        name = _RESOURCES.get(key)
        if name is None:
            raise UsageError(f'unknown resource "{key}"', hint=f"it is one of {', '.join(_RESOURCES)}")
        found[name] = _resource(key, value)
    return {
        name: value for name, value in found.items() if value and (value != "0" or name.startswith("cpuset"))
    }


def _resource(key: str, value: str) -> str:
    if key.startswith("cpuset-"):
        return value
    if key == "memory-swap" and value == "-1":
        return value
    if key.startswith("memory"):
        try:
            return str(size_bytes(value))
        except UsageError as error:
            raise UsageError(
                f'invalid value "{value}" for resource {key}: {error.message}', hint=error.hint
            ) from None
    try:
        return str(max(int(value), 0))
    except ValueError:
        raise UsageError(
            f'invalid value "{value}" for resource {key}', hint="a whole number is expected"
        ) from None


def ulimit(text: str) -> Ulimit:
    """`NAME=SOFT[:HARD]`."""
    name, _, limits = text.partition("=")
    soft_text, colon, hard_text = limits.partition(":")
    if name not in _ULIMITS:
        raise UsageError(f"invalid ulimit type: {name}", hint=f"it is one of {', '.join(sorted(_ULIMITS))}")
    try:
        soft = int(soft_text)
        hard = int(hard_text) if colon else soft
    except ValueError:
        raise UsageError(
            f"invalid ulimit argument: {text}", hint="for example --ulimit nofile=1024:2048"
        ) from None
    if hard != -1 and (soft > hard or soft == -1):
        raise UsageError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return Ulimit(name, soft, hard)
