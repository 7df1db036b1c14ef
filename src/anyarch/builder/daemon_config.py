"""A BuildKit daemon's configuration file for nodes that are started with one: the file and the certificates
that it names become files of the node."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

from anyarch.errors import BuilderError, UsageError

__all__ = ["CONFIG_DIRECTORY", "CONFIG_FILE", "entitlements_of", "load_config_files", "to_toml"]

CONFIG_DIRECTORY = "/etc/buildkit"
CONFIG_FILE = "buildkitd.toml"
_MOST_BYTES = 1 << 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def load_config_files(path: str) -> dict[str, bytes]:
    """The files of a node that gets the configuration at `path`. Raises `BuilderError`."""
    document = _parse(path)
    files: dict[str, bytes] = {}
    registries = document.get("registry")
    if isinstance(registries, dict):
        for name, settings in registries.items():
            if not isinstance(settings, dict):
                raise BuilderError(f'invalid registry config for "{name}"')
            _take_certificates(name, settings, files)
    files[CONFIG_FILE] = to_toml(document).encode()
    return files


def entitlements_of(path: str) -> list[str]:
    """What the configuration allows builds to ask for. Raises `BuilderError`."""
    found = _parse(path).get("insecure-entitlements")
    return [str(name) for name in found] if isinstance(found, list) else []


def _parse(path: str) -> dict[str, Any]:
    raw = _read(path, "buildkit configuration file")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuilderError(f"failed to parse buildkit configuration file: {path}: {error}") from None


def _take_certificates(registry: str, settings: dict[str, Any], files: dict[str, bytes]) -> None:
    """Read what the section names into `files`, and name it where it will be on the node."""
    directory = "certs/" + re.sub(r"[^a-zA-Z0-9.-]+", "_", registry)

    def take(source: object, what: str) -> str:
        if not isinstance(source, str):
            raise BuilderError(f'invalid registry config for "{registry}": {what} is not a path')
        name = f"{directory}/{os.path.basename(source)}"
        files[name] = _read(source, what)
        return f"{CONFIG_DIRECTORY}/{name}"

    if isinstance(settings.get("ca"), list):
        settings["ca"] = [take(source, "CA file") for source in settings["ca"]]
    if isinstance(settings.get("keypair"), list):
        for pair in settings["keypair"]:
            for part, what in (("key", "key file"), ("cert", "cert file")):
                if isinstance(pair, dict) and pair.get(part):
                    pair[part] = take(pair[part], what)


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise BuilderError(f"{what} not found: {path}") from None
    except OSError as error:
        raise BuilderError(f"failed to read {what}: {path}: {error.strerror}") from None
    if len(raw) > _MOST_BYTES:
        raise UsageError(f"{what} {path} is larger than 1 MiB")
    return raw


def to_toml(document: dict[str, Any]) -> str:
    """TOML of a parsed document, the same for the same document."""
    lines: list[str] = []
    _table(document, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _table(table: dict[str, Any], where: tuple[str, ...], lines: list[str]) -> None:
    def is_list_of_tables(value: object) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)

    inner = {
        key: value for key, value in table.items() if isinstance(value, dict) or is_list_of_tables(value)
    }
    lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        place = (*where, key)
        name = ".".join(_key(part) for part in place)
        for item in value if isinstance(value, list) else [value]:
            lines += ["", f"[[{name}]]" if isinstance(value, list) else f"[{name}]"]
            _table(item, place, lines)


def _key(text: str) -> str:
    return text if _BARE_KEY.match(text) else _string(text)


def _string(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int() | float():
            return repr(value)
        case list():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
        case _:
            return str(value.isoformat())  # dates and times, the only other values of TOML
