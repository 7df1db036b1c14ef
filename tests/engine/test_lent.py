"""What a client lends to a build: secrets, agents, entitlements, further contexts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anyarch.engine.request import Secret, Ssh
from anyarch.errors import BuildError, ContextError, UsageError
from tests.listening import answered

if TYPE_CHECKING:
    from anyarch.testing.builder import Builder

pytestmark = pytest.mark.root


def test_a_secret_is_a_file_for_one_step_and_in_no_layer(build: Builder, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-value")
    image = build(
        """
        FROM busybox
        RUN --mount=type=secret,id=token cd /run/secrets; stat -c '%a %u' token > /stat && wc -c < token > /n
        RUN --mount=type=secret,id=token,target=/t,mode=0444,uid=5 stat -c '%a %u' /t > /stat2
        RUN test ! -e /run/secrets/token && test ! -e /t
        """,
        secrets=(Secret("token", str(tmp_path / "token")),),
    )
    assert image.read_text("/stat") == "400 0\n"
    assert image.read_text("/stat2") == "444 5\n"
    assert image.read_text("/n") == "12\n"
    assert not image.path("/run/secrets/token").exists()
    found = [p for p in build.store.rglob("*") if p.is_file() and b"s3cret-value" in p.read_bytes()]
    assert found == []


def test_a_secret_as_a_variable_does_not_count_for_the_cache(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "FROM busybox\nRUN --mount=type=secret,id=k,env=KEY echo ${#KEY} > /length\n"
    monkeypatch.setenv("K_VALUE", "xyz")
    image = build(text, secrets=(Secret("k", env="K_VALUE"),))
    assert image.read_text("/length") == "3\n"
    assert "xyz" not in str(image.config())  # no letters of digests
    monkeypatch.setenv("K_VALUE", "other")
    assert build(text, secrets=(Secret("k", env="K_VALUE"),)).executed == []


def test_a_missing_secret_is_an_error_only_when_required(build: Builder, tmp_path: Path) -> None:
    assert build("FROM busybox\nRUN --mount=type=secret,id=none test ! -e /run/secrets/none\n").executed
    with pytest.raises(BuildError, match="secret none: not found") as caught:
        build("FROM busybox\nRUN --mount=type=secret,id=none,required true\n")
    assert caught.value.source is not None
    with pytest.raises(UsageError, match="could not read secret x"):
        build("FROM busybox\n", secrets=(Secret("x", str(tmp_path / "nothing")),))


@pytest.fixture
def agent() -> object:
    """An echo server in the place of an agent."""
    directory = tempfile.TemporaryDirectory()  # pytest's names are too long for a socket
    path = Path(directory.name) / "agent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def echo(connection: socket.socket, _address: object) -> None:
        while data := connection.recv(1024):
            connection.sendall(data.upper())

    with answered(listener, echo):
        yield path
    directory.cleanup()


def test_an_agents_socket_reaches_the_step(build: Builder, agent: Path) -> None:
    image = build(
        """
        FROM busybox
        RUN --mount=type=ssh cd / && echo "$SSH_AUTH_SOCK" > path; stat -c '%a %F' "$SSH_AUTH_SOCK" > mode
        RUN test -z "$SSH_AUTH_SOCK"
        """,
        ssh=(Ssh("default", (str(agent),)),),
    )
    assert image.read_text("/path") == "/run/buildkit/ssh_agent.0\n"
    assert image.read_text("/mode") == "600 socket\n"


def test_key_files_are_held_by_an_agent_of_the_steps_own(tmp_path: Path) -> None:
    from anyarch.worker.ssh import agent_socket

    assert shutil.which("ssh-keygen"), "openssh-client is part of the set-up"
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with agent_socket([str(key)], tmp_path, name="s", uid=os.getuid(), gid=os.getgid(), mode=0o600) as path:
        env = {**os.environ, "SSH_AUTH_SOCK": os.path.basename(path)}
        done = subprocess.run(
            ["ssh-add", "-L"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        listed = done.stdout
    assert listed.split()[1] == (tmp_path / "key.pub").read_text().split()[1]
    assert not (tmp_path / "s.sock").exists()


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    from anyarch.worker.ssh import agent_socket

    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    with (
        pytest.raises(UsageError, match="cannot use the key"),
        agent_socket([str(key)], tmp_path, name="s", uid=0, gid=0, mode=0o600),
    ):
        pytest.fail("it was taken")


def test_an_agent_that_was_not_lent(build: Builder) -> None:
    with pytest.raises(BuildError, match="unset ssh forward key default"):
        build("FROM busybox\nRUN --mount=type=ssh,required true\n")


def test_entitlements_have_to_be_allowed(build: Builder) -> None:
    with pytest.raises(BuildError, match=r"network\.host is not allowed"):
        build("FROM busybox\nRUN --network=host true\n")
    assert build("FROM busybox\nRUN --network=host true\n", allow=("network.host",)).executed
    with pytest.raises(BuildError, match=r"security\.insecure is not allowed"):
        build("FROM busybox\nRUN --security=insecure true\n")
    image = build(
        "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n",
        allow=("security.insecure",),
    )
    plain = build("FROM busybox\nRUN grep CapEff /proc/self/status > /caps\n")
    insecure, usual = (int(text.read_text("/caps").split()[1], 16) for text in (image, plain))
    assert usual == 0xA80425FB  # Docker's default set
    assert insecure & (1 << 21)  # CAP_SYS_ADMIN
    with pytest.raises(UsageError, match="unknown entitlement"):
        build("FROM busybox\n", allow=("everything",))


def test_a_step_without_network_has_only_loopback(build: Builder) -> None:
    image = build("FROM busybox\nRUN --network=none cat /proc/net/dev > /dev.txt\n")
    names = [line.split(":")[0].strip() for line in image.read_text("/dev.txt").splitlines() if ":" in line]
    assert names == ["lo"]


def test_a_named_context_is_a_directory_with_an_ignore_file_of_its_own(
    scratch_build: Builder, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    (other / "a").write_text("A")
    (other / "sub" / "b").write_text("B")
    (other / ".dockerignore").write_text("a\n")
    image = scratch_build("FROM scratch\nCOPY --from=stuff . /x/\n", build_contexts={"stuff": str(other)})
    assert image.listing("/x") == [".dockerignore", "sub", "sub/b"]
    with pytest.raises(ContextError, match="failed to get build context nothing"):
        scratch_build("FROM scratch\n", build_contexts={"nothing": str(tmp_path / "no")})


def test_a_named_context_replaces_an_image(build: Builder) -> None:
    image = build("FROM base\nRUN echo x > /x\n", build_contexts={"base": "docker-image://busybox"})
    assert image.path("/bin/busybox").exists()
