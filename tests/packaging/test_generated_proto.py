"""The committed modules of `anyarch.api.proto` are what its .proto files make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "src" / "anyarch" / "api" / "proto"


def test_generating_the_modules_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_proto.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in PROTO.glob("*_pb2.py*")}
    assert made
    # Only the descriptors and stubs count: the compiler's release decides how the rest is laid out.
    assert made.keys() == committed.keys()
    for name, text in made.items():
        assert text == committed[name], name


def test_messages_live_in_a_pool_of_their_own() -> None:
    code = (
        "from google.protobuf import descriptor_pool\n"
        "from anyarch.api.proto import control_pb2, gateway_pb2, content_pb2\n"
        "try:\n"
        "    descriptor_pool.Default().FindMessageTypeByName('moby.buildkit.v1.SolveRequest')\n"
        "except KeyError:\n"
        "    print('private')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "private\n"
