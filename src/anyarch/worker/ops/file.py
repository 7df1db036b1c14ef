"""File operations: mkdir, mkfile, rm, symlink, copy. One `FileOp` writes one layer; nothing is mounted.

The layer a file operation writes depends on its actions, on the content it copies and on a few facts about
the tree it writes above (is `/app` there, and a directory?). All three are kept with the layer, so the same
COPY on the bases of eight platforms is written, compressed and uploaded once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, assert_never

import msgspec

from anyarch.archive.entry import Entry, Kind
from anyarch.errors import BuildError, FailedState, PathNotFound, StoreError
from anyarch.llb.ops import (
    ActionCopy,
    ActionMkdir,
    ActionMkfile,
    ActionRm,
    ActionSymlink,
    Chown,
    UserByName,
)
from anyarch.solver.vertex import CacheMap
from anyarch.spec.glob import has_wildcards
from anyarch.worker.copytree import Copier, expand, selector, source_paths
from anyarch.worker.draft import Draft, bytes_content, clean, join, parent_of
from anyarch.worker.passwd import UserDatabase
from anyarch.worker.result import LocalResult, SnapshotResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyarch.llb.ops import (
        FileAction,
        FileOp,
    )
    from anyarch.snapshot.tree import TreeView
    from anyarch.solver.vertex import ContentKey
    from anyarch.worker.copytree import Owner
    from anyarch.worker.result import Result
    from anyarch.worker.worker import Worker

__all__ = ["FileOperation"]

_VERSION = "file/2"  # part of every key: raise it when the bytes that an action writes change
_MAX_FACTS = 4096
_MAX_CANDIDATES = 16
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class FileOperation:
    def __init__(self, worker: Worker, op: FileOp, inputs: int) -> None:
        self._worker = worker
        self._op = op
        self._inputs = inputs
        self._content_keys: dict[int, str] = {}
        _check(op, inputs)
        by_content = {n for n in range(inputs) if self._content_key(n) is not None}
        neutral = _encode([_VERSION, _neutral(op, by_content)])
        sources = [step.action.src for step in op.actions if isinstance(step.action, ActionCopy)]
        self._digest = hashlib.sha256(neutral).hexdigest()
        self._definition = hashlib.sha256(neutral + _encode(sources)).hexdigest()

    # keys -----------------------------------------------------------------------------------------

    async def cache_map(self) -> CacheMap:
        content = tuple(self._content_key(n) for n in range(self._inputs))
        return CacheMap(self._digest, content, definition=self._definition)

    @property
    def root_input(self) -> int:
        """Which input the first action changes; -1 for an empty tree."""
        first = self._op.actions[0].input if self._op.actions else -1
        return first if first < self._inputs else -1

    def only_copies_from(self, position: int) -> bool:
        """Whether an input is nothing but the source of copies."""
        return self._content_key(position) is not None

    def _content_key(self, position: int) -> ContentKey | None:
        """The content of an input stands for it where every use is as the source of a copy."""
        copies = []
        for action in self._op.actions:
            if action.input == position or position in _named_inputs(action):
                return None
            if action.secondary_input == position:
                if not isinstance(action.action, ActionCopy):
                    return None
                copies.append(action.action)
        if not copies:
            return None

        async def content(result: Result) -> str:
            if isinstance(result, SnapshotResult):
                await self._worker.ensure_local(result)
            key = await asyncio.to_thread(self._content_of, result, copies)
            self._content_keys[position] = key
            return key

        return content

    def _content_of(self, result: Result, copies: Sequence[ActionCopy]) -> str:
        if result is None or (isinstance(result, SnapshotResult) and not result.depth):
            # Of an empty root nothing is read ahead of the step, in whose words it is told then.
            for action in copies:
                if not action.allow_wildcard and clean(action.src):
                    raise PathNotFound(f"lstat /{clean(action.src)}: no such file or directory")
        try:
            return self._digest_of(result, copies)
        except PathNotFound as error:
            if isinstance(result, LocalResult):
                error.hint = error.hint or _hint_missing(result, copies)
            raise

    def _digest_of(self, result: Result, copies: Sequence[ActionCopy]) -> str:
        tree = self._worker.view(result)
        whole = hashlib.sha256()
        for action in copies:
            keep = selector(action, self._worker.patterns)
            for path in source_paths(tree, action):
                # The name counts: it is the destination's when that is a directory.
                real = path
                if not action.follow_symlink:
                    node = tree.lookup(path)
                    if node is None:
                        raise PathNotFound(f'"/{path}": not found')
                    real = node.entry.path
                name = path.rpartition("/")[2]
                digest = tree.content_digest(real, follow=action.follow_symlink, keep=keep)
                whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + digest.encode())
            for path in action.required_paths:
                if tree.lookup(clean(path)) is None:
                    raise PathNotFound(f'"/{clean(path)}": not found')
        return whole.hexdigest()

    # running --------------------------------------------------------------------------------------

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        for result in inputs:
            if isinstance(result, SnapshotResult):
                await self._worker.ensure_local(result)
        return await asyncio.to_thread(self._run, inputs)

    def _run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        memo = self._memo_key(inputs)
        if memo is not None:
            layer = self._remembered(memo, inputs)
            if layer is not None:
                return [self._stack(inputs[self._base_input()] if self._base_input() >= 0 else None, layer)]
        states: list[tuple[int, Draft]] = []  # after each action: the input it goes back to, and the changes
        outputs: dict[int, Result] = {}
        for number, action in enumerate(self._op.actions):
            base, draft = self._primary(action, inputs, states, number)
            try:
                self._apply(action, draft, inputs, states)
            except BuildError as error:
                if self._worker.keeps_failures:
                    error.failed_state = self._failed_state(number, base, draft, inputs, states)
                raise
            states.append((base, draft))
            if action.output >= 0:
                layer = self._commit(draft)
                if memo is not None:
                    self._remember(memo, draft, layer)
                outputs[action.output] = self._stack(inputs[base] if base >= 0 else None, layer)
        return [outputs.get(index) for index in range(max(outputs, default=-1) + 1)]

    def _failed_state(
        self,
        number: int,
        base: int,
        draft: Draft,
        inputs: Sequence[Result],
        states: list[tuple[int, Draft]],
    ) -> FailedState | None:
        """What the failed action has left, and what it copied from where that was made here; None where there
        is no room for that."""
        action = self._op.actions[number]
        outputs: list[Result] = [None] * len(self._op.actions)
        try:
            outputs[number] = self._kept(base, draft, inputs)
            source = action.secondary_input - self._inputs
            if source >= 0:
                outputs[source] = self._kept(*states[source], inputs)
        except StoreError:
            return None
        return FailedState(inputs, outputs, action=number)

    def _kept(self, base: int, draft: Draft, inputs: Sequence[Result]) -> SnapshotResult:
        layer = self._commit(draft)
        self._worker.passing_layers.append(layer)
        return self._stack(inputs[base] if base >= 0 else None, layer)

    def _primary(
        self, action: FileAction, inputs: Sequence[Result], states: list[tuple[int, Draft]], number: int
    ) -> tuple[int, Draft]:
        if action.input < self._inputs:
            base = action.input
            return base, Draft(self._worker.view_or_none(inputs[base]) if base >= 0 else None)
        position = action.input - self._inputs
        base, draft = states[position]
        users = sum(
            1
            for other in self._op.actions[number + 1 :]
            if action.input in (other.input, other.secondary_input)
        )
        return base, draft.fork() if users else draft

    def _source(self, index: int, inputs: Sequence[Result], states: list[tuple[int, Draft]]) -> TreeView:
        if index < 0:
            return self._worker.view(None)
        if index < self._inputs:
            return self._worker.view(inputs[index])
        base, draft = states[index - self._inputs]
        return self._worker.view(self._stack(inputs[base] if base >= 0 else None, self._commit(draft)))

    def _apply(
        self, step: FileAction, draft: Draft, inputs: Sequence[Result], states: list[tuple[int, Draft]]
    ) -> None:
        action = step.action
        match action:
            case ActionCopy():
                tree = self._source(step.secondary_input, inputs, states)
                owner = self._owner(action.owner, inputs, states)
                copier = Copier(draft, tree, action, owner, patterns=self._worker.patterns)
                for path in source_paths(tree, action):
                    if action.attempt_unpack_docker_compat and self._worker.unpack(
                        draft, tree, path, action, owner
                    ):
                        continue
                    copier.copy(path)
            case ActionMkdir():
                self._mkdir(action, draft, self._owner(action.owner, inputs, states))
            case ActionMkfile():
                self._mkfile(action, draft, self._owner(action.owner, inputs, states))
            case ActionSymlink():
                uid, gid = self._owner(action.owner, inputs, states) or (0, 0)
                path = draft.resolve(clean(action.newpath))
                if draft.get(path) is not None:
                    raise BuildError(f"symlink {action.oldpath} /{path}: file exists")
                draft.put(
                    Entry(
                        path, Kind.SYMLINK, 0o777, uid, gid, max(action.timestamp, 0), linkname=action.oldpath
                    )
                )
            case ActionRm():
                self._remove(action, draft)
            case _:
                assert_never(action)

    def _mkdir(self, action: ActionMkdir, draft: Draft, owner: Owner | None) -> None:
        uid, gid = owner or (0, 0)
        path = draft.resolve(clean(action.path))
        mtime_ns = action.timestamp if action.timestamp >= 0 else None
        mode = action.mode & 0o777
        if action.make_parents:
            draft.make_parents(path, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns)
            return
        parent = parent_of(path)
        if parent and draft.get(parent) is None:
            raise PathNotFound(f"mkdir /{path}: no such file or directory")
        if draft.get(path) is None:
            draft.make_parents(path, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns)

    def _mkfile(self, action: ActionMkfile, draft: Draft, owner: Owner | None) -> None:
        path = draft.resolve(clean(action.path))
        parent = parent_of(path)
        if parent and draft.get(parent) is None:
            raise PathNotFound(f"open /{path}: no such file or directory")
        existing = draft.get(path)
        if existing is not None and existing.kind is Kind.DIRECTORY:
            raise BuildError(f"open /{path}: is a directory")
        mode, (uid, gid) = action.mode & 0o777, owner or (0, 0)
        if existing is not None:
            if existing.kind in (Kind.FILE, Kind.HARDLINK):  # it is written anew, but stays the same file
                mode, (uid, gid) = existing.mode, owner or (existing.uid, existing.gid)
            draft.remove(path)
        digest = hashlib.sha256(action.data).digest()
        draft.put(
            Entry(
                path,
                Kind.FILE,
                mode,
                uid,
                gid,
                max(action.timestamp, 0),
                len(action.data),
                digest=digest,
            ),
            bytes_content(action.data),
        )

    def _remove(self, action: ActionRm, draft: Draft) -> None:
        source = clean(action.path)
        if not source:
            raise BuildError("rm: the root cannot be removed")
        found = [source]
        if action.allow_wildcard and has_wildcards(source):
            found = expand(draft, source)
        for match in found:
            parent, _, name = match.rpartition("/")
            path = join(draft.resolve(parent), name)
            if draft.get(path) is None:
                if action.allow_not_found:
                    continue
                raise PathNotFound(f"rm /{path}: no such file or directory")
            draft.remove(path)

    # owners ---------------------------------------------------------------------------------------

    def _owner(
        self, chown: Chown | None, inputs: Sequence[Result], states: list[tuple[int, Draft]]
    ) -> Owner | None:
        """Numbers for names. An unknown name is 0, as BuildKit has it."""
        if chown is None or (chown.user is None and chown.group is None):
            return None
        uid = gid = 0
        if isinstance(chown.user, UserByName):
            uid, gid = self._users(chown.user, inputs, states).ids_of(chown.user.name)
        elif chown.user is not None:
            uid = gid = chown.user
        if isinstance(chown.group, UserByName):
            found = self._users(chown.group, inputs, states).gid_of(chown.group.name)
            gid = gid if found is None else found
        elif chown.group is not None:
            gid = chown.group
        return uid, gid

    def _users(
        self, by_name: UserByName, inputs: Sequence[Result], states: list[tuple[int, Draft]]
    ) -> UserDatabase:
        if not 0 <= by_name.input < len(inputs) + len(states):
            raise BuildError(
                "invalid user index", hint="a stage FROM scratch has no /etc/passwd: give numbers to --chown"
            )
        return UserDatabase(self._source(by_name.input, inputs, states))

    # layers ---------------------------------------------------------------------------------------

    def _commit(self, draft: Draft) -> str:
        with self._worker.layers.new_tar() as layer:
            draft.commit(layer)
            return layer.commit().id

    def _stack(self, base: Result, layer: str) -> SnapshotResult:
        if isinstance(base, LocalResult):
            base = self._worker.materialize(base)
        return (base or SnapshotResult()).on(layer)

    def _base_input(self) -> int:
        return self._op.actions[0].input

    def _memo_key(self, inputs: Sequence[Result]) -> str | None:
        """None unless the operation writes one layer above one base and all else that it reads has a content
        key."""
        outputs = [action for action in self._op.actions if action.output >= 0]
        chained = all(action.input == self._inputs + n for n, action in enumerate(self._op.actions[1:]))
        if len(outputs) != 1 or outputs[0] is not self._op.actions[-1] or not chained:
            return None
        base = self._base_input()
        parts: list[str] = [self._digest]
        for position in range(self._inputs):
            if position == base:
                continue
            key = self._content_keys.get(position)
            if key is None:
                return None
            parts.append(key)
        for action in self._op.actions:
            for named in _named_inputs(action):
                if named >= self._inputs:
                    return None
                # The names' numbers are facts of the base as well; they go into the key as they are.
                users = UserDatabase(self._worker.view_or_none(inputs[named]) if named >= 0 else None)
                parts.append(users.digest)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _remembered(self, memo: str, inputs: Sequence[Result]) -> str | None:
        raw = self._worker.store.cache.get_value("layer-memo", memo)
        if raw is None:
            return None
        base = self._base_input()
        tree = self._worker.view_or_none(inputs[base]) if base >= 0 else None
        for facts, layer_id in msgspec.msgpack.decode(raw):
            if self._worker.has_layer(layer_id) and _same_facts(facts, tree):
                return str(layer_id)
        return None

    def _remember(self, memo: str, draft: Draft, layer: str) -> None:
        if len(draft.facts) > _MAX_FACTS:
            return
        raw = self._worker.store.cache.get_value("layer-memo", memo)
        known = msgspec.msgpack.decode(raw) if raw is not None else []
        known = [[draft.facts, layer], *(item for item in known if item[1] != layer)][:_MAX_CANDIDATES]
        # A name that is not UTF-8 cannot be written down: a layer with such facts is made anew each time.
        with suppress(UnicodeEncodeError):
            self._worker.store.cache.set_value("layer-memo", memo, _encode(known))


def _encode(value: object) -> bytes:
    """One form for equal values. Texts that are not UTF-8 (names in a Dockerfile need not be) become
    bytes."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_in_bytes(msgspec.to_builtins(value)))


def _in_bytes(value: object) -> object:
    match value:
        case str() if not value.isascii():
            return value.encode("utf-8", "surrogateescape")
        case dict():
            return {key: _in_bytes(item) for key, item in value.items()}
        case list() | tuple():
            return [_in_bytes(item) for item in value]
        case _:
            return value


def _same_facts(facts: dict[str, object], tree: TreeView | None) -> bool:
    """Whether `tree` would answer every recorded question in the same way."""
    from anyarch.worker.draft import fact_of

    for path, answer in facts.items():
        if path.endswith("/"):
            if tree is None or tree.lookup(path[:-1]) is None or tree.listdir(path[:-1]) != answer:
                return False
            continue
        node = tree.lookup(path) if tree is not None else None
        entry = node.entry if node is not None else None
        if path == "" and entry is None:
            entry = Entry("", Kind.DIRECTORY, 0o755)
        if fact_of(entry) != answer:
            return False
    return True


def _hint_missing(context: LocalResult, copies: Sequence[ActionCopy]) -> str:
    """Why a path of the build context may be missing."""
    for action in copies:
        path = clean(action.src)
        if context.tree.lookup(path) is None and os.path.lexists(os.path.join(context.tree.root, path)):
            return f"{path} is in the directory, but .dockerignore leaves it out of the build context"
    return "paths are those of the build context, the directory given last on the command line"


def _named_inputs(action: FileAction) -> list[int]:
    owner = getattr(action.action, "owner", None)
    parts = (owner.user, owner.group) if owner is not None else ()
    return [part.input for part in parts if isinstance(part, UserByName)]


def _check(op: FileOp, inputs: int) -> None:
    """Raises `BuildError` for an operation that refers to what is not there."""
    if not op.actions:
        raise BuildError("invalid file op with no actions")
    for number, step in enumerate(op.actions):
        for index in (step.input, step.secondary_input):
            if not -1 <= index < inputs + number:
                raise BuildError(f"invalid file action input index {index}")


def _neutral(op: FileOp, by_content: set[int]) -> object:
    """The operation as plain values. Paths in the inputs of `by_content` count by the content they name, so
    they are left out."""
    out: list[object] = []
    for step in op.actions:
        action = step.action
        fields = msgspec.structs.asdict(action)
        if isinstance(action, ActionCopy) and step.secondary_input in by_content:
            fields.pop("src")
        owner = fields.get("owner")
        if isinstance(owner, Chown):
            fields["owner"] = [_owner_part(owner.user), _owner_part(owner.group)]
        out.append([type(action).__name__, fields, step.input, step.secondary_input, step.output])
    return out


def _owner_part(part: int | UserByName | None) -> object:
    return [part.name, part.input] if isinstance(part, UserByName) else part
