"""The parsed Dockerfile as values: one frozen struct an instruction, stages, directives.

Strings are as written: variables are not expanded here, quotes of words that take part in expansion are kept
(`ENV a="b c"` has the value `"b c"` with its quotes; `expand.expand` removes them). The parser makes these
values; conversion, checks and outlines read them. Line numbers are 1-based, ranges include both ends.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Add",
    "Arg",
    "ArgDefinition",
    "Cmd",
    "Copy",
    "Device",
    "Directive",
    "Directives",
    "Dockerfile",
    "Entrypoint",
    "Env",
    "Expose",
    "Healthcheck",
    "Heredoc",
    "InlineFile",
    "Instruction",
    "KeyValue",
    "Label",
    "Maintainer",
    "Mount",
    "MountField",
    "MountSpec",
    "Onbuild",
    "ParseWarning",
    "Run",
    "Shell",
    "Stage",
    "StopSignal",
    "User",
    "Volume",
    "Workdir",
]

Lines = tuple[int, int]


class Heredoc(msgspec.Struct, frozen=True):
    """One here-document: `[fd]<<[-]name` and its body.

    `content` is the body as written, without the terminator line; with `chomp` (`<<-`) its leading tabs are
    still there (a shell strips them; `heredoc.chomp_tabs` does it for inline files). `expand` is false when
    the word was quoted in any way.
    """

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    fd: int = 0


class InlineFile(msgspec.Struct, frozen=True):
    """A COPY or ADD source that is a here-document; `data` is to be expanded only when `expand` is set."""

    path: str
    data: str
    expand: bool


class KeyValue(msgspec.Struct, frozen=True):
    """One pair of ENV or LABEL; `legacy` when it was written with a blank in place of `=`."""

    key: str
    value: str
    legacy: bool = False


class ArgDefinition(msgspec.Struct, frozen=True):
    """One name of an ARG line; `value` is None without `=`. `comment` is its documentation, may be empty."""

    key: str
    value: str | None = None
    comment: str = ""


class MountField(msgspec.Struct, frozen=True):
    """One field of `--mount`: `key` in lower case, `value` None for a bare key, `text` as written."""

    key: str
    value: str | None
    text: str


class MountSpec(msgspec.Struct, frozen=True):
    """A `--mount` flag split into fields, neither expanded nor checked: `mount.resolve_mount` does that."""

    text: str
    fields: tuple[MountField, ...]


class Mount(msgspec.Struct, frozen=True):
    """A `--mount` flag after expansion and checks. `size` in bytes; None where a key was not given."""

    type: str = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Device(msgspec.Struct, frozen=True):
    """A `RUN --device` flag."""

    name: str
    required: bool = False


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """What all instructions share.

    `original` is the text with continuation lines joined, without here-document bodies, trimmed; `keyword`
    the instruction's word as written (its case matters to a check); `comments` the comment lines directly
    above, without `#`; `lines` covers here-document bodies too.
    """

    keyword: str
    original: str
    lines: Lines
    comments: tuple[str, ...] = ()


class Arg(Instruction, frozen=True, kw_only=True):
    args: tuple[ArgDefinition, ...]


class Env(Instruction, frozen=True, kw_only=True):
    pairs: tuple[KeyValue, ...]


class Label(Instruction, frozen=True, kw_only=True):
    pairs: tuple[KeyValue, ...]


class Maintainer(Instruction, frozen=True, kw_only=True):
    text: str


class Run(Instruction, frozen=True, kw_only=True):
    """`cmdline` is the JSON array, or (at most) one string to be given to SHELL with `prepend_shell` set."""

    cmdline: tuple[str, ...]
    prepend_shell: bool
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[MountSpec, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[Device, ...] = ()
    flags_used: frozenset[str] = frozenset()


class Cmd(Instruction, frozen=True, kw_only=True):
    cmdline: tuple[str, ...]
    prepend_shell: bool


class Entrypoint(Instruction, frozen=True, kw_only=True):
    cmdline: tuple[str, ...]
    prepend_shell: bool


class Shell(Instruction, frozen=True, kw_only=True):
    shell: tuple[str, ...]


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`test` starts with NONE, CMD or CMD-SHELL; durations in nanoseconds, 0: inherit."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Copy(Instruction, frozen=True, kw_only=True):
    """`sources` and `files` together are what is copied (files: here-documents)."""

    sources: tuple[str, ...]
    dest: str
    files: tuple[InlineFile, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(Instruction, frozen=True, kw_only=True):
    """`keep_git_dir` and `unpack` are None when not given: the default depends on the source."""

    sources: tuple[str, ...]
    dest: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Workdir(Instruction, frozen=True, kw_only=True):
    path: str


class User(Instruction, frozen=True, kw_only=True):
    user: str


class Volume(Instruction, frozen=True, kw_only=True):
    volumes: tuple[str, ...]


class Expose(Instruction, frozen=True, kw_only=True):
    """`ports` sorted as text; each is to be expanded and split again, then read by `port.parse_port`."""

    ports: tuple[str, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    signal: str


class Onbuild(Instruction, frozen=True, kw_only=True):
    """`expression` is what goes into the image config: the trigger's text, with here-document bodies."""

    expression: str


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A FROM line and what follows it.

    `name` is lower-cased and empty when not given (`name_text` as written, `as_keyword` the AS word as
    written). `base_name` and `platform` are unexpanded. `comment` is the documentation for `--call`.
    """

    name: str
    base_name: str
    platform: str
    keyword: str
    original: str
    lines: Lines
    name_text: str = ""
    as_keyword: str = ""
    comments: tuple[str, ...] = ()
    comment: str = ""
    instructions: tuple[Instruction, ...] = ()


class Directive(msgspec.Struct, frozen=True):
    """A parser directive: `value` is the whole text after `=`, trimmed."""

    name: str
    value: str
    line: int


class Directives(msgspec.Struct, frozen=True):
    """The parser directives of a file, None where absent."""

    syntax: Directive | None = None
    escape: Directive | None = None
    check: Directive | None = None


class ParseWarning(msgspec.Struct, frozen=True):
    """Something doubtful met while reading lines; `rule` names a check, `line` is where it was noticed."""

    rule: str
    line: int
    message: str


class Dockerfile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole parsed file. `global_args` are the ARG instructions before the first FROM."""

    filename: str
    data: bytes
    escape: str
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[ParseWarning, ...] = ()
