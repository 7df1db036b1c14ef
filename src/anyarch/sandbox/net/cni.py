"""Networks by plugins of the Container Network Interface, as an administrator has configured them.

A plugin is a program that reads its configuration and says what it made (the CNI specification, 1.0,
"Execution protocol"). Each namespace is mounted at a path below the state directory, with a record beside it
of what has to be undone: plugins keep addresses and rules of their own, so what a killed daemon leaves is
undone by the next one.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from anyarch.errors import SandboxError
from anyarch.sandbox.net.namespace import make_namespace
from anyarch.sandbox.supervisor import syscalls as kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyarch.sandbox.net.pool import StepNetwork

__all__ = ["DEFAULT_BINARIES", "DEFAULT_CONFIG", "CniNetworks"]

DEFAULT_CONFIG, DEFAULT_BINARIES = "/etc/buildkit/cni.json", "/opt/cni/bin"  # BuildKit's
_TIMEOUT_S = 60
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]+")
_LOCK_VARIABLE = "BUILDKIT_CNI_INIT_LOCK_PATH"


class _Network(msgspec.Struct, frozen=True):
    """A network configuration list; `plugins` as they are to be called, first to last."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]


class _Record(msgspec.Struct):
    """What is beside a namespace: enough to undo it without the daemon that made it."""

    id: str
    network: _Network
    arguments: str = ""
    result: dict[str, Any] | None = None


class _Connected:
    def __init__(self, namespace: int, path: Path, record: _Record, lock: int) -> None:
        self.namespace = namespace
        self.path = path
        self.record = record
        self.lock = lock
        """Of the record's file: held, it is in use."""


class CniNetworks:
    """A `NetworkProvider`. `note` is told of leftovers that cannot be undone."""

    uses_names = True

    def __init__(
        self,
        state_dir: Path,
        config: str = "",
        binaries: str = "",
        *,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        """Raises `SandboxError` for a configuration that cannot be used."""
        self._network = _read(config or DEFAULT_CONFIG)
        self._path = binaries or DEFAULT_BINARIES
        self._directory = state_dir / "net" / "cni"
        if not os.path.isdir(self._path):
            raise SandboxError(
                f'failed to read cni binary dir "{self._path}": no such directory',
                hint="name the directory of the plugins with cniBinaryPath",
            )
        for plugin in self._network.plugins:
            self._program(plugin["type"])
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in sorted(self._directory.glob("*.json")):
            self._undo_leftover(leftover, note)

    def make(self, hostname: str) -> _Connected:
        # The names are those that plugins for Kubernetes know (dnsname).
        # A client chooses the name: it is not to say anything else to them.
        is_plain = _PLAIN_NAME.fullmatch(hostname) is not None
        arguments = f"K8S_POD_NAME={hostname};IgnoreUnknown=1" if is_plain else ""
        identity = uuid.uuid4().hex
        record = _Record(identity, self._network, arguments)
        path = self._directory / identity
        try:
            lock = self._write_new(record)
        except OSError as error:
            raise SandboxError(f"{self._directory}: {error.strerror}") from None
        namespace = -1
        try:
            namespace = make_namespace()
            path.touch(mode=0o600)
            kernel.mount(b"/proc/self/fd/%d" % namespace, os.fsencode(path), None, kernel.MS_BIND)
            with _one_at_a_time():
                record.result = self._add(record, str(path))
            os.pwrite(lock, msgspec.json.encode(record), 0)
        except BaseException as error:
            with suppress(SandboxError):  # why it failed counts, not what else does
                self._undo(record, path)
            os.close(lock)
            if namespace >= 0:
                os.close(namespace)
            if isinstance(error, OSError):
                raise SandboxError(
                    f"a network namespace cannot be made at {path}: {error.strerror}",
                    hint="it takes root in the machine's namespaces",
                ) from None
            raise
        return _Connected(namespace, path, record, lock)

    def remove(self, network: StepNetwork) -> None:
        assert isinstance(network, _Connected)
        try:
            self._undo(network.record, network.path)
        finally:
            os.close(network.namespace)
            os.close(network.lock)

    def close(self) -> None:
        """Bridges and the like are the plugins': they stay."""

    def _write_new(self, record: _Record) -> int:
        """The record's file, locked."""
        file = os.open(
            self._directory / f"{record.id}.json", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, msgspec.json.encode(record))
        return file

    def _undo_leftover(self, path: Path, note: Callable[[str], object]) -> None:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
            self._undo(record, path.with_suffix(""))
        except BlockingIOError:
            return  # another daemon of this directory lives
        except (SandboxError, msgspec.DecodeError) as error:
            note(f"the network {path.stem} of an earlier run cannot be undone: {error}")
        finally:
            os.close(file)

    def _undo(self, record: _Record, path: Path) -> None:
        """Call the plugins in reverse, then drop the namespace and the record, whatever they say."""
        failure: SandboxError | None = None
        for plugin in reversed(record.network.plugins):
            try:
                self._call("DEL", record, plugin, str(path), record.result)
            except SandboxError as error:
                failure = failure or error
        with suppress(OSError):  # it may have come to no mount, or to no file
            kernel.umount2(os.fsencode(path), kernel.MNT_DETACH)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        if failure is not None:
            raise failure

    def _add(self, record: _Record, path: str) -> dict[str, Any] | None:
        result: dict[str, Any] | None = None
        for plugin in record.network.plugins:
            result = self._call("ADD", record, plugin, path, result)
        return result

    def _program(self, kind: str) -> str:
        for directory in self._path.split(":"):
            path = os.path.join(directory, kind)
            if "/" not in kind and os.access(path, os.X_OK):
                return path
        raise SandboxError(
            f'failed to find plugin "{kind}" in path [{self._path}]',
            hint="install the CNI plugins there, or name their directory with cniBinaryPath",
        )

    def _call(
        self, command: str, record: _Record, plugin: dict[str, Any], path: str, before: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        network = record.network
        config = {**plugin, "name": network.name, "cniVersion": network.version}
        if before is not None:
            config["prevResult"] = before
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": record.id,
            "CNI_NETNS": path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": record.arguments,
            "CNI_PATH": self._path,
        }
        program = self._program(plugin["type"])
        try:
            done = subprocess.run(
                [program],
                input=msgspec.json.encode(config),
                capture_output=True,
                env=environment,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise SandboxError(f"{program} cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise SandboxError(f"{program} did not end within {_TIMEOUT_S} seconds") from None
        if done.returncode != 0:
            raise SandboxError(f'plugin type="{plugin["type"]}" failed ({command.lower()}): {_why(done)}')
        if command == "DEL" or not done.stdout.strip():
            return None
        try:
            return msgspec.json.decode(done.stdout, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise SandboxError(f"the answer of {program} is no result of CNI: {error}") from None


def _read(path: str) -> _Network:
    """Of a configuration list (`.conflist`), or of one plugin."""
    try:
        document = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise SandboxError(
            f'failed to read cni config "{path}": {(error.strerror or "").lower()}',
            hint="name the file with cniConfigPath, or use networkMode bridge, which needs none",
        ) from None
    except msgspec.DecodeError as error:
        raise SandboxError(f'failed to read cni config "{path}": {error}') from None
    plugins = document.get("plugins") if path.endswith(".conflist") else [document]
    name, version = document.get("name"), document.get("cniVersion", "0.2.0")
    named = isinstance(name, str) and isinstance(version, str) and isinstance(plugins, list) and plugins
    if not named or not all(
        isinstance(one, dict) and isinstance(one.get("type"), str) for one in plugins or ()
    ):
        raise SandboxError(f'cni config "{path}" needs a name, and a type for each plugin')
    return _Network(str(name), version, tuple(plugins or ()))


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    """Plugins tell errors on their output, as JSON; those that crash do not."""
    try:
        told = msgspec.json.decode(done.stdout, type=dict[str, Any])
        text = f"{told.get('msg', '')} {told.get('details', '')}".strip()
    except msgspec.DecodeError:
        text = ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return text or (lines[-1] if lines else f"it ended with {done.returncode}")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Where a file is named for it (as for BuildKit's daemon): plugins that make the same bridge at the same
    moment fail."""
    path = os.environ.get(_LOCK_VARIABLE)
    if not path:
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
