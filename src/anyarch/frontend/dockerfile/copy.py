"""Conversion of COPY and ADD: one file op for all sources of an instruction."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from anyarch.errors import DockerfileError, InvalidDigest, UsageError
from anyarch.llb.ops import ActionCopy, ActionMkfile
from anyarch.llb.source import http
from anyarch.llb.state import Constraints, CopySource, State, chown, merge
from anyarch.spec.digest import Digest

from .expand import expand
from .instructions import Add, Copy, InlineFile
from .naming import shown, step_name
from .ospath import is_absolute, join, normalize, strip_drive, to_slash
from .remote import git_state, is_git, is_http, parse_git_ref

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyarch.llb.state import Action

    from .stage import Command, Scope, Stage, Work

__all__ = ["copy", "download_state"]

_INTERNAL = Constraints.named("[internal] preparing inline document")
_SYMBOLIC = r"[augo]*(?:[-+=][rwxXstugo]*)+(?:,[augo]*(?:[-+=][rwxXstugo]*)+)*"


class _Texts(msgspec.Struct, frozen=True):
    """The expanded words of the instruction."""

    sources: tuple[str, ...]
    dest: str
    chown: str
    chmod: str
    checksum: str
    files: tuple[InlineFile, ...]


def copy(stage: Stage, work: Work, command: Command, scope: Scope) -> None:
    instruction = command.instruction
    assert isinstance(instruction, Copy | Add)
    assert stage.platform is not None
    source, source_stage = scope.context, None
    if command.sources:
        source_stage = command.sources[0]
        if not source_stage.is_dispatched:
            from_ = instruction.from_ if isinstance(instruction, Copy) else ""
            raise DockerfileError(
                f'cannot copy from stage "{from_}", '
                f'it needs to be defined before current stage "{stage.label}"'
            )
        source = source_stage.done().state
    env = work.state.env.values
    texts = _expand(instruction, env, scope)
    os = stage.platform.os
    common = _common(instruction, texts)
    dest = _destination(work, texts.dest, os)
    title = shown(instruction.original, env, scope.escape)
    name = step_name(scope, stage, work, title, env)
    actions: list[Action] = []
    for text in texts.sources:
        if is_git(text):
            actions.append(_git(instruction, texts, text, dest, common, name))
        elif is_http(text):
            actions.append(_download(instruction, texts, text, dest, common, name))
        else:
            actions.append(_files(instruction, text, source, dest, common, os))
    for file in texts.files:
        path = strip_drive(file.path, os)
        made = State().file(
            ActionMkfile(path, 0o644, file.data.encode("utf-8", "surrogateescape")), constraints=_INTERNAL
        )
        action = msgspec.structs.replace(common, src=to_slash(path, os), dest=dest)
        actions.append(CopySource(made, action))
    constraints = scope.constraints(name, instruction.lines)
    if stage.no_cache:
        constraints = msgspec.structs.replace(constraints, ignore_cache=True)
    if instruction.link and not instruction.chmod:
        # A group shows the two ops as one step. Its id only has to be different from others'.
        group = f"link:{name}:{instruction.lines[0]}"
        linked = step_name(scope, stage, work, f"LINK {title}", env, advance=False)
        upper = State().set_dir(work.state.dir)
        copied = upper.file(
            *actions, constraints=msgspec.structs.replace(constraints, progress_group=(group, name, True))
        )
        described = {**constraints.description, "llb.customname": linked}
        merged = merge(
            [work.state, copied],
            constraints=msgspec.structs.replace(
                constraints, description=described, progress_group=(group, name, False)
            ),
        )
        work.state = work.state.with_output(merged.output)
    else:
        work.state = work.state.file(*actions, constraints=constraints)
    work.image.commit(_history_text(instruction, texts), layer=True)
    _note_paths(work, source_stage, texts.sources, instruction)


def _expand(instruction: Copy | Add, env: Mapping[str, str], scope: Scope) -> _Texts:
    chown_text = scope.expand(instruction.chown, env)
    chmod_text = scope.expand(instruction.chmod, env)
    checksum = scope.expand(instruction.checksum, env) if isinstance(instruction, Add) else ""
    sources = tuple([scope.expand(source, env) for source in instruction.sources])
    dest = scope.expand(instruction.dest, env)
    # Quotes in a body are text, and the escape character there is always the backslash.
    files = [
        msgspec.structs.replace(file, data=expand(file.data, env, quotes=False).value)
        if file.expand
        else file
        for file in instruction.files
    ]
    return _Texts(sources, dest, chown_text, chmod_text, checksum, tuple(files))


def _destination(work: Work, dest: str, os: str) -> str:
    dest = strip_drive(dest, os, keep_slash=True)
    if is_absolute(dest, os):
        return normalize("/", dest, os, keep_slash=True)
    if dest in ("", "."):
        dest = "./"  # the directory, even if it does not exist yet
    return normalize(work.state.dir, dest, os, keep_slash=True)


def _common(instruction: Copy | Add, texts: _Texts) -> ActionCopy:
    """What all actions of the instruction share."""
    if texts.checksum:
        if len(texts.sources) != 1:
            raise DockerfileError("checksum can't be specified for multiple sources")
        if not is_http(texts.sources[0]) and not is_git(texts.sources[0]):
            raise DockerfileError("checksum requires HTTP(S) or Git sources")
    mode, mode_text = _mode(texts.chmod)
    return ActionCopy(
        "",
        "",
        owner=chown(texts.chown) if texts.chown else None,
        mode=mode,
        mode_str=mode_text,
        create_dest_path=True,
        exclude_patterns=instruction.exclude,
    )


def _mode(text: str) -> tuple[int, str]:
    """`--chmod` as a number, or as symbolic text with a number that says nothing."""
    if not text:
        return -1, ""
    if not text.strip("01234567") and int(text, 8) <= 0o7777:
        return int(text, 8), ""
    if text[0].isdigit():
        raise DockerfileError(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )
    if not re.fullmatch(_SYMBOLIC, text):
        raise DockerfileError(
            f"invalid chmod parameter: '{text}': invalid syntax",
            hint="octal (644, 0755) or symbolic (u=rwX,go=rX) as chmod takes it",
        )
    return 0, text


def _git(
    instruction: Copy | Add, texts: _Texts, text: str, dest: str, common: ActionCopy, name: str
) -> CopySource:
    if isinstance(instruction, Copy):
        raise DockerfileError("source can't be a git ref for COPY", hint="ADD takes git repositories")
    try:
        ref = parse_git_ref(text)
    except UsageError as error:
        raise DockerfileError(error.message, hint=error.hint) from None
    assert ref is not None
    keep, own = instruction.keep_git_dir, ref.keep_git_dir
    if keep is not None and own is not None and keep != own:
        raise DockerfileError("inconsistent keep-git-dir configuration")
    checksum = texts.checksum
    if checksum and ref.checksum and checksum != ref.checksum:
        raise DockerfileError(f'checksum mismatch "{checksum}" != "{ref.checksum}"')
    state = git_state(
        ref,
        Constraints.named(name),
        keep_git_dir=bool(keep if own is None else own),
        checksum=ref.checksum or checksum,
    )
    return CopySource(state, msgspec.structs.replace(common, src="/", dest=dest))


def _download(
    instruction: Copy | Add, texts: _Texts, url: str, dest: str, common: ActionCopy, name: str
) -> CopySource:
    if isinstance(instruction, Copy):
        raise DockerfileError("source can't be a URL for COPY", hint="ADD downloads")
    description = {"llb.customname": name, "com.docker.dockerfile.v1.command": ""}
    state = download_state(url, texts.checksum, Constraints(description=description))
    action = msgspec.structs.replace(
        common, src=_download_name(url), dest=dest, attempt_unpack_docker_compat=bool(instruction.unpack)
    )
    return CopySource(state, action)


def download_state(url: str, checksum: str, constraints: Constraints) -> State:
    """The file that ADD downloads, in a directory of its own. Raises `DockerfileError` for a bad checksum."""
    if checksum:
        try:
            Digest.parse(checksum)
        except InvalidDigest as error:
            raise DockerfileError(error.message, hint=error.hint) from None
    return http(url, filename=_download_name(url), checksum=checksum, constraints=constraints)


def _download_name(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    name = posixpath.basename(unquote(urlsplit(url).path).rstrip("/"))
    return "__unnamed__" if name in ("", ".") else name


def _files(
    instruction: Copy | Add, text: str, source: State, dest: str, common: ActionCopy, os: str
) -> CopySource:
    """Files of the context or of a stage."""
    include: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    if isinstance(instruction, Copy) and instruction.parents:
        # What is before `/./` is not kept in the destination.
        parent, pivot, pattern = text.partition("/./")
        if not pivot:
            parent, pattern = "/", text
        pattern = normalize("/", pattern, os)
        include = (pattern.removeprefix("/"),)
        if not _has_wildcard(parent) and not _has_wildcard(pattern):
            required = (normalize("/", join(parent, pattern), os),)
        text = parent
    unpack = isinstance(instruction, Add)
    if isinstance(instruction, Add) and instruction.unpack is not None:
        unpack = instruction.unpack
    action = msgspec.structs.replace(
        common,
        src=normalize("/", text, os),
        dest=dest,
        follow_symlink=True,
        dir_copy_contents=True,
        include_patterns=include,
        required_paths=required,
        attempt_unpack_docker_compat=unpack,
        allow_wildcard=True,
        allow_empty_wildcard=True,
    )
    return CopySource(source, action)


def _has_wildcard(text: str) -> bool:
    return re.search(r"(?:^|[^\\])(?:\\\\)*[*?\[]", text) is not None


def _history_text(instruction: Copy | Add, texts: _Texts) -> str:
    words = ["ADD" if isinstance(instruction, Add) else "COPY"]
    if isinstance(instruction, Copy) and instruction.parents:
        words.append("--parents")
    if texts.chown:
        words.append(f"--chown={texts.chown}")
    if texts.chmod:
        words.append(f"--chmod={texts.chmod}")
    words += texts.sources
    words += [f"<<{file.path}" for file in texts.files]
    return " ".join([*words, texts.dest, "#", "buildkit"])


def _note_paths(
    work: Work, source_stage: Stage | None, sources: tuple[str, ...], instruction: Copy | Add
) -> None:
    """Remember what is taken, so that no more than that is transferred."""
    for text in sources:
        if source_stage is not None:
            source_stage.done().paths.add(join("/", text))
        elif isinstance(instruction, Copy) or not text.startswith(("http://", "https://")):
            work.context_paths.add(join("/", text))
