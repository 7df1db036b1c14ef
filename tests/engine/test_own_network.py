"""What steps of an ordinary user's build have for a network."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from anyarch.testing.ordinary_user import as_ordinary_user

from ..unit.sandbox.test_ordinary_user import home

pytestmark = pytest.mark.root  # to become somebody else

__all__ = ["home"]

_CHECKOUT = Path(__file__).parents[2]
_DOCKERFILE = """
FROM scratch
COPY base /
RUN ["/bin/busybox", "sh", "-c", "echo interfaces $(busybox wc -l </proc/net/dev)"]
RUN --network=none ["/bin/busybox", "sh", "-c", "echo alone $(busybox wc -l </proc/net/dev)"]
"""
_WITH_TUN = 'mount --bind "$1" /dev/net/tun; shift; exec "$@"'


def _build(home: Path, *options: str, path: str = os.environ["PATH"]) -> str:
    """What a build by nobody prints. Its /dev/net/tun is open to everybody, as udev leaves it."""
    (home / "Dockerfile").write_text(_DOCKERFILE)
    os.mknod(home / "tun", 0o666 | stat.S_IFCHR, os.stat("/dev/net/tun").st_rdev)
    os.chmod(home / "tun", 0o666)
    argv = [sys.executable, "-m", "anyarch", "build", "--progress=plain", *options, str(home)]
    user = as_ordinary_user(argv, needs=(sys.prefix, sys.base_prefix, _CHECKOUT))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _WITH_TUN, "sh", str(home / "tun"), "env", f"PATH={path}", *user],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "ANYARCH_ROOT": str(home / "store")},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_steps_have_a_network_of_their_own_where_a_program_connects_it(home: Path) -> None:
    told = _build(home)
    assert "interfaces 4" in told  # two lines of headings, lo, and the one that leads out
    assert "alone 3" in told
    assert "share the machine's network" not in told


def test_without_such_a_program_one_line_says_that_they_share_the_machines(home: Path) -> None:
    programs = home / "programs"
    programs.mkdir()
    for name in ("unshare", "sh", "mktemp", "mount", "mkdir", "umount", "rmdir", "setpriv"):
        found = next(Path(d, name) for d in os.environ["PATH"].split(":") if Path(d, name).exists())
        (programs / name).symlink_to(found)
    told = _build(home, path=str(programs))
    assert told.count("steps share the machine's network: neither pasta nor slirp4netns") == 1
    assert "alone 3" in told


def test_steps_that_name_the_machine_itself_share_its_network(home: Path) -> None:
    told = _build(home, "--add-host=machine:host-gateway")
    assert "steps share the machine's network: a name stands for the machine itself" in told
