"""By which route a step of some platform runs here.

As root: a handler that the host has registered with flag F, else a private binfmt_misc in a user namespace,
else (before Linux 6.7) one that is registered with the machine now. As an ordinary user the private one comes
first, then the host's. Where nothing works the error names what refused and what to install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyarch.emulation.emulator import QEMU_ARCHITECTURES, Emulator, registration, unusable_emulator
from anyarch.errors import EmulatorMissing, NotSupported, SandboxError
from anyarch.sandbox.plan import ExecRequest, Registration, RootFS

if TYPE_CHECKING:
    from anyarch.emulation.host import Handler, Host
    from anyarch.sandbox.executor import Executor
    from anyarch.spec.platform import Platform

__all__ = ["Route", "plan", "probe", "registered"]

_PROBE_CODE = 42


class Route(msgspec.Struct, frozen=True):
    """`kind` is `native`, `host` (a handler that the host has registered), `private` (our own binfmt_misc),
    or `register`: the last resort of root, on which `registered` has to be called before it is taken.

    `emulators` is what to put into `ExecRequest.emulators`. `cache_identity` names the emulator and its
    version; it belongs into the cache key of a step that runs by this route, and is empty for native ones.
    `interpreter` is the path of the emulator. `note` tells what was changed on the machine
    for it, or why it would have to be.
    """

    kind: str
    emulators: tuple[Registration, ...] = ()
    cache_identity: str = ""
    interpreter: str = ""
    note: str = ""


def plan(platform: Platform, host: Host, *, is_root: bool) -> Route:
    """The best route for `platform`. Raises `EmulatorMissing` with what is missing and what to install."""
    if platform.os != "linux" or host.platform.os != "linux":
        raise EmulatorMissing(
            f"programs of {platform} cannot run on {host.platform}",
            hint="RUN works for Linux platforms; COPY and cross-compilation work for all",
            platform=str(platform),
        )
    if host.is_native(platform):
        return Route("native")
    if platform.architecture == host.platform.architecture:
        raise EmulatorMissing(
            f"this CPU does not run {platform}: it has {_levels(host)}",
            hint=f"build for {host.platform} or use a node whose CPU has {platform.variant}",
            platform=str(platform),
        )
    arch = QEMU_ARCHITECTURES.get(platform.architecture)
    if arch is None:
        raise EmulatorMissing(
            f"there is no emulator for {platform}: QEMU's user mode does not know {platform.architecture}",
            hint="use a native node, or cross-compile with FROM --platform=$BUILDPLATFORM",
            platform=str(platform),
        )
    handler = next((handler for handler in host.handlers(arch) if handler.is_fixed), None)
    emulator = host.emulator(arch)
    is_chosen = emulator is not None and host.is_chosen(emulator)
    if handler is not None and (is_root or emulator is None) and not is_chosen and not host.directory:
        return _host_route(handler, host)
    refusal = ""
    if emulator is not None:
        # Trying costs a process: only where there is another way, or no step would tell.
        refusal = host.private_refusal(emulator)
        if not refusal:
            return Route(
                "private", (registration(emulator),), _identity(emulator, host), interpreter=emulator.path
            )
    if handler is not None and not is_chosen and not host.directory:
        return _host_route(handler, host)
    if refusal and is_root and emulator is not None:
        return Route("register", (), _identity(emulator, host), interpreter=emulator.path, note=refusal)
    raise _missing(platform, arch, host, refusal)


def probe(platform: Platform, host: Host, executor: Executor, *, is_root: bool) -> Route:
    """Like `plan`, and run a tiny program of the platform by that route. Raises `SandboxError` when that
    fails.
    """
    import os
    import tempfile

    from anyarch.elf.tiny import tiny_executable

    route = plan(platform, host, is_root=is_root)
    if route.kind == "register":
        raise NotSupported(f"{route.interpreter} is not registered with the machine yet")
    with tempfile.TemporaryDirectory(prefix="anyarch-probe-") as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "probe")
        with open(path, "wb") as file:
            file.write(tiny_executable(platform.architecture, _PROBE_CODE))
        os.chmod(path, 0o755)
        request = ExecRequest(argv=("/probe",), root=RootFS((directory,)), emulators=route.emulators)
        output = bytearray()
        code = executor.run(request, on_output=lambda _, data: output.extend(data))
    if code != _PROBE_CODE:
        text = output.decode("utf-8", "replace").strip()
        raise SandboxError(
            f"a program of {platform} ends with {code} here by the route {route.kind!r}: {text}",
            platform=str(platform),
        )
    return route


def registered(route: Route, platform: Platform, host: Host) -> Route:
    """The route `host` for one of kind `register`, after doing for its architecture what `anyarch emulators
    install` does. Its `note` tells what was changed. Raises `EmulatorMissing`."""
    from anyarch.emulation import register

    arch = QEMU_ARCHITECTURES[platform.architecture]
    try:
        register.ensure_mounted(host.binfmt_misc)
        emulators = {arch: Emulator(arch, route.interpreter)}
        (change,) = register.install([arch], emulators, directory=host.binfmt_misc)
    except SandboxError as error:
        refusal = f"{route.note}, nor can it be registered with the machine: {error.message}"
        raise _missing(platform, arch, host, refusal) from None
    host.forget_handlers()
    note = f"{change.action} with this machine, which has no private binfmt_misc: {change.detail}"
    return msgspec.structs.replace(route, kind="host", note=note)


def _host_route(handler: Handler, host: Host) -> Route:
    import os

    # a handler may go by a link whose name QEMU takes as an option
    path = os.path.realpath(handler.interpreter)
    return Route("host", (), _identity(Emulator(handler.arch, path), host), interpreter=path)


def _identity(emulator: Emulator, host: Host) -> str:
    return f"qemu-{emulator.arch} " + (emulator.version(host.memo) or emulator.path)


def _levels(host: Host) -> str:
    if host.platform.architecture == "amd64":
        level = host.amd64_level()
        return "amd64" + (f" up to v{level}" if level > 1 else " of the first level only")
    found = [platform for platform in host.native_platforms() if platform.architecture == "arm64"]
    return str(found[0] if found else host.platform)


def _missing(platform: Platform, arch: str, host: Host, refusal: str) -> EmulatorMissing:
    message = f"{platform} needs an emulator on {host.platform}"
    install = (
        f"apt-get install qemu-user-static, or point ANYARCH_QEMU_DIR at a static qemu-{arch}. "
        "Without an emulator: a native node, or FROM --platform=$BUILDPLATFORM and cross-compiling"
    )
    handler = next(iter(host.handlers(arch)), None)
    if host.directory and not refusal:
        message += f": {host.directory} holds no static qemu-{arch}"
        install = f"put one there (qemu-{arch} or qemu-{arch}-static), or leave the choice to anyarch"
    elif refusal:
        message += f": qemu-{arch} is there, but {refusal}"
        install = "as root, register it for the whole machine with flag F: apt-get install binfmt-support"
    elif path := unusable_emulator(arch):
        message += f": {path} is not statically linked"
    elif handler is not None:
        message += f": the host's handler {handler.name} ({handler.interpreter}) lacks the flag F"
    else:
        message += f", and no qemu-{arch} was found"
    return EmulatorMissing(message, hint=install, platform=str(platform))
