"""`RUN --mount=type=ssh`: a socket of the step's own that leads to an agent of the client.

The step gets no path to the agent's real socket, only ours, with the owner and mode that it asked for. Key
files are held by an `ssh-agent` that lives as long as the step.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anyarch.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["agent_socket"]

_CHUNK = 64 << 10
_START_TIMEOUT_S = 10


@contextmanager
def agent_socket(
    paths: Sequence[str], directory: Path, *, name: str, uid: int, gid: int, mode: int
) -> Iterator[str]:
    """A socket below `directory` that serves the agent at `paths` (one socket, or key files)."""
    if len(paths) == 1 and Path(paths[0]).is_socket():
        with _proxy(paths[0], directory / f"{name}.sock", uid, gid, mode) as served:
            yield served
        return
    with (
        _key_agent(paths, directory / f"{name}.agent") as agent,
        _proxy(agent, directory / f"{name}.sock", uid, gid, mode) as served,
    ):
        yield served


@contextmanager
def _key_agent(keys: Sequence[str], path: Path) -> Iterator[str]:
    try:
        agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", path.name],
            cwd=path.parent,  # the whole path may be too long for a socket
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise NotSupported(
            "--ssh with key files needs ssh-agent", hint="apt-get install openssh-client"
        ) from None
    try:
        for _ in range(_START_TIMEOUT_S * 100):
            if path.exists() or agent.poll() is not None:
                break
            threading.Event().wait(0.01)
        for key in keys:
            env = {**os.environ, "SSH_AUTH_SOCK": path.name, "SSH_ASKPASS_REQUIRE": "never", "DISPLAY": ""}
            done = subprocess.run(
                ["ssh-add", "-q", "--", os.path.abspath(key)],
                cwd=path.parent,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise UsageError(
                    f"--ssh: cannot use the key {key}: {reason[-1] if reason else 'ssh-add failed'}",
                    hint="keys with a passphrase have to be in an agent: ssh-add them and use --ssh default",
                )
        yield str(path)
    finally:
        agent.kill()
        agent.wait()
        if agent.stderr is not None:
            agent.stderr.close()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of `path` for socket calls, which take at most 107 bytes (unix(7)): through its directory's
    descriptor."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


@contextmanager
def _proxy(target: str, path: Path, uid: int, gid: int, mode: int) -> Iterator[str]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stop_read, stop_write = os.pipe()
    old_mask = os.umask(0o177)
    try:
        with _short(path) as name:
            listener.bind(name)
    finally:
        os.umask(old_mask)
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
    listener.listen(16)
    thread = threading.Thread(target=_serve, args=(listener, target, stop_read), name="anyarch-ssh")
    thread.start()
    try:
        yield str(path)
    finally:
        os.close(stop_write)
        thread.join()
        os.close(stop_read)
        listener.close()
        path.unlink(missing_ok=True)


def _serve(listener: socket.socket, target: str, stop: int) -> None:
    """Carry bytes between every connection and one of its own to the agent, until `stop` closes."""
    peers: dict[socket.socket, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(stop, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)

        def drop(one: socket.socket) -> None:
            other = peers.pop(one)
            del peers[other]
            for side in (one, other):
                selector.unregister(side)
                side.close()

        while True:
            for key, _ in selector.select():
                if key.fd == stop:
                    for open_end in list(peers):
                        if open_end in peers:
                            drop(open_end)
                    return
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    try:
                        with _short(Path(target)) as name:
                            agent.connect(name)
                    except OSError:
                        client.close()
                        agent.close()
                        continue
                    peers[client], peers[agent] = agent, client
                    selector.register(client, selectors.EVENT_READ)
                    selector.register(agent, selectors.EVENT_READ)
                    continue
                end = key.fileobj
                if not isinstance(end, socket.socket) or end not in peers:
                    continue
                try:
                    data = end.recv(_CHUNK)
                    if data:
                        peers[end].sendall(data)
                except OSError:
                    data = b""
                if not data:
                    drop(end)
