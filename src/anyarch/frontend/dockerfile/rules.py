"""The build checks as data: rule names, descriptions, documentation, and which of them are to be heeded."""

from __future__ import annotations

import msgspec

from anyarch.errors import DockerfileError

from .gotext import BLANKS, parse_bool, quote
from .lexer import find_directives

__all__ = ["RULES", "CheckOptions", "Rule", "file_options", "parse_check_options"]

_URL = "https://docs.docker.com/go/dockerfile/rule/"


class Rule(msgspec.Struct, frozen=True):
    """`url` may be empty; an experimental rule has to be asked for."""

    name: str
    description: str
    url: str
    experimental: bool = False


def _slug(name: str) -> str:
    name = name.replace("JSON", "Json")
    return "".join(f"-{char.lower()}" if char.isupper() else char for char in name)[1:]


_DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
    ),
    "MaintainerDeprecated": (
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
    ),
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results "
        "if the base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": (
        "Multiple instructions of the same type should not be used in the same stage"
    ),
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. "
        "If this is not intended to be a description comment, add an empty line or comment between the "
        "instruction and the comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. "
        "This will become an error in a future release"
    ),
}
_WITHOUT_PAGE = "InvalidBaseImagePlatform"
_EXPERIMENTAL = "InvalidDefinitionDescription"

RULES = {
    name: Rule(
        name,
        description,
        "" if name == _WITHOUT_PAGE else f"{_URL}{_slug(name)}/",
        name == _EXPERIMENTAL,
    )
    for name, description in _DESCRIPTIONS.items()
}
"""All rules by name."""


class CheckOptions(msgspec.Struct, frozen=True):
    """What a `check` directive says. `error`: a rule that fires fails the build."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def is_on(self, rule: Rule) -> bool:
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not (self.skip_all or rule.name in self.skip)

    def with_comments(self, comments: tuple[str, ...]) -> CheckOptions:
        """With the skipped and experimental rules of the first `check=…` in the comments above an
        instruction.
        """
        for comment in comments:
            if not comment.lower().startswith("check"):
                continue
            directive = find_directives(f"#{comment}".encode("utf-8", "surrogateescape")).get("check")
            if directive is None:
                continue
            try:
                extra = parse_check_options(directive.value.partition(" ")[0])
            except DockerfileError:
                return self
            return CheckOptions(
                self.skip | extra.skip,
                self.skip_all or extra.skip_all,
                self.experimental | extra.experimental,
                self.experimental_all or extra.experimental_all,
                self.error,
            )
        return self


def parse_check_options(text: str) -> CheckOptions:
    """Parse `skip=A,B;experimental=all;error=true` (any of them, at most three). Raises `DockerfileError`."""
    text = text.strip(BLANKS)
    if not text:
        return CheckOptions()
    names: dict[str, frozenset[str]] = {"skip": frozenset(), "experimental": frozenset()}
    everything = {"skip": False, "experimental": False}
    error = False
    for part in text.split(";", 2):
        key, equals, value = part.partition("=")
        if not equals:
            raise DockerfileError(f"invalid check option {quote(part)}", hint=_HINT)
        key = key.strip(BLANKS)
        value = value.strip(BLANKS)
        if key == "error":
            truth = parse_bool(value)
            if truth is None:
                problem = (
                    f"failed to parse check option {quote(part)}: strconv.ParseBool: parsing {quote(value)}"
                )
                raise DockerfileError(f"{problem}: invalid syntax", hint=_HINT)
            error = truth
        elif key not in names:
            raise DockerfileError(f"invalid check option {quote(key)}", hint=_HINT)
        elif value == "all":
            everything[key] = True
        else:
            names[key] = frozenset(name.strip(BLANKS) for name in value.split(","))
    return CheckOptions(
        names["skip"], everything["skip"], names["experimental"], everything["experimental"], error
    )


_HINT = "options are skip=<rules|all>, experimental=<rules|all> and error=<bool>, joined by ;"


def file_options(data: bytes, override: str | None = None) -> CheckOptions:
    """What holds for a file: `override` (the build argument BUILDKIT_DOCKERFILE_CHECK), else its directive.

    Raises `DockerfileError`.
    """
    if override is not None:
        name, text = "BUILDKIT_DOCKERFILE_CHECK", override
    else:
        directive = find_directives(data).get("check")
        name, text = "check options", directive.value.partition(" ")[0] if directive else ""
    try:
        return parse_check_options(text)
    except DockerfileError as error:
        raise DockerfileError(f"failed to parse {name}: {error.message}", hint=error.hint) from None
