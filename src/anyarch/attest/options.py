"""What a build is asked to attest: the frontend attributes `attest:TYPE`, and build arguments that say the
same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.spec.reference import Reference

__all__ = [
    "PREFIXES",
    "Attests",
    "ProvenanceOptions",
    "SbomOptions",
    "parse_attests",
    "provenance_options",
    "sbom_options",
]

PREFIXES = ("attest:", "build-arg:BUILDKIT_ATTEST_")
_SCANNER = "docker/buildkit-syft-scanner:stable-1"
_VERSIONS = ("v1", "v0.2")
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class ProvenanceOptions(msgspec.Struct, frozen=True):
    """`inline_only`: not for files. With `complete` it is an error if a material is not known by a digest.
    Without `has_run` nothing in it is of this run alone: neither its id nor times."""

    is_max: bool = True
    version: str = "v1"
    filename: str = "provenance.json"
    builder_id: str = ""
    reproducible: bool = False
    inline_only: bool = False
    complete: bool = False
    has_run: bool = True


class SbomOptions(msgspec.Struct, frozen=True):
    """`generator` is the image of the scanner, `parameters` are for it."""

    generator: str
    parameters: dict[str, str] = {}

    @property
    def reference(self) -> Reference:
        from anyarch.errors import BadReference
        from anyarch.spec.reference import Reference

        try:
            return Reference.parse(self.generator)
        except BadReference as error:
            raise UsageError(
                f"failed to parse sbom generator {self.generator}: {error.message}", hint=error.hint
            ) from None


class Attests(msgspec.Struct, frozen=True):
    """None: not wanted."""

    provenance: ProvenanceOptions | None = None
    sbom: SbomOptions | None = None

    def __bool__(self) -> bool:
        return self.provenance is not None or self.sbom is not None


def parse_attests(attrs: Mapping[str, str]) -> Attests:
    """Raises `UsageError` for what there is not, `NotSupported` for what is not done here."""
    wanted: dict[str, str] = {}
    for name, value in attrs.items():
        for prefix in PREFIXES:
            if name.startswith(prefix):
                wanted[name.removeprefix(prefix).lower()] = value
    if not wanted:
        return Attests()
    provenance: ProvenanceOptions | None = None
    sbom: SbomOptions | None = None
    for kind, value in wanted.items():
        match kind:
            case "provenance":
                provenance = provenance_options(_pairs(value))
            case "sbom":
                sbom = sbom_options(_pairs(value))
            case _:
                raise UsageError(f'unknown attestation type "{kind}"', hint="there are provenance and sbom")
    return Attests(provenance, sbom)


def _pairs(text: str) -> dict[str, str]:
    """A line of CSV of `key=value`."""
    if not text:
        return {}
    import csv

    fields = next(csv.reader([text]), [])
    found = {}
    for field in fields:
        key, _, value = field.partition("=")
        found[key] = value
    return found


def provenance_options(attrs: Mapping[str, str]) -> ProvenanceOptions:
    """Raises `UsageError`, `NotSupported`."""
    mode = attrs.get("mode", "max")
    if mode not in ("min", "max", "full"):
        raise UsageError(f'invalid mode "{mode}"', hint="the mode of provenance is min or max")
    version = attrs.get("version", "v1")
    if version not in _VERSIONS:
        what = "provenance SLSA version cannot be empty" if not version else ""
        raise UsageError(what or f"invalid provenance SLSA version: {version}", hint="it is v1 or v0.2")
    if _truth(attrs, "capture-usage", strict=False):
        raise NotSupported(
            "provenance: capture-usage is not supported: what steps used is not recorded",
            hint="leave capture-usage out",
        )
    filename = attrs.get("filename", "provenance.json")
    if not re.search(r"[^/]", filename) or filename.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"provenance: {filename!r} names no file", hint="for example filename=origin.json")
    return ProvenanceOptions(
        is_max=mode != "min",
        version=version,
        filename=filename,
        builder_id=attrs.get("builder-id", ""),
        reproducible=_truth(attrs, "reproducible"),
        inline_only=_truth(attrs, "inline-only", strict=False),
        complete=_truth(attrs, "complete-materials"),
    )


def _truth(attrs: Mapping[str, str], name: str, *, strict: bool = True) -> bool:
    text = attrs.get(name, "false")
    if strict and text not in _TRUE and text not in _FALSE:
        raise UsageError(f'failed to parse {name} flag "{text}"', hint="it is true or false")
    return text in _TRUE


def sbom_options(attrs: Mapping[str, str]) -> SbomOptions:
    generator = attrs.get("generator", _SCANNER)
    if not generator:
        raise UsageError("sbom generator cannot be empty", hint="leave generator out for the usual one")
    options = SbomOptions(generator, {key: value for key, value in attrs.items() if key != "generator"})
    _ = options.reference  # that it is one
    return options
