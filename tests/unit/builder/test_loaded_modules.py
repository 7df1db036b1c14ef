"""What a client loads for a build on a daemon: a cached one lasts hardly longer than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.daemon.harness import anyarch, daemon, run

if TYPE_CHECKING:
    from pathlib import Path

MOST = 114
"""Modules of ours, of which 110 are loaded."""

_PROGRAM = """
import sys
from anyarch.cli.main import main
status = main(sys.argv[1:])
print(*sys.modules)
sys.exit(status)
"""

FORBIDDEN = {
    "google.protobuf.descriptor_pool",
    "google.protobuf.internal.python_message",
    "http.client",
    "json",
    "pathlib",
    "random",
    "shutil",
    "sqlite3",
    "tempfile",
    "urllib.parse",
}


async def _loaded(home: Path, *argv: str) -> set[str]:
    """Run a command line in a process of its own. Answers the modules that it loaded."""
    answer = await anyarch(home, *argv, program=("-c", _PROGRAM))
    assert answer.status == 0, answer.err
    return set(answer.out.splitlines()[-1].split())


def test_a_cached_build_on_a_daemon_loads_no_engine_and_little_else(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")

    async def work() -> None:
        async with daemon(tmp_path):
            endpoint = f"unix://{tmp_path}/d.sock"
            await _loaded(tmp_path, "create", "--name", "d", "--driver", "remote", endpoint)
            words = ["build", "--builder", "d", "-q", "-o", "type=cacheonly", str(tmp_path / "c")]
            await _loaded(tmp_path, *words)
            loaded = await _loaded(tmp_path, *words)
            assert not loaded & FORBIDDEN
            engine = ("frontend", "exporter", "registry", "sandbox", "emulation", "http", "cache", "llb")
            assert not {name for name in loaded if name.startswith(tuple(f"anyarch.{it}" for it in engine))}
            assert not {
                name for name in loaded if name.startswith(("anyarch.solver.solver", "anyarch.worker.worker"))
            }
            ours = {name for name in loaded if name.startswith("anyarch.")}
            assert len(ours) <= MOST, sorted(ours)

    run(work())
