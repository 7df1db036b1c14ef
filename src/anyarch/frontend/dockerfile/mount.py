"""`RUN --mount` and `RUN --device` flags: comma-separated fields, checks, defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError

from .gotext import did_you_mean, parse_bool, parse_uint, quote, ram_bytes
from .instructions import Device, Mount, MountField, MountSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["parse_device", "parse_mount", "resolve_mount", "split_csv"]

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_OWNED = ("secret", "ssh", "cache")
_OPTIONAL = ("secret", "ssh")
_KEYS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
)


def split_csv(line: str) -> list[str]:
    """The fields of one CSV line: `"` around a field, `""` for a quote in it. Raises `DockerfileError`."""
    line = line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line
    if not line:
        raise DockerfileError("EOF")
    fields: list[str] = []
    pos = 0
    while True:
        if not line.startswith('"', pos):
            end = line.find(",", pos)
            field = line[pos:] if end < 0 else line[pos:end]
            bare = field.find('"')
            if bare >= 0:
                raise _csv_error(line, pos + bare, 'bare " in non-quoted field')
            fields.append(field)
            if end < 0:
                return fields
            pos = end + 1
            continue
        pos += 1
        parts: list[str] = []
        while True:
            end = line.find('"', pos)
            if end < 0:
                raise _csv_error(line, pos, 'extraneous or missing " in quoted-field')
            parts.append(line[pos:end])
            pos = end + 1
            if not line.startswith('"', pos):
                break
            parts.append('"')
            pos += 1
        fields.append("".join(parts))
        if pos == len(line):
            return fields
        if line[pos] != ",":
            raise _csv_error(line, pos - 1, 'extraneous or missing " in quoted-field')
        pos += 1


def _csv_error(line: str, pos: int, problem: str) -> DockerfileError:
    column = len(line[:pos].encode("utf-8", "surrogateescape")) + 1
    return DockerfileError(f"parse error on line 1, column {column}: {problem}")


def parse_mount(text: str) -> MountSpec:
    """Split a `--mount` value into fields. Raises `DockerfileError`.

    Values are looked at when the mount is resolved, but for `from`, in which no variable can be.
    """
    try:
        written = split_csv(text)
    except DockerfileError as error:
        raise DockerfileError(f"failed to parse csv mounts: {error.message}") from None
    fields = []
    for field in written:
        name, has_value, value = field.partition("=")
        key = name.lower()
        if key == "from" and "$" in value[:-1]:
            raise DockerfileError(f"'{key}' doesn't support variable expansion, define alias stage instead")
        fields.append(MountField(key, value if has_value else None, field))
    return MountSpec(text, tuple(fields))


def parse_device(text: str) -> Device:
    """Parse a `--device` value. Raises `DockerfileError`."""
    try:
        written = split_csv(text)
    except DockerfileError as error:
        raise DockerfileError(f"failed to parse csv devices: {error.message}") from None
    device = ""
    required = False
    for field in written:
        name, has_value, value = field.partition("=")
        key = name.lower()
        if key == "required":
            truth = parse_bool(value) if has_value else True
            if truth is None:
                raise DockerfileError(f"invalid value for {key}: {value}")
            required = truth
        elif key == "name" and has_value:
            if device:
                raise DockerfileError(f"device name already set to {device}")
            device = value
        elif not device:
            device = field
        elif has_value:
            problem = f"unexpected key '{key}' in '{field}'"
            raise DockerfileError(did_you_mean(problem, key, ("name", "required")))
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
    return Device(device, required)


def resolve_mount(spec: MountSpec, expand: Callable[[str], str]) -> Mount:
    """Expand every value, check keys and their combination, apply defaults. Raises `DockerfileError`.

    Fields are taken in order, so `type` has to stand before the keys that only some types have.
    Left to the caller, because they need the build's state: joining `target` with WORKDIR, refusing `/`,
    defaults of `id` and of secret and ssh targets, finding `from`.
    """
    values = _Values()
    for field in spec.fields:
        if field.value is None:
            values.bare(field)
        else:
            values.set(field, expand(field.value))
    return values.finish()


class _Values:
    """What the fields of one mount have set so far."""

    def __init__(self) -> None:
        self.type = "bind"
        self.readonly: bool | None = None
        self.required = False
        self.size = 0
        self.texts: dict[str, str] = {}
        self.numbers: dict[str, int] = {}

    def bare(self, field: MountField) -> None:
        match field.key:
            case "readonly" | "ro":
                self.readonly = True
            case "readwrite" | "rw":
                self.readonly = False
            case "required":
                self.only_for(field, _OPTIONAL)
                self.required = True
            case _:
                raise DockerfileError(f"invalid field '{field.text}' must be a key=value pair")

    def only_for(self, field: MountField, types: tuple[str, ...]) -> None:
        if self.type not in types:
            raise DockerfileError(f"unexpected key '{field.key}' for mount type '{self.type}'")

    def set(self, field: MountField, value: str) -> None:
        key = field.key
        match key:
            case "type":
                self.type = value.lower()
                if self.type not in _TYPES:
                    raise DockerfileError(
                        did_you_mean(f"unsupported mount type {quote(value)}", value, _TYPES)
                    )
            case "sharing":
                if value.lower() not in _SHARING:
                    problem = f"unsupported sharing value {quote(value)}"
                    raise DockerfileError(did_you_mean(problem, value, _SHARING))
                self.texts["sharing"] = value.lower()
            case "from" | "id" | "env":
                self.texts[key] = value
            case "source" | "src":
                self.texts["source"] = value
            case "target" | "dst" | "destination":
                self.texts["target"] = value
            case "readonly" | "ro":
                self.readonly = self.truth(key, value)
            case "readwrite" | "rw":
                self.readonly = not self.truth(key, value)
            case "required":
                self.only_for(field, _OPTIONAL)
                self.required = self.truth(key, value)
            case "size":
                self.only_for(field, ("tmpfs",))
                size = ram_bytes(value)
                if size is None:
                    raise DockerfileError(f"invalid value for {key}: {value}")
                self.size = size
            case "mode" | "uid" | "gid":
                number = parse_uint(value, 8 if key == "mode" else 10, 32)
                if number is None:
                    raise DockerfileError(f"invalid value {value} for {key}")
                self.numbers[key] = number
            case _:
                problem = f"unexpected key '{key}' in '{field.text}'"
                raise DockerfileError(did_you_mean(problem, key, _KEYS))

    @staticmethod
    def truth(key: str, value: str) -> bool:
        truth = parse_bool(value)
        if truth is None:
            raise DockerfileError(f"invalid value for {key}: {value}")
        return truth

    def finish(self) -> Mount:
        texts, numbers = self.texts, self.numbers
        if self.type not in _OWNED:
            for key in ("mode", "uid", "gid"):
                if key in numbers:
                    raise DockerfileError(f"{key} not allowed for {quote(self.type)} type mounts")
        sharing = texts.get("sharing", "")
        if self.type == "secret":
            if texts.get("from"):
                raise DockerfileError("secret mount should not have a from")
            if sharing:
                raise DockerfileError("secret mount should not define sharing")
            if not (texts.get("source") or texts.get("target") or texts.get("id")):
                raise DockerfileError("invalid secret mount. one of source, target required")
            if texts.get("source") and texts.get("id"):
                raise DockerfileError("both source and id can't be set")
        if sharing and self.type != "cache":
            raise DockerfileError(f"invalid cache sharing set for {self.type} mount")
        readonly = self.type not in ("cache", "tmpfs") if self.readonly is None else self.readonly
        return Mount(
            type=self.type,
            from_=texts.get("from", ""),
            source=texts.get("source", ""),
            target=texts.get("target", ""),
            readonly=readonly,
            size=self.size,
            id=texts.get("id", ""),
            sharing=sharing,
            required=self.required,
            env=texts.get("env"),
            mode=numbers.get("mode"),
            uid=numbers.get("uid"),
            gid=numbers.get("gid"),
        )
