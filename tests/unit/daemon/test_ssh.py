"""An agent of the client, used by a step of a build on the daemon: `ssh-add` there, `ssh-agent` here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

import pytest

from anyarch.api.rpc.status import RpcError
from anyarch.session.offer.lent import agent_methods
from anyarch.worker.session import Lent, LentSsh

from .harness import Client, daemon, run, solve, statuses, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.api.rpc.server import Handler, ServerCall

pytestmark = pytest.mark.root

DOCKERFILE = """FROM scratch
COPY root /
RUN --mount=type=ssh{options} ["/ssh-add", "-L"]
"""


def copy_program(name: str, root: Path) -> None:
    """A program with the libraries it is linked with, at the top and at their own places."""
    program = shutil.which(name)
    assert program is not None, "openssh-client is part of the set-up"
    shutil.copy(program, root / name)
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


@contextmanager
def agent() -> Iterator[tuple[str, str]]:
    """The socket of an agent with one key, and that key as `ssh-add -L` shows it."""
    with TemporaryDirectory() as directory:  # pytest's names are too long for a socket
        path, key = f"{directory}/s", f"{directory}/key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", key], check=True)
        process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
        try:
            environment = {**os.environ, "SSH_AUTH_SOCK": path}
            while not os.path.exists(path):
                assert process.poll() is None
            subprocess.run(["ssh-add", "-q", key], env=environment, check=True)
            yield path, Path(f"{key}.pub").read_text().strip()
        finally:
            process.terminate()
            process.wait()


class Lending(Client):
    """Has an agent besides; `asked` are the ids that were asked for."""

    def __init__(self, path: str, stack: ExitStack, **directories: Path) -> None:
        super().__init__(**directories)
        self.asked: list[str] = []
        self._agent = agent_methods(
            Lent(ssh={name: LentSsh((path,)) for name in ("default", "other")}), stack
        )

    def methods(self) -> dict[str, Handler]:
        forward = self._agent["/moby.sshforward.v1.SSH/ForwardAgent"]

        async def noted(call: ServerCall) -> None:
            self.asked.append(call.metadata.get("buildkit.ssh.id"))
            await forward(call)

        return {**super().methods(), **self._agent, "/moby.sshforward.v1.SSH/ForwardAgent": noted}


def context(path: Path, options: str = "") -> Path:
    made = tree(path, Dockerfile=DOCKERFILE.format(options=options))
    (made / "root").mkdir()
    copy_program("ssh-add", made / "root")
    return made


@pytest.mark.parametrize(("options", "name"), [("", "default"), (",id=other,uid=5,required", "other")])
def test_a_step_uses_the_agent_of_the_client(tmp_path: Path, options: str, name: str) -> None:
    async def work() -> None:
        made = context(tmp_path / "c", options)
        with ExitStack() as stack:
            path, key = stack.enter_context(agent())
            client = Lending(path, stack, context=made, dockerfile=made)
            async with daemon(tmp_path) as channel, client.serving(channel):
                await solve(channel, client, Frontend="dockerfile.v0")
                logs = b"".join(log.msg for message in await statuses(channel, "job") for log in message.logs)
                assert logs.decode().strip() == key
                assert client.asked == [name]

    began = time.time()
    run(work())
    sockets = Path(gettempdir()).glob("anyarch-agent-*")
    assert not [left for left in sockets if left.stat().st_mtime >= began]


def test_an_agent_that_the_client_has_not_is_an_error_where_it_is_required(tmp_path: Path) -> None:
    async def work() -> None:
        made = context(tmp_path / "c", ",id=none,required")
        with ExitStack() as stack:
            path, _ = stack.enter_context(agent())
            client = Lending(path, stack, context=made, dockerfile=made)
            async with daemon(tmp_path) as channel, client.serving(channel):
                with pytest.raises(RpcError, match="unset ssh forward key none"):
                    await solve(channel, client, Frontend="dockerfile.v0")
                assert client.asked == []

    run(work())
