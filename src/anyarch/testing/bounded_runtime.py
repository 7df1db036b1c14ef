"""runc for a root user who does not hold all capabilities, as inside of a container: what an engine asks for
in vain is taken out of the configuration of its containers first.

An engine calls it by the script that `write_runtime` makes. Where nothing is withheld it is runc itself.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sys
from pathlib import Path

from anyarch.errors import AnyarchError

__all__ = ["main", "write_runtime"]

# fmt: off
_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on


def _runc() -> str:
    found = shutil.which("runc") or shutil.which("runc", path="/usr/sbin:/usr/bin")
    if found is None:
        raise AnyarchError("runc is not installed", hint="apt-get install runc")
    return found


def _held() -> set[str]:
    """The capabilities that this process may give to others."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
            return {f"CAP_{name}" for number, name in enumerate(_NAMES) if bits >> number & 1}
    return set()


def write_runtime(path: Path) -> Path:
    """A program that an engine can have as its runtime. Raises `AnyarchError` without runc."""
    runc = _runc()
    path.write_text(
        "#!/bin/sh\n"
        f'ANYARCH_RUNC="{runc}" PYTHONPATH="{os.pathsep.join(sys.path)}" '
        f'exec "{sys.executable}" -m anyarch.testing.bounded_runtime "$@"\n'
    )
    path.chmod(0o755)
    return path


def main(argv: list[str]) -> None:
    """Become runc."""
    for option, value in itertools.pairwise(argv):
        if option in ("--bundle", "-b"):  # of create and run
            _bound(Path(value) / "config.json", "process")
        elif option in ("--process", "-p"):  # of exec
            _bound(Path(value))
    runc = os.environ.pop("ANYARCH_RUNC", "") or _runc()
    os.environ.pop("PYTHONPATH", None)
    os.execv(runc, [runc, *argv])


def _bound(path: Path, *keys: str) -> None:
    """Leave to the process that a file describes (at `keys` in it) what there is."""
    document = json.loads(path.read_text())
    process = document
    for key in keys:
        process = process.get(key, {})
    held = _held()
    kinds = process.get("capabilities", {})
    for kind, names in kinds.items():
        kinds[kind] = [name for name in names if name in held]
    if "CAP_SYS_RESOURCE" not in held:
        for limit in process.get("rlimits", ()):
            most = resource.getrlimit(getattr(resource, limit["type"]))[1]
            if most != resource.RLIM_INFINITY:
                limit["hard"], limit["soft"] = min(limit["hard"], most), min(limit["soft"], most)
    path.write_text(json.dumps(document))


if __name__ == "__main__":
    main(sys.argv[1:])
