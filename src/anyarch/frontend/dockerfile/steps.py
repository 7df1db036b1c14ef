"""Conversion of the instructions that change the image config and the environment: all but RUN, COPY and
ADD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyarch.errors import DockerfileError
from anyarch.llb.ops import ActionMkdir
from anyarch.llb.state import chown
from anyarch.spec.oci import Healthcheck

from .expand import expand_words
from .gotext import quote
from .image import healthcheck_text
from .naming import shown, step_name
from .ospath import from_slash, normalize, to_slash

if TYPE_CHECKING:
    from . import instructions
    from .stage import Scope, Stage, Work

__all__ = [
    "add_args",
    "add_env",
    "add_labels",
    "add_onbuild",
    "add_volumes",
    "change_workdir",
    "enter_workdir",
    "expose",
    "set_cmd",
    "set_entrypoint",
    "set_healthcheck",
    "set_maintainer",
    "set_shell",
    "set_stop_signal",
    "set_user",
]

# Declared by ARG like others, but never seen by steps.
_NOT_IN_ENV = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))


def add_args(work: Work, instruction: instructions.Arg, scope: Scope) -> None:
    texts = []
    for item in instruction.args:
        name = item.key
        value = scope.build_args.get(name)
        if value is None and item.value is not None:
            value = scope.expand(item.value, work.state.env.values)
        elif value is None:
            value = scope.global_args.get(name)
        if value is not None and name not in _NOT_IN_ENV:
            work.state = work.state.add_env(name, value)
        work.build_args[name] = value or ""
        texts.append(name if value is None else f"{name}={value}")
    work.image.commit("ARG " + " ".join(texts))


def add_env(work: Work, instruction: instructions.Env, scope: Scope) -> None:
    env = work.state.env.values  # one instruction sees the environment as it was before it
    pairs = [(scope.expand(pair.key, env), scope.expand(pair.value, env)) for pair in instruction.pairs]
    for name, value in pairs:
        work.state = work.state.add_env(name, value)
        work.image.set_env(name, value)
    work.image.commit(" ".join(["ENV", *(f"{name}={value}" for name, value in pairs)]))


def add_labels(work: Work, instruction: instructions.Label, scope: Scope) -> None:
    env = work.state.env.values
    pairs = [(scope.expand(pair.key, env), scope.expand(pair.value, env)) for pair in instruction.pairs]
    work.image.labels.update(pairs)
    work.image.commit(" ".join(["LABEL", *(f"{name}={value}" for name, value in pairs)]))


def set_maintainer(work: Work, instruction: instructions.Maintainer) -> None:
    work.image.author = instruction.text
    work.image.commit(f"MAINTAINER {instruction.text}")


def set_user(work: Work, user: str) -> None:
    work.state = work.state.set_user(user)
    work.image.user = user


def add_volumes(work: Work, instruction: instructions.Volume, scope: Scope) -> None:
    env = work.state.env.values
    volumes = [scope.expand(volume, env) for volume in instruction.volumes]
    if "" in volumes:
        raise DockerfileError("VOLUME specified can not be an empty string")
    work.image.volumes.update(volumes)
    work.image.commit(f"VOLUME [{' '.join(volumes)}]")


def expose(work: Work, instruction: instructions.Expose, scope: Scope) -> None:
    from .port import parse_port

    ports: list[str] = []
    for word in instruction.ports:
        for text in expand_words(word, work.state.env.values, escape=scope.escape):
            ports += parse_port(text).ports
    work.image.exposed_ports.update(ports)
    work.image.commit(f"EXPOSE [{' '.join(ports)}]")


def set_stop_signal(work: Work, instruction: instructions.StopSignal, scope: Scope) -> None:
    from .signals import parse_signal

    signal = scope.expand(instruction.signal, work.state.env.values)
    parse_signal(signal)
    work.image.stop_signal = signal
    work.image.commit(f"STOPSIGNAL {signal}")


def set_healthcheck(work: Work, instruction: instructions.Healthcheck) -> None:
    check = Healthcheck(
        instruction.test,
        instruction.interval,
        instruction.timeout,
        instruction.start_period,
        instruction.start_interval,
        instruction.retries,
    )
    work.image.healthcheck = check
    work.image.commit(f"HEALTHCHECK {healthcheck_text(check)}")


def set_shell(work: Work, instruction: instructions.Shell) -> None:
    work.image.shell = instruction.shell
    work.image.commit(f"SHELL [{' '.join(instruction.shell)}]")


def set_cmd(work: Work, instruction: instructions.Cmd) -> None:
    args = _argv(work, instruction)
    work.image.cmd = args
    work.image.args_escaped = True
    work.is_cmd_set = True
    work.image.commit(f"CMD [{' '.join(map(quote, args))}]")


def set_entrypoint(work: Work, instruction: instructions.Entrypoint) -> None:
    args = _argv(work, instruction)
    work.image.entrypoint = args
    if not work.is_cmd_set:
        # A CMD of the base, made for the base's entrypoint, makes no sense with another.
        work.image.cmd = ()
    work.image.commit(f"ENTRYPOINT [{' '.join(map(quote, args))}]")


def _argv(work: Work, instruction: instructions.Cmd | instructions.Entrypoint) -> tuple[str, ...]:
    if instruction.prepend_shell:
        return (*work.image.default_shell(), " ".join(instruction.cmdline))
    return instruction.cmdline


def add_onbuild(work: Work, instruction: instructions.Onbuild) -> None:
    work.image.on_build = (*work.image.on_build, instruction.expression)


def enter_workdir(work: Work, path: str, os: str) -> str:
    """Make `path` the working directory of config and steps; answers the new one with forward slashes."""
    try:
        directory = from_slash(normalize(work.image.working_dir, path, os), os)
    except DockerfileError as error:
        raise DockerfileError(f"normalizing workdir: {error.message}") from None
    work.image.working_dir = directory
    directory = to_slash(directory, os)
    work.state = work.state.set_dir(directory)
    return directory


def change_workdir(stage: Stage, work: Work, instruction: instructions.Workdir, scope: Scope) -> None:
    assert stage.platform is not None
    path = scope.expand(instruction.path, work.state.env.values)
    directory = enter_workdir(work, path, stage.platform.os)
    if directory == "/":
        work.image.commit("WORKDIR /")
        return
    env = work.state.env.values
    name = step_name(scope, stage, work, shown(instruction.original, env, scope.escape), env)
    action = ActionMkdir(
        directory,
        0o755,
        make_parents=True,
        owner=chown(work.image.user) if work.image.user else None,
        timestamp=-1 if scope.epoch is None else scope.epoch * 1_000_000_000,
    )
    work.state = work.state.file(action, constraints=scope.constraints(name, instruction.lines))
    work.image.commit(f"WORKDIR {directory}", layer=True)
