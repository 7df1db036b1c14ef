"""`--call outline`: the build arguments, secrets and agents that a target can take.

A conversion tells an `Outline` of each instruction it has converted; what counts is what the target's
stages, and those they take from, declare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from . import instructions as ins
from .expand import expand
from .instructions import Lines
from .mount import resolve_mount
from .run import secret_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .stage import Scope, Stage, Work

__all__ = ["ArgInfo", "Outline", "OutlineResult", "Taken"]


class ArgInfo(msgspec.Struct, frozen=True):
    """A build argument. `needs` are arguments its default is made of."""

    name: str
    value: str
    description: str
    lines: Lines
    needs: tuple[str, ...] = ()


class Taken(msgspec.Struct, frozen=True):
    """A secret or an agent."""

    name: str
    required: bool
    lines: Lines


class OutlineResult(msgspec.Struct, frozen=True):
    """All in the order of lines."""

    name: str
    description: str
    args: tuple[ArgInfo, ...]
    secrets: tuple[Taken, ...]
    ssh: tuple[Taken, ...]


class _Seen:
    """What one stage declares itself or has from the global scope."""

    def __init__(self, args: Mapping[str, ArgInfo], used: set[str]) -> None:
        self.args = dict(args)
        self.used = used
        self.secrets: dict[str, Taken] = {}
        self.ssh: dict[str, Taken] = {}


class Outline:
    def __init__(self, dockerfile: ins.Dockerfile, scope: Scope) -> None:
        self._scope = scope
        self._globals = _global_infos(dockerfile, scope)
        self._stages: dict[Stage, _Seen] = {}

    def _seen(self, stage: Stage) -> _Seen:
        found = self._stages.get(stage)
        if found is None:
            used: set[str] = set()
            if stage.parsed is not None and stage.named is None:
                for word in (stage.parsed.base_name, stage.parsed.platform):
                    expansion = expand(word, self._scope.global_args, escape=self._scope.escape)
                    used.update(expansion.matched)
            found = self._stages[stage] = _Seen(self._globals, used)
        return found

    def note(self, stage: Stage, instruction: ins.Instruction, work: Work, env: Mapping[str, str]) -> None:
        """`instruction` has been converted; `env` is what it saw."""
        if isinstance(instruction, ins.Arg):
            seen = self._seen(stage)
            for item in instruction.args:
                seen.used.add(item.key)
                is_given = item.value is not None or item.key in self._scope.build_args
                # Without a value of its own it is the global argument, documented where that is.
                if is_given or item.key not in self._scope.global_args:
                    value = work.build_args.get(item.key, "")
                    seen.args[item.key] = ArgInfo(item.key, value, item.comment, instruction.lines)
        elif isinstance(instruction, ins.Run):
            for spec in instruction.mounts:
                mount = resolve_mount(spec, lambda word: self._scope.expand(word, env))
                if mount.type == "secret":
                    name = secret_id(mount)
                    taken = Taken(name, mount.required, instruction.lines)
                    self._seen(stage).secrets.setdefault(name, taken)
                elif mount.type == "ssh":
                    name = mount.id or "default"
                    taken = Taken(name, mount.required, instruction.lines)
                    self._seen(stage).ssh.setdefault(name, taken)

    def result(self, target: Stage) -> OutlineResult:
        stages = self._chain(target, {})
        args: dict[str, ArgInfo] = {}
        secrets: dict[str, Taken] = {}
        ssh: dict[str, Taken] = {}
        for stage in stages:
            seen = self._seen(stage)
            for name in _closure(seen.used, seen.args):
                args.setdefault(name, seen.args[name])
            for name, taken in seen.secrets.items():
                secrets.setdefault(name, taken)
            for name, taken in seen.ssh.items():
                ssh.setdefault(name, taken)
        parsed = target.parsed
        return OutlineResult(
            parsed.name if parsed is not None else "",
            parsed.comment if parsed is not None else "",
            tuple(sorted(args.values(), key=_line)),
            tuple(sorted(secrets.values(), key=_line)),
            tuple(sorted(ssh.values(), key=_line)),
        )

    def _chain(self, stage: Stage, found: dict[Stage, None]) -> dict[Stage, None]:
        """The stage, then what it stands on, then what it takes from."""
        if stage not in found:
            found[stage] = None
            for other in (*([stage.base] if stage.base is not None else []), *stage.deps):
                self._chain(other, found)
        return found


def _line(item: ArgInfo | Taken) -> int:
    return item.lines[0]


def _closure(names: set[str], args: Mapping[str, ArgInfo]) -> list[str]:
    """Those of `names` that are declared, with those that their defaults need; in the order of lines."""
    found: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in found and name in args:
            found.add(name)
            stack += args[name].needs
    return sorted(found, key=lambda name: (args[name].lines, name))


def _global_infos(dockerfile: ins.Dockerfile, scope: Scope) -> dict[str, ArgInfo]:
    values = scope.global_args
    declared = [item.key for arg in dockerfile.global_args for item in arg.args]
    known = {name: value for name, value in values.items() if name not in declared}
    infos: dict[str, ArgInfo] = {}
    for arg in dockerfile.global_args:
        for item in arg.args:
            needs: tuple[str, ...] = ()
            if item.key not in scope.build_args and item.value is not None:
                matched = expand(item.value, known, escape=dockerfile.escape).matched
                needs = tuple(name for name in matched if name != item.key)
                if item.key in matched and item.key in infos:
                    needs += infos[item.key].needs
            if item.key in values:
                known[item.key] = values[item.key]
            infos[item.key] = ArgInfo(item.key, values.get(item.key, ""), item.comment, arg.lines, needs)
    return infos
