"""Parts of a graph as Go's encoding/json has them: fields by the names and in the order of BuildKit's
`solver/pb/ops.proto`, without those that `omitempty` leaves out.

Cache keys of stock BuildKit are digests of such JSON, and provenance shows it.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any, assert_never

from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    UserByName,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import Chown, SecretOpt, SSHOpt

__all__ = ["action_json", "encode", "filled", "grant_json", "owner_json"]

_ESCAPES = (
    ("&", "\\u0026"),
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)
_NO_TEXT = re.compile("[\ud800-\udfff]")


def encode(document: Any) -> bytes:
    """As Go's encoding/json writes it, bytes that are no UTF-8 included."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return _NO_TEXT.sub(r"\\ufffd", text).encode()


def filled(keep: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    """Fields without empty ones; those of `keep` go only when they are None."""
    return {
        name: value
        for name, value in fields.items()
        if (value is not None if name in keep else value not in (0, "", None, [], {}))
    }


def grant_json(lent: SecretOpt | SSHOpt) -> dict[str, Any]:
    """What a secret or an agent is mounted by."""
    return filled(ID=lent.id, uid=lent.uid, gid=lent.gid, mode=lent.mode, optional=lent.optional)


def owner_json(owner: Chown) -> dict[str, Any]:
    return {
        name: {
            "User": {"byName": filled(name=part.name, input=part.input)}
            if isinstance(part, UserByName)
            else filled(byId=part)
        }
        for name, part in (("user", owner.user), ("group", owner.group))
        if part is not None
    }


def action_json(
    action: ActionCopy | ActionMkdir | ActionMkfile | ActionRm | ActionSymlink,
    owner: dict[str, Any] | None,
) -> tuple[str, dict[str, Any]]:
    """The field of `FileAction` that it is, and what is in it; `owner` is that of `owner_json` or None."""
    match action:
        case ActionMkdir():
            return "mkdir", filled(
                path=action.path,
                mode=action.mode,
                makeParents=action.make_parents,
                owner=owner,
                timestamp=action.timestamp,
                keep=("owner",),
            )
        case ActionMkfile():
            return "mkfile", filled(
                path=action.path,
                mode=action.mode,
                data=b64encode(action.data).decode(),
                owner=owner,
                timestamp=action.timestamp,
                keep=("owner",),
            )
        case ActionRm():
            return "rm", filled(
                path=action.path,
                allowNotFound=action.allow_not_found,
                allowWildcard=action.allow_wildcard,
            )
        case ActionSymlink():
            return "symlink", filled(
                oldpath=action.oldpath,
                newpath=action.newpath,
                owner=owner,
                timestamp=action.timestamp,
                keep=("owner",),
            )
        case ActionCopy():
            return "copy", filled(
                src=action.src,
                dest=action.dest,
                owner=owner,
                mode=action.mode,
                followSymlink=action.follow_symlink,
                dirCopyContents=action.dir_copy_contents,
                attemptUnpackDockerCompatibility=action.attempt_unpack_docker_compat,
                createDestPath=action.create_dest_path,
                allowWildcard=action.allow_wildcard,
                allowEmptyWildcard=action.allow_empty_wildcard,
                timestamp=action.timestamp,
                include_patterns=list(action.include_patterns),
                exclude_patterns=list(action.exclude_patterns),
                alwaysReplaceExistingDestPaths=action.always_replace_existing_dest_paths,
                modeStr=action.mode_str,
                required_paths=list(action.required_paths),
                keep=("owner",),
            )
        case _:
            assert_never(action)
