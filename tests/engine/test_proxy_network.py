"""Steps that have the network through a proxy only: what they reach, what is known of it, what is left."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anyarch.engine.request import BuildRequest
from anyarch.engine.solve import build_async
from anyarch.errors import ExecFailed, IncompleteMaterials
from anyarch.sandbox.net.namespace import inside
from anyarch.solver.events import LogEvent
from anyarch.testing.ordinary_user import as_ordinary_user
from tests.listening import answered

from ..unit.sandbox.conftest import BUSYBOX
from ..unit.sandbox.machines import in_own_machine, world
from ..unit.sandbox.test_ordinary_user import home
from .test_attest import statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyarch.testing.builder import Builder, BuiltImage

pytestmark = pytest.mark.root

_PLACE = "192.0.2.2:8080"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

__all__ = ["home"]


class Site:
    """A server of the other machine. `seen` are the request lines."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.content = b"content\n"


@contextmanager
def site(port: int = 8080) -> Iterator[Site]:
    found = Site()
    with world() as other:
        listener = inside(other, lambda: socket.create_server(("0.0.0.0", port)))

        def answer(peer: socket.socket, _address: object) -> None:
            head = b""
            while b"\r\n\r\n" not in head and (data := peer.recv(4096)):
                head += data
            line = head.split(b"\r\n")[0].decode()
            found.seen.append(line)
            status = b"404 Not Found" if "/missing" in line else b"200 OK"
            fields = b"Content-Length: %d\r\nConnection: close" % len(found.content)
            peer.sendall(b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, fields, found.content))

        with answered(listener, answer):
            yield found


def run(*commands: str, more: str = "") -> str:
    """A Dockerfile without a base image from elsewhere."""
    lines = ["FROM scratch", "COPY busybox /bin/busybox", 'SHELL ["/bin/busybox", "sh", "-ec"]']
    return "\n".join([*lines, more, *commands, ""])


@pytest.fixture
def proxied(scratch_build: Builder) -> Builder:
    scratch_build.write({"busybox": Path(BUSYBOX).read_bytes(), "bundle": "# authorities\n"})
    (scratch_build.context / "busybox").chmod(0o755)
    scratch_build._defaults["proxy_network"] = True
    return scratch_build


def log(image: BuiltImage) -> str:
    return b"".join(event.data for event in image.events if isinstance(event, LogEvent)).decode()


def metadata(image: BuiltImage) -> tuple[dict[str, Any], dict[str, str]]:
    """What provenance tells of the run, and the digests of materials by their address."""
    (statement,) = statements(image)
    predicate = statement["predicate"]
    materials = predicate["buildDefinition"].get("resolvedDependencies", [])
    return predicate["runDetails"]["metadata"], {
        item["uri"]: item.get("digest", {}).get("sha256", "") for item in materials
    }


@in_own_machine
def test_what_a_step_fetches_is_told_and_attested(proxied: Builder) -> None:
    dockerfile = run(f"RUN busybox wget -q -O /got http://{_PLACE}/file")
    with site() as there:
        image = proxied(dockerfile, attests={"provenance": {"complete-materials": "false"}})
        assert image.read_text("/got") == "content\n"
        assert f"proxy network requests:\n- GET http://{_PLACE}/file -> 200\n" in log(image)
        told, materials = metadata(image)
        digest = hashlib.sha256(there.content).hexdigest()
        assert materials[f"http://{_PLACE}/file"] == digest
        assert told["buildkit_metadata"]["network"] == {"mode": "proxy"}
        # A step that was run before is not run again, and what it fetched is known all the same.
        again = proxied(dockerfile, attests={"provenance": {}})
        assert again.executed == []
        assert metadata(again)[1][f"http://{_PLACE}/file"] == digest
        # The same step without a proxy is another one: nothing is known of what it fetches.
        plain = proxied(dockerfile, attests={"provenance": {}}, proxy_network=False)
        assert len(plain.executed) == 1
        told, materials = metadata(plain)
        assert f"http://{_PLACE}/file" not in materials
        assert "network" not in told["buildkit_metadata"]
        assert len(there.seen) == 2


@in_own_machine
def test_materials_that_are_not_known_fail_a_build_that_wants_all(proxied: Builder) -> None:
    with site(), pytest.raises(IncompleteMaterials) as refused:
        proxied(
            run(f"RUN busybox wget -q -O - http://{_PLACE}/missing || true"),
            attests={"provenance": {"complete-materials": "true"}},
        )
    (request,) = refused.value.requests
    assert request["op"].startswith("sha256:")
    assert {**request, "op": "", "name": ""} == {
        "op": "",
        "name": "",
        "method": "GET",
        "uri": f"http://{_PLACE}/missing",
        "reason": "unsuccessful_response",
    }
    assert f"    url: http://{_PLACE}/missing\n    reason: unsuccessful_response" in refused.value.message


@in_own_machine
def test_nothing_leads_past_the_proxy(proxied: Builder) -> None:
    attempts = (
        f"! busybox wget -q -O - http://{_PLACE}/direct",
        f"! echo | busybox nc -w 2 {_PLACE.replace(':', ' ')}",
        "! busybox ping -c 1 -W 1 192.0.2.2",
        "! busybox wget -q -O - http://127.0.0.1:8081/",
        "test $(busybox wc -l < /proc/net/dev) = 3",
        "test $(busybox wc -l < /proc/net/route) = 1",
    )
    loopback = inside_loopback()
    with site() as there, loopback as reached:
        proxied(run(*(f"RUN unset http_proxy HTTP_PROXY; {attempt}" for attempt in attempts)))
        assert there.seen == []
        assert reached == []


@contextmanager
def inside_loopback() -> Iterator[list[bytes]]:
    """A service of this machine's loopback, and what it was sent."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 8081))

    def answer(peer: socket.socket, _address: object) -> None:
        heard.append(peer.recv(4096))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    with answered(listener, answer):
        yield heard


@in_own_machine
def test_the_machine_itself_is_reached_only_where_that_is_allowed(proxied: Builder) -> None:
    ask = "NO_PROXY= no_proxy= busybox wget -q -O /got http://127.0.0.1:8081/"
    with inside_loopback() as heard:
        image = proxied(run(f"RUN ! {ask}"))
        assert "- GET http://127.0.0.1:8081/ -> 502\n" in log(image)
        assert heard == []
        image = proxied(run(f"RUN {ask}"), network="host")
        assert image.read_text("/got") == "hello"
        assert "- GET http://127.0.0.1:8081/ -> 200\n" in log(image)


@in_own_machine
def test_a_step_without_network_has_no_proxy(proxied: Builder) -> None:
    image = proxied(
        run(
            f"RUN ! busybox env | busybox grep -i proxy; ! busybox nc -w 1 127.0.0.1 23128 < /dev/null; "
            f"! busybox grep -q 'proxy CA' {_BUNDLE}",
            more=f"COPY bundle {_BUNDLE}",
        ),
        network="none",
    )
    assert "proxy network requests" not in log(image)


@in_own_machine
def test_the_certificate_is_in_the_trust_store_and_nowhere_in_the_image(proxied: Builder) -> None:
    store = (
        f"COPY bundle {_BUNDLE}\nCOPY bundle /etc/ssl/certs/01234567.0\n"
        'RUN ["/bin/busybox", "ln", "-s", "certs/ca-certificates.crt", "/etc/ssl/cert.pem"]'
    )
    image = proxied(
        run(
            f"RUN busybox grep -q 'buildkit proxy CA begin' {_BUNDLE}"
            " && busybox grep -q CERTIFICATE /etc/ssl/cert.pem"
            " && busybox ls /etc/ssl/certs > /names",
            more=store,
        )
    )
    names = image.read_text("/names").split()
    assert len(names) == 3  # by its hash as well
    assert sorted(image.members(-1)) == ["names"]
    assert image.read_text(_BUNDLE) == "# authorities\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (f"busybox touch -d @0 {_BUNDLE}", "# authorities\n"),
        (f"echo more >> {_BUNDLE}", "# authorities\nmore\n"),
        (f"busybox cp {_BUNDLE} /b && busybox mv /b {_BUNDLE}", "# authorities\n"),
        (f"busybox chmod 400 {_BUNDLE}", "# authorities\n"),
        ("busybox chmod -R g+w /etc/ssl", "# authorities\n"),
        (f"echo new > /n && busybox mv /n {_BUNDLE}", "new\n"),
        (f"busybox ln {_BUNDLE} /etc/other", "# authorities\n"),
    ],
    ids=["touched", "appended", "replaced", "mode", "modes", "new", "linked"],
)
def test_a_store_that_a_step_changes_is_kept_without_the_certificate(
    proxied: Builder, command: str, expected: str
) -> None:
    store = f"COPY bundle {_BUNDLE}\nCOPY bundle /etc/ssl/certs/01234567.0"
    image = proxied(run(f"RUN {command}", more=store))
    assert image.read_text(_BUNDLE) == expected
    for name, member in image.members(-1).items():
        if member.isfile():
            assert "BEGIN CERTIFICATE" not in image.read_text(name), name
    assert all(
        name.endswith((".crt", "01234567.0", "other")) or "." not in name for name in image.members(-1)
    )


def test_a_store_that_is_gone_stays_gone(proxied: Builder) -> None:
    image = proxied(run("RUN busybox rm -r /etc/ssl", more=f"COPY bundle {_BUNDLE}"))
    assert sorted(image.members(-1)) == ["etc", "etc/.wh.ssl"]


def test_a_link_that_a_step_leaves_is_not_followed(proxied: Builder, tmp_path: Any) -> None:
    outside = tmp_path / "ca-certificates.crt"
    outside.write_text("outside\n")
    image = proxied(
        run(
            f"RUN busybox rm -r /etc/ssl/certs && busybox ln -s {tmp_path} /etc/ssl/certs",
            more=f"COPY bundle {_BUNDLE}",
        )
    )
    assert outside.read_text() == "outside\n"
    assert image.members(-1)["etc/ssl/certs"].issym()


def test_keys_of_the_authority_are_nowhere_in_a_step(proxied: Builder) -> None:
    image = proxied(
        run(
            "RUN ! busybox grep -rl 'PRIVATE KEY' /etc /proc/self/environ /proc/1/environ 2> /dev/null;"
            " busybox env",
            more=f"COPY bundle {_BUNDLE}",
        )
    )
    assert "PRIVATE" not in log(image)


def test_steps_of_an_ordinary_user_have_it_too(home: Path) -> None:
    shutil.copy(BUSYBOX, home / "busybox")
    (home / "bundle").write_text("# authorities\n")
    steps = (
        f"RUN busybox grep -q 'buildkit proxy CA begin' {_BUNDLE}; echo more >> {_BUNDLE};"
        " test $(busybox wc -l < /proc/net/dev) = 3",
        "RUN NO_PROXY= no_proxy= busybox wget -q -O - http://127.0.0.1:1/ || true",
        f"RUN --network=none test $(busybox cat {_BUNDLE} | busybox wc -l) = 2",
    )
    (home / "Dockerfile").write_text(run(*steps, more=f"COPY bundle {_BUNDLE}"))
    argv = [sys.executable, "-m", "anyarch", "build", "--progress=plain", "--proxy-network", str(home)]
    done = subprocess.run(
        as_ordinary_user(argv, needs=(sys.prefix, sys.base_prefix, Path(__file__).parents[2])),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "ANYARCH_ROOT": str(home / "store")},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "- GET http://127.0.0.1:1/ -> 502" in done.stderr


@in_own_machine
def test_a_step_that_fails_tells_what_it_asked_for(proxied: Builder) -> None:
    events: list[Any] = []
    with site(), pytest.raises(ExecFailed):
        request = BuildRequest(
            context=str(proxied.context),
            dockerfile_data=run(f"RUN busybox wget -q -O /x http://{_PLACE}/missing").encode(),
            root=str(proxied.store),
            proxy_network=True,
        )
        asyncio.run(build_async(request, events.append))
    text = b"".join(event.data for event in events if isinstance(event, LogEvent)).decode()
    assert f"- GET http://{_PLACE}/missing -> 404\n" in text


def test_the_step_is_told_of_its_proxy_by_the_usual_names(proxied: Builder) -> None:
    image = proxied(
        run("RUN busybox env | busybox grep -i proxy > /env", more="ENV HTTP_PROXY=http://other:1")
    )
    told = dict(line.split("=", 1) for line in image.read_text("/env").splitlines())
    proxy = "http://127.0.0.1:23128"
    around = "127.0.0.1,localhost,::1"
    assert told == {
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "http_proxy": proxy,
        "https_proxy": proxy,
        "NO_PROXY": around,
        "no_proxy": around,
    }
    assert (
        json.loads(image.blob(image.manifest().config.digest))["config"]["Env"][-1]
        == "HTTP_PROXY=http://other:1"
    )
