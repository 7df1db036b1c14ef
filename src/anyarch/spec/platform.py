"""Platforms: parse, normalise, format, match and order.

Follows the rules of containerd's platform specifiers (`os[(osversion+feature…)]/arch[/variant]`), which
Docker's tools share, so that the same text means the same platform everywhere.
"""

from __future__ import annotations

import os as _os
import re

import msgspec

from anyarch.errors import InvalidPlatform
from anyarch.spec.oci import PlatformSpec

__all__ = ["KNOWN_NAMES", "Platform", "compatible", "host_platform", "parse_list"]

_KNOWN_OS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasi",
        "wasip1",
        "windows",
        "zos",
        "macos",
    ]
)
_KNOWN_ARCH = frozenset(
    [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
        "aarch64",
        "x86_64",
        "x86-64",
        "armhf",
        "armel",
        "i386",
    ]
)
_PART = re.compile(r"[A-Za-z0-9_.-]+\Z")
_OS_PART = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%+-]*)\))?\Z")

# uname -m → (architecture, variant)
_MACHINES = {
    "x86_64": ("amd64", ""),
    "i686": ("386", ""),
    "i586": ("386", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
    "ppc64le": ("ppc64le", ""),
    "ppc64": ("ppc64", ""),
    "mips64": ("mips64", ""),
    "loongarch64": ("loong64", ""),
}
KNOWN_NAMES = tuple(sorted(_KNOWN_OS | _KNOWN_ARCH))
"""All operating systems and architectures, for suggestions."""


class Platform(msgspec.Struct, frozen=True, order=True):
    """One normalised platform. Equality and hash are those of all five parts."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, default: Platform | None = None) -> Platform:
        """A specifier such as `linux/arm/v7`, `arm64` or `windows(10.0.17763)/amd64`.

        `default` (the machine's own platform) fills what a one-word specifier leaves out. Raises
        `InvalidPlatform`.
        """
        if "*" in text:
            raise InvalidPlatform(f"{text!r}: wildcards are not supported in a platform", hint=_HINT)
        parts = text.split("/")
        if not 1 <= len(parts) <= 3:
            raise InvalidPlatform(
                f"{text!r} is an invalid platform: one to three parts are expected", hint=_HINT
            )
        for position, part in enumerate(parts):
            if not (_OS_PART if position == 0 else _PART).match(part):
                # BuildKit's words, which builds with `--platform=$UNKNOWN` are searched for by
                what, whose = ("component", "platform") if position else ("OS component", "OSAndVersion")
                pattern = (_PART if position else _OS_PART).pattern.replace(r"\Z", "$")
                raise InvalidPlatform(
                    f'"{part}" is an invalid {what} of "{text}": {whose} specifier component must match '
                    f'"^{pattern}": invalid argument',
                    hint=_HINT,
                )
        default = default or host_platform()
        match = _OS_PART.match(parts[0])
        assert match is not None
        name = match[1].lower()
        version = ""
        features: tuple[str, ...] = ()
        if match[2]:
            from urllib.parse import unquote  # some milliseconds that only Windows platforms are worth

            version_text, *feature_texts = match[2].split("+")
            version, features = unquote(version_text), tuple(sorted(unquote(f) for f in feature_texts))
        if len(parts) == 1:
            if name in _KNOWN_OS:
                return cls.make(name, default.architecture, default.variant, version, features)
            if parts[0].lower() in _KNOWN_ARCH:
                return cls.make(default.os, parts[0])
            raise InvalidPlatform(f"{text!r}: unknown operating system or architecture", hint=_HINT)
        return cls.make(name, parts[1], parts[2] if len(parts) == 3 else "", version, features)

    @classmethod
    def make(
        cls,
        os: str,
        architecture: str,
        variant: str = "",
        os_version: str = "",
        os_features: tuple[str, ...] = (),
    ) -> Platform:
        """A platform of parts that are normalised here (`x86_64` is `amd64`, `arm` is `arm/v7`, `arm64/v8`
        is `arm64`)."""
        os = os.lower()
        architecture, variant = _normalize_arch(architecture.lower(), variant.lower())
        return cls(
            "darwin" if os == "macos" else os, architecture, variant, os_version, tuple(sorted(os_features))
        )

    @classmethod
    def of_spec(cls, spec: PlatformSpec) -> Platform:
        """From the `platform` object of a descriptor."""
        return cls.make(spec.os, spec.architecture, spec.variant, spec.os_version, tuple(spec.os_features))

    def spec(self) -> PlatformSpec:
        """As the `platform` object of a descriptor."""
        return PlatformSpec(self.architecture, self.os, self.os_version, self.os_features, self.variant)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")

    @property
    def unknown_part(self) -> str:
        """The operating system or architecture, if it is one that nobody makes images for; else empty."""
        if self.os not in _KNOWN_OS:
            return self.os
        return self.architecture if self.architecture not in _KNOWN_ARCH else ""

    def format_all(self) -> str:
        """With OS version and features, as `TARGETPLATFORM` has it."""
        os = self.os
        if self.os_version or self.os_features:
            from urllib.parse import quote

            inner = "+".join(
                [quote(self.os_version, safe=""), *(quote(f, safe="") for f in self.os_features)]
            )
            os = f"{os}({inner})"
        return f"{os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")

    @property
    def directory(self) -> str:
        """The directory name of this platform in a split output: `linux_arm_v7`, `windows(10.0.1)_amd64`."""
        return self.format_all().replace("/", "_")


_HINT = "platforms are written os/arch[/variant], for example linux/amd64, linux/arm64, linux/arm/v7"


def _normalize_arch(arch: str, variant: str) -> tuple[str, str]:
    match arch:
        case "i386":
            return "386", ""
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            if variant in ("8", "v8", "v8.0"):
                return "arm64", ""
            if variant in ("9", "9.0", "v9.0"):
                return "arm64", "v9"
            return "arm64", variant
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            if variant in ("", "7"):
                return "arm", "v7"
            return "arm", f"v{variant}" if variant in ("5", "6", "8") else variant
    return arch, variant


def host_platform() -> Platform:
    """The platform of the running kernel, without CPU level."""
    machine = _os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform.make(_os.uname().sysname, architecture, variant)


def parse_list(values: list[str] | tuple[str, ...], *, default: Platform | None = None) -> list[Platform]:
    """Comma lists, repeated; `local` is the machine's own. Order kept, duplicates kept (the caller warns)."""
    result = []
    for value in values:
        for item in value.split(","):
            item = item.strip()
            if not item:
                raise InvalidPlatform(f"empty platform in {value!r}", hint=_HINT)
            if item == "local":
                result.append(default or host_platform())
            else:
                result.append(Platform.parse(item, default=default))
    return result


def compatible(wanted: Platform) -> list[Platform]:
    """What may serve `wanted`, best first: itself, then lower CPU variants (containerd's `Only`)."""
    os, arch, variant = wanted.os, wanted.architecture, wanted.variant
    version, features = wanted.os_version, wanted.os_features

    def make(architecture: str, *variants: str) -> list[Platform]:
        return [Platform(os, architecture, v, version, features) for v in variants]

    if arch == "amd64":
        level = int(variant[1:]) if re.fullmatch(r"v[0-9]+", variant) else 1
        lower = [f"v{n}" for n in range(level, 1, -1)]
        return [*make("amd64", *lower, ""), *make("386", "")]
    if arch == "arm64":
        chain = [*_arm64_variants(variant), ""]
        if wanted.variant and wanted.variant not in chain:
            chain.insert(0, wanted.variant)
        return [*make("arm64", *chain), *make("arm", "v8", "v7", "v6", "v5")]
    if arch == "arm" and re.fullmatch(r"v[0-9]+", variant):
        return make("arm", *(f"v{n}" for n in range(int(variant[1:]), 4, -1)))
    return [wanted]


def _arm64_variants(variant: str) -> list[str]:
    match = re.fullmatch(r"v([89])(?:\.([0-9]+))?", variant)
    if match is None:
        return []
    major, minor = int(match[1]), int(match[2] or 0)
    result = []
    if major == 9:
        result += [f"v9.{n}" if n else "v9" for n in range(minor, -1, -1)]
        minor = min(minor + 5, 9)
    result += [f"v8.{n}" for n in range(minor, 0, -1)]
    return result
