"""Whether a build has to run programs of the platforms it is for: told from the Dockerfile alone, before any
node is chosen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyarch.engine.options import local_inputs
from anyarch.engine.remote import is_remote
from anyarch.errors import AnyarchError

if TYPE_CHECKING:
    from anyarch.engine.request import BuildRequest
    from anyarch.frontend.dockerfile.instructions import Dockerfile, Stage

__all__ = ["runs_programs"]


def runs_programs(request: BuildRequest) -> bool:
    """Whether a stage that the target needs, and that is for the platform built, has a RUN. False where the
    file cannot be read here: then whoever builds will find out."""
    from anyarch.frontend.dockerfile.parser import parse

    raw = _text(request)
    if raw is None:
        return False
    try:
        dockerfile = parse(raw)
    except AnyarchError:
        return False  # the build says what is wrong with it
    return any(_has_run(stage) and not stage.platform for stage in _needed(dockerfile, request.target))


def _text(request: BuildRequest) -> bytes | None:
    if request.dockerfile_data is not None:
        return request.dockerfile_data
    if request.context_tar is not None or is_remote(request.context) or request.context == "-":
        return None
    name = os.path.basename(request.dockerfile) if request.dockerfile else "Dockerfile"
    try:
        with open(os.path.join(local_inputs(request).get("dockerfile", "."), name), "rb") as file:
            return file.read()
    except (OSError, AnyarchError):
        return None


def _has_run(stage: Stage) -> bool:
    from anyarch.frontend.dockerfile.instructions import Run

    return any(isinstance(instruction, Run) for instruction in stage.instructions)


def _needed(dockerfile: Dockerfile, target: str) -> list[Stage]:
    """The stages that the target is made of. A stage whose FROM gives a platform stands for itself: what it
    runs, it runs for that one."""
    stages = dockerfile.stages
    numbers = {stage.name: number for number, stage in enumerate(stages) if stage.name}
    numbers |= {str(number): number for number in range(len(stages))}
    last = numbers.get(target.lower(), len(stages) - 1) if target else len(stages) - 1
    found: dict[int, Stage] = {}
    left = [last] if stages else []
    while left:
        number = left.pop()
        if number in found:
            continue
        stage = found[number] = stages[number]
        left += [numbers[name] for name in _sources(stage) if numbers.get(name, number) < number]
    return list(found.values())


def _sources(stage: Stage) -> list[str]:
    from anyarch.frontend.dockerfile.instructions import Copy, Run

    names = [stage.base_name.lower()]
    for instruction in stage.instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            names.append(instruction.from_.lower())
        elif isinstance(instruction, Run):
            fields = (field for mount in instruction.mounts for field in mount.fields)
            names += [field.value.lower() for field in fields if field.key == "from" and field.value]
    return names
